//! The one transaction of a batch of rides: position fence, quarantine, judgement, receipts,
//! participations and outbox, all or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDate;
use futures::TryStreamExt as _;
use hashbrown::HashSet;
use serde_json::Value;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use uuid::Uuid;

use super::participations::Receipt;
use super::{Result, Store, StoreError, must_be_all, span};
use crate::domain::participation::{Challenge, Outcome, Status, StatusName};
use crate::domain::promotion::{Conditions, Verdict};
use crate::domain::ride::Ride;
use crate::domain::source::Source;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::promotion_status::EventType;
use crate::wire::quarantine::ReplayOutcome;
use crate::wire::ride_completed::QuarantineReason;

/// How many distinct frozen conditions are kept at hand; more are read again when needed.
const MOST_TERMS: usize = 10_000;

/// A ride as it came.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The ride.
    pub ride: Ride,
    /// The trace it came with, handed on to the status change it causes.
    pub traceparent: Option<Traceparent>,
}

/// A W3C `traceparent`, kept as it came. Every ride may bring one and few change anything, so that
/// of the present version lies where the ride lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Of version 00, which has this length.
    Present([u8; 55]),
    /// Of a version to come.
    Later(Box<str>),
}

impl From<&str> for Traceparent {
    fn from(text: &str) -> Self {
        Self(match text.as_bytes().try_into() {
            Ok(bytes) => Form::Present(bytes),
            Err(_) => Form::Later(text.into()),
        })
    }
}

impl Traceparent {
    /// As it came.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was text when it was taken.
            Form::Present(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Form::Later(text) => text,
        }
    }
}

/// A record that is not a ride.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Where it came from.
    pub partition: i32,
    /// Where it came from.
    pub offset: i64,
    /// The record's key as it came.
    pub key: Option<Vec<u8>>,
    /// The record's value as it came.
    pub value: Vec<u8>,
    /// Its client, where one can be told.
    pub user_id: Option<UserId>,
    /// Why it is not a ride.
    pub reason: QuarantineReason,
    /// The same in words.
    pub detail: String,
}

/// The part of a partition that a batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// The position's generation when reading began.
    pub generation: i64,
    /// The stored position this batch follows on.
    pub from: i64,
    /// The position after it.
    pub to: i64,
}

/// What is applied together. Rides are in offset order within their partitions.
#[derive(Debug)]
pub struct Batch {
    /// Where it was read.
    pub source: Arc<Source>,
    /// What it covers, each partition once.
    pub ranges: Vec<Range>,
    /// The valid rides.
    pub rides: Vec<Incoming>,
    /// The records that are none.
    pub quarantined: Vec<Quarantined>,
    /// How many records had no value.
    pub tombstones: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Applied {
    /// It is durable.
    Committed {
        /// Which ride went which way.
        counts: Counts,
        /// The database's clock within the transaction.
        now: Instant,
        /// Ours at the same moment.
        now_at: std::time::Instant,
    },
    /// Another consumer, or an operator, has moved a position: nothing was changed, and the
    /// positions must be read again.
    Fenced,
}

/// A change of a participation, and the trace of the ride that caused it.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// The ride's W3C `traceparent`.
    pub traceparent: &'a str,
    /// Whose participation.
    pub user_id: UserId,
    /// In which promotion.
    pub promotion_id: PromotionId,
}

/// Answers the `traceparent` to hand on instead of a ride's own; `None` leaves it as it came.
pub type Carry<'a> = dyn FnMut(&Cause<'_>) -> Option<String> + Send + 'a;

/// How many of a batch's rides went which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Judged and recorded, by [`Verdict::ALL`]'s order.
    pub judged: [u64; Verdict::ALL.len()],
    /// Recorded before.
    pub duplicates: u64,
    /// Of the duplicates, those that now say something else.
    pub duplicates_differing: u64,
    /// Of nobody with a challenge in progress.
    pub no_participation: u64,
}

impl Counts {
    /// How many rides were of participants, the part that costs.
    pub fn of_participants(&self) -> u64 {
        self.judged.iter().sum::<u64>() + self.duplicates
    }
}

/// What became of a single ride.
#[derive(Clone, Debug)]
pub enum AppliedOne {
    /// Judged and recorded.
    Applied(Receipt),
    /// Recorded before.
    Duplicate(Receipt),
    /// The client has no challenge in progress.
    NoParticipation,
}

