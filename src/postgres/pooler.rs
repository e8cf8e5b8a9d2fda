//! Detects two kinds of proxies: those that give each transaction another session, such as
//! PgBouncer with `pool_mode=transaction`, and those that drop settings. Locks and settings belong
//! to a session, so the service does not work behind the first kind.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

/// The error message about such a proxy.
pub const SHARED_SESSIONS: &str = "a proxy gives each transaction another session (PgBouncer with \
    pool_mode=transaction or statement): the service's locks need sessions of its own. Use pool_mode=session, \
    or no proxy";

/// How many rounds [`shares_sessions`] makes.
const ROUNDS: usize = 4;

/// Whether one of these two sessions changes its server process from one transaction to the next.
///
/// Each round keeps both server processes busy at once, and then lets the proxy choose one of them
/// for the second session's next transaction. A proxy that pools transactions takes the process
/// that became free last (PgBouncer's default) or first.
pub async fn shares_sessions(
    one: &mut PgConnection,
    other: &mut PgConnection,
) -> sqlx::Result<bool> {
    let before = (process(one).await?, process(other).await?);
    if before.0 == before.1 {
        return Ok(true);
    }
    for _ in 0..ROUNDS {
        if moves(one, other, before).await? || moves(other, one, (before.1, before.0)).await? {
            return Ok(true);
        }
    }
    // The proxy may also reset a session when it gives it back.
    let kept = is_set(one, "lock_timeout").await? && is_set(other, "lock_timeout").await?;
    Ok(!kept)
}

/// Whether a session has another server process than before.
async fn moves(
    holding: &mut PgConnection,
    moving: &mut PgConnection,
    before: (i32, i32),
) -> sqlx::Result<bool> {
    sqlx::raw_sql("begin").execute(&mut *holding).await?;
    let held = process(holding).await?;
    let beside = process(moving).await?;
    sqlx::raw_sql("commit").execute(&mut *holding).await?;
    let after = process(moving).await?;
    Ok((held, beside, after) != (before.0, before.1, before.1))
}

async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    // Not prepared: behind such a proxy a prepared statement would fail before the check has a
    // result.
    let row = sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}

/// The settings of the URL's `options` that did not arrive. PgBouncer drops them if `options` is in
/// its `ignore_startup_parameters`.
pub async fn lost_options(
    connection: &mut PgConnection,
    options: Option<&str>,
) -> sqlx::Result<Vec<String>> {
    let mut lost = Vec::new();
    for name in names(options.unwrap_or_default()) {
        if !is_set(connection, &name).await? {
            lost.push(name);
        }
    }
    Ok(lost)
}

/// Whether this session has the setting, from its start or by `SET`.
async fn is_set(connection: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from pg_settings where name = lower($1) and source in ('client', 'session'))",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

/// The settings' names in `-c name=value --name=value`.
fn names(options: &str) -> Vec<String> {
    options
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(name, _)| name.trim_start_matches("--").trim_start_matches("-c"))
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_in_options() {
        let options = "-c work_mem=8MB -cjit=off --statement-timeout=5s";
        assert_eq!(names(options), ["work_mem", "jit", "statement_timeout"]);
    }
}
