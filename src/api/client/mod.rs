//! The client API (contract 5).

mod acknowledge;
pub mod follow;
mod landing;
mod progress;
mod quit;
mod reward;
mod rides;
mod start;
mod stream;
pub mod waits;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use axum::http::header::{CACHE_CONTROL, ETAG};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::waits::Waits;
use super::auth::ClientAuth;
use super::connection::Link;
use super::etag::Tag;
use super::model::Model;
use super::problem::{Problem, Result};
use crate::store::Store;
use crate::store::participations::StoredParticipation;
use crate::telemetry::{Metrics, traces};
use crate::wire::traceparent;

/// The state of the client calls.
#[derive(Clone, Debug, FromRef)]
pub struct ClientState {
    /// Checks clients' tokens and their rate.
    pub auth: ClientAuth,
    /// The database.
    pub store: Store,
    /// Participations in memory.
    pub model: Arc<Model>,
    /// Bounds the concurrent long polls and streams.
    pub waits: Arc<Waits>,
    /// Wakes the relay of this process after an event was written.
    pub outbox_wake: watch::Sender<()>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Ends long polls and streams.
    pub stop: CancellationToken,
    /// The timeout of everything in a request except the wait for a change.
    #[from_ref(skip)]
    pub request_timeout: Duration,
}

/// The routes without the request timeout: they bound their own time.
pub const UNTIMED: &[&str] = &[progress::PATH, stream::PATH];

/// Every client call.
pub fn router() -> OpenApiRouter<ClientState> {
    OpenApiRouter::default()
        .routes(routes!(landing::landing))
        .routes(routes!(start::start))
        .routes(routes!(progress::progress))
        .routes(routes!(stream::stream))
        .routes(routes!(rides::rides))
        .routes(routes!(acknowledge::acknowledge))
        .routes(routes!(quit::quit))
        .routes(routes!(reward::get_reward))
        .routes(routes!(reward::accept_reward))
}

impl ClientState {
    /// Bounds work other than waiting by the request timeout.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.request_timeout, work)
            .await
            .unwrap_or_else(|_| Err(Problem::temporarily_unavailable()))
    }
}

/// Returns when the client has closed its sending side, which a waiting client need not do.
async fn hung_up(link: Option<Extension<Arc<Link>>>) {
    match link {
        Some(Extension(link)) => link.hung_up().await,
        None => std::future::pending().await,
    }
}

/// The trace context to pass on to the event that the request causes: that of the request's span if it
/// is recorded, else the one in the header.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    traces::current().or_else(|| {
        headers
            .get(traceparent::HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|text| traceparent::is_traceparent(text))
            .map(str::to_owned)
    })
}

/// The headers of a participation: its tag, and that shared caches must not store it.
fn tagged(stored: &StoredParticipation) -> [(HeaderName, String); 2] {
    [
        (ETAG, Tag::of(stored).to_string()),
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ]
}

/// The response with a participation.
fn participation(status: StatusCode, stored: &StoredParticipation) -> Response {
    (status, tagged(stored), Json(stored.view())).into_response()
}
