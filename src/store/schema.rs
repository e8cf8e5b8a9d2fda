//! The version of the schema: `migrate` applies it, `serve` requires it.

use chrono::NaiveDate;
use sqlx::postgres::PgConnection;

use super::migrations::{self, LOCK_TIMEOUT, MIGRATOR};
use super::upgrade::{FinishError, exclude_older_releases};
use super::{Result, Store};
use crate::postgres::Settings;

/// For how many months `migrate` and the sweeper create receipt partitions in advance.
const PARTITION_MONTHS: i32 = 12;

/// How a database's schema compares with the one that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaStatus {
    /// Exactly the schema that this program knows.
    Current(i64),
    /// Migrated by a newer program, whose schema this one can use.
    Compatible {
        /// The last migration applied.
        found: i64,
        /// The newest migration that this program knows.
        known: i64,
    },
    /// Empty or older: run `migrate` first.
    Older {
        /// The last migration applied, if any.
        found: Option<i64>,
        /// The required migration.
        needed: i64,
    },
    /// Migrated by a program too new for this one, or with other migrations.
    Newer {
        /// The last migration applied.
        found: i64,
        /// The newest migration that this program knows.
        known: i64,
    },
}

impl SchemaStatus {
    /// Whether this program can use it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Current(_) | Self::Compatible { .. })
    }
}

impl std::fmt::Display for SchemaStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Current(version) => write!(f, "schema version {version}"),
            Self::Compatible { found, known } => write!(
                f,
                "schema version {found}, of a later release, which this one can use (it knows {known})"
            ),
            Self::Older {
                found: None,
                needed,
            } => {
                write!(
                    f,
                    "the database has no schema, version {needed} is needed: run `ride-promo migrate` or serve with --migrate"
                )
            }
            Self::Older {
                found: Some(found),
                needed,
            } => write!(
                f,
                "the database's schema is version {found}, older than the {needed} needed: run `ride-promo migrate` or serve with --migrate"
            ),
            Self::Newer { found, known } => {
                write!(
                    f,
                    "the database's schema is version {found}, which this release (up to {known}) does not know: use the release that made it, or a newer one"
                )
            }
        }
    }
}

/// Reads the status of a database's schema.
pub async fn schema_status(connection: &mut PgConnection) -> Result<SchemaStatus> {
    let known = MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    // Not checked at compile time: the table is sqlx's own and does not exist before the first migration.
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(SchemaStatus::Older {
            found: None,
            needed: known,
        });
    }
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(&mut *connection)
            .await?;
    let Some(found) = applied.last().map(|(version, ..)| *version) else {
        return Ok(SchemaStatus::Older {
            found: None,
            needed: known,
        });
    };
    let ours = |version: &i64, checksum: &[u8]| {
        MIGRATOR
            .iter()
            .any(|ours| ours.version == *version && *ours.checksum == *checksum)
    };
    let sound = applied.iter().all(|(version, success, checksum)| {
        *success && (*version > known || ours(version, checksum))
    });
    Ok(if !sound {
        SchemaStatus::Newer { found, known }
    } else if found < known {
        SchemaStatus::Older {
            found: Some(found),
            needed: known,
        }
    } else if found == known {
        SchemaStatus::Current(known)
    } else if works_since(connection, found)
        .await?
        .is_some_and(|since| since <= known)
    {
        SchemaStatus::Compatible { found, known }
    } else {
        SchemaStatus::Newer { found, known }
    })
}

/// The oldest version whose programs can use this schema, if the schema says so.
async fn works_since(connection: &mut PgConnection, version: i64) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar!(
        "select works_since from schema_compatibility where version = $1",
        version
    )
    .fetch_optional(&mut *connection)
    .await?)
}

