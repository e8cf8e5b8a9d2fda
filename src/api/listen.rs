//! The accept loop of a listener. No client can hold connections for ever, or take all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounter, IntGauge};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{ConnectionTimeouts, Entrance, Gate, Link};
use super::head::MAX_HEAD_BYTES;
use super::server::Settings;

/// The pause when no more connections can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most that hyper buffers of a connection: a whole head, and what was read with it.
const MAX_BUFFER_BYTES: usize = MAX_HEAD_BYTES + 32 * 1024;

/// A listener's connections: the open ones, and how many were closed at once because their address
/// had too many.
type ConnectionMetrics = (IntGauge, IntCounter);

/// Opens a listener.
pub async fn bind(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({name})"))
}

/// Serves until shutdown, then finishes open requests and ends.
pub async fn run(
    listener: TcpListener,
    app: Router,
    settings: Settings,
    metrics: ConnectionMetrics,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // A client that closes its sending side after a request still gets the response. The gate has
    // the timeouts.
    http.half_close(true)
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER_BYTES);
    let slots = Arc::new(Semaphore::new(settings.max_connections));
    let addresses = Addresses::new(settings.max_connections_per_address, metrics);
    let timeouts = ConnectionTimeouts {
        head: settings.header_timeout,
        idle: settings.idle_timeout,
    };
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    // The only error is a closed semaphore, and it is never closed.
    while let Some(Ok(slot)) = shutdown
        .run_until_cancelled(Arc::clone(&slots).acquire_owned())
        .await
    {
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Either this one connection is gone already, or no file handle is free. The latter
                // passes when other connections close.
                tracing::warn!(listener = settings.name, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = addresses.enter(peer.ip()) else {
            tracing::debug!(listener = settings.name, %peer, "too many connections from one address");
            continue;
        };
        let link = Link::new(stream);
        let gate = Gate::new(Arc::clone(&link), timeouts);
        let connection =
            http.serve_connection(TokioIo::new(gate), Entrance::new(app.clone(), link));
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
                // The client disconnected, or was too slow: this is not our fault.
                tracing::debug!(%error, "a connection broke off");
            }
            drop((place, slot));
        });
    }
    drop(listener);
    connections.close();
    let drained = tokio::time::timeout(settings.drain_timeout, connections.wait()).await;
    if drained.is_err() {
        tracing::warn!(
            listener = settings.name,
            open = connections.len(),
            "connections that did not end in time are cut"
        );
        cut.cancel();
        connections.wait().await;
    }
}

/// How many connections each address has.
struct Addresses {
    max: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
    metrics: ConnectionMetrics,
}

impl Addresses {
    fn new(max: usize, metrics: ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self {
            max,
            held: Mutex::default(),
            metrics,
        })
    }

    /// Reserves a place for one more connection, released when it is dropped; `None` if there is
    /// none.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressSlot> {
        let address = network(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= self.max {
            self.metrics.1.inc();
            return None;
        }
        *count += 1;
        self.metrics.0.inc();
        Some(AddressSlot {
            addresses: Arc::clone(self),
            address,
        })
    }
}

/// The part of an address that one client may control: an IPv4 address, or a whole IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(bits).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// A reserved place of an address.
struct AddressSlot {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let held = &self.addresses.held;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        self.addresses.metrics.0.dec();
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::extract::Request;
    use axum::routing::{get, post};
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::api::extract::BodyRules;
    use crate::api::server::complete;
    use crate::telemetry::Metrics;

    #[test]
    fn one_address_cannot_take_every_place_and_places_are_given_back() {
        let open = IntGauge::new("open", "open").expect("a gauge");
        let refused = IntCounter::new("refused", "refused").expect("a counter");
        let addresses = Addresses::new(2, (open.clone(), refused.clone()));
        let enter = |address: &str| addresses.enter(address.parse().expect("an address"));
        let first = enter("192.0.2.1").expect("a place");
        // The same address, as a socket for both versions of IP says it.
        let _second = enter("::ffff:192.0.2.1").expect("a place");
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").expect("a place");
        let _one = enter("2001:db8::1").expect("a place");
        let _two = enter("2001:db8::2").expect("a place");
        assert!(enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::3").is_some());
        assert_eq!((open.get(), refused.get()), (5, 2));
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        assert_eq!(open.get(), 4);
    }

    async fn serve(router: Router) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let settings = Settings {
            name: "api",
            header_timeout: Duration::from_millis(300),
            idle_timeout: Duration::from_millis(600),
            request_timeout: Duration::from_millis(200),
            untimed: &["/slow/untimed"],
            body: BodyRules::default(),
            max_connections: 4,
            max_connections_per_address: 4,
            cors: None,
            drain_timeout: Duration::from_secs(5),
        };
        let listener = bind("127.0.0.1:0".parse().expect("an address"), "api")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let metrics = Metrics::new();
        let connections = metrics.api.connections(settings.name);
        let app = complete(router, &settings, metrics);
        let shutdown = CancellationToken::new();
        let running = run(listener, app, settings, connections, shutdown.clone());
        let serving = tokio::spawn(running);
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
