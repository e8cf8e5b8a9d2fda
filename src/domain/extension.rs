//! Extensions: orders that move the deadlines of live participations (contract 2, "Deadlines and
//! exceptions").

use chrono::Datelike as _;
use uuid::Uuid;

use super::participation::{DeadlineOf, Status};
use super::period::Period;
use super::reward::CountryCode;
use super::words::words;
use super::{Instant, PromotionId, UserId};

words! {
    /// The progress of an extension.
    pub enum ExtensionState {
        /// Participations are being extended. No covered one is judged by its old deadline.
        Running = "RUNNING",
        /// Every covered participation was extended or skipped.
        Done = "DONE",
    }
}

/// The last year that an RFC 3339 instant can have.
const MAX_YEAR: i32 = 9_999;

/// By how much a deadline moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// By this period, at least a second.
    By(Period),
    /// By the time that the claim window (from completion to the deadline) overlaps with an outage.
    SharedWith(Outage),
}

/// A time in which no process with the role `api` reached Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Its id.
    pub outage_id: Uuid,
    /// The last moment before it at which Postgres was reached.
    pub from: Instant,
    /// The first moment after it at which Postgres was reached.
    pub to: Instant,
}

/// Which participations an extension covers: those that match all fields that are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In this promotion.
    pub promotion_id: Option<PromotionId>,
    /// Started with a pre-offer of this country.
    pub country_code: Option<CountryCode>,
    /// Of this client.
    pub user_id: Option<UserId>,
}

/// The parts of an extension that decide about a participation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which participations.
    pub scope: Scope,
    /// Which deadline.
    pub of: DeadlineOf,
    /// By how much.
    pub length: Length,
    /// It covers participations that were live at this instant.
    pub at: Instant,
}

/// The parts of a participation that extensions need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The client.
    pub user_id: UserId,
    /// The promotion.
    pub promotion_id: PromotionId,
    /// The country of its pre-offer.
    pub country_code: &'a str,
    /// When it started.
    pub started_at: Instant,
    /// Its present status.
    pub status: Status,
    /// The end of the challenge.
    pub challenge_deadline: Instant,
}

/// A deadline that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The old deadline.
    pub from: Instant,
    /// The new deadline, later than `from`.
    pub to: Instant,
}

impl Scope {
    fn contains(&self, subject: &Subject<'_>) -> bool {
        self.promotion_id
            .is_none_or(|promotion_id| promotion_id == subject.promotion_id)
            && self
                .user_id
                .is_none_or(|user_id| user_id == subject.user_id)
            && self
                .country_code
                .is_none_or(|country| country.as_str() == subject.country_code)
    }
}

impl Extension {
    /// How this extension moves the deadline of a participation that has not had it yet. `None` if the
    /// participation is not covered, or no longer has the status to which this deadline belongs.
    ///
    /// Extensions are applied in the order of their instants, and before a deadline is judged. So the
    /// present deadline is also the deadline at `at`.
    pub fn moves(&self, subject: &Subject<'_>) -> Option<Move> {
        if !self.scope.contains(subject) {
            return None;
        }
        let (window_from, from) = match (self.of, subject.status) {
            // Also while settling: the deadline has passed, but the challenge has not expired.
            (DeadlineOf::Challenge, Status::InProgress) if subject.started_at <= self.at => {
                (subject.started_at, subject.challenge_deadline)
            }
            (DeadlineOf::Reward, Status::Completed(completion))
                if completion.completed_at <= self.at && self.at < completion.reward_deadline =>
            {
                (completion.completed_at, completion.reward_deadline)
            }
            _ => return None,
        };
        let by = match self.length {
            Length::By(period) => period.delta(),
            Length::SharedWith(outage) => outage.to.min(from) - outage.from.max(window_from),
        };
        let to = from.checked_add_signed(by)?;
        (to > from && to.year() <= MAX_YEAR).then_some(Move { from, to })
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::participation::Completion;

    fn at(minutes: i64) -> Instant {
        Instant::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn extension(of: DeadlineOf, length: Length) -> Extension {
        Extension {
            scope: Scope::default(),
            of,
            length,
            at: at(100),
        }
    }

    fn by(minutes: u64) -> Length {
        Length::By(Period::from_seconds(60 * minutes).expect("short"))
    }

    fn outage(from: i64, to: i64) -> Length {
        Length::SharedWith(Outage {
            outage_id: Uuid::nil(),
            from: at(from),
            to: at(to),
        })
    }

    fn in_progress(started_at: i64, deadline: i64) -> Subject<'static> {
        Subject {
            user_id: 1,
            promotion_id: 2,
            country_code: "MX",
            started_at: at(started_at),
            status: Status::InProgress,
            challenge_deadline: at(deadline),
        }
    }

    fn completed(completed_at: i64, deadline: i64) -> Subject<'static> {
        Subject {
            status: Status::Completed(Completion {
                completed_at: at(completed_at),
                reward_deadline: at(deadline),
            }),
            ..in_progress(0, 50)
        }
    }

