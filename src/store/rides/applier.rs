//! The session that applies batches, with the set of live clients, and its one transaction:
//! position fence, new participations, quarantine, judging; all or nothing.

use std::time::Duration;

use futures::TryStreamExt as _;
use hashbrown::HashSet;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use uuid::Uuid;

use super::changes::Outbox;
use super::judging::{Terms, judge_and_record};
use super::reversals::mark_ended;
use super::{Applied, Batch, Carry, Counts, Incoming, QuarantinedRecord};
use crate::domain::participation::RideOutcome;
use crate::domain::ride::{Reversal, RideRecord, RideSource};
use crate::domain::{Instant, UserId};
use crate::postgres::{self, State};
use crate::store::error::not_writable;
use crate::store::upgrade::upgrade_is_finished;
use crate::store::{Result, Store, identity, span};
use crate::wire::ride_completed::QuarantineReason;

/// How long opening a session may take: it loads the clients with a challenge in progress, by a
/// statement that has a limit of five minutes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(330);

/// A database session that applies batches, with the set of clients that have a challenge in
/// progress. The set is exact as of each transaction because Postgres itself tells what became
/// visible since the last one (see [`RideApplier::apply`]). It dies with the session: after a crash
/// Postgres hands out the same transaction ids again, so a new session loads it anew.
#[derive(Debug)]
pub struct RideApplier {
    connection: PgConnection,
    options: PgConnectOptions,
    live: HashSet<UserId>,
    /// The `pg_snapshot` up to which `live` is complete.
    snapshot: String,
    terms: Terms,
    /// Whether what the release before cannot read may be written: asked until it is so.
    is_upgraded: bool,
}

impl RideApplier {
    /// Opens a session and loads the clients with a challenge in progress.
    pub async fn connect(store: &Store) -> Result<Self> {
        let (mut connection, snapshot) = store.session_from_now("ingest").await?;
        identity::ensure_accepted(&mut connection).await?;
        // Who has started since the snapshot is loaded, and is news once more. In pieces, because one
        // array of everybody would be held several times over.
        let mut live = HashSet::new();
        let mut tx = connection.begin().await?;
        // Longer than a statement of a batch may take: there may be very many.
        sqlx::query!("select set_config('statement_timeout', '5min', true)")
            .fetch_one(&mut *tx)
            .await?;
        let mut pieces = sqlx::query_scalar!(
            r#"select array_agg(user_id) as "users!" from promotion_user
                where status = 'IN_PROGRESS' group by user_id % 256"#
        )
        .fetch(&mut *tx);
        while let Some(users) = pieces.try_next().await? {
            live.extend(users);
        }
        drop(pieces);
        tx.commit().await?;
        Ok(Self {
            connection,
            options: store.options(),
            live,
            snapshot,
            terms: Terms::default(),
            is_upgraded: false,
        })
    }

    /// How many clients may have a challenge in progress.
    pub fn live_clients(&self) -> usize {
        self.live.len()
    }

