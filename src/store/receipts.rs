//! Moves a month's receipts from the default partition into a partition of their own.
//!
//! A partition cannot be attached while the default partition has rows of its range; and while rows are in neither,
//! their rides could count twice. So the rows are copied and stay in place, a trigger keeps the copies equal to
//! them, and one short transaction puts the copies in their place.

use std::time::{Duration, Instant as Monotonic};

use anyhow::{Context as _, ensure};
use chrono::{Datelike as _, Months, NaiveDate};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::Store;
use super::audit::{self, Author};
use super::migrations::{LOCK_TIMEOUT, has_code};
use crate::postgres::Settings;

/// How many receipts are copied in one transaction.
const BATCH: i64 = 5_000;

/// The pause between two attempts to get a lock, and how long attempts continue.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_FOR: Duration = Duration::from_secs(10 * 60);

/// The advisory lock that is held while receipts are moved: "RPMM" in ASCII.
const MOVING_LOCK: i64 = 0x5250_4d4d;

/// The result of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedReceipts {
    /// Receipts that are in their month's partition now.
    pub moved: i64,
    /// Receipts of other months, which stay in the default partition.
    pub left: i64,
}

/// A month's partition, which is built as a separate table first.
#[derive(Clone, Debug)]
struct Target {
    table: String,
    /// The condition of the receipts that belong there.
    range: String,
    bounds: String,
}

impl Target {
    fn new(month: NaiveDate) -> anyhow::Result<Self> {
        ensure!(month.day() == 1, "{month} is not the first of a month");
        let next = month
            .checked_add_months(Months::new(1))
            .context("a month within the calendar")?;
        Ok(Self {
            table: format!("ride_receipt_{}", month.format("%Y_%m")),
            range: format!("receipts_month >= '{month}' and receipts_month < '{next}'"),
            bounds: format!("from ('{month}') to ('{next}')"),
        })
    }
}

/// Moves the receipts of these months, each given by its first day, while all processes run. It must be run by the
/// owner of the tables. If it is interrupted, its copies are not used, and it can be run again.
pub async fn move_months(
    store: &Store,
    months: &[NaiveDate],
    author: &Author,
) -> anyhow::Result<MovedReceipts> {
    let targets = months
        .iter()
        .map(|month| Target::new(*month))
        .collect::<anyhow::Result<Vec<Target>>>()?;
    let settings = Settings::new("receipts")
        .with("statement_timeout", "0")
        .with("lock_timeout", LOCK_TIMEOUT)
        .without_statement_logging();
    let mut connection = store.connect(&settings).await?;
    let is_alone: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(MOVING_LOCK)
        .fetch_one(&mut connection)
        .await?;
    ensure!(is_alone, "receipts are being moved by another process");
    for target in &targets {
        let attached: bool = sqlx::query_scalar(
            "select exists (select from pg_inherits where inhrelid = to_regclass($1))",
        )
        .bind(&target.table)
        .fetch_one(&mut connection)
        .await?;
        ensure!(!attached, "{} is a partition already", target.table);
        // Tables of an earlier attempt are created again. Another table of that name may hold data of others.
        let foreign: bool = sqlx::query_scalar(
            "select to_regclass($1) is not null
                and not exists (select from pg_constraint
                                 where conrelid = to_regclass($1) and conname = 'moving_receipts')",
        )
        .bind(&target.table)
        .fetch_one(&mut connection)
        .await?;
        ensure!(
            !foreign,
            "a table {} exists and is not a partition: rename or drop it first",
            target.table
        );
    }
    let prepare = prepare(&mut connection, &targets).await?;
    locking(&mut connection, &prepare).await?;
    copy(&mut connection, &targets).await?;
    let moved = compare(&mut connection, &targets).await?;
    let swap = swap(&targets);
    locking_with(&mut connection, &swap, async |connection| {
        let after = json!({ "months": months, "moved": moved.moved, "left": moved.left });
        audit::record(connection, author, None, Some(after)).await
    })
    .await?;
    connection.close().await?;
    Ok(moved)
}

/// Creates the tables, after dropping those of an earlier attempt, and the trigger that keeps the copies equal.
async fn prepare(connection: &mut PgConnection, targets: &[Target]) -> anyhow::Result<String> {
    let schema: String = sqlx::query_scalar("select quote_ident(current_schema())")
        .fetch_one(connection)
        .await?;
    let mut sql = String::from(
        "drop trigger if exists moving_receipts on ride_receipt_other;
         drop table if exists ride_receipt_other_next;
         create table ride_receipt_other_next (like ride_receipt including all);\n",
    );
    let mut place_old = String::new();
    let mut place_new = String::new();
    for Target { table, range, .. } in targets {
        sql.push_str(&format!(
            "drop table if exists {table};
             create table {table} (like ride_receipt including all, constraint moving_receipts check ({range}));\n"
        ));
        for (place, row) in [(&mut place_old, "old"), (&mut place_new, "new")] {
            let range = range.replace("receipts_month", &format!("{row}.receipts_month"));
            place.push_str(&format!("when {range} then '{table}' "));
        }
    }
    let is_row =
        "user_id = ($1).user_id and promotion_id = ($1).promotion_id and ride_id = ($1).ride_id
                  and receipts_month = ($1).receipts_month";
    sql.push_str(&format!(
        "create or replace function mirror_moving_receipt() returns trigger
             language plpgsql security definer set search_path = {schema}, pg_temp
             as $mirror$
         begin
             if tg_op <> 'INSERT' then
                 execute format('delete from %I where {is_row}',
                                case {place_old} else 'ride_receipt_other_next' end) using old;
             end if;
             if tg_op <> 'DELETE' then
                 execute format('insert into %I select ($1).*',
                                case {place_new} else 'ride_receipt_other_next' end) using new;
             end if;
             return null;
         end
         $mirror$;
         create trigger moving_receipts after insert or update or delete on ride_receipt_other
             for each row execute function mirror_moving_receipt();"
    ));
    Ok(sql)
}

