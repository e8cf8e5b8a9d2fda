//! The outbox: status changes and reminders that wait to be published.

pub(super) mod packet;

use std::collections::HashMap;
use std::time::{Duration, Instant as Monotonic};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use self::packet::Packet;
use super::low_watermark::LowWatermark;
use super::state::state_of;
use super::{Result, Store, StoreError, TRANSACTION_TIMEOUT, identity, timed_out, within};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{Instant, PromotionId, UserId};
use crate::postgres::Settings;
use crate::wire::extension::DeadlineMove;
use crate::wire::promotion_status::{EventType, PromotionStatus};
use crate::wire::reminder::Reminder;

/// The class of this service's advisory locks on shards: "RPRL" in ASCII.
const SHARD_LOCKS: i32 = 0x5250_524c;

/// Bounds each request by [`TRANSACTION_TIMEOUT`]. After it the server counts as lost, and the session is dropped.
async fn in_time<T, E: Into<StoreError>>(
    answer: impl Future<Output = std::result::Result<T, E>>,
) -> Result<T> {
    within(TRANSACTION_TIMEOUT, async {
        answer.await.map_err(Into::into)
    })
    .await
}

/// The content of a record in the outbox. Its kind decides the topic.
#[derive(Clone, Debug)]
pub enum RecordContent {
    /// A status change.
    Status(Box<PromotionStatus>),
    /// A tombstone for the status topic: forget this key.
    Tombstone,
    /// A reminder, for the topic of reminders.
    Reminder {
        /// Its value.
        reminder: Box<Reminder>,
        /// The moment at which it was due.
        due_at: Instant,
    },
}

/// A record in the outbox.
#[derive(Clone, Debug)]
pub struct OutboxRecord {
    /// The id of its row. A row may hold several records. The ids of one participation are in the order of
    /// its versions.
    pub id: i64,
    /// The client.
    pub user_id: UserId,
    /// The promotion.
    pub promotion_id: PromotionId,
    /// The content to publish.
    pub content: RecordContent,
    /// The trace that caused it.
    pub traceparent: Option<String>,
}

/// How old the outbox's oldest event is: the database's clock, and the event's moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxAge {
    /// Its clock.
    pub now: Instant,
    /// When the oldest unpublished event happened; `None` if the outbox is empty.
    pub oldest_unpublished: Option<Instant>,
}

/// The hold on a shard: an advisory lock that lives exactly as long as this database session. Every
/// read and delete uses the same session, so a relay that has lost the lock gets an error.
#[derive(Debug)]
pub struct ShardLease {
    connection: PgConnection,
    shard: i16,
    published: LowWatermark,
}

/// The interval between two reads of the transactions that write to the outbox.
const WRITERS_INTERVAL: Duration = Duration::from_secs(1);

/// How many times a read is tried if packets change during it.
const MAX_READS: u32 = 10;

/// The stored low watermark is updated once it lags behind the relay's own by this many ids.
const TELL_EVERY: i64 = 5_000;

/// The columns of a row that has a state.
struct Columns {
    user_id: UserId,
    promotion_id: PromotionId,
    promotion_key: String,
    status: StatusName,
    version: i32,
    rides_completed: i32,
    rides_target: i32,
    further_goals: Option<Json<FurtherGoals>>,
    started_at: Instant,
    challenge_deadline: Instant,
    completed_at: Option<Instant>,
    reward_deadline: Option<Instant>,
    rewarded_at: Option<Instant>,
    expired_at: Option<Instant>,
    expired_reason: Option<ExpiredReason>,
    reward: Json<Reward>,
}

fn lacks(id: i64, column: &str) -> StoreError {
    StoreError::Corrupt(format!("event_outbox {id} lacks {column}"))
}

impl Store {
    /// The shards. There is one, and every row of the outbox is in it.
    pub async fn shards(&self) -> Result<Vec<i16>> {
        Ok(
            sqlx::query_scalar!("select shard from relay_shard order by shard")
                .fetch_all(&mut *self.acquire().await?)
                .await?,
        )
    }

