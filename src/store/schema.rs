//! The schema's version: applied by `migrate`, demanded by `serve`.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPool;

use super::{Result, Store};

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// How many months of receipt partitions `migrate` and the sweeper keep ready.
const PARTITION_MONTHS: i32 = 12;

/// Where a database stands against the schema this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaStatus {
    /// Exactly the one known here, this version.
    Current(i64),
    /// Empty or behind: `migrate` first.
    Older {
        /// The last migration applied, if any.
        found: Option<i64>,
        /// The one needed.
        needed: i64,
    },
    /// Migrated by a newer program, or with other migrations than ours.
    Newer {
        /// The last migration applied.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
}

impl std::fmt::Display for SchemaStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Current(version) => write!(f, "schema version {version}"),
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
                    "the database's schema is version {found}, not one of those known here (up to {known}): use the release that made it, or a newer one"
                )
            }
        }
    }
}

/// Reads where the database stands.
pub async fn schema_status(pool: &PgPool) -> Result<SchemaStatus> {
    let known = MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    // Not a checked query: the table is sqlx's own and not there before the first migration.
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !there {
        return Ok(SchemaStatus::Older {
            found: None,
            needed: known,
        });
    }
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(pool)
            .await?;
    let found = applied.last().map(|(version, ..)| *version);
    let foreign = applied.iter().any(|(version, success, checksum)| {
        !success
            || !MIGRATOR
                .iter()
                .any(|ours| ours.version == *version && *ours.checksum == **checksum)
    });
    Ok(match found {
        Some(found) if foreign => SchemaStatus::Newer { found, known },
        Some(found) if found == known => SchemaStatus::Current(known),
        found => SchemaStatus::Older {
            found,
            needed: known,
        },
    })
}

/// How many challenges in progress carry a transaction id that this server has not given out yet,
/// as after a restore from another server's dump. Ingest takes these for news with every batch;
/// [`RESET_LIVE_XIDS`] puts it right, also while it runs.
pub async fn foreign_live_xids(pool: &PgPool) -> Result<i64> {
    // A row that is visible here was written by a transaction before this snapshot's end.
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from promotion_user
            where status = 'IN_PROGRESS' and live_xid >= pg_snapshot_xmax(pg_current_snapshot())"#
    )
    .fetch_one(pool)
    .await?)
}

/// What an operator runs where [`foreign_live_xids`] finds some.
pub const RESET_LIVE_XIDS: &str = "update promotion_user set live_xid = pg_current_xact_id() \
     where status = 'IN_PROGRESS' and live_xid >= pg_snapshot_xmax(pg_current_snapshot())";

/// Applies every migration that is missing, one process at a time, and makes the coming months'
/// receipt partitions.
pub async fn migrate(store: &Store) -> anyhow::Result<()> {
    let mut connection = sqlx::ConnectOptions::connect(
        &store
            .options()
            .clone()
            .options([("statement_timeout", "0"), ("lock_timeout", "0")]),
    )
    .await?;
    MIGRATOR.run(&mut connection).await?;
    ensure_receipt_partitions(store).await?;
    Ok(())
}

/// Makes the receipt partitions of the coming months.
pub async fn ensure_receipt_partitions(store: &Store) -> Result<()> {
    sqlx::query!(
        "select ensure_receipt_partitions((clock_timestamp() at time zone 'UTC')::date, $1)",
        PARTITION_MONTHS
    )
    .fetch_one(store.pool())
    .await?;
    Ok(())
}