impl AppliedOne {
    /// Its word.
    pub fn outcome(&self) -> ReplayOutcome {
        match self {
            Self::Applied(_) => ReplayOutcome::Applied,
            Self::Duplicate(_) => ReplayOutcome::Duplicate,
            Self::NoParticipation => ReplayOutcome::NoParticipation,
        }
    }

    /// The receipt that the ride has, where it has one.
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Applied(receipt) | Self::Duplicate(receipt) => Some(receipt),
            Self::NoParticipation => None,
        }
    }
}

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
}

impl RideApplier {
    /// Opens a session and loads the clients with a challenge in progress.
    pub async fn connect(store: &Store) -> Result<Self> {
        let (mut connection, snapshot) = store.session_from_now("ride-promo ingest").await?;
        // Who has started since the snapshot is loaded, and is news once more. In pieces, because one
        // array of everybody would be held several times over.
        let mut live = HashSet::new();
        let mut pieces = sqlx::query_scalar!(
            r#"select array_agg(user_id) as "users!" from promotion_user
                where status = 'IN_PROGRESS' group by user_id % 256"#
        )
        .fetch(&mut connection);
        while let Some(users) = pieces.try_next().await? {
            live.extend(users);
        }
        drop(pieces);
        Ok(Self {
            connection,
            options: store.options().clone(),
            live,
            snapshot,
            terms: Terms::default(),
        })
    }

    /// How many clients may have a challenge in progress.
    pub fn live_clients(&self) -> usize {
        self.live.len()
    }

    /// The database's clock.
    pub async fn now(&mut self) -> Result<Instant> {
        Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// Applies a batch in one transaction. After an error the session must be given up; whether
    /// the batch was committed is then unknown, and applying it again finds out: its fence fails.
    pub async fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        self.apply_traced(batch, &mut |_| None).await
    }

    /// As [`RideApplier::apply`]; `carry` is asked once for each change that a ride with a
    /// `traceparent` caused, and may answer what is handed on in its stead.
    pub async fn apply_traced(&mut self, batch: &Batch, carry: &mut Carry<'_>) -> Result<Applied> {
        let options = self.options.clone();
        span::traced("apply_rides", &options, self.apply_in_tx(batch, carry)).await
    }

    async fn apply_in_tx(&mut self, batch: &Batch, carry: &mut Carry<'_>) -> Result<Applied> {
        let Self {
            connection,
            options: _,
            live,
            snapshot,
            terms,
        } = self;
        let mut tx = connection.begin().await?;
        if !advance_positions(&mut tx, batch).await? {
            tx.rollback().await?;
            return Ok(Applied::Fenced);
        }
        // A row visible now and not at the last snapshot was written by a transaction that was
        // running or not yet begun then, so its xid is not below that snapshot's xmin. In one
        // statement with its own snapshot, and after the fence: what commits later is seen by the
        // next batch, and any ride read after that commit is in that batch or a later one.
        let news = sqlx::query!(
            r#"select pg_current_snapshot()::text as "snapshot!", clock_ms() as "now!",
                      (select array_agg(user_id) from promotion_user
                        where status = 'IN_PROGRESS'
                          and live_xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                          and not pg_visible_in_snapshot(live_xid, $1::text::pg_snapshot)) as users"#,
            snapshot.as_str()
        )
        .fetch_one(&mut *tx)
        .await?;
        let now_at = std::time::Instant::now();
        live.extend(news.users.unwrap_or_default());
        *snapshot = news.snapshot;

        insert_quarantined(&mut tx, batch).await?;

        let mut candidates: Vec<&Incoming> = batch
            .rides
            .iter()
            .filter(|incoming| live.contains(&incoming.ride.user_id))
            .collect();
        // Stable, so each client's rides stay in offset order.
        candidates.sort_by_key(|incoming| incoming.ride.user_id);
        let outcomes = apply_rides(&mut tx, terms, &candidates, carry).await?;
        tx.commit().await?;

        let mut counts = Counts {
            no_participation: (batch.rides.len() - candidates.len()) as u64,
            ..Counts::default()
        };
        for (incoming, outcome) in candidates.iter().zip(&outcomes) {
            match outcome {
                Some(Outcome::Judged(judgement)) => counts.judged[judgement.verdict as usize] += 1,
                Some(Outcome::Duplicate { differs }) => {
                    counts.duplicates += 1;
                    counts.duplicates_differing += u64::from(*differs);
                }
                Some(Outcome::NotInProgress) => counts.no_participation += 1,
                None => {
                    // A locked read later than the set's snapshot has shown nothing in progress.
                    // What starts after it is news to the next batch.
                    live.remove(&incoming.ride.user_id);
                    counts.no_participation += 1;
                }
            }
        }
        Ok(Applied::Committed {
            counts,
            now: news.now,
            now_at,
        })
    }
}

