//! The reward as its client sees it, before and after accepting it (contract 5).

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::participation::Participation;
use crate::domain::reward::Reward;

/// What accepting created; the same at every repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Origination {
    /// The loan application.
    pub application_id: Uuid,
    /// The origination session.
    pub session_id: Uuid,
    /// Always 8, the standard flow.
    #[schema(minimum = 8, maximum = 8, example = 8)]
    pub sequence_id: i16,
    /// The accepted offer.
    pub active_pre_offer_id: Uuid,
}

/// The product behind a reward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RewardProduct {
    /// Its number.
    #[schema(minimum = 1, example = 80)]
    pub product_id: i64,
    /// Its name.
    pub name: String,
    /// Its currency, ISO 4217.
    #[schema(pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: String,
    /// How long the loan runs, in days.
    pub term_days: i32,
    /// The URL of its terms.
    #[schema(required, format = "iri", example = "https://example.com/terms")]
    pub terms_url: Option<String>,
}

/// A reward that can be accepted.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OfferedReward {
    /// The promotion.
    pub promotion_id: i64,
    /// The frozen loan terms.
    pub reward: Reward,
    /// The loan product behind them.
    pub product: RewardProduct,
    /// The end of the time to accept it, exclusive.
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
