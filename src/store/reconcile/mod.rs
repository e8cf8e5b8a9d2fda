//! Compares the participations with the newest record of each in the status topic, after a restore to an earlier
//! moment. Memory holds one page of keys, however many there are.

mod compare;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{Acquire as _, PgConnection};

use self::compare::{Newest, StoredKey, compare, name};
use super::audit::{self, Author};
use super::outbox::{ShardLease, packet};
use super::republish::{Lift, lift, publish_again};
use super::state::state_of;
use super::status_newest::StatusNewest;
use super::{Result, Store, StoreError};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::postgres::SESSION_NAME;
use crate::wire::promotion_status::PromotionStatus;

pub use self::compare::Difference;

/// The purpose in the session names of this command.
pub const PURPOSE: &str = "reconcile";

/// Keys compared in one transaction.
const PAGE: i64 = 500;

/// A reward that only the status topic has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldReward {
    /// The client.
    pub user_id: UserId,
    /// The promotion.
    pub promotion_id: PromotionId,
    /// The topic's version.
    pub version: i32,
    /// When it was recorded.
    pub noted_at: Instant,
}

/// A page of the comparison.
#[derive(Clone, Debug)]
pub struct ComparedPage {
    /// The differences, in key order.
    pub differences: Vec<(ParticipationKey, Difference)>,
    /// The last key of the page; `None` if there was none.
    pub last: Option<ParticipationKey>,
}

/// The keys that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The keys of the topic.
    Topic,
    /// The keys that only the database has.
    Database,
}

/// A running reconciliation: a session with the topic's newest records, and the relay's locks.
#[derive(Debug)]
pub struct Reconciliation {
    newest: StatusNewest,
    leases: Vec<ShardLease>,
    store: Store,
    audit_id: Option<i64>,
    applied: BTreeMap<&'static str, u64>,
}

