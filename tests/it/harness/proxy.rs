//! A TCP proxy between the service and Postgres that breaks the connection at chosen moments.
//!
//! It runs on threads of its own, so that a test that blocks does not block it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How much of what a client has said is remembered, to tell connections apart by it.
const HISTORY: usize = 1 << 20;

/// How long a lost answer is waited for before the connection is cut anyway.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The proxy. Dropping it closes the listener and all connections.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: String,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    paused: bool,
    refusing: bool,
    connections: Vec<Weak<Connection>>,
    faults: Vec<Arc<Armed>>,
    /// The fault that waits for a step of a transaction.
    at_step: Option<Arc<Step>>,
    /// The message that is held back, until its [`Held`] is dropped.
    held: Option<HeldMessage>,
}

#[derive(Debug)]
struct HeldMessage {
    message: Vec<u8>,
    has_arrived: bool,
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// What the client has said, at most [`HISTORY`] of it.
    history: Mutex<Vec<u8>>,
    /// From now on, what the server says goes nowhere.
    swallow: AtomicBool,
    /// Bytes swallowed: the server has spoken after all.
    swallowed: Mutex<usize>,
    heard: Condvar,
}

impl Connection {
    fn cut(&self) {
        // an error means that it is cut already
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn has_said(&self, said: &[u8]) -> bool {
        contains(&self.history.lock().expect("not poisoned"), said)
    }
}

/// Where a [`FaultProxy::arm`]ed connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the server has received the message: it never happened.
    Request,
    /// After the server has answered it, before the answer reaches the client: it happened, and
    /// the client cannot know.
    Answer,
    /// Not at all, but the answer and all after it go nowhere: the client waits until it gives up
    /// or is killed.
    Silence,
}

#[derive(Debug)]
struct Armed {
    cut: Cut,
    message: Vec<u8>,
    said_before: Option<Vec<u8>>,
    left: AtomicUsize,
    fired: AtomicUsize,
}

/// Where in a transaction a connection breaks.
#[derive(Debug)]
struct Step {
    cut: Cut,
    /// Requests of the transaction, from `BEGIN` on, which is 1.
    number: usize,
    fired: AtomicBool,
    struck_commit: AtomicBool,
}

/// A fault at a step of a transaction; tells whether it has struck.
#[derive(Clone, Debug)]
pub struct StepFault(Arc<Step>);

impl StepFault {
    /// Whether there was such a step.
    pub fn fired(&self) -> bool {
        self.0.fired.load(Ordering::SeqCst)
    }

    /// Whether that step was the transaction's `COMMIT`.
    pub fn struck_commit(&self) -> bool {
        self.0.struck_commit.load(Ordering::SeqCst)
    }
}

/// Follows what a client says (PostgreSQL's protocol): a request ends where the client begins to
/// wait for an answer, with a simple query or a Sync.
#[derive(Debug, Default)]
struct Requests {
    /// What is not a whole message yet.
    rest: Vec<u8>,
    started: bool,
    /// Requests begun in this transaction; 0 outside of one.
    in_transaction: usize,
    /// The request that is being said has begun.
    begun: bool,
}

impl Requests {
    /// Takes what was said; answers the step that begins with it, if one does, and whether a
    /// request is complete now.
    fn hear(&mut self, said: &[u8]) -> (Option<usize>, bool) {
        self.rest.extend_from_slice(said);
        let (mut step, mut complete) = (None, false);
        loop {
            // What comes before the session has no type, only a length.
            let head = usize::from(self.started);
            let Some(length) = self.rest.get(head..head + 4) else {
                break;
            };
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            if self.rest.len() < head + length {
                break;
            }
            let message: Vec<u8> = self.rest.drain(..head + length).collect();
            if !self.started {
                // Not the question whether TLS is spoken here, which has its own number.
                self.started = message[4..8] != 80_877_103_u32.to_be_bytes();
                continue;
            }
            if message[0] == b'Q' && message[5..].starts_with(b"BEGIN") {
                self.in_transaction = 0;
                self.begun = false;
            } else if self.in_transaction == 0 {
                continue;
            }
            if !self.begun {
                self.begun = true;
                self.in_transaction += 1;
                step = Some(self.in_transaction);
            }
            if matches!(message[0], b'Q' | b'S') {
                self.begun = false;
                complete = true;
                if message[5..].starts_with(b"COMMIT") || message[5..].starts_with(b"ROLLBACK") {
                    self.in_transaction = 0;
                }
            }
        }
        (step, complete)
    }
}

/// A fault that was armed; tells whether it has struck.
#[derive(Clone, Debug)]
pub struct Fault(Arc<Armed>);

