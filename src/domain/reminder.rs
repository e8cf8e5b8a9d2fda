//! Reminders before a deadline: which leads the conditions may have, and which of them is due
//! (contract 2, "Deadlines and exceptions").

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Instant;
use super::fields::{BadValue, Fields};
use super::participation::DeadlineOf;
use super::period::Period;

/// The most leads before each deadline.
pub const MAX_LEADS: usize = 5;

/// The shortest lead, in seconds.
const MIN_LEAD_SECONDS: u64 = 60;

/// How long before a deadline a reminder is due. It keeps the text of the conditions, which each
/// reminder repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    text: String,
    period: Period,
}

impl Lead {
    /// The text of the conditions.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its length in seconds.
    pub const fn seconds(&self) -> u64 {
        self.period.seconds()
    }

    fn delta(&self) -> TimeDelta {
        self.period.delta()
    }
}

impl Serialize for Lead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// The leads of a promotion, before each of its deadlines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(
    description = "When to remind a client of a deadline, on the topic of reminders: up to 5 leads before each deadline. A lead is an ISO 8601 duration of at least `PT1M`, shorter than the period that ends at the deadline. Each is published once."
)]
pub struct Reminders {
    /// Before the challenge's deadline, while rides are still needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false, max_items = 5, example = json!(["P3D", "P1D"]))]
    pub challenge: Vec<Lead>,
    /// Before the reward's deadline, while it is not claimed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false, max_items = 5, example = json!(["P2D", "PT6H"]))]
    pub reward: Vec<Lead>,
}

impl Reminders {
    /// Reads the fields of `conditions.reminders`. Without a period, the leads before its end have no bound.
    pub fn read(
        fields: &mut Fields<'_>,
        challenge_period: Option<Period>,
        claim_period: Option<Period>,
    ) -> Self {
        let challenge = fields.optional("challenge", leads("challenge_period", challenge_period));
        let reward = fields.optional("reward", leads("claim_period", claim_period));
        Self {
            challenge: challenge.unwrap_or_default(),
            reward: reward.unwrap_or_default(),
        }
    }

    /// The leads before one of the deadlines.
    pub fn leads(&self, of: DeadlineOf) -> &[Lead] {
        match of {
            DeadlineOf::Challenge => &self.challenge,
            DeadlineOf::Reward => &self.reward,
        }
    }
}

fn leads(
    period_name: &str,
    period: Option<Period>,
) -> impl Fn(&Value) -> Result<Vec<Lead>, BadValue> {
    move |value| {
        let not_a_list = || BadValue::WrongType("must be a list of durations".to_owned());
        let items = value.as_array().ok_or_else(not_a_list)?;
        if items.len() > MAX_LEADS {
            return Err(BadValue::Invalid(format!(
                "must have at most {MAX_LEADS} leads"
            )));
        }
        let mut leads: Vec<Lead> = Vec::with_capacity(items.len());
        for item in items {
            let text = item.as_str().ok_or_else(not_a_list)?;
            let invalid = |reason: String| BadValue::Invalid(format!("{text:?} {reason}"));
            let lead: Period = text
                .parse()
                .map_err(|error: super::period::PeriodError| invalid(error.to_string()))?;
            if lead.seconds() < MIN_LEAD_SECONDS {
                return Err(invalid("must be at least PT1M".to_owned()));
            }
            if period.is_some_and(|period| lead >= period) {
                return Err(invalid(format!("must be shorter than {period_name}")));
            }
            if leads.iter().any(|other| other.period == lead) {
                return Err(invalid("is there more than once".to_owned()));
            }
            leads.push(Lead {
                text: text.to_owned(),
                period: lead,
            });
        }
        Ok(leads)
    }
}

/// The leads that are done, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Done(BTreeMap<DeadlineOf, Vec<u64>>);

impl Done {
    fn has(&self, of: DeadlineOf, lead: &Lead) -> bool {
        self.0
            .get(&of)
            .is_some_and(|done| done.contains(&lead.seconds()))
    }

