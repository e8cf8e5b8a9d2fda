//! The status event (contract 4.2): the whole state of a participation after a change.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::participation::State;

use crate::domain::participation::StatusName;

/// Where every event says it comes from (`ce_source`).
pub const SOURCE: &str = "/ride-promo";

/// The contract's words for what happened.
pub mod event_type {
    /// The client pressed Get started.
    pub const STARTED: &str = "promotion.started";
    /// Rides counted.
    pub const PROGRESSED: &str = "promotion.progressed";
    /// The target is reached.
    pub const COMPLETED: &str = "promotion.completed";
    /// The reward was accepted.
    pub const REWARDED: &str = "promotion.rewarded";
    /// Time ran out.
    pub const EXPIRED: &str = "promotion.expired";

    /// Every type.
    pub const ALL: [&str; 5] = [STARTED, PROGRESSED, COMPLETED, REWARDED, EXPIRED];
}

/// The words of [`event_type`], for the schema.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
#[schema(
    description = "What happened.\n\n- `promotion.started`: the client pressed Get started; `previous_status` is `null`\n- `promotion.progressed`: one or more rides counted\n- `promotion.completed`: the target is reached; the reward may be claimed\n- `promotion.rewarded`: the reward was accepted\n- `promotion.expired`: time ran out; `expired_reason` says which"
)]
enum EventType {
    /// The client pressed Get started; `previous_status` is `null`.
    #[schema(rename = "promotion.started")]
    Started,
    /// One or more rides counted.
    #[schema(rename = "promotion.progressed")]
    Progressed,
    /// The target is reached; the reward may be claimed.
    #[schema(rename = "promotion.completed")]
    Completed,
    /// The reward was accepted.
    #[schema(rename = "promotion.rewarded")]
    Rewarded,
    /// Time ran out; `expired_reason` says which.
    #[schema(rename = "promotion.expired")]
    Expired,
}

/// An event of `promotion-status`, in the field order of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(
    description = "A status change of a participation, with its whole state after it. Every field is always there, `null` where there is nothing to say."
)]
pub struct PromotionStatus {
    /// The same at every delivery of this event.
    pub event_id: Uuid,
    /// What happened: `promotion.started`, `.progressed`, `.completed`, `.rewarded` or `.expired`.
    #[serde(rename = "type")]
    #[schema(value_type = EventType)]
    pub event_type: String,
    /// The state after it.
    #[serde(flatten)]
    pub state: State,
    /// The status before it; `null` for the start.
    #[schema(required)]
    pub previous_status: Option<StatusName>,
    /// When it was recorded, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub occurred_at: DateTime<Utc>,
}
