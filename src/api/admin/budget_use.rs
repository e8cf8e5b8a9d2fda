//! The use of a promotion's budget, now and over time.

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;

use super::intervals::{DAY, IntervalParams, IntervalQuery, Intervals};
use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::domain::PromotionId;
use crate::store::Store;
use crate::wire::budget_use::{BudgetUse, BudgetUseOverTime};

/// The default time from `from` to `to`.
const SPAN: TimeDelta = TimeDelta::days(30);

error_responses!(GetBudgetUseErrors = admin, path);

/// Shows the use of a promotion's budget
///
/// Live participations reserve, rewarded ones have spent, and expired ones use nothing. The response is
/// `404` if the promotion never had a budget. If its budget was removed, the use is still counted.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}/budget-use",
    operation_id = "get_budget_use",
    tag = "promotions",
    params(PromotionPath),
    responses(
        GetBudgetUseErrors,
        (status = 200, description = "The present use", body = BudgetUse),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
) -> Result<Json<BudgetUse>> {
    let used = store.budget_use(promotion_id).await?;
    used.map(Json).ok_or_else(Problem::not_found)
}

error_responses!(GetBudgetUseOverTimeErrors = admin, path);

/// Shows the use of a promotion's budget over time
///
/// The use at `from` and at the end of each interval, exact: it is the present use without the starts, rewards
/// and expiries since. What a client who was erased has spent counts as spent all along. The default is
/// the 30 days before `to`, by the day. The response is `404` if the promotion never had a budget.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}/budget-use/over-time",
    operation_id = "get_budget_use_over_time",
    tag = "promotions",
    params(PromotionPath, IntervalParams),
    responses(
        GetBudgetUseOverTimeErrors,
        (status = 200, description = "The use at each moment", body = BudgetUseOverTime),
    ),
)]
pub async fn over_time(
    admin: Admin<IntervalQuery>,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
) -> Result<Json<BudgetUseOverTime>> {
    let Intervals { from, to, length } = admin.query.intervals(&store, SPAN, DAY).await?;
    let used = store
        .budget_use_over_time(promotion_id, from, to, length)
        .await?;
    used.map(Json).ok_or_else(Problem::not_found)
}
