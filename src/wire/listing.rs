//! Participations in the admin API's list and export: JSON, NDJSON and CSV.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::format_instant;
use super::participation::State;
use crate::domain::Instant;
use crate::domain::goals::GoalProgress;

/// A participation in a list.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ListedParticipation {
    /// The same fields as in status events.
    #[serde(flatten)]
    pub state: State,
    /// The deadline has passed, and it is not yet proven that every ride published in time was read.
    pub settling: bool,
    /// The pre-offer it was started from.
    pub pre_offer_id: Uuid,
    /// The client's country at the start.
    pub country_code: String,
    /// When the client acknowledged that it expired; `null` if they did not.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub acknowledged_at: Option<DateTime<Utc>>,
}

/// The header of the CSV, with its line end.
pub const CSV_HEADER: &str = "user_id,promotion_id,promotion_key,status,version,rides_completed,rides_target,\
started_at,challenge_deadline,completed_at,reward_deadline,rewarded_at,expired_at,expired_reason,\
reward_product_id,reward_amount_cents,reward_currency_code,reward_repayment_rate,\
settling,pre_offer_id,country_code,acknowledged_at,\
days_completed,days_target,amount_cents_completed,amount_cents_target\r\n";

impl ListedParticipation {
    /// Appends its line of the CSV: cells in the order of [`CSV_HEADER`], empty for `null` (RFC 4180).
    pub fn write_csv(&self, line: &mut String) {
        let state = &self.state;
        let fields = state.status.fields();
        let instant = |instant: Option<Instant>| instant.map(format_instant).unwrap_or_default();
        let expired_reason = fields.expired_reason.map_or("", |reason| reason.as_str());
        // Writing to a string cannot fail.
        let _ = write!(line, "{},{},", state.user_id, state.promotion_id);
        text_cell(line, &state.promotion_key);
        let _ = write!(
            line,
            ",{},{},{},{},{},{},{},{},{},{},{expired_reason},{},{},{},",
            fields.status,
            state.version,
            state.rides_completed,
            state.rides_target,
            format_instant(state.started_at),
            format_instant(state.challenge_deadline),
            instant(fields.completed_at),
            instant(fields.reward_deadline),
            instant(fields.rewarded_at),
            instant(fields.expired_at),
            state.reward.product_id,
            state.reward.amount_cents,
            state.reward.currency_code,
        );
        text_cell(line, &state.reward.repayment_rate);
        let _ = write!(
            line,
            ",{},{},{},{}",
            self.settling,
            self.pre_offer_id,
            self.country_code,
            instant(self.acknowledged_at)
        );
        // Those of the rides stand among the first columns.
        let further = state.further_goals;
        for goal in [
            further.and_then(|goals| goals.days),
            further.and_then(|goals| goals.amount_cents),
        ] {
            let _ = match goal {
                Some(GoalProgress { completed, target }) => write!(line, ",{completed},{target}"),
                None => write!(line, ",,"),
            };
        }
        line.push_str("\r\n");
    }

    /// Appends its line of NDJSON.
    pub fn write_ndjson(&self, lines: &mut Vec<u8>) {
        // It has a JSON form, and writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *lines, self);
        lines.push(b'\n');
    }
}

/// Appends a cell whose text comes from outside. A spreadsheet takes a text that begins with one of these
/// characters for a formula and runs it. With an apostrophe before it, it stays a text (OWASP, "CSV
/// Injection").
fn text_cell(line: &mut String, text: &str) {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_quoted = text.contains([',', '"', '\r', '\n']);
    if is_quoted {
        line.push('"');
    }
    if is_formula {
        line.push('\'');
    }
    if is_quoted {
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::goals::GoalName;
    use crate::domain::participation::StatusName;

    fn cell(text: &str) -> String {
        let mut line = String::new();
        text_cell(&mut line, text);
        line
    }

    #[test]
    fn no_cell_is_a_formula_or_breaks_out_of_its_place() {
        for (text, written) in [
            ("mx-newbie-20", "mx-newbie-20"),
            ("", ""),
            ("15", "15"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            (
                "=HYPERLINK(\"x\",\"y\")",
                "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\"",
            ),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\nb", "\"a\nb\""),
            ("\r=1", "\"'\r=1\""),
        ] {
            assert_eq!(cell(text), written, "{text:?}");
        }
    }

    #[test]
    fn a_line_has_a_cell_for_each_column() {
        let columns = CSV_HEADER.trim_end().split(',').count();
        let state = serde_json::json!({
            "user_id": 48151, "promotion_id": 1, "promotion_key": "mx-newbie-20", "status": StatusName::InProgress,
            "version": 7, "rides_completed": 6, "rides_target": 20, "started_at": "2026-11-01T00:00:00.000Z",
            "challenge_deadline": "2026-11-15T00:00:00.000Z", "completed_at": null, "reward_deadline": null,
            "rewarded_at": null, "expired_at": null, "expired_reason": null,
            "goals": [{ "goal": GoalName::Rides, "completed": 6, "target": 20 },
                { "goal": GoalName::Amount, "completed": 39_000, "target": 200_000 }],
            "reward": { "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN", "repayment_rate": "15" },
        });
        let listed = ListedParticipation {
            state: serde_json::from_value(state).expect("a state"),
            settling: false,
            pre_offer_id: Uuid::nil(),
            country_code: "MX".to_owned(),
            acknowledged_at: None,
        };
        let mut line = String::new();
        listed.write_csv(&mut line);
        assert_eq!(line.trim_end().split(',').count(), columns, "{line}");
        // No goal of days.
        assert!(
            line.ends_with(",false,00000000-0000-0000-0000-000000000000,MX,,,,39000,200000\r\n"),
            "{line}"
        );
        let mut lines = Vec::new();
        listed.write_ndjson(&mut lines);
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
