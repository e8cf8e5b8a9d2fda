//! Quarantined records: listing them, and resolving them by replaying or dismissing (contract 6).
//!
//! A quarantine row is locked before the participation that its ride changes. The sweeper reads the quarantine
//! without a lock, so an open row delays its client's expiry until its effect is committed.

mod bulk;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use self::bulk::{Bulk, resolve_batch};
use super::audit::{self, Author};
use super::participations::StoredReceipt;
use super::rides::{AppliedOne, apply_one, reverse_one};
use super::upgrade::upgrade_is_finished;
use super::{END_OF_TIME, Result, Store, StoreError, must_be_all};
use crate::domain::ride::{RideRecord, RideSource};
use crate::domain::{Instant, UserId};
use crate::wire::format_instant;
use crate::wire::quarantine::{QuarantineStatus, QuarantinedView};
use crate::wire::ride_completed::{Fault, QuarantineReason, decode, encode, encode_reversal};

pub use self::bulk::{BulkResolved, BulkSelection};

/// A page of records ends with the first one that exceeds this sum of value sizes. A value can be as large as
/// Kafka allows, and a page has up to 200.
const MAX_PAGE_BYTES: i64 = 4 << 20;

/// A record that is, or was, in quarantine.
#[derive(Clone, Debug)]
pub struct QuarantineRecord {
    /// Its id in this service.
    pub quarantine_id: Uuid,
    /// The topic it was read from.
    pub topic: String,
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset in that partition.
    pub offset: i64,
    /// Its key, if it had one.
    pub key: Option<Vec<u8>>,
    /// Its client, if one can be read from it.
    pub user_id: Option<UserId>,
    /// The first fault.
    pub reason: QuarantineReason,
    /// All faults.
    pub detail: String,
    /// Its bytes.
    pub value: Vec<u8>,
    /// When it was recorded.
    pub received_at: Instant,
    /// Its status.
    pub status: QuarantineStatus,
    /// When it was resolved.
    pub resolved_at: Option<Instant>,
    /// Who resolved it, and how.
    pub resolution: Option<Value>,
}

impl QuarantineRecord {
    /// The record as the admin API shows it.
    pub fn view(&self) -> QuarantinedView {
        QuarantinedView {
            quarantine_id: self.quarantine_id,
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            key: self
                .key
                .as_ref()
                .map(|key| String::from_utf8_lossy(key).into_owned()),
            user_id: self.user_id,
            reason: self.reason,
            detail: self.detail.clone(),
            value_base64: BASE64.encode(&self.value),
            received_at: self.received_at,
            status: self.status,
            resolved_at: self.resolved_at,
            resolution: self.resolution.clone(),
        }
    }
}

/// The filter of the list; `None` matches everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineFilter {
    /// Only records with this status.
    pub status: Option<QuarantineStatus>,
    /// Only records of this client.
    pub user_id: Option<UserId>,
    /// Only records with this reason.
    pub reason: Option<QuarantineReason>,
    /// Only records received at or after this instant.
    pub from: Option<Instant>,
    /// Only records received before this instant.
    pub to: Option<Instant>,
}

impl QuarantineFilter {
    /// Whether it asks for the open records and for nothing else but a time.
    fn is_only_open(self) -> bool {
        let only_open = Self {
            status: Some(QuarantineStatus::Open),
            from: self.from,
            to: self.to,
            ..Self::default()
        };
        self == only_open
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct QuarantinedPage {
    /// In the list's order.
    pub records: Vec<QuarantineRecord>,
    /// Whether there are records after these.
    pub more: bool,
}

/// The result of replaying one record.
#[derive(Clone, Debug)]
pub enum ReplayResult {
    /// It is resolved, with this result.
    Resolved(AppliedOne),
    /// It, or its correction, is still not a valid ride. It stays open.
    StillBad(Vec<Fault>),
    /// The correction is of another client than this one. The record stays open.
    OtherClient(UserId),
    /// Another call has resolved it.
    AlreadyResolved,
    /// No record has that id.
    NotFound,
}

/// The result of dismissing one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// It is resolved.
    Dismissed,
    /// Another call has resolved it.
    AlreadyResolved,
    /// No record has that id.
    NotFound,
}

impl Store {
    /// A page of quarantined records, newest first: those after the place `(received_at, quarantine_id)`, at most
    /// `limit`, and fewer if their values are large.
    pub async fn quarantined(
        &self,
        filter: QuarantineFilter,
        after: Option<(Instant, Uuid)>,
        limit: i64,
    ) -> Result<QuarantinedPage> {
        self.run_snapshot("quarantined", move |connection| {
            Box::pin(async move { page(connection, filter, after, limit).await })
        })
        .await
    }

