//! Decides which screen the client sees.

use axum::Json;
use axum::extract::State;

use super::ClientState;
use crate::api::auth::Client;
use crate::api::error_responses::error_responses;
use crate::api::extract::OptionalJsonObject;
use crate::api::problem::Result;
use crate::wire::landing::Landing;

error_responses!(LandingErrors = client, body);

/// Decides what the client sees
///
/// Returns the screen to show, with its data. If it offers a promotion, the decision to show it is
/// recorded; repeating the call is safe. A client who was rewarded also gets their `application`.
#[utoipa::path(
    post,
    path = "/v1/landing",
    operation_id = "landing",
    tag = "landing",
    responses(
        LandingErrors,
        (status = 200, description = "The screen; what does not apply is `null`", body = Landing, headers(("Cache-Control" = String, description = "`no-store`"))),
    ),
)]
pub async fn landing(
    client: Client,
    State(state): State<ClientState>,
    _empty: OptionalJsonObject,
) -> Result<Json<Landing>> {
    let landing = state.store.landing(client.user_id).await?;
    let landing = Landing {
        screen: landing.screen,
        promotion: landing.promotion,
        participation: landing.participation.map(|stored| stored.view()),
        offer: landing.offer,
        application: landing.application,
        server_time: landing.now,
    };
    Ok(Json(landing))
}