    /// The database's clock. Fails where the session is on a server that takes no writes.
    pub async fn look(&mut self) -> Result<Instant> {
        match postgres::state(&mut self.connection).await? {
            State::Primary => {}
            State::Standby | State::ReadOnly => return Err(not_writable()),
        }
        Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// Applies a batch in one transaction. After an error the session must be given up; whether
    /// the batch was committed is then unknown, and applying it again finds out: its fence fails.
    ///
    /// `carry` is called once for each change that a ride with a `traceparent` caused, and may
    /// return what is handed on in its stead.
    pub async fn apply(&mut self, batch: &Batch, carry: &mut Carry<'_>) -> Result<Applied> {
        let options = self.options.clone();
        span::traced("apply_rides", &options, self.transaction(batch, carry)).await
    }

    async fn transaction(&mut self, batch: &Batch, carry: &mut Carry<'_>) -> Result<Applied> {
        let Self {
            connection,
            options: _,
            live,
            snapshot,
            terms,
            is_upgraded,
        } = self;
        let mut tx = connection.begin().await?;
        if !advance_positions(&mut tx, batch).await? {
            tx.rollback().await?;
            return Ok(Applied::Fenced);
        }
        // What is visible now and was not at the last snapshot was written by a transaction that was
        // not yet begun then (from its xmax on) or running (in its list). Ordered, and as ranges, so that the planner
        // takes no other index whatever it thinks is in the table. In one statement with its
        // own snapshot, and after the fence: what commits later is seen by the next batch, and any
        // ride read after that commit is in that batch or a later one.
        let news = sqlx::query!(
            r#"select pg_current_snapshot()::text as "snapshot!", clock_ms() as "now!",
                      (select array_agg(user_id)
                         from ((select user_id from promotion_user
                                 where status = 'IN_PROGRESS' and live_xid >= pg_snapshot_xmax($1::text::pg_snapshot)
                                 order by live_xid)
                               union all
                               select p.user_id
                                 from unnest(array(select pg_snapshot_xip($1::text::pg_snapshot))) x (xid)
                                cross join lateral (select user_id from promotion_user
                                                     where status = 'IN_PROGRESS' and live_xid >= x.xid and live_xid <= x.xid
                                                     order by live_xid) p) news) as users"#,
            snapshot.as_str()
        )
        .fetch_one(&mut *tx)
        .await?;
        let now_at = std::time::Instant::now();
        live.extend(news.users.unwrap_or_default());
        *snapshot = news.snapshot;

        insert_quarantined(&mut tx, batch, &batch.quarantined).await?;
        *is_upgraded = *is_upgraded || upgrade_is_finished(&mut tx).await?;
        let reversals = if batch.raw_reversals.is_empty() {
            Vec::new()
        } else {
            batch.reversals()
        };
        let quarantines = !reversals.is_empty() && !*is_upgraded;
        if quarantines {
            insert_quarantined(&mut tx, batch, &batch.raw_reversals).await?;
        }

        let mut candidates: Vec<&Incoming> = batch
            .records
            .iter()
            .filter(|incoming| live.contains(&incoming.user_id()))
            .filter(|incoming| !quarantines || matches!(incoming.record, RideRecord::Completed(_)))
            .collect();
        // Stable, so each client's records stay in offset order.
        candidates.sort_by_key(|incoming| incoming.user_id());
        let outbox = if *is_upgraded {
            Outbox::Packets
        } else {
            Outbox::Rows
        };
        let source = RideSource::Topic;
        let outcomes = judge_and_record(&mut tx, terms, &candidates, source, outbox, carry).await?;
        if !quarantines {
            mark_ended(&mut tx, &reversals).await?;
        }
        tx.commit().await?;

        let mut counts = Counts::default();
        if quarantines {
            counts.quarantined_reversals = reversals.len() as u64;
        } else {
            counts.reversals = reversals.len() as u64;
        }
        for (incoming, outcome) in candidates.iter().zip(&outcomes) {
            match outcome {
                Some(RideOutcome::Judged { judgement, .. }) => {
                    counts.judged[judgement.verdict as usize] += 1;
                }
                Some(RideOutcome::Duplicate { differs }) => {
                    counts.duplicates += 1;
                    counts.duplicates_differing += u64::from(*differs);
                }
                Some(
                    RideOutcome::Reversed { .. }
                    | RideOutcome::ReversedBefore
                    | RideOutcome::NotInProgress,
                ) => {}
                // A locked read later than the set's snapshot has shown nothing in progress.
                // What starts after it is news to the next batch.
                None => {
                    live.remove(&incoming.user_id());
                }
            }
        }
        let recorded = counts.judged.iter().sum::<u64>() + counts.duplicates;
        counts.no_participation = (batch.records.len() - reversals.len()) as u64 - recorded;
        Ok(Applied::Committed {
            counts,
            now: news.now,
            now_at,
        })
    }
}

impl Batch {
    fn reversals(&self) -> Vec<Reversal> {
        let records = self.records.iter();
        records
            .filter_map(|incoming| match incoming.record {
                RideRecord::Reversed(reversal) => Some(reversal),
                RideRecord::Completed(_) => None,
            })
            .collect()
    }
}

/// The fence: moves every position of the batch from where it was read to where it ends, or none.
async fn advance_positions(tx: &mut PgConnection, batch: &Batch) -> Result<bool> {
    let partitions: Vec<i32> = batch.ranges.iter().map(|range| range.partition).collect();
    let from: Vec<i64> = batch.ranges.iter().map(|range| range.from).collect();
    let generations: Vec<i64> = batch.ranges.iter().map(|range| range.generation).collect();
    let to: Vec<i64> = batch.ranges.iter().map(|range| range.to).collect();
    let anchors = || batch.ranges.iter().map(|range| range.anchor);
    let epochs: Vec<Option<i32>> = anchors().map(|anchor| anchor.leader_epoch).collect();
    let (records, fingerprints): (Vec<Option<i64>>, Vec<Option<i64>>) = anchors()
        .map(|anchor| anchor.record.map(|mark| (mark.offset, mark.fingerprint)))
        .map(Option::unzip)
        .unzip();
    // Locked in order first: `update … from unnest` alone locks in the order of its join, and two
    // consumers that both think they own the partitions would deadlock.
    let advanced = sqlx::query!(
        "with locked as materialized (
             select partition, next_offset, generation, stopped_reason from consumer_position
              where topic = $1 and cluster_id = $2 and topic_id = $3 and partition = any($4)
              order by partition for update)
         update consumer_position p
            set next_offset = v.upto, updated_at = clock_ms(),
                leader_epoch = v.leader_epoch, epoch_offset = v.upto,
                record_offset = coalesce(v.record_offset, p.record_offset),
                record_fingerprint = coalesce(v.record_fingerprint, p.record_fingerprint)
           from unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::int[], $9::bigint[], $10::bigint[])
                v (partition, expected, generation, upto, leader_epoch, record_offset, record_fingerprint)
           join locked l on l.partition = v.partition
          where p.topic = $1 and p.partition = v.partition
            and l.next_offset = v.expected and p.next_offset = v.expected
            and l.generation = v.generation and p.generation = v.generation and l.stopped_reason is null",
        batch.source.topic,
        batch.source.cluster_id,
        batch.source.topic_id,
        &partitions,
        &from,
        &generations,
        &to,
        &epochs as &[Option<i32>],
        &records as &[Option<i64>],
        &fingerprints as &[Option<i64>]
    )
    .execute(tx)
    .await?
    .rows_affected();
    Ok(advanced == batch.ranges.len() as u64)
}

