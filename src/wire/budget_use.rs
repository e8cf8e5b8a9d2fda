//! The use of a promotion's budget in the admin API.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::period::Period;

/// How much of a promotion's budget is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BudgetUse {
    /// Participations.
    pub participations: Used,
    /// Their rewards, in cents.
    pub reward_cents: Used,
    /// The currency of the cents: that of the first budget with a currency, or of the first reward; `null`
    /// before either. Rewards in another currency are not included.
    #[schema(required, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: Option<String>,
}

/// How much of a maximum is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Used {
    /// By participations that are live.
    #[schema(minimum = 0, example = 480)]
    pub reserved: i64,
    /// By participations that were rewarded.
    #[schema(minimum = 0, example = 120)]
    pub spent: i64,
    /// The maximum; `null` without one. A maximum that was lowered may be below the present use.
    #[schema(required, minimum = 1, example = 10_000)]
    pub max: Option<i64>,
}

/// The use of a promotion's budget over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BudgetUseOverTime {
    /// The promotion.
    pub promotion_id: i64,
    /// The currency of the cents; `null` before the first reward of a budget without a currency. Rewards in
    /// another currency are not included.
    #[schema(required, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: Option<String>,
    /// The time between two points; the last one may follow sooner.
    #[schema(value_type = String, example = "P1D")]
    pub interval: Period,
    /// The use at `from`, at the end of each interval, and so at `to`; at most 1,001 points.
    pub points: Vec<BudgetPoint>,
}

/// The use of a budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BudgetPoint {
    /// The moment; changes before it are included.
    #[serde(with = "crate::wire::instant")]
    pub at: DateTime<Utc>,
    /// Participations.
    pub participations: UsedThen,
    /// Their rewards, in cents.
    pub reward_cents: UsedThen,
}

/// How much of a budget was in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct UsedThen {
    /// By participations that were live.
    #[schema(minimum = 0, example = 480)]
    pub reserved: i64,
    /// By participations that had been rewarded.
    #[schema(minimum = 0, example = 120)]
    pub spent: i64,
}
