//! Serving a router over HTTP/1: what every request gets (an id, a span, a metric, a problem where
//! nothing else answers), and an accept loop in which nobody can hold a connection for ever.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, Stream, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::extract::BodyRules;
use super::problem::Problem;
use crate::telemetry::{Metrics, traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The route of requests that match none, in metrics and spans.
const UNMATCHED: &str = "unmatched";

/// Routes without spans.
const PROBES: &[&str] = &["/livez", "/readyz", "/metrics"];

/// A connection that takes nothing of what is written to it, or whose peer does not acknowledge it,
/// for this long is cut.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the loop rests when no more connections can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request, and what a connection buffers at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How much is taken in of a body that its handler has left.
const MOST_DRAINED_BYTES: usize = 4 << 20;

/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How one listener serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in metrics and spans.
    pub name: &'static str,
    /// Longest time for a request's head; also how long a connection may be idle.
    pub header_timeout: Duration,
    /// Longest time for an answer's head.
    pub request_timeout: Duration,
    /// Route templates to which `request_timeout` does not apply: their handlers take care of their
    /// own (long polls, streams, imports).
    pub untimed: &'static [&'static str],
    /// Bodies, where a handler reads them through an extractor.
    pub body: BodyRules,
    /// Most connections at a time; further ones wait to be accepted.
    pub max_connections: usize,
    /// After shutdown began: how long requests being answered may still take.
    pub drain_timeout: Duration,
}

/// Completes a router: every address and method it does not have answers a problem, and every
/// request is traced, measured, bounded in time and cannot take the process down.
pub fn complete(router: Router, settings: &Settings, metrics: Arc<Metrics>) -> Router {
    let frame = Arc::new(Frame {
        settings: settings.clone(),
        metrics,
    });
    router
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(frame, around))
}

struct Frame {
    settings: Settings,
    metrics: Arc<Metrics>,
}

async fn around(State(frame): State<Arc<Frame>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let settings = &frame.settings;
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let method = request.method().clone();
    let id = request_id(&request);
    let traceparent = request.headers().get("traceparent");
    let traceparent = traceparent.and_then(|header| header.to_str().ok());
    // What asks every few seconds whether the process is well is nobody's journey.
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
    let (request, left) = lend_body(request);
    let context = traced.clone().unwrap_or_default();
    let answered = AssertUnwindSafe(opentelemetry::trace::FutureExt::with_context(
        next.run(request),
        context,
    ))
    .catch_unwind();
    let mut response = async {
        let answered = if settings.untimed.contains(&route) {
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
        response
    }
    .instrument(span)
    .await;
    response.headers_mut().insert(REQUEST_ID, id);
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
        && let Ok(Left { chunks, waits }) = left.try_recv()
        && (waits || !drain(chunks).await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// The request with its body lent out, and where what its handler leaves of the body comes back to.
fn lend_body(request: Request) -> (Request, Option<oneshot::Receiver<Left>>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let waits = request.headers().contains_key(EXPECT);
    let (back, left) = oneshot::channel();
    let lend = |body: Body| {
        Body::from_stream(Lent {
            chunks: Some(body.into_data_stream()),
            waits,
            back: Some(back),
        })
    };
    (request.map(lend), Some(left))
}

/// What is left of a body.
struct Left {
    chunks: BodyDataStream,
    /// Its sender waits to be told to go on, which only reading would do.
    waits: bool,
}

/// A body that comes back when it is dropped before its end.
struct Lent {
    chunks: Option<BodyDataStream>,
    waits: bool,
    back: Option<oneshot::Sender<Left>>,
}

impl Stream for Lent {
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

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(chunks), Some(back)) = (self.chunks.take(), self.back.take()) {
            let waits = self.waits;
            // Nobody takes it back where the connection is gone.
            let _ = back.send(Left { chunks, waits });
        }
    }
}

/// Takes in the rest of a body, as far as it comes at once, and says whether that was all: a
/// connection that is closed on somebody who is still sending may lose them the answer, and whoever
/// shares it their next request.
async fn drain(mut chunks: BodyDataStream) -> bool {
    let drained = async {
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else { return false };
            bytes += chunk.len();
            if bytes > MOST_DRAINED_BYTES {
                return false;
            }
        }
        true
    };
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    drained.unwrap_or(false)
}

/// The caller's own id for the request, if it is one to be repeated in a log, else a new one.
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

/// Opens a listener.
pub async fn bind(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({name})"))
}