/// Copies the rows from before the trigger, in bounded transactions. It waits for a row that is being changed or
/// deleted. When a row changes after it was copied, the trigger changes the copy.
async fn copy(connection: &mut PgConnection, targets: &[Target]) -> anyhow::Result<()> {
    let mut sql = String::from(
        "with batch as materialized (
             select * from ride_receipt_other
              where (user_id, promotion_id, ride_id, receipts_month) > ($1, $2, $3, $4)
              order by user_id, promotion_id, ride_id, receipts_month
              limit $5
                for share)",
    );
    let mut others = String::from("true");
    for (index, Target { table, range, .. }) in targets.iter().enumerate() {
        sql.push_str(&format!(
            ", copied_{index} as (insert into {table} select * from batch where {range} on conflict do nothing)"
        ));
        others.push_str(&format!(" and not ({range})"));
    }
    sql.push_str(&format!(
        ", left_over as (insert into ride_receipt_other_next select * from batch where {others} on conflict do nothing)
         select user_id, promotion_id, ride_id, receipts_month from batch
          order by user_id desc, promotion_id desc, ride_id desc, receipts_month desc limit 1"
    ));
    let mut last = (0_i64, 0_i64, Uuid::nil(), NaiveDate::MIN);
    loop {
        // Waits for a writer's transaction; nothing waits for this one meanwhile.
        let batch = sqlx::query_as(AssertSqlSafe(sql.clone()))
            .bind(last.0)
            .bind(last.1)
            .bind(last.2)
            .bind(last.3.max(EARLIEST))
            .bind(BATCH)
            .fetch_optional(&mut *connection)
            .await;
        match batch {
            Ok(Some(end)) => last = end,
            Ok(None) => return Ok(()),
            Err(error) => {
                let error = error.into();
                if !has_code(&error, &["55P03", "40P01"]) {
                    return Err(error);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Earlier than any receipt, and a valid date of Postgres.
const EARLIEST: NaiveDate = match NaiveDate::from_ymd_opt(1970, 1, 1) {
    Some(date) => date,
    None => NaiveDate::MIN,
};

/// Compares the counts in one snapshot: the copies must have exactly the rows of the default partition.
async fn compare(
    connection: &mut PgConnection,
    targets: &[Target],
) -> anyhow::Result<MovedReceipts> {
    let copies: Vec<String> = targets
        .iter()
        .map(|target| format!("(select count(*) from {})", target.table))
        .collect();
    let sql = format!(
        "select (select count(*) from ride_receipt_other), {}, (select count(*) from ride_receipt_other_next)",
        copies.join(" + ")
    );
    let (there, moved, left): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?;
    ensure!(
        there == moved + left,
        "{there} receipts were to be copied, and {} were: nothing is changed",
        moved + left
    );
    Ok(MovedReceipts { moved, left })
}

/// The statements that replace the default partition by the copies.
fn swap(targets: &[Target]) -> String {
    let mut sql = String::from("alter table ride_receipt detach partition ride_receipt_other;\n");
    for Target { table, bounds, .. } in targets {
        // Its check proves that all its rows belong there, so attaching does not read it.
        sql.push_str(&format!(
            "alter table ride_receipt attach partition {table} for values {bounds};
             alter table {table} drop constraint moving_receipts;\n"
        ));
    }
    sql.push_str(
        "do $grants$
         declare
             held record;
         begin
             for held in select a.grantee::regrole::text as grantee, a.privilege_type as privilege
                           from pg_class c, aclexplode(c.relacl) a
                          where c.oid = 'ride_receipt_other'::regclass and a.grantee <> 0 loop
                 execute format('grant %s on ride_receipt_other_next to %s', held.privilege, held.grantee);
             end loop;
         end
         $grants$;
         drop table ride_receipt_other;
         alter table ride_receipt_other_next rename to ride_receipt_other;
         alter index ride_receipt_other_next_pkey rename to ride_receipt_other_pkey;
         alter table ride_receipt attach partition ride_receipt_other default;
         drop function mirror_moving_receipt();",
    );
    sql
}

async fn locking(connection: &mut PgConnection, sql: &str) -> anyhow::Result<()> {
    locking_with(connection, sql, async |_| Ok(())).await
}

/// Runs statements that lock tables, and something after them, in one transaction. Repeats it if a lock was not
/// available at once.
async fn locking_with(
    connection: &mut PgConnection,
    sql: &str,
    then: impl AsyncFn(&mut PgConnection) -> super::Result<()>,
) -> anyhow::Result<()> {
    let began = Monotonic::now();
    loop {
        let tried = async {
            let mut tx = connection.begin().await?;
            tx.execute(AssertSqlSafe(sql.to_owned())).await?;
            then(&mut tx).await?;
            tx.commit().await?;
            anyhow::Ok(())
        };
        let Err(error) = tried.await else {
            return Ok(());
        };
        if !has_code(&error, &["55P03", "40P01"]) {
            return Err(error);
        }
        let waited = began.elapsed().as_secs();
        if began.elapsed() >= RETRY_FOR {
            return Err(error.context(format!(
                "a lock was not available for {waited} s; is a pg_dump running? Run the command again after it"
            )));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
