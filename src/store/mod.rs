//! All SQL of the service. Everything that changes several rows goes through [`Store::run_tx`]. Every
//! statement that changes a status names the status it expects.

pub mod audit;
pub mod budget;
mod budget_over_time;
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
mod low_watermark;
mod migrations;
pub mod origination;
pub mod outages;
pub mod outbox;
mod outcomes;
pub mod participations;
pub mod positions;
pub mod pre_offers;
pub mod products;
pub mod progress_feed;
pub mod promotions;
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
mod splits;
pub mod start;
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
use std::time::{Duration, Instant as Monotonic};

use futures::future::BoxFuture;
use opentelemetry::trace::FutureExt as _;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Acquire, PgConnection, Postgres};
use tracing::Instrument as _;

pub use self::error::{Result, StoreError};
use self::error::{not_writable, timed_out};
use crate::domain::Instant;
use crate::postgres::{self, Connector, NoServerReason, SESSION_NAME, Settings, State, UrlError};
use crate::wire::revision::Precondition;

/// The most attempts of a transaction that Postgres aborts because of a deadlock or a serialization failure.
const MAX_TRIES: u32 = 5;

/// After every instant in a list: the end of the last year that the contract's instants can have.
const END_OF_TIME: Instant = match chrono::DateTime::from_timestamp(253_402_300_799, 0) {
    Some(end) => end,
    None => Instant::MAX_UTC,
};

/// How long a call waits for a connection before it returns "temporarily unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two attempts to find a server that is unavailable.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The pause before the next session of the pool is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The timeout of a transaction, after which its connection is closed. It is longer than every statement
/// timeout.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A database, with a pool of sessions.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// The `application_name` of the pool's sessions.
    name: Arc<str>,
    /// The connector's generation when the pool's options were last set.
    pool_generation: Arc<AtomicU64>,
    connector: Arc<Connector>,
    gate: Arc<upgrade::FinishedFlag>,
    starts: Arc<start::StartQueue>,
    erasure_key: Option<Arc<erasure::ErasureKey>>,
}

impl Store {
    /// A store at `url` that connects on first use, so that an unavailable Postgres is handled in the same way at
    /// the start and later. Fails if the URL is invalid.
    pub fn new(url: &str, max_connections: u32) -> std::result::Result<Self, UrlError> {
        Self::with_url_file(url, None, max_connections)
    }

    /// As [`Store::new`], for a `url` that was read from `file`. The file is read again when no host accepts a
    /// session.
    pub fn with_url_file(
        url: &str,
        file: Option<PathBuf>,
        max_connections: u32,
    ) -> std::result::Result<Self, UrlError> {
        Self::for_purpose(url, file, max_connections, "")
    }

