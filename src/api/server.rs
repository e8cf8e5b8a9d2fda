//! What every request gets: an id, a span, a metric, a timeout, the common response headers, and a
//! problem document if no handler matches.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as Monotonic};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, EXPECT, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::access::AccessLine;
use super::cors::Cors;
use super::extract::BodyRules;
use super::head::HeadError;
use super::problem::Problem;
use crate::telemetry::{Metrics, traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The route of requests that match none, in metrics and spans.
const UNMATCHED: &str = "unmatched";

/// Routes without spans.
const PROBES: &[&str] = &["/livez", "/readyz", "/metrics"];

/// The name of the admin listener.
pub const ADMIN: &str = "admin";

/// The `Vary` of the API's responses, which depend on the token.
const AUTHORIZATION: HeaderValue = HeaderValue::from_static("Authorization");

/// The default of responses that set no `Cache-Control` of their own.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How much of a body is read that its handler has not read.
const MAX_DRAINED_BYTES: usize = 4 << 20;

/// How long reading it may take.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The settings of a listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in metrics and spans.
    pub name: &'static str,
    /// Timeout of a request's head.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Timeout until the response's head.
    pub request_timeout: Duration,
    /// Route templates to which `request_timeout` does not apply, because their handlers have
    /// timeouts of their own (long polls, streams, imports).
    pub untimed: &'static [&'static str],
    /// Timeout of bodies that a handler reads through an extractor.
    pub body: BodyRules,
    /// Most concurrent connections; further ones wait to be accepted.
    pub max_connections: usize,
    /// Most concurrent connections of one address; further ones are closed.
    pub max_connections_per_address: usize,
    /// Origins of other pages that may call the API; `None` for none.
    pub cors: Option<Cors>,
    /// How long open requests may still take after shutdown began.
    pub drain_timeout: Duration,
}

/// Completes a router: unknown paths and methods get a problem document; every request is traced,
/// measured and limited in time, and a panic in it does not end the process.
pub fn complete(router: Router, settings: &Settings, metrics: Arc<Metrics>) -> Router {
    let frame = Arc::new(Frame {
        settings: settings.clone(),
        metrics,
    });
    router
        .fallback(
            async |refusal: Option<Extension<HeadError>>| match refusal {
                Some(Extension(refusal)) => refusal.problem(),
                None => Problem::not_found(),
            },
        )
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(frame, around))
}

struct Frame {
    settings: Settings,
    metrics: Arc<Metrics>,
}

