//! All the SQL there is. Everything that changes several rows goes through [`Store::run_tx`];
//! every statement that changes a status names the status it expects.

pub mod audit;
pub mod budget;
pub mod budget_recount;
pub mod clock;
pub mod credits;
pub mod database;
pub mod early_end;
pub mod endings;
pub mod erasure;
mod error;
pub mod expiry;
pub mod extensions;
pub mod geo;
pub mod horizon;
pub mod identity;
pub mod landing;
pub mod listing;
mod migrations;
pub mod origination;
pub mod outages;
pub mod outbox;
pub mod participations;
pub mod positions;
pub mod pre_offers;
pub mod products;
pub mod promotions;
mod published;
pub mod quarantine;
pub mod receipts;
pub mod reconcile;
pub mod recount;
pub mod reminders;
pub mod republish;
pub mod ride_search;
pub mod rides;
pub mod schema;
mod span;
mod state;
pub mod stats;
pub mod status_newest;
pub mod upgrade;
pub mod users;
pub mod verify_lease;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use opentelemetry::trace::FutureExt as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Acquire, PgConnection, Postgres};
use tracing::Instrument as _;

pub use self::error::{Result, StoreError};
use self::error::{not_writable, timed_out};
use crate::postgres::{self, Connector, SESSION_NAME, Settings, State, UrlError, Why};
use crate::wire::revision::Precondition;

/// How often a transaction is tried when Postgres chose it as the victim of a deadlock or of a
/// serialization failure.
const MOST_TRIES: u32 = 5;

/// How long a command waits for a connection before it answers "temporarily unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it pauses between two looks for a server that is away.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long it pauses before it tries the next session of the pool.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How long a transaction may take before its connection is given up; longer than any statement's
/// own time-out.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A database, reached through a pool.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// What the pool's sessions are called.
    name: Arc<str>,
    /// What the connector's number was when the pool's options were set last.
    pool_generation: Arc<AtomicU64>,
    connector: Arc<Connector>,
    gate: Arc<upgrade::Gate>,
    erasure_key: Option<Arc<erasure::ErasureKey>>,
}

impl Store {
    /// A store at `url` that connects when first used, so that a Postgres that is away at start is
    /// waited for like one that goes away later. The error is that of a URL that cannot be read.
    pub fn new(url: &str, max_connections: u32) -> std::result::Result<Self, UrlError> {
        Self::with_url_file(url, None, max_connections)
    }

    /// As [`Store::new`], where `url` was read from `file`: it is read again when no host takes a
    /// session with it.
    pub fn with_url_file(
        url: &str,
        file: Option<PathBuf>,
        max_connections: u32,
    ) -> std::result::Result<Self, UrlError> {
        Self::for_purpose(url, file, max_connections, "")
    }

