//! What must agree in one participation.

use chrono::TimeDelta;
use serde_json::Value;

use super::{Row, Versions};
use crate::domain::goals::Tally;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::period::Period;
use crate::domain::promotion::Conditions;

/// All disagreements of one participation.
pub(super) fn disagreements(row: &Row, versions: Versions) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let (rides, target) = (i64::from(row.rides_completed), i64::from(row.rides_target));
    let tally = Tally {
        rides: u32::try_from(row.counted).unwrap_or(u32::MAX),
        days: u32::try_from(row.days).unwrap_or(u32::MAX),
        amount_cents: row.amount.parse().unwrap_or(i128::MAX),
    };
    let conditions = Conditions::from_frozen(&row.conditions);
    let Ok((conditions, _)) = conditions else {
        expect(false, "the frozen conditions cannot be read".to_owned());
        return found;
    };
    let completed = i64::from(conditions.rides_completed(&tally));
    expect(
        rides == completed,
        format!("rides_completed is {rides}, its receipts count {completed}"),
    );
    expect(
        row.further_goals.as_ref().map(|goals| goals.0) == conditions.further_goals(&tally)
            && row
                .rides_counted
                .is_none_or(|all| i64::from(all) == row.counted),
        format!(
            "the further goals are {:?} with {:?} rides, its receipts make {:?} with {}",
            row.further_goals.as_ref().map(|goals| goals.0),
            row.rides_counted,
            conditions.further_goals(&tally),
            row.counted
        ),
    );
    expect(
        row.counted <= target || conditions.has_further_goals(),
        format!("{} rides counted towards a target of {target}", row.counted),
    );
    let frozen = i64::from(conditions.target_rides);
    expect(
        frozen == target,
        format!("the target is {target}, the frozen conditions say {frozen}"),
    );
    for (count, what) in [
        (row.wrongly_counted, "counted against the conditions"),
        (
            row.wrongly_refused,
            "rejected for a reason that does not apply",
        ),
        (
            row.recorded_after_end,
            "recorded after the challenge had ended",
        ),
    ] {
        expect(count == 0, format!("{count} rides were {what}"));
    }

    let reached = conditions.is_reached_by(&tally);
    let (status, reason) = (row.status, row.expired_reason);
    let agrees = match (status, reason) {
        (StatusName::InProgress, None) => {
            !reached && row.completed_at.is_none() && row.expired_at.is_none()
        }
        (StatusName::Completed | StatusName::Rewarded, None) => {
            reached && row.completed_at.is_some() && row.expired_at.is_none()
        }
        (StatusName::Expired, Some(ExpiredReason::ChallengeNotCompleted)) => {
            !reached
                && row.completed_at.is_none()
                && row
                    .expired_at
                    .is_some_and(|at| at >= row.challenge_deadline)
        }
        (StatusName::Expired, Some(ExpiredReason::RewardNotClaimed)) => {
            reached && row.completed_at.is_some() && row.expired_at.is_some()
        }
        (StatusName::Expired, Some(ExpiredReason::Quit)) => {
            !reached && row.completed_at.is_none() && row.expired_at.is_some()
        }
        (StatusName::Expired, Some(ExpiredReason::Cancelled)) => {
            reached == row.completed_at.is_some() && row.expired_at.is_some()
        }
        (StatusName::Expired, None)
        | (StatusName::InProgress | StatusName::Completed | StatusName::Rewarded, Some(_)) => false,
    };
    expect(
        agrees,
        format!(
            "status {status} ({}) with {} of {target} rides counted, completed_at {:?}, expired_at {:?}",
            reason.map_or("no reason", ExpiredReason::as_str),
            row.counted,
            row.completed_at,
            row.expired_at
        ),
    );
    expect(
        row.started_at < row.challenge_deadline,
        "the deadline is not after the start".to_owned(),
    );
    for (name, from, deadline, period, extended_ms) in [
        (
            "challenge_deadline",
            Some(row.started_at),
            Some(row.challenge_deadline),
            "challenge_period",
            row.challenge_extended_ms,
        ),
        (
            "reward_deadline",
            row.completed_at,
            row.reward_deadline,
            "claim_period",
            row.reward_extended_ms,
        ),
    ] {
        let Some((from, deadline)) = from.zip(deadline) else {
            continue;
        };
        let frozen = row.conditions.get(period).and_then(Value::as_str);
        let frozen = frozen.and_then(|period| period.parse::<Period>().ok());
        let extended = TimeDelta::milliseconds(extended_ms);
        let given = frozen.map(|period| from + period.delta() + extended);
        expect(
            given == Some(deadline),
            format!(
                "{name} is {deadline}, {period} of the frozen conditions and its extensions give {given:?}"
            ),
        );
    }
    for (count, what) in [
        (row.extended_without_event, "extensions have no event"),
        (
            row.impossible_versions,
            "events and receipts have a version that the participation cannot have made",
        ),
    ] {
        expect(count == 0, format!("{count} {what}"));
    }

    // One event for the start, one for the end, one for each extension, at most one for each counted ride and two
    // for each reversed one: rides that are applied together share one.
    let ended = i64::from(status.is_final());
    let least = 1 + i64::from(row.counted > 0) + row.extensions + ended;
    let most = match versions {
        Versions::OfChangesOnly => 1 + row.counted + 2 * row.reversed + row.extensions + ended,
        Versions::Any => i64::MAX,
    };
    expect(
        (least..=most).contains(&i64::from(row.version)),
        format!(
            "version {}, but only {least} to {most} are possible",
            row.version
        ),
    );

    let due = i64::from(status == StatusName::Rewarded);
    for (count, what) in [
        (row.originations, "complete originations"),
        (row.active_pre_offers, "active pre-offers"),
        (row.used_splits, "used splits"),
    ] {
        expect(count == due, format!("{count} {what}, but {due} expected"));
    }
    expect(
        row.live_splits <= 1 && (ended == 0 || row.live_splits == 0),
        format!("{} active splits while {status}", row.live_splits),
    );
    expect(
        row.reward.amount_cents > 0,
        "the reward is missing".to_owned(),
    );
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::types::Json;

    use super::*;
    use crate::domain::Instant;
    use crate::domain::goals::{FurtherGoals, GoalProgress};
    use crate::domain::reward::Reward;

    fn row() -> Row {
        let at = |second: u32| -> Instant {
            format!("2026-11-22T18:04:{second:02}Z")
                .parse()
                .expect("instant")
        };
        Row {
            user_id: 1,
            promotion_id: 1,
            status: StatusName::Expired,
            version: 4,
            rides_completed: 2,
            rides_target: 2,
            started_at: at(0),
            challenge_deadline: at(20),
            completed_at: Some(at(10)),
            reward_deadline: Some(at(30)),
            expired_at: Some(at(30)),
            expired_reason: Some(ExpiredReason::RewardNotClaimed),
            reward: Json(Reward {
                product_id: 80,
                amount_cents: 100_000,
                currency_code: "MXN".parse().expect("a currency"),
                repayment_rate: "15".to_owned(),
            }),
            conditions: json!({ "target_rides": 2, "min_amount_cents": 0, "currency_code": "MXN",
                "challenge_period": "PT20S", "claim_period": "PT20S" }),
            further_goals: None,
            rides_counted: None,
            dropped: false,
            challenge_extended_ms: 0,
            reward_extended_ms: 0,
            extensions: 0,
            extended_without_event: 0,
            impossible_versions: 0,
            waiting: None,
            receipts: 3,
            counted: 2,
            reversed: 0,
            days: 0,
            amount: "200".to_owned(),
            wrongly_counted: 0,
            wrongly_refused: 0,
            recorded_after_end: 0,
            originations: 0,
            active_pre_offers: 0,
            used_splits: 0,
            live_splits: 0,
        }
    }

    #[test]
    fn what_agrees_is_not_mentioned() {
        assert_eq!(
            disagreements(&row(), Versions::OfChangesOnly),
            Vec::<String>::new()
        );
        // Both rides in one batch make one event.
        let together = Row {
            version: 3,
            ..row()
        };
        assert_eq!(
            disagreements(&together, Versions::OfChangesOnly),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_operators_do_is_no_disagreement() {
        let later = row().reward_deadline.map(|at| at + TimeDelta::hours(1));
        let extended = Row {
            version: 90,
            extensions: 2,
            reward_extended_ms: 3_600_000,
            reward_deadline: later,
            ..row()
        };
        assert_eq!(
            disagreements(&extended, Versions::Any),
            Vec::<String>::new()
        );
        assert_eq!(disagreements(&extended, Versions::OfChangesOnly).len(), 1);
    }

    #[test]
    fn receipts_that_were_dropped_are_told_from_those_that_never_were() {
        let dropped = Row {
            receipts: 0,
            counted: 0,
            dropped: true,
            ..row()
        };
        assert!(dropped.is_without_receipts());
        let lost = Row {
            dropped: false,
            ..dropped
        };
        assert!(!lost.is_without_receipts());
        let kept_loan = Row {
            status: StatusName::Rewarded,
            ..lost
        };
        assert!(kept_loan.is_without_receipts());
    }

    #[test]
    fn what_does_not_agree_is_named() {
        for (broken, word) in [
            (
                Row {
                    rides_completed: 1,
                    ..row()
                },
                "rides_completed is 1",
            ),
            (
                Row {
                    counted: 3,
                    rides_completed: 3,
                    ..row()
                },
                "target of 2",
            ),
            (
                Row {
                    conditions: json!({}),
                    ..row()
                },
                "frozen conditions",
            ),
            // Its receipts make no further goals, and another number of rides.
            (
                Row {
                    further_goals: Some(Json(FurtherGoals {
                        days: None,
                        amount_cents: Some(GoalProgress {
                            completed: 199,
                            target: 200,
                        }),
                    })),
                    ..row()
                },
                "the further goals are",
            ),
            (
                Row {
                    rides_counted: Some(3),
                    ..row()
                },
                "the further goals are",
            ),
            (
                Row {
                    challenge_deadline: row().challenge_deadline + TimeDelta::seconds(1),
                    ..row()
                },
                "challenge_deadline is",
            ),
            // Extended by a second, and moved by another.
            (
                Row {
                    reward_deadline: row().reward_deadline.map(|at| at + TimeDelta::seconds(2)),
                    reward_extended_ms: 1_000,
                    extensions: 1,
                    ..row()
                },
                "reward_deadline is",
            ),
            (
                Row {
                    challenge_extended_ms: 1_000,
                    extensions: 1,
                    ..row()
                },
                "challenge_deadline is",
            ),
            (
                Row {
                    version: 3,
                    challenge_deadline: row().challenge_deadline + TimeDelta::seconds(1),
                    challenge_extended_ms: 1_000,
                    extensions: 1,
                    ..row()
                },
                "version 3, but only 4 to 5",
            ),
            (
                Row {
                    extended_without_event: 1,
                    ..row()
                },
                "1 extensions have no event",
            ),
            (
                Row {
                    impossible_versions: 1,
                    ..row()
                },
                "cannot have made",
            ),
            (
                Row {
                    wrongly_counted: 1,
                    ..row()
                },
                "against the conditions",
            ),
            (
                Row {
                    wrongly_refused: 1,
                    ..row()
                },
                "reason that does not apply",
            ),
            (
                Row {
                    recorded_after_end: 1,
                    ..row()
                },
                "after the challenge",
            ),
            (
                Row {
                    status: StatusName::InProgress,
                    ..row()
                },
                "status IN_PROGRESS",
            ),
            (
                Row {
                    status: StatusName::Rewarded,
                    ..row()
                },
                "originations",
            ),
            (
                Row {
                    version: 2,
                    ..row()
                },
                "version 2",
            ),
            (
                Row {
                    version: 5,
                    ..row()
                },
                "version 5",
            ),
            (
                Row {
                    originations: 1,
                    ..row()
                },
                "1 complete originations",
            ),
            (
                Row {
                    active_pre_offers: 1,
                    ..row()
                },
                "1 active pre-offers, but 0",
            ),
            (
                Row {
                    used_splits: 1,
                    ..row()
                },
                "1 used splits, but 0",
            ),
            (
                Row {
                    live_splits: 1,
                    ..row()
                },
                "active splits",
            ),
        ] {
            let found = disagreements(&broken, Versions::OfChangesOnly);
            assert!(
                found.iter().any(|what| what.contains(word)),
                "{word}: {found:?}"
            );
        }
    }
}
