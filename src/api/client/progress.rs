//! Returns the participation, at once or when it has changed.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::{Duration, Instant as Monotonic};
use utoipa::IntoParams;

use super::follow::Follower;
use super::{ClientState, hung_up, participation, tagged};
use crate::api::auth::Client;
use crate::api::connection::Link;
use crate::api::error_responses::error_responses;
use crate::api::etag::{Condition, Tag, keep_settling};
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::domain::ParticipationKey;
use crate::domain::PromotionId;
use crate::store::participations::StoredParticipation;
use crate::wire::participation::Participation;

/// Its address.
pub const PATH: &str = "/v1/promotions/{promotion_id}/progress";

/// The longest wait for a change, in seconds.
const MAX_WAIT_SECONDS: i64 = 30;

/// Its query parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct ProgressParams {
    /// Seconds to wait for a change, where `If-None-Match` says what is known
    #[param(minimum = 0, maximum = 30)]
    wait: Option<i64>,
}

/// How long to wait for a change.
pub struct Wait(Duration);

impl FromQuery for Wait {
    fn from_query(params: &mut Params) -> Result<Self> {
        let seconds = params.integer("wait", 0..=MAX_WAIT_SECONDS)?.unwrap_or(0);
        let seconds = u64::try_from(seconds).unwrap_or_default();
        Ok(Self(Duration::from_secs(seconds)))
    }
}

error_responses!(
    ProgressErrors = client, path;
    Problem::not_participating()
);

/// Reads the client's participation
///
/// With `If-None-Match` and `wait`, the response is held until the participation has changed. So a
/// client follows it without polling. A client that sends the tag it was given last never sees a
/// lower version.
#[utoipa::path(
    get,
    path = "/v1/promotions/{promotion_id}/progress",
    operation_id = "progress",
    tag = "promotions",
    params(
        PromotionPath,
        ProgressParams,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of what is known"),
    ),
    responses(
        ProgressErrors,
        (status = 200, description = "The participation", body = Participation, headers(
            ("ETag" = String, description = "`W/\"<version>\"`, `W/\"<version>s\"` while settling"),
            ("Cache-Control" = String, description = "`private, no-cache`"),
        )),
        (status = 304, description = "It has not changed", headers(
            ("ETag" = String, description = "The unchanged tag"),
            ("Cache-Control" = String, description = "`private, no-cache`"),
        )),
    ),
)]
pub async fn progress(
    client: Client<Wait>,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    link: Option<Extension<Arc<Link>>>,
    headers: HeaderMap,
) -> Result<Response> {
    let Wait(wait) = client.query;
    let condition = Condition::of(&headers);
    let key = (client.user_id, promotion_id);
    if wait.is_zero() || !condition.is_present() {
        let stored = state.in_time(read(&state, key, &condition)).await?;
        return Ok(answer(&condition, &stored));
    }
    let until = Monotonic::now() + wait;
    // Followed before it is read, so that no change in between is missed.
    let mut follower = Follower::new(&state.model, key);
    let mut stored = state.in_time(read(&state, key, &condition)).await?;
    follower.saw(stored.clone());
    let condition = condition.pinned(Tag::of(&stored));
    if !condition.matches(Tag::of(&stored)) {
        return Ok(answer(&condition, &stored));
    }
    // Only a request that really waits takes a place.
    let _place = state.waits.enter(client.user_id)?;
    let hung_up = hung_up(link);
    let mut hung_up = std::pin::pin!(hung_up);
    while condition.matches(Tag::of(&stored)) {
        tokio::select! {
            next = follower.next() => stored = next,
            () = state.stop.cancelled() => break,
            // The client may be gone, or have closed only its sending side: it gets what is known.
            () = &mut hung_up => break,
            () = tokio::time::sleep_until(until) => match follower.failed.take() {
                // Whether it has changed is unknown.
                Some(problem) => return Err(problem),
                None => break,
            },
        }
    }
    Ok(answer(&condition, &stored))
}

/// The participation now, from memory if that is allowed for this client.
async fn read(
    state: &ClientState,
    key: ParticipationKey,
    condition: &Condition,
) -> Result<StoredParticipation> {
    let (newest, knows_settling) = (condition.newest(), condition.knows_settling());
    let stored = state.model.read(key, newest, knows_settling).await?;
    let stored = stored.ok_or_else(Problem::not_participating)?;
    Ok(keep_settling(stored, knows_settling))
}

fn answer(condition: &Condition, stored: &StoredParticipation) -> Response {
    if condition.matches(Tag::of(stored)) {
        (StatusCode::NOT_MODIFIED, tagged(stored)).into_response()
    } else {
        participation(StatusCode::OK, stored)
    }
}
