//! A promotion's participations over time.

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use utoipa::IntoParams;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::domain::period::{Period, PeriodError};
use crate::domain::{Instant, PromotionId};
use crate::store::Store;
use crate::wire::stats::Funnel;

/// The most intervals of a funnel.
const MAX_INTERVALS: i64 = 1_000;

/// The default interval.
const HOUR: Period = match Period::from_seconds(3_600) {
    Some(hour) => hour,
    None => panic!("an hour is less than 366 days"),
};

/// The default time from `from` to `to`.
const DAY: TimeDelta = TimeDelta::hours(24);

/// The query parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct FunnelParams {
    /// The start of the first interval, RFC 3339; default: 24 hours before `to`
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// The end of the last interval, exclusive; default: now
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
    /// The length of each interval, ISO 8601, at least `PT1S`; default: `PT1H`
    #[param(example = "PT1H")]
    interval: Option<String>,
    /// `true`: count each participation in the interval in which it started, whatever it reached and
    /// whenever; `false` where not given
    by_start: Option<bool>,
}

/// The checked query parameters.
pub struct FunnelQuery {
    from: Option<Instant>,
    to: Option<Instant>,
    interval: Period,
    by_start: bool,
}

impl FromQuery for FunnelQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        let interval = params.parsed("interval", |text| match text.parse::<Period>() {
            Ok(period) if period.seconds() == 0 => Err("must be at least PT1S".to_owned()),
            read => read.map_err(|error: PeriodError| error.to_string()),
        })?;
        Ok(Self {
            from: params.instant("from")?,
            to: params.instant("to")?,
            interval: interval.unwrap_or(HOUR),
            by_start: params.flag("by_start")?.unwrap_or(false),
        })
    }
}

error_responses!(GetFunnelErrors = admin, path);

/// Shows a promotion's participations over time
///
/// Returns how many participations started, were completed, rewarded and expired, by reason, in each
/// interval. Each change is counted at the moment it was recorded.
/// With `by_start=true` each interval is a cohort: what became until now of those who started in it.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}/funnel",
    operation_id = "get_funnel",
    tag = "promotions",
    params(PromotionPath, FunnelParams),
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
        from,
        to,
        interval,
        by_start,
    } = admin.query;
    let to = match to {
        Some(to) => to,
        None => store.now().await?,
    };
    let from = from.unwrap_or_else(|| to - DAY);
    if from >= to {
        return Err(Problem::invalid_field("from", "must be before to"));
    }
    let length = interval.delta();
    let (all, each) = ((to - from).num_milliseconds(), length.num_milliseconds());
    if all > each.saturating_mul(MAX_INTERVALS) {
        let reason = format!("must be longer: there would be more than {MAX_INTERVALS} intervals");
        return Err(Problem::invalid_field("interval", reason));
    }
    let intervals = if by_start {
        store.cohorts(promotion_id, from, to, length).await?
    } else {
        store.funnel(promotion_id, from, to, length).await?
    };
    Ok(Json(Funnel {
        promotion_id,
        from,
        to,
        interval,
        intervals: intervals.ok_or_else(Problem::not_found)?,
    }))
}
