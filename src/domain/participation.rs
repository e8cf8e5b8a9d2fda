//! A client's participation: its status machine (contract 3) and the counting of rides.

use std::collections::HashMap;

use chrono::NaiveDate;
use uuid::Uuid;

use super::Instant;
use super::promotion::{Conditions, Judgement, Verdict, judge};
use super::ride::Ride;

/// The four words of the contract for where a participation stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(
    description = "Where a participation stands.\n\n- `IN_PROGRESS`: rides are being counted\n- `COMPLETED`: the target is reached; the reward may be claimed\n- `REWARDED`: the reward was accepted; final\n- `EXPIRED`: over, for one of two reasons; final"
)]
pub enum StatusName {
    /// Rides are being counted.
    InProgress,
    /// The target is reached; the reward may be claimed.
    Completed,
    /// The reward was accepted.
    Rewarded,
    /// Over, for one of two reasons.
    Expired,
}

impl StatusName {
    /// Every status.
    pub const ALL: [Self; 4] = [
        Self::InProgress,
        Self::Completed,
        Self::Rewarded,
        Self::Expired,
    ];

    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Rewarded => "REWARDED",
            Self::Expired => "EXPIRED",
        }
    }

    /// `REWARDED` and `EXPIRED`: nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Rewarded | Self::Expired)
    }
}

impl std::str::FromStr for StatusName {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

/// Why a participation expired.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(
    description = "Why a participation expired.\n\n- `CHALLENGE_NOT_COMPLETED`: the challenge's deadline passed and the target was not reached\n- `REWARD_NOT_CLAIMED`: the reward's deadline passed unclaimed"
)]
pub enum ExpiredReason {
    /// The challenge's deadline passed and the target was not reached.
    ChallengeNotCompleted,
    /// The reward's deadline passed unclaimed.
    RewardNotClaimed,
}

impl ExpiredReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::ChallengeNotCompleted, Self::RewardNotClaimed];

    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChallengeNotCompleted => "CHALLENGE_NOT_COMPLETED",
            Self::RewardNotClaimed => "REWARD_NOT_CLAIMED",
        }
    }
}

impl std::str::FromStr for ExpiredReason {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == word)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

/// A word that is not in the contract's list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(String);

/// Where a participation stands, with what belongs to that state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Rides are being counted until the deadline.
    InProgress {
        /// The end of the challenge, exclusive.
        challenge_deadline: Instant,
    },
    /// The target is reached.
    Completed {
        /// When this was recorded.
        completed_at: Instant,
        /// The end of the claim, exclusive.
        reward_deadline: Instant,
    },
    /// The reward was accepted at that instant.
    Rewarded {
        /// When.
        rewarded_at: Instant,
    },
    /// Over.
    Expired {
        /// When this was recorded.
        expired_at: Instant,
        /// Why.
        reason: ExpiredReason,
    },
}

/// A move that the status machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The move does not start at this status.
    #[error("not possible from {}", .0.as_str())]
    From(StatusName),
    /// The move is one for before the deadline, which has passed.
    #[error("the deadline has passed")]
    TooLate,
    /// The move is one for after the deadline, which has not passed.
    #[error("the deadline has not passed")]
    TooEarly,
}

impl Status {
    /// Its word.
    pub const fn name(&self) -> StatusName {
        match self {
            Self::InProgress { .. } => StatusName::InProgress,
            Self::Completed { .. } => StatusName::Completed,
            Self::Rewarded { .. } => StatusName::Rewarded,
            Self::Expired { .. } => StatusName::Expired,
        }
    }

    /// The target-th ride counted, recorded `now`. Never too late: what decides is when the rides
    /// were completed, and the client's week to claim begins with the recording (contract 3).
    pub fn complete(self, now: Instant, conditions: &Conditions) -> Result<Self, MoveError> {
        match self {
            Self::InProgress { .. } => Ok(Self::Completed {
                completed_at: now,
                reward_deadline: now + conditions.claim_period.delta(),
            }),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// The reward is accepted `now`, which must be before the reward's deadline.
    pub fn accept(self, now: Instant) -> Result<Self, MoveError> {
        match self {
            Self::Completed {
                reward_deadline, ..
            } if now < reward_deadline => Ok(Self::Rewarded { rewarded_at: now }),
            Self::Completed { .. } => Err(MoveError::TooLate),
            other => Err(MoveError::From(other.name())),
        }
    }

    /// Time has run out, recorded `now`. That every ride was read first is the sweeper's to prove.
    pub fn expire(self, now: Instant) -> Result<Self, MoveError> {
        let (deadline, reason) = match self {
            Self::InProgress { challenge_deadline } => {
                (challenge_deadline, ExpiredReason::ChallengeNotCompleted)
            }
            Self::Completed {
                reward_deadline, ..
            } => (reward_deadline, ExpiredReason::RewardNotClaimed),
            other => return Err(MoveError::From(other.name())),
        };
        if now < deadline {
            return Err(MoveError::TooEarly);
        }
        Ok(Self::Expired {
            expired_at: now,
            reason,
        })
    }
}

/// A challenge in progress, with what must be known of its past to judge more rides: the pure
/// heart of ingest. Feed it rides in offset order.
#[derive(Clone, Debug)]
pub struct Challenge<'a> {
    /// The frozen conditions.
    pub conditions: &'a Conditions,
    /// The start of the window, inclusive.
    pub started_at: Instant,
    /// The end of the window, exclusive.
    pub challenge_deadline: Instant,
    /// How many rides counted so far.
    pub rides_completed: u32,
    /// Rides already recorded, with their fingerprints; only those that may come again need be here.
    pub recorded: HashMap<Uuid, i64>,
    /// How many rides counted per local day, where the conditions cap them.
    pub counted_per_day: HashMap<NaiveDate, u32>,
}

/// What became of a ride.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Judged for the first time, to be recorded.
    Judged(Judgement),
    /// Recorded before; changes nothing, whatever it now says.
    Duplicate {
        /// It says something else than it did.
        differs: bool,
    },
    /// The target was reached before it: no receipt.
    NotInProgress,
}

impl Challenge<'_> {
    /// Whether the target is reached.
    pub fn is_complete(&self) -> bool {
        self.rides_completed >= self.conditions.target_rides
    }

    /// Applies one ride. A ride already recorded is recognised before it is judged, so it never
    /// uses up a place.
    pub fn apply(&mut self, ride: &Ride) -> Outcome {
        let fingerprint = ride.fingerprint();
        if let Some(recorded) = self.recorded.get(&ride.ride_id) {
            return Outcome::Duplicate {
                differs: *recorded != fingerprint,
            };
        }
        if self.is_complete() {
            return Outcome::NotInProgress;
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
        if judgement.verdict == Verdict::Counted {
            self.rides_completed += 1;
            if let Some(day) = day {
                *self.counted_per_day.entry(day).or_default() += 1;
            }
        }
        self.recorded.insert(ride.ride_id, fingerprint);
        Outcome::Judged(judgement)
    }
}
