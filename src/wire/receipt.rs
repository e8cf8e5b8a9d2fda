//! The recorded verdict on one ride, as clients and operators see it (contract 5).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::participation::StatusName;
use crate::domain::promotion::Verdict;
use crate::domain::ride::RideSource;

/// The values compared, in the units of the rule: cents, metres, instants, codes, lists of codes, windows,
/// counts. For a reversal, `actual` is the verdict before it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ReceiptDetails {
    /// The value that the promotion requires.
    #[schema(required, value_type = Value, example = json!(5_000))]
    required: Value,
    /// The ride's value; `null` if it has none.
    #[schema(required, value_type = Value, example = json!(4_200))]
    actual: Value,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The ride.
    pub ride_id: Uuid,
    /// When the ride was completed; `null` if only its reversal arrived.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub completed_at: Option<DateTime<Utc>>,
    /// Its fare in cents; `null` if only its reversal arrived.
    #[schema(required, minimum = 0, example = 6_500)]
    pub amount_cents: Option<i64>,
    /// The fare's currency, ISO 4217; `null` if only its reversal arrived.
    #[schema(required, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: Option<String>,
    /// `COUNTED`, or why it did not count.
    pub verdict: Verdict,
    /// Whether it counted.
    pub counted: bool,
    /// The `required` and the `actual` value, in the units of the rule; `null` if it counted.
    #[schema(required, value_type = Option<ReceiptDetails>)]
    pub details: Option<Value>,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub recorded_at: DateTime<Utc>,
    /// The ride's distance, in metres; `null` if it has none.
    #[schema(required, minimum = 0, example = 8_400)]
    pub distance_m: Option<i64>,
    /// When the ride's reversal was recorded; `null` if there is none.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub reversed_at: Option<DateTime<Utc>>,
    /// How the ride reached the service; `null` if a release before 0.2.0 recorded it.
    #[schema(required)]
    pub source: Option<RideSource>,
    /// The version of the participation that the ride made, alone or together with other rides; `null` if it
    /// made none.
    #[schema(required, minimum = 2, example = 7)]
    pub version: Option<i32>,
}

/// A ride that the platform took back after its challenge, for which it counted or was judged, had been
/// completed. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LateReversal {
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    pub user_id: i64,
    /// The promotion.
    #[schema(example = 1)]
    pub promotion_id: i64,
    /// The ride.
    pub ride_id: Uuid,
    /// When the reversal was recorded.
    #[serde(with = "crate::wire::instant")]
    pub reversed_at: DateTime<Utc>,
    /// The participation's present status.
    pub status: StatusName,
    /// The loan application, if the reward was accepted.
    #[schema(required)]
    pub application_id: Option<Uuid>,
}