/// The fence: moves every position of the batch from where it was read to where it ends, or none.
async fn advance_positions(tx: &mut PgConnection, batch: &Batch) -> Result<bool> {
    let partitions: Vec<i32> = batch.ranges.iter().map(|range| range.partition).collect();
    let from: Vec<i64> = batch.ranges.iter().map(|range| range.from).collect();
    let generations: Vec<i64> = batch.ranges.iter().map(|range| range.generation).collect();
    let to: Vec<i64> = batch.ranges.iter().map(|range| range.to).collect();
    // Locked in order first: `update … from unnest` alone locks in the order of its join, and two
    // consumers that both think they own the partitions would deadlock.
    let advanced = sqlx::query!(
        "with locked as materialized (
             select partition, next_offset, generation from consumer_position
              where topic = $1 and cluster_id = $2 and topic_id = $3 and partition = any($4)
              order by partition for update)
         update consumer_position p set next_offset = v.upto, updated_at = clock_ms()
           from unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[]) v (partition, expected, generation, upto)
           join locked l on l.partition = v.partition
          where p.topic = $1 and p.partition = v.partition
            and l.next_offset = v.expected and p.next_offset = v.expected
            and l.generation = v.generation and p.generation = v.generation",
        batch.source.topic,
        batch.source.cluster_id,
        batch.source.topic_id,
        &partitions,
        &from,
        &generations,
        &to
    )
    .execute(tx)
    .await?
    .rows_affected();
    Ok(advanced == batch.ranges.len() as u64)
}