    /// Takes a shard. While another relay holds it, tries again every `interval` and calls `standby` each
    /// time.
    pub async fn lease_shard(
        &self,
        shard: i16,
        interval: Duration,
        standby: impl Fn(),
    ) -> Result<ShardLease> {
        let mut connection = self.connect(&Settings::new("relay")).await?;
        loop {
            if try_lock(&mut connection, shard).await? {
                // A promoted standby that lagged may lack events that were published already.
                in_time(identity::ensure_accepted(&mut connection)).await?;
                return ShardLease::of(connection, shard).await;
            }
            standby();
            tokio::time::sleep(interval).await;
        }
    }

    /// Takes a shard if no relay holds it. The session's name contains `purpose`.
    pub(super) async fn try_lease_shard(
        &self,
        shard: i16,
        purpose: &str,
    ) -> Result<Option<ShardLease>> {
        let mut connection = self.connect(&Settings::new(purpose)).await?;
        let taken = try_lock(&mut connection, shard).await?;
        if !taken {
            return Ok(None);
        }
        Ok(Some(ShardLease::of(connection, shard).await?))
    }

    /// Reads the database's clock and the oldest unpublished event, in one cheap statement.
    pub async fn pulse(&self) -> Result<OutboxAge> {
        Ok(sqlx::query_as!(
            OutboxAge,
            r#"select clock_ms() as "now!",
                      (select occurred_at from event_outbox
                        where id > (select min(published_upto) from relay_shard)
                        order by id limit 1) as "oldest_unpublished?""#
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?)
    }

    /// How many events wait, and how old the oldest is, in seconds. They are counted in the first
    /// `MAX_COUNTED` rows, so that counting stays cheap. If there are more rows, the number is a lower bound:
    /// the events of those rows, or the ids between the first and the last row where that is more.
    pub async fn outbox_depth(&self) -> Result<(i64, f64)> {
        const MAX_COUNTED: i64 = 10_000;
        let row = sqlx::query!(
            r#"with waiting as materialized (
                   select id, occurred_at, events from event_outbox
                    where id > (select min(published_upto) from relay_shard)
                    order by id limit $1)
               select coalesce(sum(events), 0) as "counted!",
                      case when count(*) = $1
                           then (select id from event_outbox order by id desc limit 1) - min(id) + 1 end as span,
                      coalesce(extract(epoch from clock_timestamp() - min(occurred_at))::float8, 0) as "oldest!"
                 from waiting"#,
            MAX_COUNTED
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        let depth = row.span.map_or(row.counted, |span| span.max(row.counted));
        Ok((depth, row.oldest.max(0.0)))
    }
}

async fn try_lock(connection: &mut PgConnection, shard: i16) -> Result<bool> {
    let taken = sqlx::query_scalar!(
        r#"select pg_try_advisory_lock($1, $2) as "taken!""#,
        SHARD_LOCKS,
        i32::from(shard)
    );
    in_time(taken.fetch_one(connection)).await
}

/// Appends a tombstone for each of these keys of a client, after the events of the key that still wait.
/// Returns their number.
pub(super) async fn enqueue_tombstones(
    connection: &mut PgConnection,
    user_id: UserId,
    promotions: &[PromotionId],
) -> Result<u64> {
    let event_ids: Vec<Uuid> = promotions.iter().map(|_| Uuid::now_v7()).collect();
    let written = sqlx::query!(
        "insert into event_outbox (event_id, user_id, promotion_id, occurred_at)
         select event_id, $1, promotion_id, clock_ms() from unnest($2::uuid[], $3::bigint[]) v (event_id, promotion_id)
          order by promotion_id",
        user_id,
        &event_ids,
        promotions
    )
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}

impl ShardLease {
    /// The lease of a session that already holds the lock.
    async fn of(mut connection: PgConnection, shard: i16) -> Result<Self> {
        let published = sqlx::query_scalar!(
            "select published_upto from relay_shard where shard = $1",
            shard
        );
        let upto = in_time(published.fetch_one(&mut connection)).await?;
        Ok(Self {
            connection,
            shard,
            published: LowWatermark::behind(upto),
        })
    }

