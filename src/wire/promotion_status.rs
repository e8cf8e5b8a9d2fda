//! The status event (contract 4.2): the whole state of a participation after a change.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::extension::DeadlineMove;
use super::participation::State;
use crate::domain::participation::StatusName;
use crate::domain::words::words;

/// Where every event says it comes from (`ce_source`).
pub const SOURCE: &str = "/ride-promo";

words! {
    /// What happened.
    pub enum EventType {
        /// The client pressed Get started; `previous_status` is `null`.
        Started = "promotion.started",
        /// One or more rides counted.
        Progressed = "promotion.progressed",
        /// The target is reached; the reward may be claimed.
        Completed = "promotion.completed",
        /// The reward was accepted.
        Rewarded = "promotion.rewarded",
        /// Time ran out; `expired_reason` says which.
        Expired = "promotion.expired",
        /// A deadline was moved; `extension` says which, from when to when, and why.
        Extended = "promotion.extended",
    }
}

words! {
    /// Who caused a change of a participation.
    pub enum Cause {
        /// A ride that counted or was taken back.
        Ride = "ride",
        /// An operator, through the admin API or a command.
        Operator = "operator",
        /// The client.
        Client = "client",
        /// Time ran out, and the service recorded it.
        Sweeper = "sweeper",
    }
}

impl EventType {
    /// What is said of a participation whose state is published again under a new version.
    pub const fn of(status: StatusName) -> Self {
        match status {
            StatusName::InProgress => Self::Progressed,
            StatusName::Completed => Self::Completed,
            StatusName::Rewarded => Self::Rewarded,
            StatusName::Expired => Self::Expired,
        }
    }
}

/// An event of `promotion-status`, in the field order of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(
    description = "A status change of a participation, with its whole state after it. Every field is always there, `null` where there is nothing to say. A record whose whole value is null says that the key is to be forgotten: the client's data was erased."
)]
pub struct PromotionStatus {
    /// The same at every delivery of this event.
    pub event_id: Uuid,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The state after it.
    #[serde(flatten)]
    pub state: State,
    /// The status before it; `null` for the start.
    #[schema(required)]
    pub previous_status: Option<StatusName>,
    /// When it was recorded, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub occurred_at: DateTime<Utc>,
    /// Of a `promotion.extended`, how the deadline moved; `null` in other events.
    #[schema(required)]
    pub extension: Option<DeadlineMove>,
}
