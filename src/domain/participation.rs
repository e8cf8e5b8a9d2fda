//! A client's participation: its status machine (contract 3) and the counting of rides.

use std::collections::HashMap;

use chrono::NaiveDate;
use uuid::Uuid;

use super::Instant;
use super::goals::Tally;
use super::promotion::Conditions;
use super::ride::{Reversal, Ride};
use super::verdict::{Judgement, Verdict, judge};
use super::words::words;

words! {
    /// The status of a participation.
    pub enum StatusName {
        /// Rides are being counted.
        InProgress = "IN_PROGRESS",
        /// The target is reached, and the reward can be claimed.
        Completed = "COMPLETED",
        /// The reward was accepted; final.
        Rewarded = "REWARDED",
        /// Ended without an accepted reward; `expired_reason` says why; final.
        Expired = "EXPIRED",
    }
}

impl StatusName {
    /// Whether it is `REWARDED` or `EXPIRED`, after which nothing changes.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Rewarded | Self::Expired)
    }
}

words! {
    /// Why a participation expired.
    pub enum ExpiredReason {
        /// The challenge's deadline passed and the target was not reached.
        ChallengeNotCompleted = "CHALLENGE_NOT_COMPLETED",
        /// The reward's deadline passed, and the reward was not claimed.
        RewardNotClaimed = "REWARD_NOT_CLAIMED",
        /// The client quit the challenge.
        Quit = "QUIT",
        /// An operator cancelled the participation.
        Cancelled = "CANCELLED",
    }
}

words! {
    /// One of a participation's two deadlines.
    pub enum DeadlineOf {
        /// `challenge_deadline`, while the status is `IN_PROGRESS`.
        Challenge = "CHALLENGE",
        /// `reward_deadline`, while the status is `COMPLETED`.
        Reward = "REWARD",
    }
}

/// The status of a participation, with the data of that state. All code judges by this type; only JSON
/// and the tables are flat, see [`StatusFields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Rides are being counted until the challenge's deadline, which every status has.
    InProgress,
    /// The target is reached.
    Completed(Completion),
    /// The reward was accepted.
    Rewarded {
        /// The completion before it.
        completion: Completion,
        /// When it was accepted.
        rewarded_at: Instant,
    },
    /// Ended without an accepted reward.
    Expired {
        /// The completion before it, if any.
        completion: Option<Completion>,
        /// When this was recorded.
        expired_at: Instant,
        /// The reason.
        reason: ExpiredReason,
    },
}

/// A challenge whose target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// When this was recorded.
    pub completed_at: Instant,
    /// The end of the time to claim, exclusive.
    pub reward_deadline: Instant,
}

/// A status as columns and JSON have it: fields of other statuses are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusFields {
    /// The status.
    pub status: StatusName,
    /// When completion was recorded.
    pub completed_at: Option<Instant>,
    /// The end of the time to claim.
    pub reward_deadline: Option<Instant>,
    /// When the reward was accepted.
    pub rewarded_at: Option<Instant>,
    /// When expiry was recorded.
    pub expired_at: Option<Instant>,
    /// Why it expired.
    pub expired_reason: Option<ExpiredReason>,
}

/// A transition that the status machine does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The transition does not start at this status.
    #[error("not possible from {}", .0.as_str())]
    From(StatusName),
    /// The transition is possible only before the deadline, which has passed.
    #[error("the deadline has passed")]
    TooLate,
    /// The transition is possible only after the deadline, which has not passed.
    #[error("the deadline has not passed")]
    TooEarly,
}

impl Status {
    /// The name of the status.
    pub const fn name(&self) -> StatusName {
        match self {
            Self::InProgress => StatusName::InProgress,
            Self::Completed(_) => StatusName::Completed,
            Self::Rewarded { .. } => StatusName::Rewarded,
            Self::Expired { .. } => StatusName::Expired,
        }
    }

    /// Whether it is `REWARDED` or `EXPIRED`, after which nothing changes.
    pub const fn is_final(&self) -> bool {
        self.name().is_final()
    }

    /// The completion, if the challenge was completed.
    pub const fn completion(&self) -> Option<Completion> {
        match self {
            Self::InProgress => None,
            Self::Completed(completion) | Self::Rewarded { completion, .. } => Some(*completion),
            Self::Expired { completion, .. } => *completion,
        }
    }

    /// The flat form.
    pub fn fields(&self) -> StatusFields {
        let completion = self.completion();
        let mut fields = StatusFields {
            status: self.name(),
            completed_at: completion.map(|completion| completion.completed_at),
            reward_deadline: completion.map(|completion| completion.reward_deadline),
            rewarded_at: None,
            expired_at: None,
            expired_reason: None,
        };
        match *self {
            Self::InProgress | Self::Completed(_) => {}
            Self::Rewarded { rewarded_at, .. } => fields.rewarded_at = Some(rewarded_at),
            Self::Expired {
                expired_at, reason, ..
            } => {
                fields.expired_at = Some(expired_at);
                fields.expired_reason = Some(reason);
            }
        }
        fields
    }

