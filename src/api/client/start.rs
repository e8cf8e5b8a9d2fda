//! The client starts a promotion.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{ClientState, participation, traceparent};
use crate::api::auth::Client;
use crate::api::error_responses::{self, error_responses};
use crate::api::extract::{OptionalJsonObject, PathParam};
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::domain::PromotionId;
use crate::domain::participation::ExpiredReason;
use crate::store::start::StartOutcome;
use crate::wire::participation::Participation;

error_responses!(
    StartErrors = client, path, body;
    Problem::promotion_not_found(),
    error_responses::already_participated(),
    error_responses::not_eligible()
);

/// Starts a promotion
///
/// Freezes the promotion's conditions and the pre-offer's terms into a participation. Repeating it
/// is safe: it returns the participation that is in progress.
#[utoipa::path(
    post,
    path = "/v1/promotions/{promotion_id}/start",
    operation_id = "start",
    tag = "promotions",
    params(
        PromotionPath,
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, carried on to the status event"),
    ),
    responses(
        StartErrors,
        (status = 201, description = "It started now", body = Participation, headers(
            ("ETag" = String, description = "As of `progress`"),
            ("Cache-Control" = String, description = "`private, no-cache`"),
        )),
        (status = 200, description = "It was started before", body = Participation, headers(
            ("ETag" = String, description = "As of `progress`"),
            ("Cache-Control" = String, description = "`private, no-cache`"),
        )),
    ),
)]
pub async fn start(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    headers: HeaderMap,
    _empty: OptionalJsonObject,
) -> Result<Response> {
    let traceparent = traceparent(&headers);
    let reading = state.model.begin((client.user_id, promotion_id));
    let started = state
        .store
        .start(client.user_id, promotion_id, traceparent)
        .await?;
    match started {
        StartOutcome::Started {
            participation: stored,
            expired_rewards,
        } => {
            let reason = ExpiredReason::RewardNotClaimed.as_str();
            state.metrics.sweep.expired.add(reason, expired_rewards);
            state.outbox_wake.send_replace(());
            Ok(participation(StatusCode::CREATED, &reading.finish(stored)))
        }
        StartOutcome::AlreadyInProgress(stored) => {
            Ok(participation(StatusCode::OK, &reading.finish(stored)))
        }
        StartOutcome::AlreadyParticipated(stored) => Err(Problem::already_participated(
            &reading.finish(stored).view(),
        )),
        StartOutcome::NoSuchPromotion => Err(Problem::promotion_not_found()),
        StartOutcome::NotEligible(reasons) => Err(Problem::not_eligible(&reasons)),
    }
}
