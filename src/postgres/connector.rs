//! Finds the primary among the hosts of `DATABASE_URL`, and begins sessions on it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::session::{Settings, State, begin};
use super::url::{DatabaseUrl, UrlError};

/// How long one host may take to accept a session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a result of [`Connector::look`] is reused for later callers.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoServerReason {
    /// It does not respond, or its error passes without action: starting up, no free connection.
    Unavailable,
    /// The user or the password is not accepted, or the database does not exist.
    Login,
    /// Every server that responds is in recovery.
    Standby,
    /// The primary's transactions are read-only.
    ReadOnly,
    /// A proxy rejects the session's startup parameters; only its operator can change that.
    Proxy,
}

/// No host of `DATABASE_URL` accepts a session that can write.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct NoServer {
    /// The kind of reason.
    pub why: NoServerReason,
    /// Each host with its reason. It contains nothing secret.
    pub text: String,
    /// The error itself, if there is one host and it gave one.
    pub cause: Option<Arc<sqlx::Error>>,
}

/// Connects to the database. The URL is read again from its file whenever no host accepts a
/// session, because the password may have changed.
#[derive(Debug)]
pub struct Connector {
    /// The file that the URL is read from; `None` if the URL came as a value.
    file: Option<PathBuf>,
    hosts: Mutex<Hosts>,
    last_look: tokio::sync::Mutex<Option<(Monotonic, Result<(), NoServer>)>>,
}

#[derive(Debug)]
struct Hosts {
    text: String,
    options: Vec<PgConnectOptions>,
    /// The host that accepted the last session.
    current: usize,
    /// Grows with every change of the fields above.
    generation: u64,
}

impl Hosts {
    fn new(text: &str, generation: u64) -> Result<Self, UrlError> {
        let url = DatabaseUrl::parse(text)?;
        // Postgres 12 and newer write floats in a form that reads back exactly, and PgBouncer
        // refuses this parameter.
        let options = url.hosts().iter().cloned();
        Ok(Self {
            text: text.to_owned(),
            options: options
                .map(|options| options.extra_float_digits(None))
                .collect(),
            current: 0,
            generation,
        })
    }
}

impl Connector {
    /// A connector for this URL; it connects at the first call. `file` is the file that it was read
    /// from.
    pub fn new(url: &str, file: Option<PathBuf>) -> Result<Self, UrlError> {
        Ok(Self {
            file,
            hosts: Mutex::new(Hosts::new(url, 0)?),
            last_look: tokio::sync::Mutex::default(),
        })
    }

    /// The host that accepted the last session, or the first one, and a number that changes with it
    /// and with user, password and database.
    pub fn current(&self) -> (u64, PgConnectOptions) {
        let hosts = self.lock();
        (hosts.generation, hosts.options[hosts.current].clone())
    }

    /// Every host with its database, separated by commas, for messages.
    pub fn places(&self) -> String {
        let places: Vec<String> = self.lock().options.iter().map(place).collect();
        places.join(", ")
    }

    /// A session on the primary. The host that was the primary last is tried first, then the
    /// others.
    pub async fn connect(&self, settings: &Settings) -> Result<PgConnection, NoServer> {
        self.connect_to(settings, false).await
    }

    /// A session on any server that responds, a standby too, to examine that server.
    pub async fn connect_any(&self, settings: &Settings) -> Result<PgConnection, NoServer> {
        self.connect_to(settings, true).await
    }

    async fn connect_to(&self, settings: &Settings, any: bool) -> Result<PgConnection, NoServer> {
        let before = self.current().0;
        let mut failed = match self.try_hosts(settings, any).await {
            Ok(connection) => return Ok(connection),
            Err(failed) => failed,
        };
        if let Err(error) = self.read_again() {
            failed.text = format!("{}; {error}", failed.text);
        }
        // A concurrent caller may have read the file again, or found the primary.
        if self.current().0 == before {
            return Err(failed);
        }
        self.try_hosts(settings, any).await
    }

