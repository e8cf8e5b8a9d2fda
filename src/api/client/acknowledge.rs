//! The client has seen that it is over.

use axum::extract::State;
use axum::http::StatusCode;

use super::ClientState;
use crate::api::auth::Client;
use crate::api::extract::{OptionalJsonObject, PathParam};
use crate::api::problem::{CommonProblems, Problem, ProblemDetails, Result};
use crate::domain::PromotionId;
use crate::store::origination::Acknowledged;

/// Acknowledges that it is over
///
/// The client has seen that the challenge is over or that the reward has expired; the landing moves
/// on. Repeating it is safe.
#[utoipa::path(
    post,
    path = "/v1/promotions/{promotion_id}/acknowledge",
    operation_id = "acknowledge",
    tag = "promotions",
    params(("promotion_id" = i64, Path, description = "The promotion")),
    responses(
        CommonProblems,
        (status = 204, description = "Noted, now or earlier"),
        (status = 404, description = "`not-participating`", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "`not-expired`", body = ProblemDetails, content_type = "application/problem+json"),
    ),
)]
pub async fn acknowledge(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    _empty: OptionalJsonObject,
) -> Result<StatusCode> {
    let acknowledged = state.store.acknowledge(client.user_id, promotion_id);
    match acknowledged.await? {
        Acknowledged::Noted => Ok(StatusCode::NO_CONTENT),
        Acknowledged::NotExpired => Err(Problem::not_expired()),
        Acknowledged::NotParticipating => Err(Problem::not_participating()),
    }
}
