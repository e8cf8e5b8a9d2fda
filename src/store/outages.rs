//! Records when the API last reached this database, and the outages that this shows (contract, "Outages").

use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Result, Store};
use crate::domain::Instant;
use crate::wire::extension::OutageView;

/// A longer time in which no process of the API reached Postgres is an outage.
const LONGEST_GAP: TimeDelta = TimeDelta::minutes(5);

/// The most outages that are kept, the newest.
const MAX_OUTAGES: i64 = 1_000;

impl Store {
    /// Records that a process with the role `api` has reached this database now, and the outage that this ends, if
    /// any. Not before an upgrade is finished: processes of the release before record nothing, so their time
    /// would seem to be an outage.
    pub async fn note_presence(&self) -> Result<()> {
        if !self.upgrade_is_finished().await? {
            return Ok(());
        }
        // Nearly always no outage has ended, and one statement does it.
        let noted = sqlx::query!(
            "update api_presence set reached_at = greatest(reached_at, clock_ms())
              where clock_ms() - reached_at <= $1",
            LONGEST_GAP as TimeDelta
        )
        .execute(&mut *self.acquire().await?)
        .await?
        .rows_affected();
        if noted == 1 {
            return Ok(());
        }
        self.run_tx("note_presence", |connection| {
            Box::pin(async move {
                let reached = sqlx::query_scalar!("select reached_at from api_presence for update")
                    .fetch_optional(&mut *connection)
                    .await?;
                let now = sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
                    .fetch_one(&mut *connection)
                    .await?;
                let outage = reached.filter(|reached| now - *reached > LONGEST_GAP);
                if let Some(reached) = outage {
                    insert(connection, reached, now).await?;
                    sqlx::query!(
                        "delete from outage where number <= (select number from outage order by number desc offset $1 limit 1)",
                        MAX_OUTAGES
                    )
                    .execute(&mut *connection)
                    .await?;
                    tracing::warn!(from = %reached, to = %now, "the API could not reach postgres for a time; the admin API lists it as an outage");
                }
                sqlx::query!(
                    "insert into api_presence (reached_at) values ($1)
                     on conflict (one_row) do update set reached_at = greatest(api_presence.reached_at, excluded.reached_at)",
                    now
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Records an outage of the past: the demo shows one and has no time for a real one.
    pub async fn note_outage(&self, from: Instant, to: Instant) -> Result<()> {
        insert(&mut *self.acquire().await?, from, to).await
    }

    /// A page of outages, newest first: those before the number `before`, at most `limit`, each with its number.
    pub async fn outages(&self, before: Option<i64>, limit: i64) -> Result<Vec<(i64, OutageView)>> {
        let rows = sqlx::query!(
            "select number, outage_id, began_at, ended_at from outage
              where $1::bigint is null or number < $1
              order by number desc
              limit $2",
            before,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        let outages = rows.into_iter().map(|row| {
            let outage = OutageView {
                outage_id: row.outage_id,
                from: row.began_at,
                to: row.ended_at,
            };
            (row.number, outage)
        });
        Ok(outages.collect())
    }
}

async fn insert(connection: &mut PgConnection, from: Instant, to: Instant) -> Result<()> {
    sqlx::query!(
        "insert into outage (outage_id, began_at, ended_at) values ($1, $2, $3)",
        Uuid::now_v7(),
        from,
        to
    )
    .execute(connection)
    .await?;
    Ok(())
}
