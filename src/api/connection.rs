//! One connection: checks the heads of its requests before hyper reads them, limits how long it may
//! be silent, and notices when the peer is gone.

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant as Monotonic, Sleep};

use super::head::{Framing, HeadError, HeadOutcome};

/// A connection is cut after this time if the peer does not read from it, or does not acknowledge.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The kernel's send buffer per connection. A larger one would hide for minutes that the peer does
/// not read.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 16 * 1024;

/// Bytes read from the socket at a time.
const MAX_READ_BYTES: usize = 16 * 1024;

/// How much of a refused request is still read, so that its sender can read why it was refused.
/// Closing a connection with unread bytes would discard the response at the other end.
const MAX_LINGER_BYTES: usize = 1 << 20;

/// How long reading them may take.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a connection that has already sent something is checked for a lost peer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Stands for a refused request, so that its response is written in order. No route has its path.
const STAND_IN: &[u8] =
    b"GET /refused-request HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// State that a connection shares with its requests.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    refused: OnceLock<HeadError>,
}

impl Link {
    /// Prepares an accepted connection.
    pub fn new(stream: TcpStream) -> Arc<Self> {
        // Responses are written whole, so waiting to fill a packet only delays them. A socket that
        // rejects these options works too.
        let _ = stream.set_nodelay(true);
        // A phone that changes networks does not close the connection. Without this option its
        // stream would keep its place until the kernel gives up, after a quarter of an hour.
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&stream);
            let _ = socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT));
            let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
        }
        Arc::new(Self {
            stream,
            refused: OnceLock::new(),
        })
    }

    /// Waits until the peer stops sending: it is gone, or it waits for the end of a response.
    pub async fn hung_up(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            let peek = || socket.peek(&mut [MaybeUninit::uninit()]);
            match self.stream.try_io(Interest::READABLE, peek) {
                Ok(0) => return,
                // Another request, for later.
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Passes a connection's requests to the router.
pub struct Entrance {
    router: TowerToHyperService<Router>,
    link: Arc<Link>,
}

impl Entrance {
    /// For one connection.
    pub fn new(router: Router, link: Arc<Link>) -> Self {
        Self {
            router: TowerToHyperService::new(router),
            link,
        }
    }
}

impl Service<hyper::Request<Incoming>> for Entrance {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        if let Some(refusal) = self.link.refused.get() {
            request.extensions_mut().insert(*refusal);
        } else {
            if let Some(uri) = with_colons(request.uri()) {
                *request.uri_mut() = uri;
            }
            request.extensions_mut().insert(Arc::clone(&self.link));
        }
        self.router.call(request)
    }
}

/// The connection of a request; `None` if it did not come over one, as in a test.
pub fn link_of(request: &Request) -> Option<Arc<Link>> {
    request.extensions().get().cloned()
}

/// Decodes percent-encoded colons in the path, because the routes have colons and some clients
/// encode them. Both forms mean the same (RFC 3986, 6.2.2.2).
fn with_colons(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("%3A") && !path.contains("%3a") {
        return None;
    }
    let mut whole = path.replace("%3A", ":").replace("%3a", ":");
    if let Some(query) = uri.query() {
        whole.push('?');
        whole.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).ok()?);
    Uri::from_parts(parts).ok()
}

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTimeouts {
    /// From the first byte of a head to its last; also from the connection to the first head.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AwaitedPart {
    /// The first request, or the rest of a head.
    Head,
    /// The next request.
    Request,
}

/// A connection as hyper reads and writes it. Only complete, allowed heads pass.
pub struct Gate {
    link: Arc<Link>,
    framing: Framing,
    timeouts: ConnectionTimeouts,
    /// Bytes that were read: first those that hyper may have, then a partial head.
    held: Vec<u8>,
    /// How many of them hyper may have.
    passed: usize,
    /// The length of the partial head when it was last parsed.
    parsed: usize,
    refusal: Option<HeadError>,
    /// Nothing more passes.
    closed: bool,
    /// Whether there was a request yet.
    served: bool,
    waiting: Option<AwaitedPart>,
    timer: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl Gate {
    /// For one connection.
    pub fn new(link: Arc<Link>, timeouts: ConnectionTimeouts) -> Self {
        Self {
            link,
            framing: Framing::default(),
            timeouts,
            held: Vec::new(),
            passed: 0,
            parsed: 0,
            refusal: None,
            closed: false,
            served: false,
            waiting: None,
            timer: None,
            stalled: None,
            lingered: 0,
        }
    }

    fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.link.stream.poll_read_ready(cx))?;
            let room = buffer.remaining().min(MAX_READ_BYTES);
            match self
                .link
                .stream
                .try_read(buffer.initialize_unfilled_to(room))
            {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ready when the peer has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<AwaitedPart> {
        if !self.framing.expects_head() {
            // Bodies have timeouts of their own.
            return Poll::Pending;
        }
        let waiting = if self.served && self.held.is_empty() {
            AwaitedPart::Request
        } else {
            AwaitedPart::Head
        };
        if self.waiting != Some(waiting) {
            self.waiting = Some(waiting);
            let timeout = match waiting {
                AwaitedPart::Head => self.timeouts.head,
                AwaitedPart::Request => self.timeouts.idle,
            };
            let deadline = Monotonic::now() + timeout;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| waiting),
            None => Poll::Pending,
        }
    }

