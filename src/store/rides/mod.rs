//! Rides applied to the challenges in progress: what a batch is, and what becomes of it.

mod applier;
mod changes;
mod judging;
mod late;
mod receipts;
mod recorded;
pub mod reversals;

use std::sync::Arc;

use super::participations::StoredReceipt;
use crate::domain::anchor::Anchor;
use crate::domain::ride::RideRecord;
use crate::domain::source::Source;
use crate::domain::verdict::Verdict;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::quarantine::ReplayOutcome;
use crate::wire::ride_completed::QuarantineReason;
use crate::wire::traceparent::Traceparent;

pub use applier::{CONNECT_TIMEOUT, RideApplier};
pub use judging::{apply_one, reverse_one};
pub(super) use late::judge_late_again;

/// A ride or a reversal as it came.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What the record says.
    pub record: RideRecord,
    /// The trace it came with, handed on to the status change it causes.
    pub traceparent: Option<Traceparent>,
}

impl Incoming {
    /// Whose ride it is.
    pub const fn user_id(&self) -> UserId {
        self.record.user_id()
    }
}

/// A record that goes to the quarantine.
#[derive(Clone, Debug)]
pub struct QuarantinedRecord {
    /// Where it came from.
    pub partition: i32,
    /// Where it came from.
    pub offset: i64,
    /// The record's key as it came.
    pub key: Option<Vec<u8>>,
    /// The record's value as it came.
    pub value: Vec<u8>,
    /// Its client, where one can be told.
    pub user_id: Option<UserId>,
    /// Why it is not a ride.
    pub reason: QuarantineReason,
    /// The same in words.
    pub detail: String,
}

/// The part of a partition that a batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// The position's generation when reading began.
    pub generation: i64,
    /// The stored position this batch follows on.
    pub from: i64,
    /// The position after it.
    pub to: i64,
    /// What is known of the log before that position.
    pub anchor: Anchor,
}

/// What is applied together. Rides and reversals are in offset order within their partitions.
#[derive(Debug)]
pub struct Batch {
    /// Where it was read.
    pub source: Arc<Source>,
    /// What it covers, each partition once.
    pub ranges: Vec<Range>,
    /// The valid rides and reversals.
    pub records: Vec<Incoming>,
    /// The reversals among them as they came. They go to the quarantine while a process of the release
    /// before may run, which does not know them.
    pub raw_reversals: Vec<QuarantinedRecord>,
    /// The records that are neither.
    pub quarantined: Vec<QuarantinedRecord>,
    /// How many records had no value.
    pub tombstones: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Applied {
    /// It is durable.
    Committed {
        /// Which ride went which way.
        counts: Counts,
        /// The database's clock within the transaction.
        now: Instant,
        /// Ours at the same moment.
        now_at: std::time::Instant,
    },
    /// Another consumer, or an operator, has moved a position: nothing was changed, and the
    /// positions must be read again.
    Fenced,
}

/// A change of a participation, and the trace of the ride that caused it.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// The ride's W3C `traceparent`.
    pub traceparent: &'a str,
    /// Whose participation.
    pub user_id: UserId,
    /// In which promotion.
    pub promotion_id: PromotionId,
}

/// Answers the `traceparent` to hand on instead of a ride's own; `None` leaves it as it came.
pub type Carry<'a> = dyn FnMut(&Cause<'_>) -> Option<String> + Send + 'a;

/// How many of a batch's rides went which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Judged and recorded, by [`Verdict::ALL`]'s order.
    pub judged: [u64; Verdict::ALL.len()],
    /// Recorded before.
    pub duplicates: u64,
    /// Of the duplicates, those that now say something else.
    pub duplicates_differing: u64,
    /// Of nobody with a challenge in progress.
    pub no_participation: u64,
    /// Reversals, whatever their effect.
    pub reversals: u64,
    /// Reversals that went to the quarantine, because the upgrade is not finished.
    pub quarantined_reversals: u64,
}

impl Counts {
    /// How many rides were of participants, the part that costs.
    pub fn of_participants(&self) -> u64 {
        self.judged.iter().sum::<u64>() + self.duplicates
    }
}

/// What became of a single ride.
#[derive(Clone, Debug)]
pub enum AppliedOne {
    /// Judged and recorded.
    Applied(StoredReceipt),
    /// Recorded before.
    Duplicate(StoredReceipt),
    /// The client has no challenge in progress.
    NoParticipation,
}

impl AppliedOne {
    /// Its word.
    pub fn outcome(&self) -> ReplayOutcome {
        match self {
            Self::Applied(_) => ReplayOutcome::Applied,
            Self::Duplicate(_) => ReplayOutcome::Duplicate,
            Self::NoParticipation => ReplayOutcome::NoParticipation,
        }
    }

    /// The receipt that the ride has, where it has one.
    pub fn receipt(&self) -> Option<&StoredReceipt> {
        match self {
            Self::Applied(receipt) | Self::Duplicate(receipt) => Some(receipt),
            Self::NoParticipation => None,
        }
    }
}
