//! Records that are no rides, as operators see them (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::ride_completed::QuarantineReason;
use crate::domain::words::words;

words! {
    /// Where a quarantined record stands.
    pub enum QuarantineStatus {
        /// It waits for an operator, and holds its client's expiry.
        Open = "OPEN",
        /// It was judged after all, with any outcome.
        Replayed = "REPLAYED",
        /// It was given up.
        Dismissed = "DISMISSED",
    }
}

words! {
    /// What became of a record that was replayed.
    pub enum ReplayOutcome {
        /// It was judged, and its receipt recorded.
        Applied = "APPLIED",
        /// It was recorded before.
        Duplicate = "DUPLICATE",
        /// The client has no challenge in progress.
        NoParticipation = "NO_PARTICIPATION",
    }
}

/// A quarantined record as the admin API shows it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct QuarantinedView {
    /// Names it here.
    pub quarantine_id: Uuid,
    /// The topic it was read from.
    pub topic: String,
    /// The partition it was read from.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// Its offset in that partition.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// Its key as text, if it had one; what is not UTF-8 is replaced.
    #[schema(required)]
    pub key: Option<String>,
    /// Its client, as far as one can be told.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// The word for what is wrong with it.
    pub reason: QuarantineReason,
    /// All that is wrong with it.
    pub detail: String,
    /// Its bytes.
    #[schema(content_encoding = "base64")]
    pub value_base64: String,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub received_at: DateTime<Utc>,
    /// Where it stands.
    pub status: QuarantineStatus,
    /// When it was resolved; `null` while it is open.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub resolved_at: Option<DateTime<Utc>>,
    /// By whom and how it was resolved; `null` while it is open.
    #[schema(required, value_type = Option<Object>)]
    pub resolution: Option<Value>,
}
