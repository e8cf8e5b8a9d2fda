//! Applies the missing migrations while processes go on serving.
//!
//! All statements on a table queue behind one that waits for a lock on it. So a migration waits at most
//! [`LOCK_TIMEOUT`], gives up, and is tried again after a pause in which traffic goes on. Indexes are built
//! concurrently, in files that begin with `-- no-transaction`.

use std::time::{Duration, Instant as Monotonic};

use anyhow::{Context as _, bail, ensure};
use sqlx::migrate::{Migrate as _, MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, SqlSafeStr as _};

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// How long a migration waits for a lock before it lets the statements behind it pass.
pub(super) const LOCK_TIMEOUT: &str = "500ms";

/// The pause between two attempts to get a lock.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long attempts continue before `migrate` fails and reports who holds the lock.
const RETRY_FOR: Duration = Duration::from_secs(10 * 60);

/// How long attempts continue before that is logged.
const QUIET_FOR: Duration = Duration::from_secs(10);

/// How often it checks whether another process has finished migrating.
const TURN_INTERVAL: Duration = Duration::from_millis(200);

/// The migration of release 0.2, which builds an index under an exclusive lock.
const ENDINGS: i64 = 2;

const ENDINGS_COLUMN: &str = "alter table promotion_user add column if not exists ended_xid xid8";
const ENDINGS_INDEX: &str = "create index concurrently if not exists promotion_user_ended_xid \
     on promotion_user (ended_xid) include (user_id, promotion_id) where ended_xid is not null";