async fn around(State(frame): State<Arc<Frame>>, mut request: Request, next: Next) -> Response {
    let started = Monotonic::now();
    let settings = &frame.settings;
    let is_api = is_api(request.uri().path());
    let cors = settings.cors.as_ref().filter(|_| is_api);
    let allowed_origin = cors.and_then(|cors| cors.allowed(request.headers()));
    let preflight = cors.and_then(|cors| cors.preflight(&request));
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let method = request.method().clone();
    let id = request_id(&request);
    let traceparent = request.headers().get("traceparent");
    let traceparent = traceparent.and_then(|header| header.to_str().ok());
    // Probes every few seconds belong to no trace.
    let traced = if PROBES.contains(&route) {
        None
    } else {
        let route = matched.as_ref().map(MatchedPath::as_str);
        traces::request(&method, route, request.uri().path(), traceparent)
    };
    let trace_id = traces::trace_id(traced.as_ref(), traceparent);
    let span = tracing::info_span!(
        "request",
        listener = settings.name,
        request_id = id.to_str().unwrap_or_default(),
        %method,
        route,
        trace_id = trace_id.map(tracing::field::display),
        user_id = tracing::field::Empty,
        status = tracing::field::Empty,
    );
    request.extensions_mut().insert(settings.body);
    let is_admin = settings.name == ADMIN && is_api;
    let line = AccessLine::begin(
        is_admin,
        method.as_str(),
        request.uri().path(),
        id.to_str().unwrap_or_default(),
    );
    request.extensions_mut().insert(line.caller());
    let (request, left) = lend_body(request);
    let context = traced.clone().unwrap_or_default();
    let answered = AssertUnwindSafe(opentelemetry::trace::FutureExt::with_context(
        next.run(request),
        context,
    ))
    .catch_unwind();
    let mut response = async {
        let answered = if let Some(preflight) = preflight {
            Ok(Ok(preflight))
        } else if settings.untimed.contains(&route) {
            Ok(answered.await)
        } else {
            tokio::time::timeout(settings.request_timeout, answered).await
        };
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                tracing::error!(message = panic_message(&*panic), "a handler panicked");
                Problem::internal_error().into_response()
            }
            Err(_) => {
                tracing::warn!("the request took too long");
                Problem::temporarily_unavailable().into_response()
            }
        };
        let status = response.status();
        tracing::Span::current().record("status", status.as_u16());
        tracing::debug!(elapsed_ms = started.elapsed().as_millis(), "answered");
        line.answered(&response);
        response
    }
    .instrument(span)
    .await;
    response.headers_mut().insert(REQUEST_ID, id);
    if is_api {
        for_one_caller(response.headers_mut());
    }
    if let Some(cors) = cors {
        cors.let_read(allowed_origin, response.headers_mut());
    }
    if let Some(traced) = &traced {
        traces::answered(traced, response.status());
    }
    frame.metrics.api.observe(
        settings.name,
        route,
        &method,
        response.status(),
        started.elapsed(),
    );
    if let Some(mut left) = left
        && let Ok(RemainingBody { chunks, waits }) = left.try_recv()
        && (waits || !drain(chunks).await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Whether it is a call of the client API or the admin API.
fn is_api(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with("/admin/")
}

/// No cache may give a response to another caller, or keep one without an explicit lifetime.
fn for_one_caller(headers: &mut HeaderMap) {
    headers.append(VARY, AUTHORIZATION);
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
}

/// The request with a body on loan, and the receiver to which the rest of that body comes back.
fn lend_body(request: Request) -> (Request, Option<oneshot::Receiver<RemainingBody>>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let waits = request.headers().contains_key(EXPECT);
    let (back, left) = oneshot::channel();
    let lend = |body: Body| {
        Body::from_stream(ReturnedBody {
            chunks: Some(body.into_data_stream()),
            waits,
            back: Some(back),
        })
    };
    (request.map(lend), Some(left))
}

/// The rest of a body.
struct RemainingBody {
    chunks: BodyDataStream,
    /// The sender waits for `100 Continue`, which only reading the body would send.
    waits: bool,
}

/// A body that comes back when it is dropped before its end.
struct ReturnedBody {
    chunks: Option<BodyDataStream>,
    waits: bool,
    back: Option<oneshot::Sender<RemainingBody>>,
}

impl Stream for ReturnedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waits = false;
        let Some(chunks) = &mut self.chunks else {
            return Poll::Ready(None);
        };
        let polled = chunks.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.chunks = None;
        }
        polled
    }
}

impl Drop for ReturnedBody {
    fn drop(&mut self) {
        if let (Some(chunks), Some(back)) = (self.chunks.take(), self.back.take()) {
            let waits = self.waits;
            // If the connection is gone, the receiver is too.
            let _ = back.send(RemainingBody { chunks, waits });
        }
    }
}

/// Reads the rest of a body, as far as it arrives at once, and returns whether that was all. If a
/// connection is closed while its client still sends, the client may lose the response, and on a
/// shared connection its next request.
async fn drain(mut chunks: BodyDataStream) -> bool {
    let drained = async {
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else { return false };
            bytes += chunk.len();
            if bytes > MAX_DRAINED_BYTES {
                return false;
            }
        }
        true
    };
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    drained.unwrap_or(false)
}

/// The caller's own id for the request, if it is safe to repeat in a log, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().simple().to_string();
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown cause")
}
