//! Streams the states of the participation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderName;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};

use super::follow::Follower;
use super::{ClientState, hung_up};
use crate::api::auth::Client;
use crate::api::connection::Link;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::clock::Clock;
use crate::domain::PromotionId;
use crate::store::participations::StoredParticipation;

/// Its address.
pub const PATH: &str = "/v1/promotions/{promotion_id}/progress/stream";

/// One event of the stream, by its fields.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ParticipationEvent {
    /// Always `participation`.
    #[schema(pattern = "^participation$", example = "participation")]
    event: String,
    /// The participation's version.
    #[schema(pattern = "^[1-9][0-9]*$", example = "7")]
    id: String,
    /// The JSON that `progress` returns.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// How often a comment shows that the connection is alive; the contract demands one every 15 s.
const COMMENT_EVERY: Duration = Duration::from_secs(10);

/// Some proxies buffer responses, which would delay events; this header tells several of them not to.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

error_responses!(
    ProgressStreamErrors = client, path;
    Problem::not_participating()
);

/// Streams the client's participation
///
/// Server-Sent Events: `event: participation`, `id:` the version, `data:` what `progress` returns.
/// The present state comes first, then each later one. A slow reader gets only the newest. The stream
/// ends after a final status, at the token's expiry and at shutdown.
#[utoipa::path(
    get,
    path = "/v1/promotions/{promotion_id}/progress/stream",
    operation_id = "progress_stream",
    tag = "promotions",
    params(PromotionPath),
    responses(
        ProgressStreamErrors,
        (status = 200, description = "Events, each with a `Participation`; a comment at least every 15 s", body = ParticipationEvent, content_type = "text/event-stream", headers(
            ("Cache-Control" = String, description = "`no-cache`"),
            ("X-Accel-Buffering" = String, description = "`no`: proxies pass events on as they come"),
        )),
    ),
)]
pub async fn stream(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    link: Option<Extension<Arc<Link>>>,
) -> Result<Response> {
    let (place, replaced) = state.waits.enter_stream(client.user_id)?;
    let key = (client.user_id, promotion_id);
    let mut follower = Follower::new(&state.model, key);
    let first = state
        .in_time(async { Ok(state.model.load(key).await?) })
        .await?
        .ok_or_else(Problem::not_participating)?;
    follower.saw(first.clone());
    let token_ends = (client.expires_at - Clock::System.now())
        .to_std()
        .unwrap_or_default();
    let stop = state.stop.clone();
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(token_ends) => {}
            () = replaced.cancelled() => {}
            // The client is gone, and no write would show it.
            () = hung_up(link) => {}
        }
    };
    let events = states(follower, first)
        .map(|stored| Ok::<_, Infallible>(event(&stored)))
        .take_until(ended)
        // The place is given back when the connection is gone or the stream has ended.
        .inspect(move |_| {
            let _held = &place;
        });
    let comments = KeepAlive::new().interval(COMMENT_EVERY);
    Ok(([UNBUFFERED], Sse::new(events).keep_alive(comments)).into_response())
}

/// The first state and those after it, up to a final one. The next state is looked for only when the
/// reader takes it, so nothing piles up for a slow reader.
fn states(
    follower: Follower,
    first: StoredParticipation,
) -> impl Stream<Item = StoredParticipation> {
    enum Next {
        Known(StoredParticipation),
        Wait,
        End,
    }
    stream::unfold(
        (follower, Next::Known(first)),
        async |(mut follower, next)| {
            let stored = match next {
                Next::Known(stored) => stored,
                Next::Wait => follower.next().await,
                Next::End => return None,
            };
            let next = if stored.state.status.is_final() {
                Next::End
            } else {
                Next::Wait
            };
            Some((stored, (follower, next)))
        },
    )
}

fn event(stored: &StoredParticipation) -> Event {
    let event = Event::default()
        .event("participation")
        .id(stored.state.version.to_string());
    // The participation always has a JSON form, in one line.
    event
        .json_data(stored.view())
        .unwrap_or_else(|_| Event::default().comment("unreadable"))
}