    /// Fails if the session, and the lock with it, is lost.
    pub(super) async fn check(&mut self) -> Result<()> {
        in_time(self.connection.ping()).await
    }

    /// The oldest events of the shard, in order. Rows are read until they have `limit` events; the
    /// last one may have more.
    pub async fn read(&mut self, limit: i64) -> Result<Vec<OutboxRecord>> {
        for _ in 0..MAX_READS {
            if let Some(events) = self.try_read(limit).await? {
                return Ok(events);
            }
        }
        Err(timed_out())
    }

    /// `None` where an erasure has taken a client's events out of a packet between the two statements: it
    /// may have removed a later row of theirs too, which was read before.
    async fn try_read(&mut self, limit: i64) -> Result<Option<Vec<OutboxRecord>>> {
        if self.published.is_due(WRITERS_INTERVAL) {
            let writers = self.writers().await?;
            self.published.hear(writers);
            self.published.asked = Some(Monotonic::now());
        }
        let rows = sqlx::query!(
            r#"select e.id as "id!", e.events as "events!", e.packet_event_ids is not null as "is_packet!", e.event_id,
                      e.type as "event_type: EventType", e.user_id, e.promotion_id, m.promotion_key as "promotion_key?",
                      e.status as "status: StatusName", e.previous_status as "previous_status: StatusName", e.version,
                      e.rides_completed, e.rides_target, e.further_goals as "further_goals: Json<FurtherGoals>", e.started_at,
                      e.challenge_deadline, e.completed_at, e.reward_deadline, e.rewarded_at, e.expired_at,
                      e.expired_reason as "expired_reason: ExpiredReason", e.reward as "reward: Json<Reward>",
                      e.occurred_at as "occurred_at!", e.traceparent, e.extension as "extension: Json<DeadlineMove>",
                      e.reminder as "reminder: Json<Reminder>", e.reminder_due_at
                 from (select *, sum(events) over (order by id) - events as events_before
                         from (select * from event_outbox where shard = $1 and id > $3 order by id limit $2) oldest) e
                 left join promotion m using (promotion_id)
                where e.events_before < $2
                order by e.id"#,
            self.shard,
            limit,
            self.published.upto
        );
        let rows = in_time(rows.fetch_all(&mut self.connection)).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let events: i64 = rows.iter().map(|row| i64::from(row.events)).sum();
        self.published.have_read(&ids, events < limit);
        if ids.is_empty() {
            self.tell().await?;
        }
        let packets = rows.iter().filter(|row| row.is_packet).map(|row| row.id);
        let mut packets = self.packets(packets.collect()).await?;
        let mut events = Vec::with_capacity(usize::try_from(events).unwrap_or_default());
        for row in rows {
            if row.is_packet {
                let mut packet = packets.remove(&row.id).unwrap_or_default();
                if i32::try_from(packet.len()) != Ok(row.events) {
                    return Ok(None);
                }
                events.append(&mut packet);
                continue;
            }
            let (Some(user_id), Some(promotion_id)) = (row.user_id, row.promotion_id) else {
                return Err(lacks(row.id, "user_id or promotion_id"));
            };
            let mut pending = OutboxRecord {
                id: row.id,
                user_id,
                promotion_id,
                content: RecordContent::Tombstone,
                traceparent: row.traceparent,
            };
            if let Some((reminder, due_at)) = row.reminder.zip(row.reminder_due_at) {
                let reminder = Box::new(reminder.0);
                pending.content = RecordContent::Reminder { reminder, due_at };
            }
            if let Some(event_type) = row.event_type {
                // The table's checks guarantee these for every status change.
                macro_rules! there {
                    ($($field:ident),+) => {
                        Columns { $($field: row.$field.ok_or_else(|| lacks(row.id, stringify!($field)))?,)+
                            user_id, promotion_id, completed_at: row.completed_at,
                            reward_deadline: row.reward_deadline, rewarded_at: row.rewarded_at,
                            expired_at: row.expired_at, expired_reason: row.expired_reason, further_goals: row.further_goals }
                    };
                }
                let columns = there!(
                    promotion_key,
                    status,
                    version,
                    rides_completed,
                    rides_target,
                    started_at,
                    challenge_deadline,
                    reward
                );
                pending.content = RecordContent::Status(Box::new(PromotionStatus {
                    event_id: row.event_id.ok_or_else(|| lacks(row.id, "event_id"))?,
                    event_type,
                    state: state_of!(columns)?,
                    previous_status: row.previous_status,
                    occurred_at: row.occurred_at,
                    extension: row.extension.map(|Json(moved)| moved),
                }));
            }
            events.push(pending);
        }
        Ok(Some(events))
    }

