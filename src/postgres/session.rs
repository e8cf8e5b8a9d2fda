//! The start of a session: its settings, and what kind of server it is on.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// The settings of every session of the service.
const EVERYWHERE: [(&str, &str); 9] = [
    // A session that died with an open transaction must not hold its locks for long.
    ("idle_in_transaction_session_timeout", "15s"),
    ("lock_timeout", "10s"),
    ("statement_timeout", "20s"),
    // With keepalives Postgres notices a client whose connection is cut. The store's timeouts
    // notice a Postgres that does not respond.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("timezone", "UTC"),
    // Every statement is short. To compile one takes far longer than to run it, and where sequential
    // scans are switched off the planner's costs are so high that it would always be compiled.
    ("jit", "off"),
    // Locks first, then reads in the next statement: each statement needs its own snapshot.
    ("default_transaction_isolation", "read committed"),
];

/// The name of the service's sessions in `pg_stat_activity`: `ride-promo/0.2.0`, followed by a
/// space and the session's purpose if it has one. Releases before 0.2.0 did not write their
/// release.
pub const SESSION_NAME: &str = concat!("ride-promo/", env!("CARGO_PKG_VERSION"));

/// A session's name in `pg_stat_activity`, and its settings beyond the common ones.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) name: String,
    set: Vec<(&'static str, &'static str)>,
    pub(super) logs_statements: bool,
}

impl Settings {
    /// The settings of every session, with this purpose; a pooled session has an empty one.
    pub fn new(purpose: &str) -> Self {
        Self {
            name: format!("{SESSION_NAME} {purpose}").trim_end().to_owned(),
            set: EVERYWHERE.to_vec(),
            logs_statements: true,
        }
    }

    /// Does not log the session's statements, not even slow ones.
    pub fn without_statement_logging(mut self) -> Self {
        self.logs_statements = false;
        self
    }

    /// One more setting, or another value. Names and values are constants, and are not escaped.
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.set.push((name, value));
        self
    }

    /// Uses `SET`, not the startup parameter `options`: PgBouncer refuses that parameter, or is
    /// configured to ignore it and silently drops it.
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
    /// It is in recovery: a standby, or a server that is being restored.
    Standby,
    /// It is a primary, but this session's transactions are read-only by default.
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

/// Sets a new session up and returns what it is on, in one round trip.
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

/// What a session is on now. It takes one round trip, as much as a liveness test.
pub async fn state(connection: &mut PgConnection) -> sqlx::Result<State> {
    let number: i32 = sqlx::query_scalar(STATE).fetch_one(connection).await?;
    Ok(from_number(number))
}