    /// Whether the primary accepts sessions, and which host it is now. Concurrent callers share one
    /// result.
    pub async fn look(&self) -> Result<(), NoServer> {
        let mut last = self.last_look.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < LOOK_INTERVAL
        {
            return answer.clone();
        }
        let answer = match self.connect(&Settings::new("")).await {
            Ok(connection) => {
                // A failure to close the session does not matter here.
                let _ = tokio::time::timeout(CONNECT_TIMEOUT, connection.close()).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        *last = Some((Monotonic::now(), answer.clone()));
        answer
    }

    async fn try_hosts(&self, settings: &Settings, any: bool) -> Result<PgConnection, NoServer> {
        let (generation, first, options) = {
            let hosts = self.lock();
            (hosts.generation, hosts.current, hosts.options.clone())
        };
        let mut failures = Vec::new();
        for host in (first..options.len()).chain(0..first) {
            let mut options = options[host].clone().application_name(&settings.name);
            if !settings.logs_statements {
                options = options.disable_statement_logging();
            }
            match try_host(&options, settings, any).await {
                Ok(connection) => {
                    self.found(generation, host);
                    return Ok(connection);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(NoServer::of(failures))
    }

    fn found(&self, generation: u64, host: usize) {
        let mut hosts = self.lock();
        if hosts.generation == generation && hosts.current != host {
            tracing::info!(
                host = place(&hosts.options[host]),
                "another host is the primary now"
            );
            hosts.current = host;
            hosts.generation += 1;
        }
    }

    /// Reads the file again.
    fn read_again(&self) -> Result<(), String> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        let mut hosts = self.lock();
        if hosts.text == text {
            return Ok(());
        }
        *hosts = Hosts::new(text, hosts.generation + 1)
            .map_err(|error| format!("the URL in {} {error}", path.display()))?;
        tracing::info!(path = %path.display(), "the database's URL was read again");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        // A panic under this lock leaves the hosts in a consistent state.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server and the database: `host:port/database`, or the socket's file.
pub fn place(options: &PgConnectOptions) -> String {
    let port = options.get_port();
    let database = options
        .get_database()
        .unwrap_or_else(|| options.get_username());
    let host = options.get_host();
    // Like sqlx: a host that is a path is a socket's directory too.
    let socket = options.get_socket().map(PathBuf::as_path);
    match socket.or_else(|| host.starts_with('/').then(|| Path::new(host))) {
        Some(directory) => {
            let file = directory.join(format!(".s.PGSQL.{port}"));
            format!("socket {}, database {database}", file.display())
        }
        None => format!("{host}:{port}/{database}"),
    }
}

struct Failure {
    place: String,
    why: NoServerReason,
    text: String,
    cause: Option<sqlx::Error>,
}

async fn try_host(
    options: &PgConnectOptions,
    settings: &Settings,
    any: bool,
) -> Result<PgConnection, Failure> {
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
        let mut connection = options.connect().await?;
        let state = begin(&mut connection, settings).await?;
        Ok::<_, sqlx::Error>((connection, state))
    });
    let failure = |why, text: String, cause| Failure {
        place: place(options),
        why,
        text,
        cause,
    };
    match opened.await {
        Err(_elapsed) => Err(failure(
            NoServerReason::Unavailable,
            format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            None,
        )),
        Ok(Err(error)) => Err(failure(why(&error), in_words(&error), Some(error))),
        Ok(Ok((connection, State::Primary))) => Ok(connection),
        Ok(Ok((connection, _))) if any => Ok(connection),
        Ok(Ok((_, State::Standby))) => Err(failure(
            NoServerReason::Standby,
            "is a standby or being restored (in recovery): the service works on the primary only"
                .to_owned(),
            None,
        )),
        Ok(Ok((_, State::ReadOnly))) => Err(failure(
            NoServerReason::ReadOnly,
            "is read-only (default_transaction_read_only is on)".to_owned(),
            None,
        )),
    }
}

fn why(error: &sqlx::Error) -> NoServerReason {
    let Some(error) = error.as_database_error() else {
        return NoServerReason::Unavailable;
    };
    match error.code().as_deref() {
        Some("28000" | "28P01" | "3D000") => NoServerReason::Login,
        _ if is_startup_parameter(error) => NoServerReason::Proxy,
        _ => NoServerReason::Unavailable,
    }
}

fn in_words(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) if is_startup_parameter(error) => format!(
            "{}: a proxy such as PgBouncer does not accept what DATABASE_URL sets with `options`: take it out",
            error.message()
        ),
        // Only the message: the place in the server's source code would not help an operator.
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

/// PgBouncer's "unsupported startup parameter: options". It has no code of its own.
fn is_startup_parameter(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "08P01")
        && error.message().contains("startup parameter")
}

impl NoServer {
    /// The most specific reason first: a read-only primary says more than a standby, and a standby
    /// more than an unavailable host.
    fn of(mut failures: Vec<Failure>) -> Self {
        let rank = |why: NoServerReason| match why {
            NoServerReason::Proxy => 0,
            NoServerReason::ReadOnly => 1,
            NoServerReason::Login => 2,
            NoServerReason::Standby => 3,
            NoServerReason::Unavailable => 4,
        };
        let why = failures
            .iter()
            .map(|failure| failure.why)
            .min_by_key(|why| rank(*why))
            .unwrap_or(NoServerReason::Unavailable);
        let texts: Vec<String> = failures
            .iter()
            .map(|failure| format!("{}: {}", failure.place, failure.text))
            .collect();
        let cause = match &mut failures[..] {
            [only] => only.cause.take().map(Arc::new),
            _ => None,
        };
        Self {
            why,
            text: texts.join("; "),
            cause,
        }
    }
}
