//! A promotion's participations over time.

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use utoipa::IntoParams;

use super::intervals::{HOUR, IntervalParams, IntervalQuery, Intervals};
use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::domain::PromotionId;
use crate::store::Store;
use crate::wire::stats::Funnel;

/// The default time from `from` to `to`.
const SPAN: TimeDelta = TimeDelta::hours(24);

/// The query parameter besides those of the intervals.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct FunnelParams {
    /// `true`: count each participation in the interval in which it started, whatever it reached and
    /// whenever; `false` where not given
    by_start: Option<bool>,
}

/// The checked query parameters.
pub struct FunnelQuery {
    intervals: IntervalQuery,
    by_start: bool,
}

impl FromQuery for FunnelQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        Ok(Self {
            intervals: IntervalQuery::from_query(params)?,
            by_start: params.flag("by_start")?.unwrap_or(false),
        })
    }
}

error_responses!(GetFunnelErrors = admin, path);

/// Shows a promotion's participations over time
///
/// From offered to claimed: how many pre-offers were imported and splits made, and how many participations
/// started, were completed, rewarded and expired, by reason, in each interval. Each change is counted at
/// the moment it was recorded.
/// With `by_start=true` each interval is a cohort: what became until now of those who started in it.
/// Pre-offers and splits are counted at their own moment also then.
/// The default is the 24 hours before `to`, by the hour.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}/funnel",
    operation_id = "get_funnel",
    tag = "promotions",
    params(PromotionPath, IntervalParams, FunnelParams),
    responses(
        GetFunnelErrors,
        (status = 200, description = "The figures", body = Funnel),
    ),
)]
pub async fn get(
    admin: Admin<FunnelQuery>,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
) -> Result<Json<Funnel>> {
    let FunnelQuery {
        intervals,
        by_start,
    } = admin.query;
    let Intervals { from, to, length } = intervals.intervals(&store, SPAN, HOUR).await?;
    let counted = if by_start {
        store
            .cohorts(promotion_id, from, to, length.delta())
            .await?
    } else {
        store.funnel(promotion_id, from, to, length.delta()).await?
    };
    Ok(Json(Funnel {
        promotion_id,
        from,
        to,
        interval: length,
        intervals: counted.ok_or_else(Problem::not_found)?,
    }))
}