    /// As [`Store::with_url_file`], with sessions that `pg_stat_activity` shows with their purpose.
    pub fn for_purpose(
        url: &str,
        file: Option<PathBuf>,
        max_connections: u32,
        purpose: &str,
    ) -> std::result::Result<Self, UrlError> {
        let name = format!("{SESSION_NAME} {purpose}").trim_end().to_owned();
        let connector = Connector::new(url, file)?;
        let (generation, options) = connector.current();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(Duration::from_secs(30 * 60))
            // `acquire` tests it, and more.
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async { postgres::set_up(connection, &Settings::new("")).await })
            })
            .connect_lazy_with(options.application_name(&name));
        Ok(Self {
            pool,
            name: name.into(),
            pool_generation: Arc::new(AtomicU64::new(generation)),
            connector: Arc::new(connector),
            gate: Arc::default(),
            erasure_key: None,
        })
    }

    /// A session of the pool, on a server that takes writes at this moment. One that is on a
    /// standby or whose transactions are read-only is closed: it would stay so, also when the server
    /// has long changed.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        let mut looked = false;
        loop {
            let generation = self.follow_connector();
            let failure = match self.pool.acquire().await {
                Err(error) => StoreError::from(error),
                Ok(mut connection) => {
                    let state = async { Ok(postgres::state(&mut connection).await?) };
                    match within(ACQUIRE_TIMEOUT, state).await {
                        Ok(State::Primary) => return Ok(connection),
                        // What this session is on says nothing of what the next one will be on.
                        Ok(State::Standby | State::ReadOnly) => {
                            connection.close_on_drop();
                            not_writable()
                        }
                        Err(error) => {
                            drop(connection.detach());
                            error
                        }
                    }
                }
            };
            if looked && Instant::now() >= deadline {
                return Err(failure);
            }
            match self.connector.look().await {
                Ok(()) => {
                    // Every session of the pool was busy for all this time.
                    let busy = Instant::now() >= deadline;
                    if busy && self.connector.current().0 == generation {
                        return Err(failure);
                    }
                    if looked {
                        // The pool's failure and the connector's success may go on for a while.
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    looked = true;
                }
                // A restart is waited for, as long as a session of the pool is.
                Err(no_server) if no_server.why == Why::Away && Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Err(no_server) => return Err(no_server.into()),
            }
        }
    }

    /// Has the pool open its sessions where the connector found the primary last.
    fn follow_connector(&self) -> u64 {
        let (generation, options) = self.connector.current();
        if self.pool_generation.swap(generation, Ordering::SeqCst) != generation {
            self.pool
                .set_connect_options(options.application_name(&self.name));
        }
        generation
    }

    /// The number of sessions that the pool has, and how many of them are idle.
    pub fn pool_size(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes the pool's sessions.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// How sessions are begun and the primary is found.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Where the database is.
    pub fn options(&self) -> PgConnectOptions {
        self.connector.current().1
    }

    /// A session of its own, on the primary.
    async fn connect(&self, settings: &Settings) -> Result<PgConnection> {
        Ok(self.connector.connect(settings).await?)
    }

    /// A session of its own that will tell what becomes visible from now on, and the `pg_snapshot`
    /// it begins from: what is loaded after it and committed in between is told once more. It dies
    /// with its first error, since after a crash or a failover Postgres hands out the same
    /// transaction ids again.
    async fn session_from_now(&self, purpose: &str) -> Result<(PgConnection, String)> {
        // Planned once, and by the indexes: with custom plans Postgres chooses a sequential scan for
        // large batches, and for a table with few rows.
        let settings = Settings::new(purpose)
            .with("plan_cache_mode", "force_generic_plan")
            .with("enable_seqscan", "off");
        let mut connection = self.connect(&settings).await?;
        let snapshot = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
            .fetch_one(&mut connection)
            .await?;
        Ok((connection, snapshot))
    }

    /// The one clock that decides everything.
    pub async fn now(&self) -> Result<crate::domain::Instant> {
        Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
            .fetch_one(&mut *self.acquire().await?)
            .await?)
    }

    /// Runs `f` in a transaction and commits it, again where Postgres asks for that. Runs in a task
    /// of its own: a caller that goes away (axum drops the handler of a client that hung up) can
    /// leave neither half a transaction nor a connection with an open one behind. An
    /// [`StoreError::Unavailable`] leaves open whether it was committed; `f` must find its own
    /// effect when it is run again.
    pub async fn run_tx<T, F>(&self, name: &'static str, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        self.run_or_try_tx(name, false, f).await
    }

    /// As [`Store::run_tx`]; where it is only tried, the transaction is rolled back in the end and
    /// nothing is changed.
    pub async fn run_or_try_tx<T, F>(&self, name: &'static str, only_tried: bool, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        let (store, options) = (self.clone(), self.options());
        let transaction = async move {
            let mut tries = 1;
            loop {
                match try_tx(&store, only_tried, &f).await {
                    Err(error) if error.is_conflict() && tries < MOST_TRIES => {
                        tracing::debug!(transaction = name, tries, %error, "trying again");
                        tries += 1;
                    }
                    result => return result,
                }
            }
        };
        // The task is of the same request, in the log and in traces.
        let transaction = async move { span::traced(name, &options, transaction).await };
        tokio::spawn(transaction.with_current_context().in_current_span()).await?
    }
}

async fn try_tx<T, F>(store: &Store, only_tried: bool, f: &F) -> Result<T>
where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync,
{
    let mut connection = store.acquire().await?;
    let transaction = async {
        let mut tx = connection.begin().await?;
        let result = f(&mut tx).await?;
        if only_tried {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        Ok::<_, StoreError>(result)
    };
    match tokio::time::timeout(TRANSACTION_TIMEOUT, transaction).await {
        Ok(result) => {
            // A session that Postgres took away, or that became read-only, is of no more use.
            if let Err(error) = &result
                && error.is_unavailable()
                && !error.is_conflict()
            {
                connection.close_on_drop();
            }
            result
        }
        Err(_elapsed) => {
            // A connection that does not answer, or has half a transaction, goes back to nobody.
            drop(connection.detach());
            Err(timed_out())
        }
    }
}

/// The answer, or that it did not come within this time: a server may be gone without a word. What
/// was asked is dropped then; a session that it was asked on must be given up.
pub async fn within<T, E: From<StoreError>>(
    limit: Duration,
    answer: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(timed_out().into()))
}

/// Fails where what is there, locked by the caller, is not what the request's precondition asks for.
fn check(precondition: &Precondition, there: Option<&impl serde::Serialize>) -> Result<()> {
    if precondition.holds(there) {
        Ok(())
    } else {
        Err(StoreError::PreconditionFailed)
    }
}

/// Fails where a statement changed other than the rows that the caller holds the locks of: a bug that
/// must not commit.
fn must_be_all(changed: u64, of: usize, what: &str) -> Result<()> {
    if changed == of as u64 {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!("{changed} of {of} {what}")))
    }
}