impl Store {
    /// The names of this service's other sessions in this database.
    pub async fn other_sessions(&self) -> Result<Vec<String>> {
        let own = format!("{SESSION_NAME} {PURPOSE}");
        Ok(sqlx::query_scalar!(
            r#"select distinct application_name as "name!" from pg_stat_activity
                where datname = current_database() and application_name like 'ride-promo%' and application_name <> $1
                order by 1"#,
            own
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// Takes the relay's lock on every shard and begins; `None` if a relay holds one.
    pub async fn begin_reconciliation(&self) -> Result<Option<Reconciliation>> {
        self.require_finished_upgrade().await?;
        let mut leases = Vec::new();
        for shard in self.shards().await? {
            match self.try_lease_shard(shard, PURPOSE).await? {
                Some(lease) => leases.push(lease),
                None => return Ok(None),
            }
        }
        Ok(Some(Reconciliation {
            newest: self.status_newest(PURPOSE).await?,
            leases,
            store: self.clone(),
            audit_id: None,
            applied: BTreeMap::new(),
        }))
    }

    /// The held rewards by key, with the time and the topic's version; at most `limit`.
    pub async fn held_rewards(&self, limit: i64) -> Result<Vec<HeldReward>> {
        Ok(sqlx::query_as!(
            HeldReward,
            "select user_id, promotion_id, version, noted_at from held_reward where loss_accepted_at is null
              order by user_id, promotion_id limit $1",
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// The operator's decision that rewards which only the status topic has are lost: the client may start and
    /// accept again. Returns how many were held.
    pub async fn accept_loss(&self, user_id: UserId, author: &Author) -> Result<u64> {
        let author = author.clone();
        self.run_tx("accept_loss", move |connection| {
            let author = author.clone();
            Box::pin(async move {
                let accepted = sqlx::query!(
                    "update held_reward set loss_accepted_at = clock_ms() where user_id = $1 and loss_accepted_at is null
                     returning promotion_id, event",
                    user_id
                )
                .fetch_all(&mut *connection)
                .await?;
                for row in &accepted {
                    let before = json!({ "user_id": user_id, "promotion_id": row.promotion_id, "event": row.event });
                    audit::record(connection, &author, Some(before), None).await?;
                }
                Ok(accepted.len() as u64)
            })
        })
        .await
    }
}

impl Reconciliation {
    /// The table that takes the topic's newest records.
    pub fn newest(&mut self) -> &mut StatusNewest {
        &mut self.newest
    }

    /// Compares the next keys of a side, those after `after`. If `apply` is given, it corrects the differences and
    /// names the operator for the audit.
    pub async fn compare(
        &mut self,
        side: Side,
        after: Option<ParticipationKey>,
        apply: Option<&Author>,
    ) -> Result<ComparedPage> {
        // A lock is lost with its session: an error here means that a relay may publish.
        for lease in &mut self.leases {
            lease.check().await?;
        }
        let mut tx = self.newest.connection.begin().await?;
        let keys = match side {
            Side::Topic => topic_keys(&mut tx, after).await?,
            Side::Database => database_keys(&mut tx, after).await?,
        };
        let last = keys.keys().next_back().copied();
        let mut here = read_here(&mut tx, &keys).await?;
        let mut differences = Vec::new();
        for (key, event) in &keys {
            let here = here.entry(*key).or_default();
            let event = event.as_ref().map(Option::as_ref);
            let newest = match event {
                Some(Some(event)) => Newest::State(&event.state),
                Some(None) => Newest::Tombstone,
                None => Newest::Nothing,
            };
            for difference in compare(newest, here) {
                differences.push((*key, difference));
            }
        }
        if let Some(author) = apply {
            put_right(&mut tx, &differences, &keys, &here).await?;
            for (_, difference) in &differences {
                *self.applied.entry(name(difference)).or_default() += 1;
            }
            if !differences.is_empty() {
                let after = json!(self.applied);
                match self.audit_id {
                    Some(audit_id) => audit::progress(&mut tx, audit_id, after).await?,
                    None => {
                        let begun = audit::begin(&mut tx, author, None, Some(after));
                        self.audit_id = Some(begun.await?);
                    }
                }
            }
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(ComparedPage { differences, last })
    }

    /// Releases the relay's locks.
    pub async fn end(self) {
        for lease in self.leases {
            lease.release().await;
        }
        drop(self.store);
    }
}

/// Keys with the topic's newest event: `None` if it has none, `Some(None)` for a tombstone.
type Keys = BTreeMap<ParticipationKey, Option<Option<PromotionStatus>>>;

async fn topic_keys(
    connection: &mut PgConnection,
    after: Option<ParticipationKey>,
) -> Result<Keys> {
    let (user_id, promotion_id) = after.unwrap_or((0, 0));
    let rows: Vec<(i64, i64, Option<Value>)> = sqlx::query_as(
        "select user_id, promotion_id, event from status_newest
          where (user_id, promotion_id) > ($1, $2) order by user_id, promotion_id limit $3",
    )
    .bind(user_id)
    .bind(promotion_id)
    .bind(PAGE)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(user_id, promotion_id, event)| {
            let event = event.map(serde_json::from_value).transpose();
            let event = event.map_err(|error| {
                StoreError::Corrupt(format!("the event of {user_id}:{promotion_id}: {error}"))
            })?;
            Ok(((user_id, promotion_id), Some(event)))
        })
        .collect()
}

async fn database_keys(
    connection: &mut PgConnection,
    after: Option<ParticipationKey>,
) -> Result<Keys> {
    let (user_id, promotion_id) = after.unwrap_or((0, 0));
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "select p.user_id, p.promotion_id from promotion_user p
          where (p.user_id, p.promotion_id) > ($1, $2)
            and not exists (select from status_newest t where t.user_id = p.user_id and t.promotion_id = p.promotion_id)
          order by p.user_id, p.promotion_id limit $3",
    )
    .bind(user_id)
    .bind(promotion_id)
    .bind(PAGE)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|key| (key, None)).collect())
}

/// What the database has for these keys. Their participations are locked from here on.
async fn read_here(
    connection: &mut PgConnection,
    keys: &Keys,
) -> Result<BTreeMap<ParticipationKey, StoredKey>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.keys().copied().unzip();
    let mut here: BTreeMap<ParticipationKey, StoredKey> = BTreeMap::new();
    let rows = sqlx::query!(
        r#"select p.user_id, p.promotion_id, m.promotion_key, p.status as "status: StatusName", p.version, p.rides_completed,
                  p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>", p.started_at, p.challenge_deadline, p.completed_at, p.reward_deadline, p.rewarded_at,
                  p.expired_at, p.expired_reason as "expired_reason: ExpiredReason", p.reward as "reward: Json<Reward>",
                  p.last_event_version is not distinct from p.version as "is_known!"
             from promotion_user p
             join promotion m using (promotion_id)
             join unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
               on v.user_id = p.user_id and v.promotion_id = p.promotion_id
            order by p.user_id, p.promotion_id
              for update of p"#,
        &users,
        &promotions
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let (key, is_known) = ((row.user_id, row.promotion_id), row.is_known);
        here.entry(key).or_default().stored = Some((state_of!(row)?, is_known));
    }
    let noted = sqlx::query!(
        r#"select v.user_id as "user_id!", v.promotion_id as "promotion_id!", f.version as "floor?", h.version as "held?"
             from unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
             left join version_floor f on f.user_id = v.user_id and f.promotion_id = v.promotion_id
             left join held_reward h on h.user_id = v.user_id and h.promotion_id = v.promotion_id
            where f.version is not null or h.version is not null"#,
        &users,
        &promotions
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in noted {
        let entry = here.entry((row.user_id, row.promotion_id)).or_default();
        (entry.floor, entry.held) = (row.floor, row.held);
    }
    let waiting = sqlx::query!(
        r#"select w.user_id as "user_id!", w.promotion_id as "promotion_id!", max(w.version) as version,
                  bool_or(w.is_tombstone) as "forgetting!"
             from waiting_event w
            where w.id > (select min(published_upto) from relay_shard)
              and w.user_id = any($1) and (w.user_id, w.promotion_id) in (select * from unnest($1::bigint[], $2::bigint[]))
            group by w.user_id, w.promotion_id"#,
        &users,
        &promotions
    )
    .fetch_all(connection)
    .await?;
    for row in waiting {
        let entry = here.entry((row.user_id, row.promotion_id)).or_default();
        (entry.waiting, entry.forgetting) = (row.version, row.forgetting);
    }
    Ok(here)
}

async fn put_right(
    connection: &mut PgConnection,
    differences: &[(ParticipationKey, Difference)],
    keys: &Keys,
    here: &BTreeMap<ParticipationKey, StoredKey>,
) -> Result<()> {
    let mut lifts = Vec::new();
    let mut again = Vec::new();
    let mut stale = BTreeSet::new();
    for (key, difference) in differences {
        let stored = here.get(key).and_then(|here| here.stored.as_ref());
        match (*difference, stored) {
            (Difference::Lags { to, .. }, Some((state, _))) => {
                stale.insert(*key);
                lifts.push(Lift {
                    key: *key,
                    status: state.status.name(),
                    version: to,
                });
            }
            (Difference::Unpublished { .. }, Some((_, true))) => again.push(*key),
            (Difference::Unpublished { .. }, Some((state, false))) => lifts.push(Lift {
                key: *key,
                status: state.status.name(),
                version: state.version + 1,
            }),
            (Difference::Missing { published }, _) => {
                note_floor(connection, *key, published).await?
            }
            (Difference::RewardLost { published }, _) => {
                let event = keys.get(key).and_then(|event| event.as_ref()?.as_ref());
                hold(connection, *key, published, event).await?;
            }
            (Difference::Erased | Difference::Lags { .. } | Difference::Unpublished { .. }, _) => {}
        }
    }
    // Waiting events of these keys are older than the topic's, and would become the last of their key.
    let stale: Vec<ParticipationKey> = stale.into_iter().collect();
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = stale.iter().copied().unzip();
    sqlx::query!(
        "delete from event_outbox e using unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
          where e.user_id = v.user_id and e.promotion_id = v.promotion_id and e.reminder is null",
        &users,
        &promotions
    )
    .execute(&mut *connection)
    .await?;
    packet::remove(connection, &stale).await?;
    lift(connection, &lifts).await?;
    publish_again(connection, &again).await?;
    Ok(())
}

async fn note_floor(
    connection: &mut PgConnection,
    (user_id, promotion_id): ParticipationKey,
    version: i32,
) -> Result<()> {
    sqlx::query!(
        "insert into version_floor (user_id, promotion_id, version) values ($1, $2, $3)
         on conflict (user_id, promotion_id) do update
            set version = greatest(version_floor.version, excluded.version), noted_at = excluded.noted_at",
        user_id,
        promotion_id,
        version
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn hold(
    connection: &mut PgConnection,
    (user_id, promotion_id): ParticipationKey,
    version: i32,
    event: Option<&PromotionStatus>,
) -> Result<()> {
    sqlx::query!(
        "insert into held_reward (user_id, promotion_id, version, event) values ($1, $2, $3, $4)
         on conflict (user_id, promotion_id) do update
            set version = excluded.version, event = excluded.event, noted_at = excluded.noted_at, loss_accepted_at = null",
        user_id,
        promotion_id,
        version,
        json!(event)
    )
    .execute(connection)
    .await?;
    Ok(())
}