async fn insert_quarantined(tx: &mut PgConnection, batch: &Batch) -> Result<()> {
    let records = &batch.quarantined;
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

/// Frozen conditions by their row; immutable, so never stale.
#[derive(Debug, Default)]
struct Terms(HashMap<i64, Arc<Conditions>>);

impl Terms {
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        needed: impl Iterator<Item = i64>,
    ) -> Result<()> {
        if self.0.len() > MOST_TERMS {
            self.0.clear();
        }
        let mut missing: Vec<i64> = needed.filter(|id| !self.0.contains_key(id)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        for row in sqlx::query!(
            "select terms_id, conditions from promotion_terms where terms_id = any($1)",
            &missing
        )
        .fetch_all(connection)
        .await?
        {
            let (conditions, unknown) =
                Conditions::from_frozen(&row.conditions).map_err(|errors| {
                    StoreError::Corrupt(format!("promotion_terms {}: {errors:?}", row.terms_id))
                })?;
            if !unknown.is_empty() {
                tracing::warn!(
                    terms_id = row.terms_id,
                    fields = unknown.join(", "),
                    "frozen conditions have fields that this release does not know: it ignores them"
                );
            }
            self.0.insert(row.terms_id, Arc::new(conditions));
        }
        Ok(())
    }

    fn get(&self, terms_id: i64) -> Result<Arc<Conditions>> {
        self.0
            .get(&terms_id)
            .cloned()
            .ok_or_else(|| StoreError::Corrupt(format!("promotion_terms {terms_id} is missing")))
    }
}

struct Locked {
    user_id: UserId,
    promotion_id: PromotionId,
    terms_id: i64,
    version: i32,
    rides_completed: i32,
    started_at: Instant,
    challenge_deadline: Instant,
    receipts_month: NaiveDate,
}

/// Applies rides, sorted by client, to the challenges that are in progress: locks them in key
/// order, judges what was not recorded before, writes receipts, progress and events. Answers what
/// became of each ride, `None` where its client has no challenge in progress.
async fn apply_rides(
    connection: &mut PgConnection,
    terms: &mut Terms,
    rides: &[&Incoming],
    carry: &mut Carry<'_>,
) -> Result<Vec<Option<Outcome>>> {
    let mut users: Vec<UserId> = rides.iter().map(|incoming| incoming.ride.user_id).collect();
    users.dedup();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let locked = sqlx::query_as!(
        Locked,
        "select user_id, promotion_id, terms_id, version, rides_completed, started_at, challenge_deadline, receipts_month
           from promotion_user
          where user_id = any($1) and status = 'IN_PROGRESS'
          order by user_id, promotion_id
            for update",
        &users
    )
    .fetch_all(&mut *connection)
    .await?;
    if locked.is_empty() {
        return Ok(vec![None; rides.len()]);
    }
    terms
        .load(connection, locked.iter().map(|row| row.terms_id))
        .await?;

    // A client has at most one live participation (a unique index), so rides and locked rows,
    // both sorted by client, are walked together.
    let mut work: Vec<Work<'_>> = Vec::with_capacity(locked.len());
    let mut next = 0;
    for row in locked {
        while next < rides.len() && rides[next].ride.user_id < row.user_id {
            next += 1;
        }
        let first = next;
        while next < rides.len() && rides[next].ride.user_id == row.user_id {
            next += 1;
        }
        work.push(Work {
            conditions: terms.get(row.terms_id)?,
            row,
            first,
            rides: &rides[first..next],
        });
    }
    let mut recorded = read_recorded(connection, &work).await?;
    let mut counted_per_day = read_counted_per_day(connection, &work).await?;
    // After the locks: what is recorded now may not carry an earlier instant than what the locks
    // were waited for.
    let now = sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
        .fetch_one(&mut *connection)
        .await?;

    let mut outcomes = vec![None; rides.len()];
    let mut receipts = Receipts::default();
    let mut changes = Changes::default();
    for Work {
        row,
        conditions,
        first,
        rides,
    } in &work
    {
        let key = (row.user_id, row.promotion_id);
        let mut challenge = Challenge {
            conditions,
            started_at: row.started_at,
            challenge_deadline: row.challenge_deadline,
            rides_completed: row.rides_completed.cast_unsigned(),
            recorded: recorded.remove(&key).unwrap_or_default(),
            counted_per_day: counted_per_day.remove(&key).unwrap_or_default(),
        };
        let mut traceparent = None;
        for (place, incoming) in rides.iter().enumerate() {
            let outcome = challenge.apply(&incoming.ride);
            if let Outcome::Judged(judgement) = &outcome {
                receipts.push(
                    row,
                    conditions,
                    &incoming.ride,
                    judgement.verdict,
                    judgement.details.clone(),
                );
                if judgement.verdict == Verdict::Counted {
                    traceparent = incoming.traceparent.as_ref().map(Traceparent::as_str);
                }
            }
            outcomes[first + place] = Some(outcome);
        }
        if challenge.rides_completed.cast_signed() > row.rides_completed {
            let traceparent = traceparent.map(|came| {
                carry(&Cause {
                    traceparent: came,
                    user_id: row.user_id,
                    promotion_id: row.promotion_id,
                })
                .unwrap_or_else(|| came.to_owned())
            });
            changes.push(row, &challenge, traceparent, now)?;
        }
    }
    receipts.insert(connection, now).await?;
    changes.write(connection, now).await?;
    Ok(outcomes)
}

/// One locked participation and its rides.
struct Work<'a> {
    row: Locked,
    conditions: Arc<Conditions>,
    /// The index of the first of `rides` in the batch's sorted rides.
    first: usize,
    rides: &'a [&'a Incoming],
}

type Key = (UserId, PromotionId);