    /// Records what follows the bytes that hyper may have, the first `passed` bytes of the buffer.
    fn note(&mut self, passed: usize, outcome: HeadOutcome) {
        if passed > 0 {
            self.served = true;
            self.waiting = None;
        }
        self.parsed = self.held.len() - self.passed;
        if let HeadOutcome::Refused(refusal) = outcome {
            self.held.truncate(self.passed);
            self.refusal = Some(refusal);
        }
    }

    /// Inspects `fresh` bytes at the end of the buffer, which hyper may have unless they are a
    /// partial head. Returns how many of them stay in the buffer.
    fn admit(&mut self, fresh: &[u8]) -> usize {
        if self.held.is_empty() {
            let (passed, outcome) = self.framing.advance(fresh);
            self.held.extend_from_slice(&fresh[passed..]);
            self.note(passed, outcome);
            return passed;
        }
        let before = self.held.len();
        self.held.extend_from_slice(fresh);
        // The head is parsed when it may be complete, and when it has doubled. So a head that comes
        // byte by byte does not cost a parse for each byte.
        let end = &self.held[before.saturating_sub(3)..];
        let ended = end.windows(2).any(|pair| pair == b"\n\n")
            || end.windows(3).any(|three| three == b"\n\r\n");
        let len = self.held.len();
        if ended || len >= 2 * self.parsed || len >= super::head::MAX_HEAD_BYTES {
            let (passed, outcome) = self.framing.advance(&self.held);
            self.passed = passed;
            self.note(passed, outcome);
        }
        0
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

    fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.link.stream.poll_write_ready(cx))?;
            match write(&self.link.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Reads the rest of a refused request, within bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_TIMEOUT)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut space = [0; 4_096];
        while self.lingered < MAX_LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(self.poll_socket(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.lingered += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.passed > 0 {
                let count = gate.passed.min(buffer.remaining());
                buffer.put_slice(&gate.held[..count]);
                gate.held.drain(..count);
                gate.passed -= count;
                if gate.held.is_empty() {
                    // An idle connection holds no buffer.
                    gate.held = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = gate.refusal.take() {
                // hyper has read every request before it, and reads this one in order.
                let _ = gate.link.refused.set(refusal);
                gate.held = STAND_IN.to_vec();
                gate.passed = STAND_IN.len();
                gate.closed = true;
                continue;
            }
            if gate.closed {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            match gate.poll_socket(cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => match ready!(gate.poll_silence(cx)) {
                    AwaitedPart::Head if !gate.held.is_empty() => {
                        gate.held.clear();
                        gate.refusal = Some(HeadError::Late);
                        continue;
                    }
                    AwaitedPart::Head | AwaitedPart::Request => gate.closed = true,
                },
            }
            if buffer.filled().len() == before {
                gate.closed = true;
                return Poll::Ready(Ok(()));
            }
            let stay = gate.admit(&buffer.filled()[before..]);
            buffer.set_filled(before + stay);
            if stay > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_try_write(cx, |stream| stream.try_write(buffer));
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_try_write(cx, |stream| stream.try_write_vectored(buffers));
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket buffers nothing here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        // A second shutdown is harmless, and fails only if the peer is gone.
        let shut = socket2::SockRef::from(&gate.link.stream).shutdown(std::net::Shutdown::Write);
        if shut.is_ok() && gate.link.refused.get().is_some() {
            ready!(gate.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_colon_is_a_colon_in_the_path_alone() {
        let with_colons = |uri: &str| {
            let uri = with_colons(&uri.parse().expect("an address"));
            uri.map(|uri| uri.to_string())
        };
        assert_eq!(
            with_colons("/a%3Ab%3ac?d=%3A").as_deref(),
            Some("/a:b:c?d=%3A")
        );
        assert_eq!(
            with_colons("http://a/b%3Ac").as_deref(),
            Some("http://a/b:c")
        );
        assert_eq!(with_colons("/a:b?c=%3A"), None);
    }
}