    fn note(&mut self, of: DeadlineOf, lead: &Lead) {
        self.0.entry(of).or_default().push(lead.seconds());
    }
}

/// The result of one look at a deadline's leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReminderLook<'a> {
    /// The lead to publish now, and the moment at which it was due.
    pub due: Option<(&'a Lead, Instant)>,
    /// When to look again; `None` if no further lead is due before the present deadline.
    pub next_at: Option<Instant>,
}

/// Finds which of the leads before `deadline` is due at `now`, and marks in `done` the leads that are
/// done: the one that is due, longer ones that are due with it, and those whose moment lies before the
/// window began. A lead that became due and was missed until the deadline is not done: a later deadline
/// may make it due again.
pub fn look<'a>(
    leads: &'a [Lead],
    of: DeadlineOf,
    done: &mut Done,
    (began_at, deadline): (Instant, Instant),
    now: Instant,
) -> ReminderLook<'a> {
    let mut due: Option<(&Lead, Instant)> = None;
    let mut next_at: Option<Instant> = None;
    for lead in leads {
        if done.has(of, lead) {
            continue;
        }
        let moment = deadline - lead.delta();
        if moment < began_at {
            done.note(of, lead);
        } else if now < moment {
            next_at = Some(next_at.map_or(moment, |next| next.min(moment)));
        } else if now < deadline {
            done.note(of, lead);
            if due.is_none_or(|(shortest, _)| lead.seconds() < shortest.seconds()) {
                due = Some((lead, moment));
            }
        }
    }
    ReminderLook { due, next_at }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Reminders, Vec<(String, String)>> {
        let fields = value.as_object().expect("an object");
        let mut fields = Fields::under("conditions.reminders.", fields);
        let day = Period::from_seconds(86_400);
        let read = Reminders::read(&mut fields, day, day);
        fields.finish(Some(read)).map_err(|errors| {
            let named = errors.into_iter().map(|error| (error.field, error.reason));
            named.collect()
        })
    }

    fn some_leads(texts: &[&str]) -> Vec<Lead> {
        let read = read(&json!({ "challenge": texts })).expect("valid");
        assert_eq!(
            serde_json::to_value(&read.challenge).ok(),
            Some(json!(texts))
        );
        read.challenge
    }

    fn at(seconds: i64) -> Instant {
        Instant::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    #[test]
    fn bounds_each_lead_and_names_the_list_that_is_wrong() {
        for value in [
            json!({}),
            json!({ "challenge": [], "reward": null }),
            json!({ "challenge": ["PT1M", "PT23H59M59S"], "reward": ["PT6H"] }),
            json!({ "reward": ["PT1M", "PT2M", "PT3M", "PT4M", "PT5M"] }),
        ] {
            assert!(read(&value).is_ok(), "{value}");
        }
        for (leads, reason) in [
            (json!(["PT59S"]), "must be at least PT1M"),
            (json!(["P1D"]), "must be shorter than challenge_period"),
            (json!(["PT60M", "PT1H"]), "is there more than once"),
            (json!(["1 day"]), "must be an ISO 8601 duration"),
            (json!(["PT1M", 60]), "must be a list of durations"),
            (json!("PT1M"), "must be a list of durations"),
            (
                json!(["PT1M", "PT2M", "PT3M", "PT4M", "PT5M", "PT6M"]),
                "at most 5",
            ),
        ] {
            let errors = read(&json!({ "challenge": leads })).expect_err("invalid");
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].0, "conditions.reminders.challenge");
            assert!(errors[0].1.contains(reason), "{errors:?}");
        }
        let errors = read(&json!({ "rewards": [] })).expect_err("unknown");
        assert_eq!(errors[0].0, "conditions.reminders.rewards");
    }

    #[test]
    fn of_several_that_are_due_only_the_shortest_is_published() {
        let leads = some_leads(&["PT10M", "PT1M", "PT5M", "PT2M"]);
        let mut done = Done::default();
        let window = (at(0), at(1_000));
        let look = |done: &mut Done, now| {
            let found = look(&leads, DeadlineOf::Challenge, done, window, at(now));
            let due = found.due.map(|(lead, moment)| (lead.as_str(), moment));
            (due, found.next_at)
        };
        assert_eq!(look(&mut done, 0), (None, Some(at(400))));
        // The two longest are due.
        assert_eq!(
            look(&mut done, 720),
            (Some(("PT5M", at(700))), Some(at(880)))
        );
        assert_eq!(look(&mut done, 721), (None, Some(at(880))));
        assert_eq!(look(&mut done, 999), (Some(("PT1M", at(940))), None));
        assert_eq!(look(&mut done, 999), (None, None));
    }

    #[test]
    fn an_extension_repeats_nothing_and_brings_back_only_what_was_missed() {
        let leads = some_leads(&["PT5M", "PT1M"]);
        let mut done = Done::default();
        let of = DeadlineOf::Reward;
        let first = look(&leads, of, &mut done, (at(0), at(600)), at(300));
        assert_eq!(first.due.map(|(lead, _)| lead.as_str()), Some("PT5M"));
        // No look until the deadline has passed.
        let late = look(&leads, of, &mut done, (at(0), at(600)), at(600));
        assert_eq!((late.due, late.next_at), (None, None));
        let extended = look(&leads, of, &mut done, (at(0), at(1_000)), at(601));
        assert_eq!((extended.due, extended.next_at), (None, Some(at(940))));
        // The other deadline has its own marks.
        assert!(!done.has(DeadlineOf::Challenge, &leads[0]));
    }

    #[test]
    fn a_lead_from_before_the_window_never_comes_whatever_is_extended() {
        let leads = some_leads(&["PT10M"]);
        let mut done = Done::default();
        let of = DeadlineOf::Challenge;
        for deadline in [500, 2_000] {
            let found = look(&leads, of, &mut done, (at(0), at(deadline)), at(1_450));
            assert_eq!((found.due, found.next_at), (None, None));
        }
        // A lead at the very beginning is not before it.
        let found = look(&leads, of, &mut Done::default(), (at(0), at(600)), at(0));
        assert!(found.due.is_some());
    }

    #[test]
    fn marks_survive_being_stored() {
        let mut done = Done::default();
        done.note(DeadlineOf::Reward, &some_leads(&["PT1M"])[0]);
        let stored = serde_json::to_value(&done).expect("JSON");
        assert_eq!(stored, json!({ (DeadlineOf::Reward.as_str()): [60] }));
        assert_eq!(serde_json::from_value::<Done>(stored).ok(), Some(done));
    }

    proptest! {
        /// At any number and times of looks and with any extensions, each lead is due at most once,
        /// never before its moment, never at or after the deadline.
        #[test]
        fn each_lead_is_due_at_most_once(
            minutes in prop::collection::btree_set(1_u64..1_000, 0..5),
            steps in prop::collection::vec((0_i64..20_000, 0_i64..20_000), 0..40),
        ) {
            let texts: Vec<String> = minutes.iter().map(|minutes| format!("PT{minutes}M")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let leads = some_leads(&texts);
            let (mut now, mut deadline) = (0, 60_000);
            let mut done = Done::default();
            let mut published = Vec::new();
            for (waited, extended) in steps {
                now += waited;
                deadline += extended;
                let window = (at(0), at(deadline));
                let found = look(&leads, DeadlineOf::Challenge, &mut done, window, at(now));
                if let Some((lead, moment)) = found.due {
                    prop_assert!(moment <= at(now) && now < deadline);
                    prop_assert!(!published.contains(&lead.seconds()));
                    published.push(lead.seconds());
                }
                prop_assert!(found.next_at.is_none_or(|next| next > at(now) && next < at(deadline)));
            }
        }
    }
}