impl Fault {
    /// How many connections it has cut.
    pub fn fired(&self) -> usize {
        self.0.fired.load(Ordering::SeqCst)
    }
}

/// A message that the proxy holds back. Dropping it lets the message pass.
#[derive(Debug)]
pub struct Held(Arc<Shared>);

impl Held {
    /// Whether a client has sent the message. Its connection stands still since then.
    pub fn has_arrived(&self) -> bool {
        let state = self.0.lock();
        state.held.as_ref().is_some_and(|held| held.has_arrived)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().held = None;
        self.0.changed.notify_all();
    }
}

impl FaultProxy {
    /// A proxy to `upstream` (`host:port`), which need not listen yet.
    pub fn start(upstream: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has one")
            .to_string();
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Self { shared, address }
    }

    /// `host:port` to connect to instead of the upstream.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Holds everything back, in both directions and for new connections too, until
    /// [`FaultProxy::resume`]: a network that swallows packets, or a machine that hangs.
    pub fn pause(&self) {
        self.shared.lock().paused = true;
    }

    /// Lets everything held back go on.
    pub fn resume(&self) {
        self.shared.lock().paused = false;
        self.shared.changed.notify_all();
    }

    /// Cuts every connection there is; new ones are welcome.
    pub fn cut_all(&self) {
        self.shared.lock().cut_connections();
    }

    /// Cuts every connection whose client has said `said` at some time: its `application_name`, or
    /// a statement that only one part of the service sends. Answers how many.
    pub fn cut_where(&self, said: &str) -> usize {
        let state = self.shared.lock();
        let matching = state
            .alive()
            .filter(|connection| connection.has_said(said.as_bytes()));
        matching.inspect(|connection| connection.cut()).count()
    }

    /// Cuts every connection there is and every new one, until told otherwise: a server that is
    /// away.
    pub fn refuse(&self, refuse: bool) {
        let mut state = self.shared.lock();
        state.refusing = refuse;
        if refuse {
            state.cut_connections();
        }
    }

    /// Cuts the next `times` connections on which the client sends `message`.
    ///
    /// With `said_before` only those on which the client has at some time said that too: a
    /// statement or an `application_name` that only one part of the service sends, where the
    /// message itself (`COMMIT`) is everyone's.
    pub fn arm(&self, cut: Cut, message: &str, said_before: Option<&str>, times: usize) -> Fault {
        let armed = Arc::new(Armed {
            cut,
            message: message.as_bytes().to_vec(),
            said_before: said_before.map(|said| said.as_bytes().to_vec()),
            left: AtomicUsize::new(times),
            fired: AtomicUsize::new(0),
        });
        self.shared.lock().faults.push(armed.clone());
        Fault(armed)
    }

    /// The commit's answer is lost, `times` times, on connections of whoever says `said_before`:
    /// the transaction is durable, and its client sees only a broken connection.
    pub fn lose_commit_answers(&self, said_before: Option<&str>, times: usize) -> Fault {
        self.arm(Cut::Answer, "COMMIT\0", said_before, times)
    }

    /// Cuts the next transaction at its request of this number: `BEGIN` is 1, then each message that
    /// is waited for, the last being `COMMIT`. A transaction with fewer requests goes through, so
    /// that counting up until the fault does not strike goes through every step there is.
    pub fn cut_at_step(&self, number: usize, cut: Cut) -> StepFault {
        let step = Arc::new(Step {
            cut,
            number,
            fired: AtomicBool::new(false),
            struck_commit: AtomicBool::new(false),
        });
        self.shared.lock().at_step = Some(step.clone());
        StepFault(step)
    }

    /// Holds back the next message that contains `message`, and the rest of its connection with it. Other
    /// connections go on. A statement is sent with its text only once on a connection.
    pub fn hold(&self, message: &str) -> Held {
        self.shared.lock().held = Some(HeldMessage {
            message: message.as_bytes().to_vec(),
            has_arrived: false,
        });
        Held(self.shared.clone())
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.lock().alive().count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.cut_connections();
        }
        self.shared.changed.notify_all();
        // wakes the listener, which then sees that it is over
        let _ = TcpStream::connect(&self.address);
    }
}

impl State {
    fn alive(&self) -> impl Iterator<Item = Arc<Connection>> {
        self.connections.iter().filter_map(Weak::upgrade)
    }