    /// The last goal is reached, recorded `now`. It is never too late: the times at which the rides were
    /// completed decide, and the time to claim begins with the recording (contract 3).
    pub fn complete(self, now: Instant, conditions: &Conditions) -> Result<Self, MoveError> {
        match self {
            Self::InProgress => Ok(Self::Completed(Completion {
                completed_at: now,
                reward_deadline: now + conditions.claim_period.delta(),
            })),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// The reward is accepted `now`, which must be before its deadline.
    pub fn accept(self, now: Instant) -> Result<Self, MoveError> {
        match self {
            Self::Completed(completion) if now < completion.reward_deadline => Ok(Self::Rewarded {
                completion,
                rewarded_at: now,
            }),
            Self::Completed(_) => Err(MoveError::TooLate),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// The client quits, recorded `now`: possible while rides are counted, also while settling.
    pub fn quit(self, now: Instant) -> Result<Self, MoveError> {
        match self {
            Self::InProgress => Ok(Self::Expired {
                completion: None,
                expired_at: now,
                reason: ExpiredReason::Quit,
            }),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// An operator cancels, recorded `now`: possible while rides are counted, also while settling, and while
    /// the reward can be accepted.
    pub fn cancel(self, now: Instant) -> Result<Self, MoveError> {
        match self {
            Self::Completed(completion) if now >= completion.reward_deadline => {
                Err(MoveError::TooLate)
            }
            Self::InProgress | Self::Completed(_) => Ok(Self::Expired {
                completion: self.completion(),
                expired_at: now,
                reason: ExpiredReason::Cancelled,
            }),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// The reason and the deadline of an expiry from this status; `None` if it cannot expire.
    pub const fn expiry(&self, challenge_deadline: Instant) -> Option<(ExpiredReason, Instant)> {
        match self {
            Self::InProgress => Some((ExpiredReason::ChallengeNotCompleted, challenge_deadline)),
            Self::Completed(completion) => {
                Some((ExpiredReason::RewardNotClaimed, completion.reward_deadline))
            }
            Self::Rewarded { .. } | Self::Expired { .. } => None,
        }
    }

    /// The deadline has passed, recorded `now`. Before this, the sweeper must prove that every ride was
    /// read.
    pub fn expire(self, challenge_deadline: Instant, now: Instant) -> Result<Self, MoveError> {
        let Some((reason, deadline)) = self.expiry(challenge_deadline) else {
            return Err(MoveError::From(self.name()));
        };
        if now < deadline {
            return Err(MoveError::TooEarly);
        }
        Ok(Self::Expired {
            completion: self.completion(),
            expired_at: now,
            reason,
        })
    }
}

/// Columns or JSON that belong to no valid status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fields beside the status {0} do not belong to it")]
pub struct BrokenStatus(pub StatusName);

impl TryFrom<StatusFields> for Status {
    type Error = BrokenStatus;

    fn try_from(fields: StatusFields) -> Result<Self, BrokenStatus> {
        let completion = match (fields.completed_at, fields.reward_deadline) {
            (None, None) => Ok(None),
            (Some(completed_at), Some(reward_deadline)) => Ok(Some(Completion {
                completed_at,
                reward_deadline,
            })),
            _ => Err(BrokenStatus(fields.status)),
        }?;
        let status = match (fields.status, completion) {
            (StatusName::InProgress, None) => Some(Self::InProgress),
            (StatusName::Completed, Some(completion)) => Some(Self::Completed(completion)),
            (StatusName::Rewarded, Some(completion)) => {
                fields.rewarded_at.map(|rewarded_at| Self::Rewarded {
                    completion,
                    rewarded_at,
                })
            }
            (StatusName::Expired, completion) => {
                let expired = fields.expired_at.zip(fields.expired_reason);
                expired.map(|(expired_at, reason)| Self::Expired {
                    completion,
                    expired_at,
                    reason,
                })
            }
            _ => None,
        };
        // A field that is left over belongs to another status.
        status
            .filter(|status| status.fields() == fields)
            .ok_or(BrokenStatus(fields.status))
    }
}

/// A challenge in progress, with the past that is needed to judge more rides: the pure core of ingest.
/// It takes rides and reversals in offset order.
#[derive(Clone, Debug)]
pub struct Challenge<'a> {
    /// The frozen conditions.
    pub conditions: &'a Conditions,
    /// The start of the window, inclusive.
    pub started_at: Instant,
    /// The end of the window, exclusive.
    pub challenge_deadline: Instant,
    /// What has counted so far.
    pub tally: Tally,
    /// Rides that are recorded already; those that cannot come again or be reversed may be left out.
    pub recorded: HashMap<Uuid, RecordedRide>,
    /// How many rides count per local day, if the conditions count days.
    pub counted_per_day: HashMap<NaiveDate, u32>,
}

/// A ride that is recorded already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedRide {
    /// The fingerprint of the ride; `None` if only its reversal arrived.
    pub fingerprint: Option<i64>,
    /// The verdict.
    pub verdict: Verdict,
    /// Its fare in cents.
    pub amount_cents: i64,
    /// Its local day as it was computed then, if the conditions count days.
    pub day: Option<NaiveDate>,
}

/// The effect of a ride or a reversal.
#[derive(Clone, Debug, PartialEq)]
pub enum RideOutcome {
    /// A ride, judged for the first time, to be recorded.
    Judged {
        /// The verdict.
        judgement: Judgement,
        /// Its local day, if the conditions count days.
        day: Option<NaiveDate>,
        /// Whether a goal advanced.
        moved: bool,
    },
    /// A ride that was recorded before. It changes nothing, even if its content differs.
    Duplicate {
        /// Whether it differs from what was recorded.
        differs: bool,
    },
    /// A reversal, to be recorded.
    Reversed {
        /// The ride's verdict before; `None` if the ride was not recorded.
        before: Option<Verdict>,
        /// Whether a goal fell.
        moved: bool,
    },
    /// A reversal that was recorded before.
    ReversedBefore,
    /// The challenge was completed before it. It gets no receipt and changes nothing.
    NotInProgress,
}

impl Challenge<'_> {
    /// Whether every goal is reached. From then on nothing changes the challenge.
    pub fn is_complete(&self) -> bool {
        self.conditions.is_reached_by(&self.tally)
    }

    /// Takes one ride. A ride that is recorded already is recognised before it is judged, so it never
    /// counts twice.
    pub fn take(&mut self, ride: &Ride) -> RideOutcome {
        let fingerprint = ride.fingerprint();
        if let Some(recorded) = self.recorded.get(&ride.ride_id) {
            return RideOutcome::Duplicate {
                differs: recorded
                    .fingerprint
                    .is_some_and(|recorded| recorded != fingerprint),
            };
        }
        if self.is_complete() {
            return RideOutcome::NotInProgress;
        }
        let day = self.conditions.day_of(ride);
        let counted_that_day = day
            .and_then(|day| self.counted_per_day.get(&day))
            .copied()
            .unwrap_or(0);
        let judgement = judge(
            self.conditions,
            self.started_at,
            self.challenge_deadline,
            ride,
            counted_that_day,
        );
        let before = self.tally;
        if judgement.verdict == Verdict::Counted {
            self.tally.rides += 1;
            self.tally.amount_cents += i128::from(ride.amount_cents);
            if let Some(day) = day {
                self.tally.days += u32::from(counted_that_day == 0);
                self.counted_per_day.insert(day, counted_that_day + 1);
            }
        }
        self.recorded.insert(
            ride.ride_id,
            RecordedRide {
                fingerprint: Some(fingerprint),
                verdict: judgement.verdict,
                amount_cents: ride.amount_cents,
                day,
            },
        );
        RideOutcome::Judged {
            moved: self.conditions.tells_apart(&before, &self.tally),
            judgement,
            day,
        }
    }

    /// Takes one reversal. A ride that is not recorded yet is recorded as reversed, so that it does not
    /// count if it arrives later.
    pub fn take_back(&mut self, reversal: &Reversal) -> RideOutcome {
        let recorded = self.recorded.get_mut(&reversal.ride_id);
        if recorded
            .as_ref()
            .is_some_and(|recorded| recorded.verdict == Verdict::Reversed)
        {
            return RideOutcome::ReversedBefore;
        }
        if self.conditions.is_reached_by(&self.tally) {
            return RideOutcome::NotInProgress;
        }
        let Some(recorded) = recorded else {
            self.recorded.insert(
                reversal.ride_id,
                RecordedRide {
                    fingerprint: None,
                    verdict: Verdict::Reversed,
                    amount_cents: 0,
                    day: None,
                },
            );
            return RideOutcome::Reversed {
                before: None,
                moved: false,
            };
        };
        let verdict = std::mem::replace(&mut recorded.verdict, Verdict::Reversed);
        let before = self.tally;
        if verdict == Verdict::Counted {
            self.tally.rides = self.tally.rides.saturating_sub(1);
            self.tally.amount_cents -= i128::from(recorded.amount_cents);
            if let Some(day) = recorded.day {
                let counted = self.counted_per_day.entry(day).or_default();
                *counted = counted.saturating_sub(1);
                self.tally.days = self.tally.days.saturating_sub(u32::from(*counted == 0));
            }
        }
        RideOutcome::Reversed {
            before: Some(verdict),
            moved: self.conditions.tells_apart(&before, &self.tally),
        }
    }
}