    /// The events of these packets. A packet that was removed meanwhile has none.
    async fn packets(&mut self, ids: Vec<i64>) -> Result<HashMap<i64, Vec<OutboxRecord>>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let packets = sqlx::query_as!(
            Packet,
            r#"select id, occurred_at, packet_event_ids as "event_ids!", packet_user_ids as "user_ids!",
                      packet_promotion_ids as "promotion_ids!", packet_versions as "versions!",
                      packet_rides_completed as "rides_completed!", packet_rides_targets as "rides_targets!",
                      packet_started_at as "started_at!", packet_challenge_deadlines as "challenge_deadlines!",
                      packet_rewards as "rewards!: Json<Vec<Reward>>", packet_reward_of as "reward_of!",
                      packet_further_goals as "further_goals: Vec<Option<Json<FurtherGoals>>>",
                      packet_traceparents as "traceparents: Vec<Option<String>>"
                 from event_outbox where id = any($1)"#,
            &ids
        );
        let packets = in_time(packets.fetch_all(&mut self.connection)).await?;
        let mut promotions: Vec<PromotionId> = packets
            .iter()
            .flat_map(|packet| packet.promotion_ids.iter().copied())
            .collect();
        promotions.sort_unstable();
        promotions.dedup();
        let keys = sqlx::query!(
            "select promotion_id, promotion_key from promotion where promotion_id = any($1)",
            &promotions
        );
        let keys = in_time(keys.fetch_all(&mut self.connection)).await?;
        let keys = keys
            .into_iter()
            .map(|row| (row.promotion_id, row.promotion_key))
            .collect();
        let packets = packets.into_iter();
        packets
            .map(|packet| Ok((packet.id, packet.events(&keys)?)))
            .collect()
    }

    /// Deletes exactly these published rows. A range of ids would not do, because ids become visible out of
    /// order.
    pub async fn delete(&mut self, ids: &[i64]) -> Result<()> {
        let deleted = sqlx::query!(
            "delete from event_outbox where shard = $1 and id = any($2)",
            self.shard,
            ids
        );
        in_time(deleted.execute(&mut self.connection)).await?;
        self.published.have_deleted(ids.len());
        self.tell().await
    }

    /// Stores the low watermark, for the next relay and other readers. It does so rarely, because each update leaves a dead row.
    async fn tell(&mut self) -> Result<()> {
        let upto = self.published.upto;
        if upto < self.published.told + TELL_EVERY {
            return Ok(());
        }
        let told = sqlx::query!(
            "update relay_shard set published_upto = $2 where shard = $1 and published_upto < $2",
            self.shard,
            upto
        );
        in_time(told.execute(&mut self.connection)).await?;
        self.published.told = upto;
        Ok(())
    }

    /// The other transactions that have written to the outbox or hold the lock to do so.
    async fn writers(&mut self) -> Result<Vec<String>> {
        let writers = sqlx::query_scalar!(
            r#"select virtualtransaction as "writer!" from pg_locks
                where locktype = 'relation' and mode = 'RowExclusiveLock' and granted
                  and database = (select oid from pg_database where datname = current_database())
                  and relation = 'event_outbox'::regclass
                  and pid is distinct from pg_backend_pid()"#
        );
        in_time(writers.fetch_all(&mut self.connection)).await
    }

    /// Gives the shard back.
    pub async fn release(self) {
        // If this fails, the session is lost, and with it the lock.
        let _ = self.connection.close().await;
    }
}