    /// As [`Store::with_url_file`]; `pg_stat_activity` shows the sessions with their purpose.
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
            // `acquire` has a stronger test.
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
            starts: Arc::default(),
            erasure_key: None,
        })
    }

    /// A session of the pool, on a server that accepts writes at this moment. A session to a standby, or with
    /// read-only transactions, is closed: it would stay so even after the server has changed.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        let deadline = Monotonic::now() + ACQUIRE_TIMEOUT;
        let mut looked = false;
        loop {
            let generation = self.follow_connector();
            let failure = match self.pool.acquire().await {
                Err(error) => StoreError::from(error),
                Ok(mut connection) => {
                    let state = async { Ok(postgres::state(&mut connection).await?) };
                    match within(ACQUIRE_TIMEOUT, state).await {
                        Ok(State::Primary) => return Ok(connection),
                        // The next session may be on another server.
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
            if looked && Monotonic::now() >= deadline {
                return Err(failure);
            }
            match self.connector.look().await {
                Ok(()) => {
                    // Every session of the pool was busy until the deadline.
                    let busy = Monotonic::now() >= deadline;
                    if busy && self.connector.current().0 == generation {
                        return Err(failure);
                    }
                    if looked {
                        // The pool may fail for a while although the connector succeeds.
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    looked = true;
                }
                // It waits for a restarting server as long as for a session of the pool.
                Err(no_server)
                    if no_server.why == NoServerReason::Unavailable
                        && Monotonic::now() < deadline =>
                {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Err(no_server) => return Err(no_server.into()),
            }
        }
    }

    /// Makes the pool open its sessions at the primary that the connector found last.
    fn follow_connector(&self) -> u64 {
        let (generation, options) = self.connector.current();
        if self.pool_generation.swap(generation, Ordering::SeqCst) != generation {
            self.pool
                .set_connect_options(options.application_name(&self.name));
        }
        generation
    }

    /// The number of sessions in the pool, and how many of them are idle.
    pub fn pool_size(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes the pool's sessions.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Finds the primary and opens sessions.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The present connection options.
    pub fn options(&self) -> PgConnectOptions {
        self.connector.current().1
    }

    /// Opens a session outside the pool, on the primary.
    async fn connect(&self, settings: &Settings) -> Result<PgConnection> {
        Ok(self.connector.connect(settings).await?)
    }

    /// Opens a session outside the pool that will report what becomes visible from now on, with its first
    /// `pg_snapshot`. Rows that are loaded later and were committed in between are reported once more. After
    /// its first error it must not be used: after a crash or a failover Postgres assigns the same transaction ids
    /// again.
    async fn session_from_now(&self, purpose: &str) -> Result<(PgConnection, String)> {
        // Statements are planned once, with the indexes. With custom plans Postgres would choose a sequential
        // scan for large batches and for small tables.
        let settings = Settings::new(purpose)
            .with("plan_cache_mode", "force_generic_plan")
            .with("enable_seqscan", "off");
        let mut connection = self.connect(&settings).await?;
        let snapshot = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
            .fetch_one(&mut connection)
            .await?;
        Ok((connection, snapshot))
    }

    /// The database's clock, by which everything is decided.
    pub async fn now(&self) -> Result<crate::domain::Instant> {
        Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
            .fetch_one(&mut *self.acquire().await?)
            .await?)
    }

    /// Runs `f` in a transaction and commits it; repeats it if Postgres demands that. It runs in a task of its own:
    /// if the caller is dropped (axum drops the handler of a client that hung up), neither half a transaction nor
    /// a connection with an open transaction is left. After [`StoreError::Unavailable`] it is unknown whether it
    /// was committed, so `f` must find its own effect when it is run again.
    pub async fn run_tx<T, F>(&self, name: &'static str, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        self.run(name, TxKind::Committed, f).await
    }

    /// As [`Store::run_tx`], but `f` only reads, and all its statements see one snapshot.
    pub async fn run_snapshot<T, F>(&self, name: &'static str, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        self.run(name, TxKind::Snapshot, f).await
    }

    /// As [`Store::run_tx`]. If `only_tried`, the transaction is rolled back in the end and nothing is changed.
    pub async fn run_or_try_tx<T, F>(&self, name: &'static str, only_tried: bool, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        let kind = if only_tried {
            TxKind::DryRun
        } else {
            TxKind::Committed
        };
        self.run(name, kind, f).await
    }

    async fn run<T, F>(&self, name: &'static str, kind: TxKind, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync + 'static,
    {
        let (store, options) = (self.clone(), self.options());
        let transaction = async move {
            let mut tries = 1;
            loop {
                match try_tx(&store, kind, &f).await {
                    Err(error) if error.is_conflict() && tries < MAX_TRIES => {
                        tracing::debug!(transaction = name, tries, %error, "trying again");
                        tries += 1;
                    }
                    result => return result,
                }
            }
        };
        // The task belongs to the same request in logs and traces.
        let transaction = async move { span::traced(name, &options, transaction).await };
        tokio::spawn(transaction.with_current_context().in_current_span()).await?
    }
}

/// How a transaction begins and ends.
#[derive(Clone, Copy)]
enum TxKind {
    /// It is committed.
    Committed,
    /// It is rolled back, so that nothing is changed.
    DryRun,
    /// It reads one snapshot.
    Snapshot,
}

/// Begins a transaction that reads one snapshot.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read read only";

async fn try_tx<T, F>(store: &Store, kind: TxKind, f: &F) -> Result<T>
where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync,
{
    let mut connection = store.acquire().await?;
    let transaction = async {
        let mut tx = match kind {
            TxKind::Committed | TxKind::DryRun => connection.begin().await?,
            TxKind::Snapshot => connection.begin_with(BEGIN_SNAPSHOT).await?,
        };
        let result = f(&mut tx).await?;
        match kind {
            TxKind::DryRun => tx.rollback().await?,
            TxKind::Committed | TxKind::Snapshot => tx.commit().await?,
        }
        Ok::<_, StoreError>(result)
    };
    match tokio::time::timeout(TRANSACTION_TIMEOUT, transaction).await {
        Ok(result) => {
            // A session that Postgres closed, or that became read-only, cannot be used again.
            if let Err(error) = &result
                && error.is_unavailable()
                && !error.is_conflict()
            {
                connection.close_on_drop();
            }
            result
        }
        Err(_elapsed) => {
            // A connection that does not respond, or has an open transaction, must not go back to the pool.
            drop(connection.detach());
            Err(timed_out())
        }
    }
}

/// The result, or an error after `limit`, because a server may become silent. The operation is dropped then, and a
/// session that it used must be closed.
pub async fn within<T, E: From<StoreError>>(
    limit: Duration,
    answer: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(timed_out().into()))
}

/// Fails if the present resource, locked by the caller, does not meet the request's precondition.
fn check(precondition: &Precondition, there: Option<&impl serde::Serialize>) -> Result<()> {
    if precondition.holds(there) {
        Ok(())
    } else {
        Err(StoreError::PreconditionFailed)
    }
}

/// Fails if a statement changed another number of rows than the caller has locked: a bug, which must not
/// commit.
fn must_be_all(changed: u64, of: usize, what: &str) -> Result<()> {
    if changed == of as u64 {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!("{changed} of {of} {what}")))
    }
}
