//! Resolves many quarantined records, in batches of one transaction each.

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Instant;
use crate::domain::ride::RideRecord;
use crate::store::Result;
use crate::store::audit::{self, Author};
use crate::store::quarantine::{apply, now, resolution_of, resolve};
use crate::store::upgrade::upgrade_is_finished;
use crate::wire::format_instant;
use crate::wire::quarantine::QuarantineStatus;
use crate::wire::ride_completed::{MAX_BYTES, QuarantineReason, decode};

/// How many records one transaction of a bulk call resolves.
const BATCH: i64 = 200;

/// The open records that a bulk call selects; `[from, to)` is a range of `received_at`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkSelection {
    /// Only records with this reason.
    pub reason: Option<QuarantineReason>,
    /// Only records received at or after this instant.
    pub from: Option<Instant>,
    /// Only records received before this instant.
    pub to: Option<Instant>,
}

/// The result of a bulk call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BulkResolved {
    /// Records that it resolved.
    pub resolved: u64,
    /// Selected records that it could not resolve.
    pub left_open: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bulk {
    Replay,
    Dismiss,
}

/// The columns of each record of a bulk call.
struct BulkRecord {
    quarantine_id: Uuid,
    received_at: Instant,
    partition: i32,
    offset: i64,
    /// `None` if it is too large to be a ride, or is not needed.
    value: Option<Vec<u8>>,
}

pub(super) struct BulkBatch {
    pub(super) done: BulkResolved,
    /// The last record of the batch, after which the next begins; `None` after the last batch.
    pub(super) last: Option<(Instant, Uuid)>,
}

pub(super) async fn resolve_batch(
    connection: &mut PgConnection,
    bulk: Bulk,
    selection: &BulkSelection,
    after: Option<(Instant, Uuid)>,
    note: &str,
    author: &Author,
) -> Result<BulkBatch> {
    let (after_at, after_id) = after.unzip();
    // Oldest first, so that rides are applied in the order of arrival. Not locked yet: where the next batch begins,
    // and whether there is one, must not depend on what another call resolves before it releases its locks.
    let found = sqlx::query!(
        "select received_at, quarantine_id
           from quarantined_ride
          where status = 'OPEN'
            and ($1::timestamptz is null or (received_at, quarantine_id) > ($1, $2::uuid))
            and ($3::text is null or reason = $3)
            and ($4::timestamptz is null or received_at >= $4)
            and ($5::timestamptz is null or received_at < $5)
          order by received_at, quarantine_id
          limit $6",
        after_at,
        after_id,
        selection.reason as Option<QuarantineReason>,
        selection.from,
        selection.to,
        BATCH
    )
    .fetch_all(&mut *connection)
    .await?;
    let last = found
        .last()
        .map(|record| (record.received_at, record.quarantine_id));
    let ids: Vec<Uuid> = found.iter().map(|record| record.quarantine_id).collect();
    // Every bulk call locks in this order. A value that is too large to be a ride is not read.
    let mut records = sqlx::query_as!(
        BulkRecord,
        r#"select quarantine_id, received_at, partition, "offset",
                  case when $2 and octet_length(value) <= $3 then value end as value
             from quarantined_ride
            where quarantine_id = any($1) and status = 'OPEN'
            order by received_at, quarantine_id
              for update"#,
        &ids,
        bulk == Bulk::Replay,
        i32::try_from(MAX_BYTES).unwrap_or(i32::MAX)
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut resolved = Vec::new();
    let mut resolutions = Vec::new();
    let status = match bulk {
        Bulk::Dismiss => {
            for record in &records {
                resolved.push(record.quarantine_id);
                resolutions.push(json!({ "actor": author.actor, "reason": note }));
            }
            QuarantineStatus::Dismissed
        }
        Bulk::Replay => {
            let now = now(connection).await?;
            let takes_reversals = upgrade_is_finished(connection).await?;
            // By client, the order in which every transaction locks participations, and each client's in the
            // order of arrival.
            records.sort_by_key(|record| (record.received_at, record.partition, record.offset));
            let mut replayed: Vec<(Uuid, RideRecord)> = records
                .iter()
                .filter_map(|record| {
                    let replayed = decode(record.value.as_deref()?, now).ok()?;
                    let may_be_applied =
                        takes_reversals || matches!(replayed, RideRecord::Completed(_));
                    may_be_applied.then_some((record.quarantine_id, replayed))
                })
                .collect();
            replayed.sort_by_key(|(_, record)| record.user_id());
            for (quarantine_id, record) in replayed {
                let applied = apply(connection, &record).await?;
                let mut resolution = resolution_of(&applied, &author.actor);
                resolution["note"] = json!(note);
                resolved.push(quarantine_id);
                resolutions.push(resolution);
            }
            QuarantineStatus::Replayed
        }
    };
    if !resolved.is_empty() {
        resolve(connection, &resolved, status, &resolutions).await?;
        let before = json!({ "status": QuarantineStatus::Open, "reason": selection.reason,
            "from": selection.from.map(format_instant), "to": selection.to.map(format_instant) });
        let after = json!({ "status": status, "note": note, "quarantine_ids": resolved });
        audit::record(connection, author, Some(before), Some(after)).await?;
    }
    Ok(BulkBatch {
        done: BulkResolved {
            resolved: resolved.len() as u64,
            left_open: (records.len() - resolved.len()) as u64,
        },
        last,
    })
}