/// Which of the rides are recorded already, with their fingerprints.
async fn read_recorded(
    connection: &mut PgConnection,
    work: &[Work<'_>],
) -> Result<HashMap<Key, HashMap<Uuid, i64>>> {
    let (mut users, mut promotions, mut months, mut rides) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for work in work {
        for incoming in work.rides {
            users.push(work.row.user_id);
            promotions.push(work.row.promotion_id);
            months.push(work.row.receipts_month);
            rides.push(incoming.ride.ride_id);
        }
    }
    let rows = sqlx::query!(
        r#"select r.user_id, r.promotion_id, r.ride_id, r.fingerprint
             from unnest($1::bigint[], $2::bigint[], $3::date[], $4::uuid[]) v (user_id, promotion_id, receipts_month, ride_id)
             join ride_receipt r using (user_id, promotion_id, receipts_month, ride_id)"#,
        &users,
        &promotions,
        &months,
        &rides
    )
    .fetch_all(connection)
    .await?;
    let mut recorded: HashMap<Key, HashMap<Uuid, i64>> = HashMap::new();
    for row in rows {
        recorded
            .entry((row.user_id, row.promotion_id))
            .or_default()
            .insert(row.ride_id, row.fingerprint);
    }
    Ok(recorded)
}

/// How many rides counted on the days of these rides, where the conditions cap them.
async fn read_counted_per_day(
    connection: &mut PgConnection,
    work: &[Work<'_>],
) -> Result<HashMap<Key, HashMap<NaiveDate, u32>>> {
    let mut wanted = std::collections::BTreeSet::new();
    for work in work {
        for incoming in work.rides {
            if let Some(day) = work.conditions.day_of(&incoming.ride) {
                wanted.insert((
                    work.row.user_id,
                    work.row.promotion_id,
                    work.row.receipts_month,
                    day,
                ));
            }
        }
    }
    let mut counted: HashMap<Key, HashMap<NaiveDate, u32>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(counted);
    }
    let users: Vec<_> = wanted.iter().map(|w| w.0).collect();
    let promotions: Vec<_> = wanted.iter().map(|w| w.1).collect();
    let months: Vec<_> = wanted.iter().map(|w| w.2).collect();
    let days: Vec<_> = wanted.iter().map(|w| w.3).collect();
    let rows = sqlx::query!(
        r#"select r.user_id, r.promotion_id, r.ride_day as "ride_day!", count(*) as "counted!"
             from unnest($1::bigint[], $2::bigint[], $3::date[], $4::date[]) v (user_id, promotion_id, receipts_month, ride_day)
             join ride_receipt r using (user_id, promotion_id, receipts_month, ride_day)
            where r.verdict = $5
            group by r.user_id, r.promotion_id, r.ride_day"#,
        &users,
        &promotions,
        &months,
        &days,
        Verdict::Counted as Verdict
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let count = u32::try_from(row.counted).unwrap_or(u32::MAX);
        counted
            .entry((row.user_id, row.promotion_id))
            .or_default()
            .insert(row.ride_day, count);
    }
    Ok(counted)
}

/// Receipts to be written, a column each.
#[derive(Default)]
struct Receipts {
    users: Vec<i64>,
    promotions: Vec<i64>,
    rides: Vec<Uuid>,
    months: Vec<NaiveDate>,
    verdicts: Vec<Verdict>,
    completed: Vec<Instant>,
    amounts: Vec<i64>,
    currencies: Vec<String>,
    days: Vec<Option<NaiveDate>>,
    fingerprints: Vec<i64>,
    details: Vec<Option<Value>>,
}

impl Receipts {
    fn push(
        &mut self,
        row: &Locked,
        conditions: &Conditions,
        ride: &Ride,
        verdict: Verdict,
        details: Option<Value>,
    ) {
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.rides.push(ride.ride_id);
        self.months.push(row.receipts_month);
        self.verdicts.push(verdict);
        self.completed.push(ride.completed_at);
        self.amounts.push(ride.amount_cents);
        self.currencies.push(ride.currency_code.to_string());
        self.days.push(conditions.day_of(ride));
        self.fingerprints.push(ride.fingerprint());
        self.details.push(details);
    }

    /// A plain insert: a conflict would mean that a ride was judged twice, a bug that must not
    /// commit.
    async fn insert(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into ride_receipt (user_id, promotion_id, ride_id, receipts_month, verdict, completed_at, amount_cents,
                                       currency_code, ride_day, fingerprint, details, recorded_at)
             select *, $12::timestamptz
               from unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::date[], $5::text[], $6::timestamptz[], $7::bigint[],
                           $8::text[], $9::date[], $10::bigint[], $11::jsonb[])",
            &self.users,
            &self.promotions,
            &self.rides,
            &self.months,
            &self.verdicts as &[Verdict],
            &self.completed,
            &self.amounts,
            &self.currencies,
            &self.days as &[Option<NaiveDate>],
            &self.fingerprints,
            &self.details as &[Option<Value>],
            now
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Participations that moved, a column each; every one makes one event.
#[derive(Default)]
struct Changes {
    users: Vec<i64>,
    promotions: Vec<i64>,
    versions: Vec<i32>,
    rides_completed: Vec<i32>,
    statuses: Vec<StatusName>,
    completed_at: Vec<Option<Instant>>,
    reward_deadlines: Vec<Option<Instant>>,
    event_types: Vec<EventType>,
    traceparents: Vec<Option<String>>,
    event_ids: Vec<Uuid>,
}

impl Changes {
    fn push(
        &mut self,
        row: &Locked,
        challenge: &Challenge<'_>,
        traceparent: Option<String>,
        now: Instant,
    ) -> Result<()> {
        let (status, event_type) = if challenge.is_complete() {
            let completed = Status::InProgress.complete(now, challenge.conditions);
            let completed = completed.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            (completed, EventType::Completed)
        } else {
            (Status::InProgress, EventType::Progressed)
        };
        let fields = status.fields();
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.versions.push(row.version);
        self.rides_completed
            .push(challenge.rides_completed.cast_signed());
        self.statuses.push(fields.status);
        self.completed_at.push(fields.completed_at);
        self.reward_deadlines.push(fields.reward_deadline);
        self.event_types.push(event_type);
        self.traceparents.push(traceparent);
        self.event_ids.push(Uuid::now_v7());
        Ok(())
    }

    /// Updates the participations and puts the state that results into the outbox, in one
    /// statement, so that what did not change never leaves Postgres.
    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "with changed as (
                 update promotion_user p
                    set rides_completed = v.rides_completed, version = p.version + 1, status = v.status,
                        completed_at = v.completed_at, reward_deadline = v.reward_deadline
                   from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::text[], $6::timestamptz[],
                               $7::timestamptz[], $8::text[], $9::text[], $10::uuid[])
                        v (user_id, promotion_id, version, rides_completed, status, completed_at, reward_deadline, event_type,
                           traceparent, event_id)
                  where p.user_id = v.user_id and p.promotion_id = v.promotion_id
                    and p.status = 'IN_PROGRESS' and p.version = v.version
              returning p.*, v.event_type, v.traceparent, v.event_id)
             insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                       rides_target, started_at, challenge_deadline, completed_at, reward_deadline, reward,
                                       occurred_at, traceparent)
             select event_id, event_type, user_id, promotion_id, status, $11, version, rides_completed, rides_target, started_at,
                    challenge_deadline, completed_at, reward_deadline, reward, $12, traceparent
               from changed",
            &self.users,
            &self.promotions,
            &self.versions,
            &self.rides_completed,
            &self.statuses as &[StatusName],
            &self.completed_at as &[Option<Instant>],
            &self.reward_deadlines as &[Option<Instant>],
            &self.event_types as &[EventType],
            &self.traceparents as &[Option<String>],
            &self.event_ids,
            StatusName::InProgress as StatusName,
            now
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be updated",
        )
    }
}

