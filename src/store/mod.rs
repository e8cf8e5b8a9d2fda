//! All the SQL there is. Everything that changes several rows goes through [`Store::run_tx`];
//! every statement that changes a status names the status it expects.

pub mod audit;
pub mod clock;
pub mod database;
pub mod endings;
pub mod expiry;
pub mod geo;
pub mod landing;
pub mod origination;
pub mod outbox;
pub mod participations;
pub mod positions;
pub mod pre_offers;
pub mod products;
pub mod promotions;
pub mod quarantine;
pub mod recount;
pub mod rides;
pub mod schema;
mod span;
mod state;
pub mod stats;
pub mod upgrade;
pub mod users;
mod words;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opentelemetry::trace::FutureExt as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Acquire, ConnectOptions as _, PgConnection};
use tracing::Instrument as _;

use crate::domain::Instant;

/// How often a transaction is tried when Postgres chose it as the victim of a deadlock or of a
/// serialization failure.
const MOST_TRIES: u32 = 5;

/// How long a command waits for a connection before it answers "temporarily unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a transaction may take before its connection is given up; longer than any statement's
/// own time-out.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call to the store failed. What callers branch on are their own outcomes; this is what
/// nobody expected.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is away, overloaded or refused: trying again later may work, and whether the
    /// effect is there is unknown.
    #[error("postgres is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A statement or a row is wrong: a bug, or a schema that is not ours.
    #[error("postgres refused: {0}")]
    Unexpected(#[source] sqlx::Error),
    /// A stored value is not one we could have written.
    #[error("stored data is broken: {0}")]
    Corrupt(String),
    /// It would write what the release before cannot read, and the upgrade is not finished.
    #[error(
        "the upgrade to {} is not finished: stop every process of an older release, then run `ride-promo migrate --finish`",
        upgrade::GATED_RELEASE
    )]
    UpgradeUnfinished,
    /// The task that ran the transaction died.
    #[error("the transaction's task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The result of a call to the store.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::ColumnDecode { .. } = error {
            return Self::Corrupt(error.to_string());
        }
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Connection exceptions, insufficient resources, operator intervention (a shutdown, a
            // timeout, a database being dropped), lock not available, system errors, and the
            // retryable conflicts that ran out of tries; a server that is starting up is 57P03.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                ["08", "40", "53", "55", "57", "58", "25P03"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => false,
        };
        if unavailable {
            Self::Unavailable(error)
        } else {
            Self::Unexpected(error)
        }
    }
}

impl StoreError {
    /// A serialization failure or a deadlock: the same transaction may go through now.
    fn is_conflict(&self) -> bool {
        let (Self::Unavailable(error) | Self::Unexpected(error)) = self else {
            return false;
        };
        error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == "40001" || code == "40P01")
    }

    /// Postgres answered, or began to and took too long: it may take less at once.
    pub fn may_be_too_much(&self) -> bool {
        match self {
            Self::Unexpected(_) | Self::Corrupt(_) | Self::Task(_) => true,
            Self::UpgradeUnfinished => false,
            Self::Unavailable(sqlx::Error::Io(error)) => {
                error.kind() == std::io::ErrorKind::TimedOut
            }
            // The statement's time-out.
            Self::Unavailable(error) => error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| code == "57014"),
        }
    }

    /// A unique index by that name refused a row.
    pub fn is_duplicate_of(&self, constraint: &str) -> bool {
        let (Self::Unavailable(error) | Self::Unexpected(error)) = self else {
            return false;
        };
        error.as_database_error().is_some_and(|error| {
            error.is_unique_violation() && error.constraint() == Some(constraint)
        })
    }
}

/// A database, reached through a pool.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    options: PgConnectOptions,
    gate: Arc<upgrade::Gate>,
}

impl Store {
    /// A store at `url` that connects when first used, so that a Postgres that is away at start is
    /// waited for like one that goes away later. The error is that of a URL that cannot be read.
    pub fn new(url: &str, max_connections: u32) -> std::result::Result<Self, sqlx::Error> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.application_name(upgrade::SESSION_NAME).options([
            // A session that died with a transaction open must not hold its locks for long.
            ("idle_in_transaction_session_timeout", "15s"),
            ("lock_timeout", "10s"),
            ("statement_timeout", "20s"),
            // Postgres notices a client that is cut without a word; that it does not answer any more
            // is for TRANSACTION_TIMEOUT and its like to notice here.
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("timezone", "UTC"),
            // Locks first, then reads in the next statement: each statement needs its own snapshot.
            ("default_transaction_isolation", "read committed"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(Duration::from_secs(30 * 60))
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options,
            gate: Arc::default(),
        })
    }

    /// The pool, for reads of one statement.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How to reach the database with a connection of one's own (ingest, relay).
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// As [`Store::options`], for a session that `pg_stat_activity` shows with its purpose.
    fn options_for(&self, purpose: &str) -> PgConnectOptions {
        let name = format!("{} {purpose}", upgrade::SESSION_NAME);
        self.options.clone().application_name(&name)
    }

    /// A session of its own that will tell what becomes visible from now on, and the `pg_snapshot`
    /// it begins from: what is loaded after it and committed in between is told once more. It dies
    /// with its first error, since after a crash or a failover Postgres hands out the same
    /// transaction ids again.
    async fn session_from_now(&self, purpose: &str) -> Result<(PgConnection, String)> {
        let mut connection = self
            .options_for(purpose)
            .options([
                // Planned once, and by the indexes: with custom plans Postgres chooses a sequential
                // scan for large batches, and for a table with few rows.
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
            ])
            .connect()
            .await?;
        let snapshot = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
            .fetch_one(&mut connection)
            .await?;
        Ok((connection, snapshot))
    }

    /// The one clock that decides everything.
    pub async fn now(&self) -> Result<Instant> {
        Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
            .fetch_one(&self.pool)
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
        let (pool, options) = (self.pool.clone(), self.options.clone());
        let transaction = async move {
            let mut tries = 1;
            loop {
                match try_tx(&pool, &f).await {
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

async fn try_tx<T, F>(pool: &PgPool, f: &F) -> Result<T>
where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + Sync,
{
    let mut connection = pool.acquire().await?;
    let transaction = async {
        let mut tx = connection.begin().await?;
        let result = f(&mut tx).await?;
        tx.commit().await?;
        Ok(result)
    };
    match tokio::time::timeout(TRANSACTION_TIMEOUT, transaction).await {
        Ok(result) => result,
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

/// Fails where a statement changed other than the rows that the caller holds the locks of: a bug that
/// must not commit.
fn must_be_all(changed: u64, of: usize, what: &str) -> Result<()> {
    if changed == of as u64 {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!("{changed} of {of} {what}")))
    }
}

fn timed_out() -> StoreError {
    StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
}