/// Applies every missing migration, one process at a time. `connection` must have no statement timeout, and
/// its `lock_timeout` must be [`LOCK_TIMEOUT`].
pub(super) async fn run(connection: &mut PgConnection) -> anyhow::Result<()> {
    let lock = lock_id(connection).await?;
    let began = Monotonic::now();
    let mut said = false;
    loop {
        take_turn(connection, lock).await?;
        // A statement that failed may have left its own setting.
        let lock_timeout = format!("set lock_timeout = '{LOCK_TIMEOUT}'");
        connection.execute(AssertSqlSafe(lock_timeout)).await?;
        let applied = apply_missing(connection).await;
        sqlx::query("select pg_advisory_unlock($1)")
            .bind(lock)
            .execute(&mut *connection)
            .await?;
        let Err(error) = applied else { return Ok(()) };
        // A concurrent build and a process of an earlier release that waits for its turn deadlock. The other
        // process gets its turn then.
        if !has_code(&error, &["55P03", "40P01"]) {
            return Err(error);
        }
        let waited = began.elapsed();
        if waited >= RETRY_FOR {
            let holders = oldest_transactions(connection).await?;
            return Err(error.context(format!(
                "a lock was not available for {} s; the oldest transactions are {holders}",
                waited.as_secs()
            )));
        }
        if waited >= QUIET_FOR && !said {
            said = true;
            let holders = oldest_transactions(connection).await?;
            tracing::warn!(
                "a migration waits for a lock, trying again; the oldest transactions are {holders}"
            );
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn apply_missing(connection: &mut PgConnection) -> anyhow::Result<()> {
    let table = MIGRATOR.table_name.as_ref();
    connection.ensure_migrations_table(table).await?;
    if let Some(version) = connection.dirty_version(table).await? {
        bail!(MigrateError::Dirty(version));
    }
    let applied = connection.list_applied_migrations(table).await?;
    for applied in &applied {
        let known = MIGRATOR
            .iter()
            .find(|migration| migration.version == applied.version);
        let Some(known) = known else {
            bail!(MigrateError::VersionMissing(applied.version));
        };
        ensure!(
            known.checksum == applied.checksum,
            MigrateError::VersionMismatch(applied.version)
        );
    }
    let is_new = applied.is_empty();
    let missing = MIGRATOR
        .iter()
        .filter(|migration| !applied.iter().any(|done| done.version == migration.version));
    for migration in missing {
        let step = apply(connection, table, migration, is_new).await;
        step.with_context(|| format!("migration {}", migration.version))?;
    }
    Ok(())
}

async fn apply(
    connection: &mut PgConnection,
    table: &str,
    migration: &Migration,
    is_new: bool,
) -> anyhow::Result<()> {
    if migration.no_tx {
        for statement in statements(migration.sql.as_str()) {
            execute_alone(connection, &statement).await?;
        }
        // All its effects exist now, so only its record is missing.
        connection.skip(table, migration).await?;
    } else if migration.version == ENDINGS && !is_new {
        execute_alone(connection, ENDINGS_COLUMN).await?;
        execute_alone(connection, ENDINGS_INDEX).await?;
        let rest = endings_after_index(migration);
        connection.apply(table, &rest).await?;
    } else {
        connection.apply(table, migration).await?;
    }
    Ok(())
}

/// The shipped migration 2 for a table that already has the column and the index. The rest takes milliseconds,
/// however large the table is.
fn endings_after_index(migration: &Migration) -> Migration {
    let sql = migration
        .sql
        .as_str()
        .replace("add column ended_xid", "add column if not exists ended_xid")
        .replace(
            "create index promotion_user_ended_xid",
            "create index if not exists promotion_user_ended_xid",
        )
        .replace(
            "lock_timeout = '3s'",
            &format!("lock_timeout = '{LOCK_TIMEOUT}'"),
        );
    let mut migration = migration.clone();
    migration.sql = AssertSqlSafe(sql).into_sql_str();
    migration
}

/// The statements of a migration without a transaction. Each ends with a semicolon at the end of a line.
fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    code.join("\n")
        .split(";\n")
        .map(|statement| statement.trim().trim_end_matches(';').to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

/// Executes a statement in its own transaction. An interrupted statement can be run again.
async fn execute_alone(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    let Some(index) = index_of(statement) else {
        connection
            .execute(AssertSqlSafe(statement.to_owned()))
            .await?;
        return Ok(());
    };
    // An interrupted build leaves an index that is updated but never used.
    let is_invalid: Option<bool> = sqlx::query_scalar(
        "select not indisvalid from pg_index where indexrelid = to_regclass($1)",
    )
    .bind(index)
    .fetch_optional(&mut *connection)
    .await?;
    // It waits for transactions, not for tables, so nothing queues behind it.
    connection.execute("set lock_timeout = 0").await?;
    if is_invalid == Some(true) {
        let drop = format!("drop index concurrently {index}");
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await?;
    let reset = format!("set lock_timeout = '{LOCK_TIMEOUT}'");
    connection.execute(AssertSqlSafe(reset)).await?;
    Ok(())
}

/// The name of the index that a statement builds concurrently.
fn index_of(statement: &str) -> Option<&str> {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let concurrently = words.iter().position(|word| *word == "concurrently")?;
    match words.get(concurrently + 1..)? {
        ["if", "not", "exists", name, ..] if !statement.starts_with("drop ") => Some(name),
        _ => None,
    }
}

/// Waits until no other process migrates this database, in short statements: a statement that waits for long has
/// a snapshot, and a concurrent build would wait for that snapshot in turn.
async fn take_turn(connection: &mut PgConnection, lock: i64) -> sqlx::Result<()> {
    loop {
        let taken: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(lock)
            .fetch_one(&mut *connection)
            .await?;
        if taken {
            return Ok(());
        }
        tokio::time::sleep(TURN_INTERVAL).await;
    }
}

/// The advisory lock that sqlx takes in earlier releases.
async fn lock_id(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let database: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(connection)
        .await?;
    Ok(0x3d32_ad9e * i64::from(crc32(database.as_bytes())))
}

/// CRC-32 of ISO HDLC.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The transactions that most likely hold the lock, in words.
async fn oldest_transactions(connection: &mut PgConnection) -> sqlx::Result<String> {
    let found: Option<String> = sqlx::query_scalar(
        "select string_agg(who, ', ') from (
             select format('pid %s (%s, %s) since %s', pid, usename, application_name, xact_start) as who
               from pg_stat_activity
              where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
              order by xact_start limit 3) oldest",
    )
    .fetch_one(connection)
    .await?;
    Ok(found.unwrap_or_else(|| "prepared ones, see pg_prepared_xacts".to_owned()))
}

pub(super) fn has_code(error: &anyhow::Error, codes: &[&str]) -> bool {
    let code_of = |error: &sqlx::Error| {
        let code = error.as_database_error()?.code()?;
        Some(codes.contains(&code.as_ref()))
    };
    error.chain().any(|cause| {
        let found = match cause.downcast_ref::<MigrateError>() {
            Some(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                code_of(error)
            }
            _ => cause.downcast_ref::<sqlx::Error>().and_then(code_of),
        };
        found == Some(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_the_one_of_earlier_releases() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn migration_2_finds_its_index_built() {
        let shipped = MIGRATOR
            .iter()
            .find(|migration| migration.version == ENDINGS)
            .expect("it was released");
        let sql = endings_after_index(shipped);
        let sql = sql.sql.as_str();
        assert_eq!(sql.matches("if not exists").count(), 2, "{sql}");
        assert!(!sql.contains("'3s'"), "{sql}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let built = words(ENDINGS_INDEX).replace("concurrently if not exists ", "");
        assert!(words(shipped.sql.as_str()).contains(&built), "{built}");
    }

    #[test]
    fn a_migration_without_a_transaction_is_split_into_its_statements() {
        let sql = "-- no-transaction\n-- Why; so.\ncreate index concurrently if not exists a\n    on t (x);\n\ninsert into c values (7, 1);\n";
        let found = statements(sql);
        assert_eq!(
            found,
            [
                "create index concurrently if not exists a\n    on t (x)",
                "insert into c values (7, 1)"
            ]
        );
        assert_eq!(index_of(&found[0]), Some("a"));
        assert_eq!(index_of(&found[1]), None);
    }
}
