//! The reminder before a deadline (contract 2, "Deadlines and exceptions"), on its own topic. It does not
//! change the participation.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::goals::Goal;
use crate::domain::participation::DeadlineOf;
use crate::domain::reward::Reward;
use crate::domain::words::words;

words! {
    /// The type of a record on the topic of reminders.
    pub enum ReminderType {
        /// A deadline is near.
        Reminder = "promotion.reminder",
    }
}

/// A record of `promotion-reminder`, in the field order of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(
    description = "A deadline of a client's participation is near, and something is left to do before it: to take rides (`of` `CHALLENGE`) or to claim the reward (`of` `REWARD`). Every field is always present. A reminder has no version and does not change the participation."
)]
pub struct Reminder {
    /// The same at every delivery of this reminder.
    pub event_id: Uuid,
    /// Always the same.
    #[serde(rename = "type")]
    pub event_type: ReminderType,
    /// Which deadline.
    pub of: DeadlineOf,
    /// How long before the deadline it was due, as the promotion's conditions write it.
    #[schema(format = "duration", example = "P1D")]
    pub lead: String,
    /// The deadline, exclusive, as it was when the reminder was recorded.
    #[serde(with = "crate::wire::instant")]
    pub deadline: DateTime<Utc>,
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    pub user_id: i64,
    /// The promotion.
    #[schema(example = 1)]
    pub promotion_id: i64,
    /// The promotion's key in words.
    #[schema(example = "mx-newbie-20")]
    pub promotion_key: String,
    /// Rides counted, never more than `rides_target`.
    #[schema(minimum = 0, example = 6)]
    pub rides_completed: i32,
    /// Rides needed.
    #[schema(minimum = 1, maximum = 10_000, example = 20)]
    pub rides_target: i32,
    /// Every goal of the promotion.
    #[schema(min_items = 1, max_items = 3)]
    pub goals: Vec<Goal>,
    /// The frozen loan terms.
    pub reward: Reward,
    /// When it was recorded, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub occurred_at: DateTime<Utc>,
}