/// How many participations have a transaction id that this server has not assigned yet, as after a restore from
/// another server's dump. Ingest would take them for newly visible with every batch, and the API for ended with
/// every question. [`RESET_XIDS`] corrects them, also while processes run.
pub async fn foreign_xids(connection: &mut PgConnection) -> Result<i64> {
    // A row that is visible here was written by a transaction before the end of this snapshot.
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from promotion_user
            where (status = 'IN_PROGRESS' and live_xid >= pg_snapshot_xmax(pg_current_snapshot()))
               or ended_xid >= pg_snapshot_xmax(pg_current_snapshot())"#
    )
    .fetch_one(&mut *connection)
    .await?)
}

/// What an operator runs if [`foreign_xids`] finds some.
pub const RESET_XIDS: &str = "update promotion_user set live_xid = pg_current_xact_id(), ended_xid = null \
     where (status = 'IN_PROGRESS' and live_xid >= pg_snapshot_xmax(pg_current_snapshot())) \
     or ended_xid >= pg_snapshot_xmax(pg_current_snapshot())";

/// Applies every missing migration, one process at a time, and creates the receipt partitions of the coming months.
/// A later release's schema that this program can use stays as it is. The upgrade of an empty database is finished
/// at once, because no release before has written to it.
pub async fn migrate(store: &Store) -> anyhow::Result<()> {
    let settings = Settings::new("migrate")
        .with("statement_timeout", "0")
        .with("lock_timeout", LOCK_TIMEOUT)
        // Notices of existing objects are expected.
        .with("client_min_messages", "warning")
        // A migration may be slow; a warning about it would log its whole text.
        .without_statement_logging();
    let mut connection = store.connect(&settings).await?;
    let before = schema_status(&mut connection).await?;
    if !matches!(before, SchemaStatus::Compatible { .. }) {
        migrations::run(&mut connection).await?;
        exclude_older_releases(&mut connection).await?;
    }
    if matches!(before, SchemaStatus::Older { found: None, .. }) {
        match store.finish_upgrade().await {
            // Then other processes use it already, and it waits for `migrate --finish` like any other.
            Ok(()) | Err(FinishError::OlderSessions(_) | FinishError::Schema(_)) => {}
            Err(FinishError::Store(error)) => return Err(error.into()),
        }
    }
    let missing = ensure_receipt_partitions(store).await?;
    if !missing.is_empty() {
        tracing::warn!(
            "the receipt partitions {} could not be created, the sweeper tries again",
            missing.join(", ")
        );
    }
    Ok(())
}

impl Store {
    /// The status of the database's schema.
    pub async fn schema_status(&self) -> Result<SchemaStatus> {
        schema_status(&mut *self.acquire().await?).await
    }
}

/// Creates the missing receipt partitions of the coming months. Returns the names of those that could not be created
/// now. It waits for each lock only a fraction of a second.
pub async fn ensure_receipt_partitions(store: &Store) -> Result<Vec<String>> {
    // One month at a time, so that a month's locks are released before the next month waits.
    let mut connection = store.acquire().await?;
    for month in missing_receipt_months(&mut connection).await? {
        sqlx::query!("select ensure_receipt_partitions($1, 1)", month)
            .fetch_one(&mut *connection)
            .await?;
    }
    let missing = missing_receipt_months(&mut connection).await?;
    Ok(missing
        .into_iter()
        .map(|month| month.format("%Y-%m").to_string())
        .collect())
}

/// The coming months that have no receipt partition, in order.
pub async fn missing_receipt_months(connection: &mut PgConnection) -> Result<Vec<NaiveDate>> {
    Ok(sqlx::query_scalar!(
        r#"select month::date as "month!"
             from generate_series(date_trunc('month', clock_timestamp() at time zone 'UTC'),
                                  date_trunc('month', clock_timestamp() at time zone 'UTC') + make_interval(months => $1 - 1),
                                  interval '1 month') month
            where to_regclass('ride_receipt_' || to_char(month, 'YYYY_MM')) is null
            order by month"#,
        PARTITION_MONTHS
    )
    .fetch_all(connection)
    .await?)
}

/// How many receipts are in the default partition, counted up to 10,000. They are of months that had no partition of
/// their own when the first ride was recorded.
pub async fn receipts_in_default_partition(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from ride_receipt_other limit 10000) stray"#
    )
    .fetch_one(connection)
    .await?)
}
