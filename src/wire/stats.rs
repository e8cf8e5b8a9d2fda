//! Figures on the service's work (contract 6).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::participation::ExpiredReason;
use crate::domain::period::Period;

/// The figures of one moment.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Every promotion, by its number.
    pub promotions: Vec<PromotionStats>,
    /// The progress of ingest.
    pub ingest: IngestStats,
    /// Status changes not yet published.
    pub outbox: OutboxStats,
    /// Quarantined records that are open.
    pub quarantine_open: i64,
    /// What expiry waits for.
    pub sweep: SweepStats,
}

/// How many participations of a promotion have which status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PromotionStats {
    /// The promotion.
    pub promotion_id: i64,
    /// Its key in words.
    pub promotion_key: String,
    /// All participations.
    pub started: i64,
    /// Those now `IN_PROGRESS`.
    pub in_progress: i64,
    /// Those now `COMPLETED`.
    pub completed: i64,
    /// Those `REWARDED`.
    pub rewarded: i64,
    /// Those `EXPIRED`, by reason.
    pub expired: ExpiredStats,
}

/// Participations that expired, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub struct ExpiredStats {
    /// The target was not reached in time.
    pub challenge_not_completed: i64,
    /// The reward was not claimed in time.
    pub reward_not_claimed: i64,
    /// The client quit.
    pub quit: i64,
    /// An operator cancelled the participation.
    pub cancelled: i64,
}

/// The progress of ingest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct IngestStats {
    /// Records that are published but not applied, over all partitions; `null` while Kafka is
    /// unavailable.
    #[schema(required)]
    pub lag: Option<i64>,
    /// Every partition of the ride topic, ascending.
    pub partitions: Vec<PartitionStats>,
}

/// The progress of ingest in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PartitionStats {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to apply; `null` if none was read yet.
    #[schema(required)]
    pub position: Option<i64>,
    /// The offset of the next record to be published; `null` while Kafka is unavailable.
    #[schema(required)]
    pub end: Option<i64>,
}

/// Status changes not yet published.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct OutboxStats {
    /// The number of events. They are counted in the first 10,000 rows of the outbox; with more rows there are
    /// at least so many events.
    pub depth: i64,
    /// The age of the oldest; 0 if there is none.
    pub oldest_age_seconds: f64,
}

/// What expiry waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SweepStats {
    /// Participations in progress whose deadline plus the allowed lateness has passed.
    pub held_back: i64,
    /// Those of them whose client has an open quarantined ride since the start.
    pub held_back_by_quarantine: i64,
}

/// The changes of a promotion's participations over time.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Funnel {
    /// The promotion.
    pub promotion_id: i64,
    /// The start of the first interval.
    #[serde(with = "crate::wire::instant")]
    pub from: DateTime<Utc>,
    /// The end of the last interval, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub to: DateTime<Utc>,
    /// The length of each interval; the last one may be shorter.
    #[schema(value_type = String, example = "PT1H")]
    pub interval: Period,
    /// The intervals, one after another, at most 1,000.
    pub intervals: Vec<FunnelInterval>,
}

/// The changes in one interval. Each change is counted at the time it was recorded, so a reward is usually
/// in a later interval than its start.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct FunnelInterval {
    /// Its start.
    #[serde(with = "crate::wire::instant")]
    pub from: DateTime<Utc>,
    /// Its end, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub to: DateTime<Utc>,
    /// Newbie pre-offers of the promotion that were imported for the first time: what was offered. At its own
    /// time, also in a funnel by start.
    pub pre_offers: i64,
    /// Splits that were made: a client was shown the promotion, or was shown it again with other terms or
    /// after the split before had run out. At its own time, also in a funnel by start.
    pub splits: i64,
    /// Participations that started.
    pub started: i64,
    /// Participations that were completed, with any later status.
    pub completed: i64,
    /// Participations that were rewarded.
    pub rewarded: i64,
    /// Participations that expired, by reason.
    #[schema(value_type = ExpiredStats)]
    pub expired: BTreeMap<ExpiredReason, i64>,
}

impl FunnelInterval {
    /// An interval without changes.
    pub fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        Self {
            from,
            to,
            pre_offers: 0,
            splits: 0,
            started: 0,
            completed: 0,
            rewarded: 0,
            expired: ExpiredReason::ALL.map(|reason| (reason, 0)).into(),
        }
    }
}
