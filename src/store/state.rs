//! The only place where a row becomes a status, a state or a receipt. The row types of `sqlx::query!` have no name, so these
//! are macros.

use super::StoreError;
use crate::domain::participation::BrokenStatus;
use crate::domain::{PromotionId, UserId};

/// The [`Status`](crate::domain::participation::Status) of a row that has the columns of
/// [`StatusFields`](crate::domain::participation::StatusFields), `user_id` and `promotion_id`.
macro_rules! status_of {
    ($row:expr) => {
        $crate::domain::participation::Status::try_from(
            $crate::domain::participation::StatusFields {
                status: $row.status,
                completed_at: $row.completed_at,
                reward_deadline: $row.reward_deadline,
                rewarded_at: $row.rewarded_at,
                expired_at: $row.expired_at,
                expired_reason: $row.expired_reason,
            },
        )
        .map_err(|error| $crate::store::state::broken($row.user_id, $row.promotion_id, error))
    };
}

/// The [`State`](crate::wire::participation::State) of a row that has the columns of
/// [`status_of`] and those of the state.
macro_rules! state_of {
    ($row:expr) => {
        $crate::store::state::status_of!($row).map(|status| $crate::wire::participation::State {
            user_id: $row.user_id,
            promotion_id: $row.promotion_id,
            promotion_key: $row.promotion_key,
            status,
            version: $row.version,
            rides_completed: $row.rides_completed,
            rides_target: $row.rides_target,
            further_goals: $row.further_goals.map(|goals| goals.0),
            started_at: $row.started_at,
            challenge_deadline: $row.challenge_deadline,
            reward: $row.reward.0,
        })
    };
}

/// The [`Receipt`](crate::store::participations::StoredReceipt) of a row that has all its columns.
macro_rules! receipt_of {
    ($row:expr) => {
        $crate::store::participations::StoredReceipt {
            ride_id: $row.ride_id,
            completed_at: $row.completed_at,
            amount_cents: $row.amount_cents,
            currency_code: $row.currency_code,
            verdict: $row.verdict,
            details: $row.details,
            recorded_at: $row.recorded_at,
            distance_m: $row.distance_m,
            reversed_at: $row.reversed_at,
            source: $row.source,
            version: $row.version,
        }
    };
}

pub(super) use {receipt_of, state_of, status_of};

/// The error of a row that the table's checks do not allow.
pub(super) fn broken(
    user_id: UserId,
    promotion_id: PromotionId,
    error: BrokenStatus,
) -> StoreError {
    StoreError::Corrupt(format!(
        "participation ({user_id}, {promotion_id}): {error}"
    ))
}
