//! The newest record of each key of the status topic, in a temporary table, so that memory does not grow with the
//! topic.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;

use super::{Result, Store};
use crate::domain::ParticipationKey;
use crate::domain::{PromotionId, UserId};
use crate::postgres::Settings;

/// A record of the status topic.
#[derive(Clone, Debug)]
pub struct PublishedRecord {
    /// Its key.
    pub key: ParticipationKey,
    /// Its partition.
    pub partition: i32,
    /// Its value; `None` for a tombstone.
    pub event: Option<Value>,
}

/// The newest records so far.
#[derive(Debug)]
pub struct StatusNewest {
    pub(super) connection: PgConnection,
}

impl Store {
    /// Creates the table, in a session that is named after its purpose.
    pub async fn status_newest(&self, purpose: &str) -> Result<StatusNewest> {
        let mut connection = self
            // One statement may read very many rows.
            .connect(&Settings::new(purpose).with("statement_timeout", "0"))
            .await?;
        sqlx::raw_sql(
            "create temporary table status_newest (
                 user_id      bigint  not null,
                 promotion_id bigint  not null,
                 partition    integer not null,
                 version      integer not null,
                 event        jsonb,
                 primary key (user_id, promotion_id))",
        )
        .execute(&mut connection)
        .await?;
        Ok(StatusNewest { connection })
    }
}

impl StatusNewest {
    /// Takes records in the order of their offsets: the last of a key stays. If a key is in several partitions, as
    /// after a change of their number, the highest version stays.
    pub async fn take(&mut self, records: &[PublishedRecord]) -> Result<()> {
        let mut newest: BTreeMap<ParticipationKey, &PublishedRecord> = BTreeMap::new();
        for record in records {
            match newest.get(&record.key) {
                Some(other)
                    if other.partition != record.partition && version(other) > version(record) => {}
                _ => drop(newest.insert(record.key, record)),
            }
        }
        let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = newest.keys().copied().unzip();
        let partitions: Vec<i32> = newest.values().map(|record| record.partition).collect();
        let versions: Vec<i32> = newest.values().map(|record| version(record)).collect();
        let events: Vec<Option<Value>> =
            newest.values().map(|record| record.event.clone()).collect();
        // Not checked at compile time: the table exists only in this session.
        sqlx::query(
            "insert into status_newest
             select * from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::jsonb[])
             on conflict (user_id, promotion_id) do update
                set partition = excluded.partition, version = excluded.version, event = excluded.event
              where status_newest.partition = excluded.partition or status_newest.version <= excluded.version",
        )
        .bind(&users)
        .bind(&promotions)
        .bind(&partitions)
        .bind(&versions)
        .bind(&events)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// The newest version of each of these keys: 0 for a tombstone, no entry if the topic has no record.
    pub async fn versions(
        &mut self,
        keys: &[ParticipationKey],
    ) -> Result<BTreeMap<ParticipationKey, i32>> {
        let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
        let rows: Vec<(UserId, PromotionId, i32)> = sqlx::query_as(
            "select user_id, promotion_id, version from status_newest
              where (user_id, promotion_id) in (select * from unnest($1::bigint[], $2::bigint[]))",
        )
        .bind(&users)
        .bind(&promotions)
        .fetch_all(&mut self.connection)
        .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|(user_id, promotion_id, version)| ((user_id, promotion_id), version))
            .collect())
    }

    /// Keys with a state in the topic that the database does not know: it has no participation, no record of a lost
    /// one, and no tombstone that waits. Those after `after`, at most `limit`, with the topic's version.
    pub async fn unknown_here(
        &mut self,
        user_id: Option<UserId>,
        after: Option<ParticipationKey>,
        limit: i64,
    ) -> Result<Vec<(ParticipationKey, i32)>> {
        let (after_user, after_promotion) = after.unwrap_or((0, 0));
        let rows: Vec<(UserId, PromotionId, i32)> = sqlx::query_as(
            "select n.user_id, n.promotion_id, n.version from status_newest n
              where n.version > 0 and (n.user_id, n.promotion_id) > ($1, $2) and ($3::bigint is null or n.user_id = $3)
                and not exists (select from promotion_user p
                                 where p.user_id = n.user_id and p.promotion_id = n.promotion_id)
                and not exists (select from version_floor f
                                 where f.user_id = n.user_id and f.promotion_id = n.promotion_id and f.version >= n.version)
                and not exists (select from event_outbox e
                                 where e.user_id = n.user_id and e.promotion_id = n.promotion_id
                                   and e.type is null and e.reminder is null)
              order by n.user_id, n.promotion_id limit $4",
        )
        .bind(after_user)
        .bind(after_promotion)
        .bind(user_id)
        .bind(limit)
        .fetch_all(&mut self.connection)
        .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|(user_id, promotion_id, version)| ((user_id, promotion_id), version))
            .collect())
    }
}

/// The version of a record; a tombstone is lower than every version.
fn version(record: &PublishedRecord) -> i32 {
    let version = record
        .event
        .as_ref()
        .and_then(|event| event["version"].as_i64());
    version
        .and_then(|version| version.try_into().ok())
        .unwrap_or(0)
}