    fn cut_connections(&mut self) {
        self.alive().for_each(|connection| connection.cut());
        self.connections.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if !self.wait_while_paused() {
                return;
            }
            let shared = self.clone();
            thread::spawn(move || shared.connect(client));
        }
    }

    /// Blocks during a pause; false where the proxy is gone.
    fn wait_while_paused(&self) -> bool {
        let state = self
            .changed
            .wait_while(self.lock(), |state| state.paused && !state.closed);
        !state.expect("not poisoned").closed
    }

    /// Blocks while this message is to be held back.
    fn wait_while_held(&self, message: &[u8]) {
        let mut state = self.lock();
        let Some(held) = &mut state.held else {
            return;
        };
        if held.has_arrived || !contains(message, &held.message) {
            return;
        }
        held.has_arrived = true;
        let state = self
            .changed
            .wait_while(state, |state| state.held.is_some() && !state.closed);
        drop(state.expect("nobody panics while holding it"));
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        // a server that is away looks to the client like a connection that ends at once
        let Ok(server) = TcpStream::connect(&self.upstream) else {
            return;
        };
        // small messages one after the other: never wait to send them together
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let connection = Arc::new(Connection {
            client,
            server,
            history: Mutex::new(Vec::new()),
            swallow: AtomicBool::new(false),
            swallowed: Mutex::new(0),
            heard: Condvar::new(),
        });
        {
            let mut state = self.lock();
            if state.refusing || state.closed {
                return;
            }
            state
                .connections
                .retain(|connection| connection.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
        }
        let (answers, shared) = (connection.clone(), self.clone());
        thread::spawn(move || {
            let _ = shared.forward_answers(&answers);
            answers.cut();
        });
        let _ = self.forward_requests(&connection);
        connection.cut();
    }

    fn forward_answers(&self, connection: &Connection) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = read(&connection.server, &mut buffer)?;
            if length == 0 || !self.wait_while_paused() {
                return Ok(());
            }
            if connection.swallow.load(Ordering::SeqCst) {
                *connection.swallowed.lock().expect("not poisoned") += length;
                connection.heard.notify_all();
            } else {
                (&connection.client).write_all(&buffer[..length])?;
            }
        }
    }

    fn forward_requests(&self, connection: &Connection) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut requests = Requests::default();
        loop {
            let length = read(&connection.client, &mut buffer)?;
            if length == 0 || !self.wait_while_paused() {
                return Ok(());
            }
            let message = &buffer[..length];
            self.wait_while_held(message);
            let (step, mut complete) = requests.hear(message);
            let at_step = step.and_then(|step| self.strike_at(step, message));
            let struck = at_step.or_else(|| {
                let history = connection.history.lock();
                let mut history = history.expect("not poisoned");
                let seen = history.len();
                history.extend_from_slice(message);
                let struck = self.strike(&history, seen);
                if history.len() > HISTORY {
                    // the beginning tells who it is, the end may be the first half of a message
                    let recent = history.len() - 256;
                    history.drain(HISTORY / 2..recent);
                }
                struck
            });
            match struck {
                None => (&connection.server).write_all(message)?,
                Some(Cut::Request) => return Ok(()),
                Some(Cut::Silence) => {
                    connection.swallow.store(true, Ordering::SeqCst);
                    (&connection.server).write_all(message)?;
                }
                Some(Cut::Answer) => {
                    connection.swallow.store(true, Ordering::SeqCst);
                    (&connection.server).write_all(message)?;
                    while at_step.is_some() && !complete {
                        let length = read(&connection.client, &mut buffer)?;
                        complete = length == 0 || requests.hear(&buffer[..length]).1;
                        (&connection.server).write_all(&buffer[..length])?;
                    }
                    let swallowed = connection.swallowed.lock();
                    let swallowed = swallowed.expect("not poisoned");
                    let _ =
                        connection
                            .heard
                            .wait_timeout_while(swallowed, RESPONSE_TIMEOUT, |bytes| *bytes == 0);
                    return Ok(());
                }
            }
        }
    }

    /// The fault set off by the beginning of this step of a transaction, which `message` says.
    fn strike_at(&self, step: usize, message: &[u8]) -> Option<Cut> {
        let mut state = self.lock();
        let fault = state.at_step.take_if(|fault| fault.number == step)?;
        let is_commit = contains(message, b"COMMIT\0");
        fault.struck_commit.store(is_commit, Ordering::SeqCst);
        fault.fired.store(true, Ordering::SeqCst);
        Some(fault.cut)
    }

    /// The fault set off by what was just said: `history` from `new` on, and what is before it,
    /// for a message may arrive in pieces.
    fn strike(&self, history: &[u8], new: usize) -> Option<Cut> {
        let faults = &self.lock().faults;
        let struck = faults.iter().find(|fault| {
            let overlap = fault.message.len().saturating_sub(1);
            contains(&history[new.saturating_sub(overlap)..], &fault.message)
                && fault
                    .said_before
                    .as_ref()
                    .is_none_or(|said| contains(history, said))
                && fault
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
        })?;
        struck.fired.fetch_add(1, Ordering::SeqCst);
        Some(struck.cut)
    }
}

fn read(mut from: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
