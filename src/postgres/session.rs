//! How a session begins: its settings, and what kind of server it is on.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// What every session of the service is set to.
const EVERYWHERE: [(&str, &str); 8] = [
    // A session that died with a transaction open must not hold its locks for long.
    ("idle_in_transaction_session_timeout", "15s"),
    ("lock_timeout", "10s"),
    ("statement_timeout", "20s"),
    // Postgres notices a client that is cut without a word; that it does not answer any more is for
    // the store's time limits to notice.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("timezone", "UTC"),
    // Locks first, then reads in the next statement: each statement needs its own snapshot.
    ("default_transaction_isolation", "read committed"),
];

/// What every session of this service is called in `pg_stat_activity`: `ride-promo/0.2.0`, followed
/// by a space and the session's purpose where it has one. Releases before 0.2.0 gave no release.
pub const SESSION_NAME: &str = concat!("ride-promo/", env!("CARGO_PKG_VERSION"));

/// A session's name in `pg_stat_activity`, and what it is set to beyond every other.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) name: String,
    set: Vec<(&'static str, &'static str)>,
    pub(super) logs_statements: bool,
}

impl Settings {
    /// Those of every session, for this purpose; a pooled session has none.
    pub fn new(purpose: &str) -> Self {
        Self {
            name: format!("{SESSION_NAME} {purpose}").trim_end().to_owned(),
            set: EVERYWHERE.to_vec(),
            logs_statements: true,
        }
    }

    /// Its statements are not in the log, however slow they are.
    pub fn without_statement_logging(mut self) -> Self {
        self.logs_statements = false;
        self
    }

    /// One more setting, or another value. Names and values are ours: they are not escaped.
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.set.push((name, value));
        self
    }

    /// By `SET`, not by the startup parameter `options`: PgBouncer refuses that one, or is told to
    /// ignore it and drops it without a word.
    fn statements(&self) -> String {
        let set = self.set.iter();
        set.map(|(name, value)| format!("set {name} = '{value}';"))
            .collect()
    }
}

/// What kind of server a session is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes writes.
    Primary,
    /// It is in recovery: a standby, or a server that is just being restored.
    Standby,
    /// It is a primary, and this session's transactions are read-only by default.
    ReadOnly,
}

const STATE: &str = "select case when pg_is_in_recovery() then 2 \
                     when current_setting('transaction_read_only')::bool then 1 else 0 end";

fn from_number(number: i32) -> State {
    match number {
        0 => State::Primary,
        1 => State::ReadOnly,
        _ => State::Standby,
    }
}

/// Sets a new session up and says what it is on, in one round trip.
pub(super) async fn begin(
    connection: &mut PgConnection,
    settings: &Settings,
) -> sqlx::Result<State> {
    let text = format!("{} {STATE}", settings.statements());
    let row = sqlx::raw_sql(AssertSqlSafe(text))
        .fetch_one(connection)
        .await?;
    Ok(from_number(row.try_get(0)?))
}

/// Sets a new session up.
pub async fn set_up(connection: &mut PgConnection, settings: &Settings) -> sqlx::Result<()> {
    begin(connection, settings).await.map(drop)
}

/// What a session is on now. One round trip, as a test whether it is alive would be.
pub async fn state(connection: &mut PgConnection) -> sqlx::Result<State> {
    let number: i32 = sqlx::query_scalar(STATE).fetch_one(connection).await?;
    Ok(from_number(number))
}