async fn insert_quarantined(
    tx: &mut PgConnection,
    batch: &Batch,
    records: &[QuarantinedRecord],
) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = records.iter().map(|_| Uuid::now_v7()).collect();
    let partitions: Vec<i32> = records.iter().map(|record| record.partition).collect();
    let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
    let keys: Vec<Option<&[u8]>> = records.iter().map(|record| record.key.as_deref()).collect();
    let values: Vec<&[u8]> = records
        .iter()
        .map(|record| record.value.as_slice())
        .collect();
    let users: Vec<Option<UserId>> = records.iter().map(|record| record.user_id).collect();
    let reasons: Vec<QuarantineReason> = records.iter().map(|record| record.reason).collect();
    let details: Vec<&str> = records
        .iter()
        .map(|record| record.detail.as_str())
        .collect();
    // Once per record, also when an operator has the topic read again.
    sqlx::query!(
        r#"insert into quarantined_ride (topic, topic_id, quarantine_id, partition, "offset", key, value, user_id, reason, detail, received_at)
           select $1, $2, v.*, clock_ms()
             from unnest($3::uuid[], $4::int[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bigint[], $9::text[], $10::text[]) v
           on conflict (topic, topic_id, partition, "offset") do nothing"#,
        batch.source.topic,
        batch.source.topic_id,
        &ids,
        &partitions,
        &offsets,
        &keys as &[Option<&[u8]>],
        &values as &[&[u8]],
        &users as &[Option<UserId>],
        &reasons as &[QuarantineReason],
        &details as &[&str]
    )
    .execute(tx)
    .await?;
    Ok(())
}