    /// One record.
    pub async fn quarantined_record(
        &self,
        quarantine_id: Uuid,
    ) -> Result<Option<QuarantineRecord>> {
        Ok(sqlx::query_as!(
            QuarantineRecord,
            r#"select quarantine_id, topic, partition, "offset", key, user_id,
                      reason as "reason: QuarantineReason", detail, value, received_at,
                      status as "status: QuarantineStatus", resolved_at, resolution
                 from quarantined_ride where quarantine_id = $1"#,
            quarantine_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?)
    }

    /// How many records are open.
    pub async fn quarantine_open(&self) -> Result<i64> {
        Ok(sqlx::query_scalar!(
            r#"select count(*) as "open!" from quarantined_ride where status = 'OPEN'"#
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?)
    }

    /// Judges a record, or its correction, and resolves the record in the same transaction.
    /// If it is only tried, the result is the same and nothing is changed.
    pub async fn replay_quarantined(
        &self,
        quarantine_id: Uuid,
        corrected: Option<Vec<u8>>,
        author: &Author,
        only_tried: bool,
    ) -> Result<ReplayResult> {
        let author = author.clone();
        self.run_or_try_tx("replay_quarantined", only_tried, move |connection| {
            let (corrected, author) = (corrected.clone(), author.clone());
            Box::pin(async move { replay(connection, quarantine_id, corrected, &author).await })
        })
        .await
    }

    /// Dismisses a record.
    pub async fn dismiss_quarantined(
        &self,
        quarantine_id: Uuid,
        reason: &str,
        author: &Author,
    ) -> Result<Dismissal> {
        let (reason, author) = (reason.to_owned(), author.clone());
        self.run_tx("dismiss_quarantined", move |connection| {
            let (reason, author) = (reason.clone(), author.clone());
            Box::pin(async move { dismiss(connection, quarantine_id, &reason, &author).await })
        })
        .await
    }

    /// Judges every open record of the selection that was received until now, in the order of arrival. Records
    /// that are still not valid rides stay open.
    pub async fn replay_quarantine(
        &self,
        selection: &BulkSelection,
        note: &str,
        author: &Author,
        only_tried: bool,
    ) -> Result<BulkResolved> {
        self.resolve_all(Bulk::Replay, selection, note, author, only_tried)
            .await
    }

    /// Dismisses every open record of the selection that was received until now.
    pub async fn dismiss_quarantine(
        &self,
        selection: &BulkSelection,
        note: &str,
        author: &Author,
        only_tried: bool,
    ) -> Result<BulkResolved> {
        self.resolve_all(Bulk::Dismiss, selection, note, author, only_tried)
            .await
    }

    /// Resolves batch by batch, each in a transaction with its own audit entry. Each record is visited once, and
    /// later arrivals are not visited, so the call ends.
    /// If it is only tried, each batch is rolled back.
    async fn resolve_all(
        &self,
        bulk: Bulk,
        selection: &BulkSelection,
        note: &str,
        author: &Author,
        only_tried: bool,
    ) -> Result<BulkResolved> {
        let now = self.now().await?;
        let mut selection = selection.clone();
        // Without `to`, records of the present millisecond are included.
        let end = now + chrono::TimeDelta::milliseconds(1);
        selection.to = Some(selection.to.map_or(end, |to| to.min(end)));
        let mut after = None;
        let mut total = BulkResolved::default();
        loop {
            let (selection, note, author) = (selection.clone(), note.to_owned(), author.clone());
            let batch = self
                .run_or_try_tx("resolve_quarantine", only_tried, move |connection| {
                    let (selection, note, author) =
                        (selection.clone(), note.clone(), author.clone());
                    Box::pin(async move {
                        resolve_batch(connection, bulk, &selection, after, &note, &author).await
                    })
                })
                .await?;
            total.resolved += batch.done.resolved;
            total.left_open += batch.done.left_open;
            match batch.last {
                None => return Ok(total),
                last => after = last,
            }
        }
    }
}

/// [`Store::quarantined`], in the caller's snapshot. It reads the sizes first, because the values of a page may
/// need too much memory.
async fn page(
    connection: &mut PgConnection,
    filter: QuarantineFilter,
    after: Option<(Instant, Uuid)>,
    limit: i64,
) -> Result<QuarantinedPage> {
    // There is one upper bound, because with two Postgres may begin its scan at the later one.
    let (before_at, before_id) = match (filter.to, after) {
        (Some(to), Some(after)) => after.min((to, Uuid::nil())),
        (Some(to), None) => (to, Uuid::nil()),
        (None, Some(after)) => after,
        (None, None) => (END_OF_TIME, Uuid::max()),
    };
    let from = filter.from.unwrap_or(Instant::UNIX_EPOCH);
    let sizes = if filter.is_only_open() {
        // A statement of its own: with the status as a parameter Postgres cannot use the index of open
        // records, which are few among many.
        sqlx::query_as!(
            RecordSize,
            r#"select quarantine_id, octet_length(value)::bigint as "bytes!"
                 from quarantined_ride
                where status = 'OPEN'
                  and (received_at, quarantine_id) < ($1, $2)
                  and received_at >= $4
                order by received_at desc, quarantine_id desc
                limit $3"#,
            before_at,
            before_id,
            limit + 1,
            from
        )
        .fetch_all(&mut *connection)
        .await?
    } else {
        sqlx::query_as!(
            RecordSize,
            r#"select quarantine_id, octet_length(value)::bigint as "bytes!"
                 from quarantined_ride
                where ($1::text is null or status = $1)
                  and (received_at, quarantine_id) < ($2, $3)
                  and received_at >= $7
                  and ($5::bigint is null or user_id = $5)
                  and ($6::text is null or reason = $6)
                order by received_at desc, quarantine_id desc
                limit $4"#,
            filter.status as Option<QuarantineStatus>,
            before_at,
            before_id,
            limit + 1,
            filter.user_id,
            filter.reason as Option<QuarantineReason>,
            from
        )
        .fetch_all(&mut *connection)
        .await?
    };
    let fitting = fitting(&sizes, usize::try_from(limit).unwrap_or_default());
    Ok(QuarantinedPage {
        records: load(connection, fitting).await?,
        more: fitting.len() < sizes.len(),
    })
}

/// A client's newest records, at most `limit`, and fewer if their values are large.
pub(super) async fn quarantined_of(
    connection: &mut PgConnection,
    user_id: UserId,
    limit: i64,
) -> Result<Vec<QuarantineRecord>> {
    let sizes = sqlx::query_as!(
        RecordSize,
        r#"select quarantine_id, octet_length(value)::bigint as "bytes!"
             from quarantined_ride where user_id = $1
            order by received_at desc, quarantine_id desc
            limit $2"#,
        user_id,
        limit
    )
    .fetch_all(&mut *connection)
    .await?;
    load(connection, fitting(&sizes, sizes.len())).await
}

/// A record and the size of its value.
struct RecordSize {
    quarantine_id: Uuid,
    bytes: i64,
}

/// The first ones, at most `limit`, up to and including the one that exceeds [`MAX_PAGE_BYTES`].
fn fitting(sizes: &[RecordSize], limit: usize) -> &[RecordSize] {
    let mut bytes = 0;
    let fit = sizes.iter().take(limit).take_while(|size| {
        let fits = bytes < MAX_PAGE_BYTES;
        bytes += size.bytes;
        fits
    });
    &sizes[..fit.count()]
}

/// These records, newest first.
async fn load(
    connection: &mut PgConnection,
    sizes: &[RecordSize],
) -> Result<Vec<QuarantineRecord>> {
    let ids: Vec<Uuid> = sizes.iter().map(|size| size.quarantine_id).collect();
    Ok(sqlx::query_as!(
        QuarantineRecord,
        r#"select quarantine_id, topic, partition, "offset", key, user_id,
                      reason as "reason: QuarantineReason", detail, value, received_at,
                  status as "status: QuarantineStatus", resolved_at, resolution
             from quarantined_ride where quarantine_id = any($1)
            order by received_at desc, quarantine_id desc"#,
        &ids
    )
    .fetch_all(connection)
    .await?)
}

/// The columns of a locked record that resolving needs.
struct LockedRecord {
    quarantine_id: Uuid,
    status: QuarantineStatus,
    user_id: Option<i64>,
    reason: QuarantineReason,
    value: Vec<u8>,
}

async fn lock(connection: &mut PgConnection, quarantine_id: Uuid) -> Result<Option<LockedRecord>> {
    Ok(sqlx::query_as!(
        LockedRecord,
        r#"select quarantine_id, status as "status: QuarantineStatus", user_id, reason as "reason: QuarantineReason", value
             from quarantined_ride where quarantine_id = $1 for update"#,
        quarantine_id
    )
    .fetch_optional(connection)
    .await?)
}

async fn now(connection: &mut PgConnection) -> Result<Instant> {
    Ok(sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
        .fetch_one(connection)
        .await?)
}

async fn replay(
    connection: &mut PgConnection,
    quarantine_id: Uuid,
    corrected: Option<Vec<u8>>,
    author: &Author,
) -> Result<ReplayResult> {
    let Some(record) = lock(connection, quarantine_id).await? else {
        return Ok(ReplayResult::NotFound);
    };
    if record.status != QuarantineStatus::Open {
        return Ok(ReplayResult::AlreadyResolved);
    }
    let value = corrected.as_deref().unwrap_or(&record.value);
    let replayed = match decode(value, now(connection).await?) {
        Ok(replayed) => replayed,
        Err(rejected) => return Ok(ReplayResult::StillBad(rejected.faults)),
    };
    if corrected.is_some()
        && let Some(user_id) = record.user_id
        && replayed.user_id() != user_id
    {
        return Ok(ReplayResult::OtherClient(user_id));
    }
    if matches!(replayed, RideRecord::Reversed(_)) && !upgrade_is_finished(connection).await? {
        return Err(StoreError::UpgradeUnfinished);
    }
    let applied = apply(connection, &replayed).await?;
    let mut resolution = resolution_of(&applied, &author.actor);
    if corrected.is_some() {
        // The ride that was applied, as a record of the topic.
        let bytes = match &replayed {
            RideRecord::Completed(ride) => encode(ride),
            RideRecord::Reversed(reversal) => encode_reversal(reversal),
        };
        resolution["ride"] = serde_json::from_slice(&bytes).unwrap_or_default();
    }
    let status = QuarantineStatus::Replayed;
    resolve_one(connection, &record, status, resolution, author).await?;
    Ok(ReplayResult::Resolved(applied))
}

async fn dismiss(
    connection: &mut PgConnection,
    quarantine_id: Uuid,
    reason: &str,
    author: &Author,
) -> Result<Dismissal> {
    let Some(record) = lock(connection, quarantine_id).await? else {
        return Ok(Dismissal::NotFound);
    };
    if record.status != QuarantineStatus::Open {
        return Ok(Dismissal::AlreadyResolved);
    }
    let resolution = json!({ "actor": author.actor, "reason": reason });
    let status = QuarantineStatus::Dismissed;
    resolve_one(connection, &record, status, resolution, author).await?;
    Ok(Dismissal::Dismissed)
}

/// Applies a ride or a reversal of the quarantine.
async fn apply(connection: &mut PgConnection, record: &RideRecord) -> Result<AppliedOne> {
    match record {
        RideRecord::Completed(ride) => {
            apply_one(connection, ride, RideSource::Quarantine, None).await
        }
        RideRecord::Reversed(reversal) => {
            reverse_one(connection, reversal, RideSource::Quarantine).await
        }
    }
}

/// Resolves an open record that the caller has locked, with its own entry in the audit.
async fn resolve_one(
    connection: &mut PgConnection,
    record: &LockedRecord,
    status: QuarantineStatus,
    resolution: Value,
    author: &Author,
) -> Result<()> {
    let quarantine_id = record.quarantine_id;
    let resolutions = std::slice::from_ref(&resolution);
    resolve(connection, &[quarantine_id], status, resolutions).await?;
    let after =
        json!({ "quarantine_id": quarantine_id, "status": status, "resolution": resolution });
    audit::record(connection, author, Some(before_json(record)), Some(after)).await?;
    Ok(())
}

/// Resolves open records that the caller has locked.
async fn resolve(
    connection: &mut PgConnection,
    quarantine_ids: &[Uuid],
    status: QuarantineStatus,
    resolutions: &[Value],
) -> Result<()> {
    let resolved = sqlx::query!(
        "update quarantined_ride q set status = $3, resolved_at = clock_ms(), resolution = v.resolution
           from unnest($1::uuid[], $2::jsonb[]) v (quarantine_id, resolution)
          where q.quarantine_id = v.quarantine_id and q.status = 'OPEN'",
        quarantine_ids,
        resolutions,
        status as QuarantineStatus
    )
    .execute(connection)
    .await?
    .rows_affected();
    must_be_all(
        resolved,
        quarantine_ids.len(),
        "locked records could be resolved",
    )
}

fn before_json(record: &LockedRecord) -> Value {
    json!({ "quarantine_id": record.quarantine_id, "status": record.status, "reason": record.reason,
        "user_id": record.user_id })
}

/// Who replayed it, and the result.
fn resolution_of(applied: &AppliedOne, actor: &str) -> Value {
    json!({ "actor": actor, "outcome": applied.outcome(), "receipt": applied.receipt().map(receipt_json) })
}

/// A receipt as the audit shows it.
pub(super) fn receipt_json(receipt: &StoredReceipt) -> Value {
    json!({ "ride_id": receipt.ride_id, "verdict": receipt.verdict, "details": receipt.details,
        "completed_at": receipt.completed_at.map(format_instant), "recorded_at": format_instant(receipt.recorded_at) })
}
