//! The response of the landing (contract 5).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::participation::Participation;
use super::reward::Origination;
use crate::domain::eligibility::Screen;
use crate::domain::promotion::Conditions;
use crate::domain::reward::Reward;

/// The screen to show, with its data; what does not belong to the screen is `null`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Landing {
    /// The screen.
    pub screen: Screen,
    /// The promotion that is offered or in which the client participates; `null` on other screens.
    #[schema(required)]
    pub promotion: Option<LandingPromotion>,
    /// The participation that the screen shows; `null` if there is none.
    #[schema(required)]
    pub participation: Option<Participation>,
    /// The loan that `PROMO_OFFER` or `REGULAR_OFFER` offers; `null` on other screens.
    #[schema(required)]
    pub offer: Option<LandingOffer>,
    /// The loan application of a client who was rewarded, on any screen; `null` for all other clients. It
    /// does not decide the screen: that is `NO_OFFER` or `REGULAR_OFFER`.
    #[schema(required)]
    pub application: Option<LandingApplication>,
    /// The server's clock.
    #[serde(with = "crate::wire::instant")]
    pub server_time: DateTime<Utc>,
}

/// A promotion as its client sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LandingPromotion {
    /// Its number.
    pub promotion_id: i64,
    /// Its key in words.
    pub promotion_key: String,
    /// Its title.
    pub title: String,
    /// Its conditions; the frozen ones after the start.
    #[schema(value_type = Conditions)]
    pub conditions: Value,
}

/// A pre-approved loan as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LandingOffer {
    /// The pre-offer.
    pub pre_offer_id: Uuid,
    /// Its promotion; `null` for a loan without a challenge.
    #[schema(required)]
    pub promotion_id: Option<i64>,
    /// The loan product.
    pub product_id: i64,
    /// The amount in cents.
    pub amount_cents: i64,
    /// The amount's currency.
    pub currency_code: String,
    /// The repayment rate.
    #[schema(example = "15")]
    pub repayment_rate: String,
    /// The end of its validity, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub valid_until: DateTime<Utc>,
}

/// What accepting a reward created, as its client sees it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LandingApplication {
    /// The ids, the same as in the response to `accept_reward`.
    #[serde(flatten)]
    pub origination: Origination,
    /// The status that this service wrote: `CREATED`. The origination flow continues elsewhere.
    #[schema(example = "CREATED")]
    pub status: String,
    /// When the reward was accepted.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
    /// The loan terms that were accepted.
    pub reward: Reward,
}
