//! What became of a promotion's newest participations.

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
use crate::domain::{Instant, PromotionId};
use crate::store::Store;
use crate::wire::outcomes::Outcomes;

/// How far back the starts go where nothing is asked.
const DEFAULT_SPAN: TimeDelta = TimeDelta::days(30);

/// The query parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct OutcomesParams {
    /// Only participations started at or after this, RFC 3339; 30 days before `to` where not given
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Only participations started before this, RFC 3339; now where not given
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
}

/// Of which starts.
pub struct OutcomesQuery {
    from: Option<Instant>,
    to: Option<Instant>,
}

impl FromQuery for OutcomesQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        Ok(Self {
            from: params.instant("from")?,
            to: params.instant("to")?,
        })
    }
}

error_responses!(GetOutcomesErrors = admin, path);

/// Shows why rides of a promotion do not count
///
/// Of the newest 1,000 participations that started within the time: the verdicts on their rides, near
/// misses, and how long completion took. `more` says whether there were more.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}/outcomes",
    operation_id = "get_outcomes",
    tag = "promotions",
    params(PromotionPath, OutcomesParams),
    responses(
        GetOutcomesErrors,
        (status = 200, description = "The figures", body = Outcomes),
    ),
)]
pub async fn get(
    admin: Admin<OutcomesQuery>,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
) -> Result<Json<Outcomes>> {
    let OutcomesQuery { from, to } = admin.query;
    let to = match to {
        Some(to) => to,
        None => store.now().await?,
    };
    let from = from.unwrap_or_else(|| to - DEFAULT_SPAN);
    if from >= to {
        return Err(Problem::invalid_field("from", "must be before to"));
    }
    let outcomes = store.outcomes(promotion_id, from, to).await?;
    outcomes.map(Json).ok_or_else(Problem::not_found)
}