/// Applies one ride outside the stream, in the caller's transaction (replay from quarantine).
pub async fn apply_one(
    connection: &mut PgConnection,
    ride: &Ride,
    traceparent: Option<&str>,
) -> Result<AppliedOne> {
    let incoming = Incoming {
        ride: ride.clone(),
        traceparent: traceparent.map(Into::into),
    };
    let outcome = apply_rides(connection, &mut Terms::default(), &[&incoming], &mut |_| {
        None
    })
    .await?
    .pop()
    .flatten();
    let receipt = sqlx::query_as!(
        Receipt,
        r#"select ride_id, completed_at, amount_cents, currency_code, verdict as "verdict: Verdict", details, recorded_at
             from ride_receipt where user_id = $1 and ride_id = $2
            order by recorded_at desc limit 1"#,
        ride.user_id,
        ride.ride_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(match (outcome, receipt) {
        (Some(Outcome::Judged(_)), Some(receipt)) => AppliedOne::Applied(receipt),
        // Recorded in this challenge, or in one that has ended since.
        (_, Some(receipt)) => AppliedOne::Duplicate(receipt),
        (_, None) => AppliedOne::NoParticipation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_kept_as_it_came_and_the_present_version_without_an_allocation() {
        let present = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        for text in [present, later] {
            assert_eq!(Traceparent::from(text).as_str(), text);
        }
        assert!(matches!(Traceparent::from(present).0, Form::Present(_)));
    }
}