/// Serves until shutdown, then answers what was begun and ends.
pub async fn run(
    listener: TcpListener,
    app: Router,
    settings: Settings,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    let slots = Arc::new(Semaphore::new(settings.max_connections));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    // Only closing the semaphore would be an error, and nobody does.
    while let Some(Ok(slot)) = shutdown
        .run_until_cancelled(Arc::clone(&slots).acquire_owned())
        .await
    {
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Either that one connection is gone already, or no file handle is left; the
                // latter passes when others are closed.
                tracing::warn!(listener = settings.name, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        // A phone that changed networks says no goodbye: without this its stream would keep its place
        // until the kernel gives up, after a quarter of an hour.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT));
        let service = TowerToHyperService::new(app.clone());
        let connection = http.serve_connection(TokioIo::new(Guarded::new(stream)), service);
        let (shutdown, cut) = (shutdown.clone(), cut.clone());
        connections.spawn(async move {
            let mut connection = pin!(connection);
            let served = async {
                tokio::select! {
                    result = connection.as_mut() => return result,
                    () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            if let Some(Err(error)) = cut.run_until_cancelled(served).await {
                // Somebody hung up, or was too slow: theirs to know.
                tracing::debug!(%error, "a connection broke off");
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    let drained = tokio::time::timeout(settings.drain_timeout, connections.wait()).await;
    if drained.is_err() {
        tracing::warn!(
            listener = settings.name,
            open = connections.len(),
            "connections are cut that did not end in time"
        );
        cut.cancel();
        connections.wait().await;
    }
}

/// A connection whose writes fail when the other side takes nothing for too long. Reads need no
/// such guard: heads and bodies have timeouts of their own.
struct Guarded {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            stalled: None,
        }
    }

    fn guard<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn serve(router: Router) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let settings = Settings {
            name: "api",
            header_timeout: Duration::from_millis(300),
            request_timeout: Duration::from_millis(200),
            untimed: &["/slow/untimed"],
            body: BodyRules::default(),
            max_connections: 4,
            drain_timeout: Duration::from_secs(5),
        };
        let listener = bind("127.0.0.1:0".parse().expect("an address"), "api")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let app = complete(router, &settings, Metrics::new());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(run(listener, app, settings, shutdown.clone()));
        (address, shutdown, serving)
    }

    async fn call(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn answers_problems_for_what_nobody_handles() {
        let slow = async || tokio::time::sleep(Duration::from_millis(400)).await;
        let router = Router::new()
            .route("/panic", get(async || -> () { panic!("a test's") }))
            .route("/thing", get(async || "here").put(async || "put"))
            .route("/slow/timed", post(slow))
            .route("/slow/untimed", post(slow));
        let (address, shutdown, serving) = serve(router).await;
        for (head, status, contains) in [
            ("GET /nothing", 404, "/problems/not-found"),
            ("DELETE /thing", 405, "/problems/method-not-allowed"),
            ("DELETE /thing", 405, "allow: GET,HEAD,PUT"),
            ("GET /thing", 200, "x-request-id: "),
            ("GET /panic", 500, "/problems/internal-error"),
            ("POST /slow/timed", 503, "retry-after: 1"),
            ("POST /slow/untimed", 200, ""),
        ] {
            let answer = call(address, head).await;
            let right = answer.starts_with(&format!("HTTP/1.1 {status}"));
            assert!(right && answer.contains(contains), "{head}: {answer}");
        }
        shutdown.cancel();
        serving.await.expect("it ends");
    }

    #[tokio::test]
    async fn who_waits_to_be_told_to_go_on_and_is_not_loses_the_connection_and_who_is_keeps_it() {
        let part = async |request: Request| {
            let mut chunks = request.into_body().into_data_stream();
            assert!(chunks.next().await.is_some());
        };
        let router = Router::new()
            .route("/slow/untimed", post(part))
            .route("/none", post(async || ()));
        let (address, shutdown, serving) = serve(router).await;
        let begin = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("written");
            stream
        };
        let mut answer = String::new();
        let mut refused = begin("/none").await;
        let closed = refused.read_to_string(&mut answer).await;
        closed.expect("it is closed");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");

        let mut read = begin("/slow/untimed").await;
        let mut go_on = [0; 25];
        read.read_exact(&mut go_on).await.expect("it is told");
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        let rest = b"bodyGET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        read.write_all(rest).await.expect("written");
        answer.clear();
        let closed = read.read_to_string(&mut answer).await;
        closed.expect("it is closed");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("HTTP/1.1 404"), "{answer}");
        shutdown.cancel();
        serving.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection_and_shutdown_waits_for_answers() {
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            "done"
        };
        let (address, shutdown, serving) = serve(Router::new().route("/slow", get(slow))).await;
        let mut silent = TcpStream::connect(address).await.expect("a connection");
        silent.write_all(b"GET /slow HT").await.expect("written");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(3), silent.read_to_end(&mut rest));
        assert!(closed.await.is_ok(), "still open");
        let answer = tokio::spawn(call(address, "GET /slow"));
        tokio::time::sleep(Duration::from_millis(30)).await;
        shutdown.cancel();
        assert!(answer.await.expect("a call").ends_with("done"));
        serving.await.expect("it ends");
    }
}
