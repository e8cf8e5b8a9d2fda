//! Why a call to the store failed.

use super::identity::OtherServer;
use super::upgrade::GATED_RELEASE;
use crate::postgres::NoServer;

/// Why a call to the store failed. Results that callers branch on are in their own types; these are the
/// unexpected ones.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is unavailable, overloaded, or does not accept writes. Another try may work. Whether this
    /// one took effect is unknown.
    #[error("postgres is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// No host accepts a session that can write; nothing was done.
    #[error("postgres is unavailable: {0}")]
    NoServer(NoServer),
    /// The database is on a server that no operator has accepted; nothing was done.
    #[error(transparent)]
    OtherServer(#[from] OtherServer),
    /// A statement or a row is wrong: a bug, or a schema of another service.
    #[error("postgres reported an error: {0}")]
    Unexpected(#[source] sqlx::Error),
    /// A stored value is not one that this service writes.
    #[error("stored data is broken: {0}")]
    Corrupt(String),
    /// The release before could not read what would be written, and the upgrade is not finished.
    #[error(
        "the upgrade to {GATED_RELEASE} is not finished: stop every process of an older release, then run `ride-promo migrate --finish`"
    )]
    UpgradeUnfinished,
    /// The resource is not in the state that the caller saw; nothing was done.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// The last statement of a start found that its reward does not fit in the promotion's budget any more.
    /// Everything before it is rolled back. [`Store::start`](super::Store::start) returns it as a reason.
    #[error("the promotion's budget is exhausted")]
    BudgetExhausted,
    /// The transaction was shared with other callers, and each of them gets its error.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<StoreError>),
    /// The task that ran the transaction panicked or was aborted.
    #[error("the transaction's task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The result of a call to the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// SQLSTATEs, or classes of them, which mean that the server is unavailable, not that the statement is
/// wrong. Calls return 503, ingest keeps its batch, and the session is closed.
///
/// | code | when |
/// | --- | --- |
/// | 08 | a connection is lost; 08P01 also for every message of PgBouncer |
/// | 0A000 of `RevalidateCachedQuery` | a migration changed a table under a prepared statement |
/// | 25006 | the server became a standby, or its transactions were made read-only |
/// | 25P03, 25P04 | a transaction reached its timeout |
/// | 26000, 42P05 | a proxy began to return another session's prepared statements |
/// | 28000, 28P01 | the role or its password was changed; `DATABASE_URL_FILE` is read again |
/// | 3D000 | the database does not exist while it is being restored |
/// | 40 | a conflict that was tried again, also a conflict with a standby's recovery |
/// | 53 | the disk is full (53100), no memory (53200), no connection left (53300) |
/// | 55 | a lock was not available in time; recovery is in progress (55000) |
/// | 57 | shut down, crashed, starting up, statement timeout (57014), database dropped |
/// | 58 | the server's file system fails; PgBouncer's own failures |
///
/// All others mean a bug or a wrong schema and return 500: 22 and 23 (a value or a constraint), 42501 and
/// 42P01 (a right or a table is missing), 54 (a limit), F0, P0, XX (the server's configuration, functions, or
/// data are broken).
const UNAVAILABLE: [&str; 14] = [
    "08", "25006", "25P03", "25P04", "26000", "28000", "28P01", "3D000", "40", "42P05", "53", "55",
    "57", "58",
];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::ColumnDecode { .. } = error {
            return Self::Corrupt(error.to_string());
        }
        if is_unavailable(&error) {
            Self::Unavailable(error)
        } else {
            Self::Unexpected(error)
        }
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let stale_plan = || {
                error
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .and_then(|error| error.routine())
                    == Some("RevalidateCachedQuery")
            };
            UNAVAILABLE.iter().any(|class| code.starts_with(class))
                || (code == "0A000" && stale_plan())
        }
        _ => false,
    }
}

impl From<NoServer> for StoreError {
    fn from(error: NoServer) -> Self {
        Self::NoServer(error)
    }
}

impl StoreError {
    /// Whether another try may work without a change here.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NoServer(_) => true,
            Self::Shared(error) => error.is_unavailable(),
            _ => false,
        }
    }

    /// The SQLSTATE, if Postgres returned one.
    pub fn code(&self) -> Option<String> {
        let error = match self {
            Self::Unavailable(error) | Self::Unexpected(error) => error,
            Self::NoServer(error) => error.cause.as_deref()?,
            Self::Shared(error) => return error.code(),
            Self::OtherServer(_)
            | Self::UpgradeUnfinished
            | Self::PreconditionFailed
            | Self::BudgetExhausted
            | Self::Corrupt(_)
            | Self::Task(_) => return None,
        };
        let code = error.as_database_error()?.code()?;
        Some(code.into_owned())
    }

    /// Whether it is a serialization failure or a deadlock; the same transaction may succeed now.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.code().as_deref(), Some("40001" | "40P01"))
    }

    /// Whether Postgres worked on the statement but may not manage so much at once.
    pub fn may_be_too_much(&self) -> bool {
        match self {
            Self::Unexpected(_) | Self::Corrupt(_) | Self::Task(_) => true,
            Self::Shared(error) => error.may_be_too_much(),
            Self::Unavailable(sqlx::Error::Io(error)) => {
                error.kind() == std::io::ErrorKind::TimedOut
            }
            // The statement's timeout, or its memory.
            Self::Unavailable(_) => matches!(self.code().as_deref(), Some("57014" | "53200")),
            Self::NoServer(_)
            | Self::OtherServer(_)
            | Self::UpgradeUnfinished
            | Self::PreconditionFailed
            | Self::BudgetExhausted => false,
        }
    }

    /// Whether the unique index of this name rejected a row.
    pub fn is_duplicate_of(&self, constraint: &str) -> bool {
        let (Self::Unavailable(error) | Self::Unexpected(error)) = self else {
            return false;
        };
        error.as_database_error().is_some_and(|error| {
            error.is_unique_violation() && error.constraint() == Some(constraint)
        })
    }
}

/// No response arrived in time.
pub(super) fn timed_out() -> StoreError {
    StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
}

/// The session is on a server that does not accept writes, or its transactions are read-only.
pub(super) fn not_writable() -> StoreError {
    let text = "the session is on a standby, or read-only";
    StoreError::Unavailable(sqlx::Error::Protocol(text.to_owned()))
}