    fn moved(from: i64, to: i64) -> Option<Move> {
        Some(Move {
            from: at(from),
            to: at(to),
        })
    }

    #[test]
    fn a_challenge_in_progress_at_the_instant_is_covered_also_while_settling() {
        let extension = extension(DeadlineOf::Challenge, by(30));
        assert_eq!(extension.moves(&in_progress(0, 200)), moved(200, 230));
        assert_eq!(extension.moves(&in_progress(100, 200)), moved(200, 230));
        assert_eq!(extension.moves(&in_progress(0, 100)), moved(100, 130));
        assert_eq!(
            extension.moves(&in_progress(0, 60)),
            moved(60, 90),
            "settling"
        );
        assert_eq!(
            extension.moves(&in_progress(101, 200)),
            None,
            "started later"
        );
        assert_eq!(extension.moves(&completed(90, 200)), None);
    }

    #[test]
    fn a_reward_that_could_be_claimed_at_the_instant_is_covered() {
        let extension = extension(DeadlineOf::Reward, by(30));
        assert_eq!(extension.moves(&completed(90, 200)), moved(200, 230));
        assert_eq!(extension.moves(&completed(100, 101)), moved(101, 131));
        assert_eq!(extension.moves(&completed(90, 100)), None, "too late then");
        assert_eq!(
            extension.moves(&completed(101, 200)),
            None,
            "completed later"
        );
        assert_eq!(extension.moves(&in_progress(0, 200)), None);
    }

    #[test]
    fn everything_that_is_given_must_match() {
        let mut extension = extension(DeadlineOf::Challenge, by(1));
        let subject = in_progress(0, 200);
        for (scope, covered) in [
            (
                Scope {
                    user_id: Some(1),
                    ..Scope::default()
                },
                true,
            ),
            (
                Scope {
                    user_id: Some(2),
                    ..Scope::default()
                },
                false,
            ),
            (
                Scope {
                    promotion_id: Some(2),
                    ..Scope::default()
                },
                true,
            ),
            (
                Scope {
                    promotion_id: Some(1),
                    ..Scope::default()
                },
                false,
            ),
            (
                Scope {
                    country_code: "MX".parse().ok(),
                    ..Scope::default()
                },
                true,
            ),
            (
                Scope {
                    country_code: "BR".parse().ok(),
                    ..Scope::default()
                },
                false,
            ),
            (
                Scope {
                    user_id: Some(1),
                    promotion_id: Some(1),
                    country_code: None,
                },
                false,
            ),
            (
                Scope {
                    user_id: Some(1),
                    promotion_id: Some(2),
                    country_code: "MX".parse().ok(),
                },
                true,
            ),
        ] {
            extension.scope = scope;
            assert_eq!(extension.moves(&subject).is_some(), covered, "{scope:?}");
        }
    }

    #[test]
    fn a_claim_window_gets_back_what_it_shares_with_an_outage() {
        for (from, to, new_deadline) in [
            (0, 10, None),
            (10, 50, None),
            (40, 60, Some(210)),
            (60, 90, Some(230)),
            (190, 300, Some(210)),
            (0, 400, Some(350)),
            (200, 300, None),
        ] {
            let extension = extension(DeadlineOf::Reward, outage(from, to));
            let expected = new_deadline.and_then(|to| moved(200, to));
            assert_eq!(
                extension.moves(&completed(50, 200)),
                expected,
                "{from} {to}"
            );
        }
    }

    #[test]
    fn no_deadline_leaves_the_years_that_can_be_written() {
        let mut subject = in_progress(0, 200);
        subject.challenge_deadline = "9999-12-31T23:00:00Z".parse().expect("an instant");
        assert_eq!(
            extension(DeadlineOf::Challenge, by(120)).moves(&subject),
            None
        );
        assert!(
            extension(DeadlineOf::Challenge, by(30))
                .moves(&subject)
                .is_some()
        );
    }
}
