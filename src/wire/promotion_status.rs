//! The status event (contract 4.2): the whole state of a participation after a change.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::extension::DeadlineMove;
use super::participation::State;
use crate::domain::participation::StatusName;
use crate::domain::words::words;

/// The `ce_source` of every event.
pub const SOURCE: &str = "/ride-promo";

words! {
    /// The type of a status event.
    pub enum EventType {
        /// The client pressed Get started; `previous_status` is `null`.
        Started = "promotion.started",
        /// One or more rides counted.
        Progressed = "promotion.progressed",
        /// The target is reached, and the reward can be claimed.
        Completed = "promotion.completed",
        /// The reward was accepted.
        Rewarded = "promotion.rewarded",
        /// The participation expired; `expired_reason` says why.
        Expired = "promotion.expired",
        /// A deadline was moved; `extension` says which one, from when to when, and why.
        Extended = "promotion.extended",
    }
}

words! {
    /// What caused a change of a participation.
    pub enum Cause {
        /// A ride that counted or was taken back.
        Ride = "ride",
        /// An operator, through the admin API or a command.
        Operator = "operator",
        /// The client.
        Client = "client",
        /// A deadline passed, and the service recorded the expiry.
        Sweeper = "sweeper",
    }
}

impl EventType {
    /// The type of an event that publishes a participation's state again under a new version.
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
    description = "A status change of a participation, with its whole state after the change. Every field is always present, and `null` if it does not apply. A record whose whole value is null means that its key must be forgotten: the client's data was erased."
)]
pub struct PromotionStatus {
    /// The same at every delivery of this event.
    pub event_id: Uuid,
    /// The type of the change.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The state after the change.
    #[serde(flatten)]
    pub state: State,
    /// The status before the change; `null` for the start.
    #[schema(required)]
    pub previous_status: Option<StatusName>,
    /// When it was recorded, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub occurred_at: DateTime<Utc>,
    /// How the deadline moved, in a `promotion.extended`; `null` in other events.
    #[schema(required)]
    pub extension: Option<DeadlineMove>,
}
