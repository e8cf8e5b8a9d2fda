//! The recorded verdict on one ride, as clients and operators see it (contract 5).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// A receipt.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The ride.
    pub ride_id: Uuid,
    /// When it was completed.
    #[serde(with = "crate::wire::instant")]
    pub completed_at: DateTime<Utc>,
    /// Its fare in cents.
    pub amount_cents: i64,
    /// The fare's currency.
    pub currency_code: String,
    /// Counted, or why not.
    #[schema(example = "COUNTED")]
    pub verdict: String,
    /// Whether it counted.
    pub counted: bool,
    /// What was `required` and what it was, in the units of the rule; `null` where it counted.
    #[schema(required, value_type = Option<Object>)]
    pub details: Option<Value>,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub recorded_at: DateTime<Utc>,
}
