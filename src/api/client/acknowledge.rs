//! The client acknowledges that the challenge or the reward is over.

use axum::extract::State;
use axum::http::StatusCode;

use super::ClientState;
use crate::api::auth::Client;
use crate::api::error_responses::error_responses;
use crate::api::extract::{OptionalJsonObject, PathParam};
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::domain::PromotionId;
use crate::store::origination::AcknowledgeOutcome;

error_responses!(
    AcknowledgeErrors = client, path, body;
    Problem::not_participating(),
    Problem::not_expired()
);

/// Acknowledges an expired challenge or reward
///
/// The client has seen that the challenge is over or that the reward has expired; the landing moves
/// on. Repeating it is safe.
#[utoipa::path(
    post,
    path = "/v1/promotions/{promotion_id}/acknowledge",
    operation_id = "acknowledge",
    tag = "promotions",
    params(PromotionPath),
    responses(
        AcknowledgeErrors,
        (status = 204, description = "Noted, now or earlier"),
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
        AcknowledgeOutcome::Noted => Ok(StatusCode::NO_CONTENT),
        AcknowledgeOutcome::NotExpired => Err(Problem::not_expired()),
        AcknowledgeOutcome::NotParticipating => Err(Problem::not_participating()),
    }
}
