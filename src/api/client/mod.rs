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
use crate::store::participations::Stored;
use crate::telemetry::{Metrics, traces};
use crate::wire::traceparent;

/// What the client calls work with.
#[derive(Clone, Debug, FromRef)]
pub struct ClientState {
    /// Checks clients' tokens and rates.
    pub auth: ClientAuth,
    /// The database.
    pub store: Store,
    /// Participations in memory.
    pub model: Arc<Model>,
    /// How many may wait.
    pub waits: Arc<Waits>,
    /// Wakes the relay of this process after an event was written.
    pub outbox_wake: watch::Sender<()>,
    /// Where accepts are counted.
    pub metrics: Arc<Metrics>,
    /// Ends waits and streams.
    pub stop: CancellationToken,
    /// Longest time for the parts of an answer that do not wait.
    #[from_ref(skip)]
    pub request_timeout: Duration,
}

/// The routes to which the request timeout does not apply: they bound their own time.
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
    /// Bounds what is no waiting by the request timeout.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.request_timeout, work)
            .await
            .unwrap_or_else(|_| Err(Problem::temporarily_unavailable()))
    }
}

/// Waits until the client sends no more, which who waits for a change has no reason for.
async fn hung_up(link: Option<Extension<Arc<Link>>>) {
    match link {
        Some(Extension(link)) => link.hung_up().await,
        None => std::future::pending().await,
    }
}

/// The trace a request belongs to, to be carried on to the event it causes: within the request's
/// span where that is recorded, else as it came.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    traces::current().or_else(|| {
        headers
            .get(traceparent::HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|text| traceparent::is_traceparent(text))
            .map(str::to_owned)
    })
}

/// The headers that go with a participation: its tag, and that nobody may keep it for others.
fn tagged(stored: &Stored) -> [(HeaderName, String); 2] {
    [
        (ETAG, Tag::of(stored).to_string()),
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ]
}

/// A participation as it is answered.
fn participation(status: StatusCode, stored: &Stored) -> Response {
    (status, tagged(stored), Json(stored.view())).into_response()
}
