//! The reward as its client sees it, before and after it is accepted (contract 5).

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::participation::Participation;
use crate::domain::reward::Reward;
use crate::store::origination::{Origination, RewardProduct};

/// A reward that can be accepted.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OfferedReward {
    /// The promotion.
    pub promotion_id: i64,
    /// The frozen loan terms.
    pub reward: Reward,
    /// The loan product behind them.
    pub product: RewardProduct,
    /// Until when it can be accepted, exclusive.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub reward_deadline: Option<DateTime<Utc>>,
    /// The server's clock.
    #[serde(with = "crate::wire::instant")]
    pub server_time: DateTime<Utc>,
}

/// A reward that was accepted, and what that created.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptedReward {
    /// What was created.
    #[serde(flatten)]
    pub origination: Origination,
    /// The participation, `REWARDED`.
    pub participation: Participation,
}
