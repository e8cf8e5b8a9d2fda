//! The client quits the challenge.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{ClientState, participation, traceparent};
use crate::api::auth::Client;
use crate::api::error_responses::error_responses;
use crate::api::extract::{OptionalJsonObject, PathParam};
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::domain::PromotionId;
use crate::domain::participation::ExpiredReason;
use crate::store::early_end::QuitOutcome;
use crate::wire::participation::Participation;

error_responses!(
    QuitErrors = client, path, body, upgrade;
    Problem::not_participating(),
    Problem::challenge_not_in_progress()
);

/// Quits a challenge
///
/// Ends a challenge that is in progress, for good: the promotion cannot be started again. The end counts
/// as acknowledged, so that the landing moves on. Repeating it is safe.
#[utoipa::path(
    post,
    path = "/v1/promotions/{promotion_id}/quit",
    operation_id = "quit",
    tag = "promotions",
    params(
        PromotionPath,
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, carried on to the status event"),
    ),
    responses(
        QuitErrors,
        (status = 200, description = "The challenge is over, now or earlier", body = Participation, headers(
            ("ETag" = String, description = "As of `progress`"),
            ("Cache-Control" = String, description = "`private, no-cache`"),
        )),
    ),
)]
pub async fn quit(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    headers: HeaderMap,
    _empty: OptionalJsonObject,
) -> Result<Response> {
    let reading = state.model.begin((client.user_id, promotion_id));
    let quit = state
        .store
        .quit(client.user_id, promotion_id, traceparent(&headers))
        .await?;
    match quit {
        QuitOutcome::Quit {
            participation: stored,
            repeated,
        } => {
            if !repeated {
                let reason = ExpiredReason::Quit.as_str();
                state.metrics.sweep.expired.add(reason, 1);
            }
            // After a repeat too: the response to the first may have been lost.
            state.outbox_wake.send_replace(());
            Ok(participation(StatusCode::OK, &reading.finish(stored)))
        }
        QuitOutcome::NotInProgress => Err(Problem::challenge_not_in_progress()),
        QuitOutcome::NotParticipating => Err(Problem::not_participating()),
    }
}
