//! Records that are no rides, as operators see them (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

#[allow(unused_imports, reason = "named in the schema")]
use super::ride_completed::Reason;

/// Where a quarantined record stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum QuarantineStatus {
    /// Waits for somebody; holds its client's expiry.
    Open,
    /// Was judged after all, whatever came of it.
    Replayed,
    /// Was given up.
    Dismissed,
}

impl QuarantineStatus {
    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Replayed => "REPLAYED",
            Self::Dismissed => "DISMISSED",
        }
    }
}

impl std::str::FromStr for QuarantineStatus {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        [Self::Open, Self::Replayed, Self::Dismissed]
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| format!("must be OPEN, REPLAYED or DISMISSED, got {word:?}"))
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
    #[schema(value_type = Reason)]
    pub reason: String,
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
