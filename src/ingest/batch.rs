//! Fills a batch: decodes each record in place in librdkafka's buffer, within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::start::StartAt;
use crate::config::IngestConfig;
use crate::domain::Instant;
use crate::domain::anchor::{Anchor, RecordMark};
use crate::domain::source::Source;

use crate::domain::ride::RideRecord;
use crate::kafka;
use crate::store::rides::{Batch, Incoming, QuarantinedRecord, Range};
use crate::wire::ride_completed::{QuarantineReason, RejectedRecord, decode, user_id_of_key};
use crate::wire::traceparent::{HEADER, Traceparent, first_of};

/// The reader's position in one partition.
#[derive(Debug)]
struct BatchInput {
    generation: i64,
    /// The end of the last batch handed over, where the next one begins.
    from: i64,
    /// The offset after the last record read.
    to: i64,
    /// The leader epoch of the last record read.
    leader_epoch: Option<i32>,
    /// The offset of the last record read for this batch.
    last: Option<i64>,
    /// The data of that record's fingerprint.
    last_bytes: Vec<u8>,
}

/// A ride that seems to be from the future by the carried clock, which may be behind, as after a
/// suspension. The database's own clock decides.
#[derive(Debug)]
struct Undecided {
    /// Its place among the records of the batch.
    at: usize,
    partition: i32,
    offset: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    traceparent: Option<Traceparent>,
}

/// What an operator reads of a reversal that is kept until the upgrade is finished.
const UNTIL_FINISHED: &str = "a reversal, which the release before does not know: replay it after `ride-promo migrate --finish`";

/// The first and the longest pause before a batch may be larger again than one that was too much.
const GROW_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// The number of records that a batch may have, learned from earlier batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    max_records: usize,
    max_applied: usize,
    /// Sized so that it holds as many participants' rides as a transaction may have.
    for_applied: usize,
    /// The number that Postgres is known to accept.
    taken: usize,
    /// How long it stays so; longer after each larger batch that was rejected.
    pause: Duration,
    grows_at: Monotonic,
    has_grown: bool,
}

impl Size {
    pub(super) fn new(limits: &IngestConfig) -> Self {
        Self {
            max_records: limits.batch_max_records,
            max_applied: limits.batch_max_applied,
            for_applied: limits.batch_max_records,
            taken: limits.batch_max_records,
            pause: GROW_AFTER.0,
            grows_at: Monotonic::now(),
            has_grown: false,
        }
    }

    pub(super) fn max_records(&self) -> usize {
        self.for_applied.min(self.taken)
    }

    /// Learns from a durable batch of this many records, of whose `rides` this many were `applied`,
    /// that is, of participants. A transaction's length depends on those, so the next batch is
    /// sized to hold a fixed number of them.
    pub(super) fn learn(&mut self, records: usize, rides: usize, applied: u64) {
        /// A smaller batch says too little.
        const LEAST_RIDES: usize = 100;
        if self.taken < self.max_records
            && records >= self.taken
            && Monotonic::now() >= self.grows_at
        {
            self.taken = self.taken.saturating_mul(2).min(self.max_records);
            self.has_grown = true;
        } else if self.taken == self.max_records {
            self.pause = GROW_AFTER.0;
            self.has_grown = false;
        }
        if rides < LEAST_RIDES {
            return;
        }
        let applied = usize::try_from(applied).unwrap_or(usize::MAX).max(1);
        self.for_applied = (rides.saturating_mul(self.max_applied) / applied)
            .clamp(self.max_applied.min(self.max_records), self.max_records);
    }

    /// Learns from a batch of this many records that Postgres rejected.
    pub(super) fn halve(&mut self, records: usize) {
        if std::mem::take(&mut self.has_grown) {
            self.pause = (self.pause * 2).min(GROW_AFTER.1);
        }
        self.taken = self.taken.min(records / 2).max(1);
        self.grows_at = Monotonic::now() + self.pause;
    }
}

/// Collects records into the next batch, and knows the reader's position in each partition.
#[derive(Debug)]
pub(super) struct Builder {
    source: Arc<Source>,
    limits: IngestConfig,
    partitions: BTreeMap<i32, BatchInput>,
    records: Vec<Incoming>,
    raw_reversals: Vec<QuarantinedRecord>,
    undecided: Vec<Undecided>,
    quarantined: Vec<QuarantinedRecord>,
    tombstones: u64,
    bytes: usize,
    /// When the first record of this batch was read.
    since: Option<Monotonic>,
}

impl Builder {
    /// A builder for partitions assigned at these positions.
    pub(super) fn new(
        source: Arc<Source>,
        limits: IngestConfig,
        positions: &BTreeMap<i32, StartAt>,
    ) -> Self {
        let reading = |(partition, start): (&i32, &StartAt)| {
            (
                *partition,
                BatchInput {
                    generation: start.generation,
                    from: start.next_offset,
                    to: start.next_offset,
                    leader_epoch: start.anchor.leader_epoch,
                    last: None,
                    last_bytes: Vec::new(),
                },
            )
        };
        Self {
            source,
            partitions: positions.iter().map(reading).collect(),
            records: Vec::new(),
            raw_reversals: Vec::new(),
            undecided: Vec::new(),
            quarantined: Vec::new(),
            tombstones: 0,
            bytes: 0,
            since: None,
            limits,
        }
    }

    /// Adds a record. `now` is the database's clock as it is carried here. `is_exact` says whether
    /// that is good enough to decide that a ride is from the future; otherwise the ride stays
    /// [undecided](Builder::has_undecided). A record of a partition that is not assigned (any more)
    /// is left to its reader.
    pub(super) fn push(
        &mut self,
        message: &BorrowedMessage<'_>,
        now: Instant,
        is_exact: impl FnOnce() -> bool,
    ) {
        let Some(reading) = self.partitions.get_mut(&message.partition()) else {
            return;
        };
        if message.offset() < reading.to {
            return;
        }
        reading.to = message.offset() + 1;
        reading.leader_epoch = kafka::leader_epoch(message);
        reading.last = Some(message.offset());
        RecordMark::write_bytes(
            &mut reading.last_bytes,
            message.offset(),
            message.timestamp().to_millis().unwrap_or(-1),
            message.key(),
            message.payload(),
        );
        self.since.get_or_insert_with(Monotonic::now);
        let Some(value) = message.payload() else {
            self.tombstones += 1;
            return;
        };
        let traceparent = || {
            let headers = message.headers()?;
            first_of(kafka::header_values(headers, HEADER)).map(Into::into)
        };
        match decode(value, now) {
            Ok(record) => {
                self.bytes += value.len();
                if let RideRecord::Reversed(reversal) = &record {
                    self.bytes += value.len() + message.key_len();
                    self.raw_reversals.push(QuarantinedRecord {
                        partition: message.partition(),
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: value.to_vec(),
                        user_id: Some(reversal.user_id),
                        // What the release before, which may still run, makes of it.
                        reason: QuarantineReason::MissingField,
                        detail: UNTIL_FINISHED.to_owned(),
                    });
                }
                self.records.push(Incoming {
                    record,
                    traceparent: traceparent(),
                });
            }
            Err(rejected) => {
                self.bytes += value.len() + message.key_len();
                if rejected.reason == QuarantineReason::InFuture && !is_exact() {
                    self.undecided.push(Undecided {
                        at: self.records.len(),
                        partition: message.partition(),
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: value.to_vec(),
                        traceparent: traceparent(),
                    });
                    return;
                }
                self.quarantined.push(quarantined(
                    message.partition(),
                    message.offset(),
                    message.key().map(<[u8]>::to_vec),
                    value.to_vec(),
                    *rejected,
                ));
            }
        }
    }

    /// Whether rides wait for the database's clock. Until they are [decided](Builder::decide) the
    /// batch is not complete.
    pub(super) fn has_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Decides by the database's clock about the rides that seemed to be from the future. Those
    /// that are not take their place among the others.
    pub(super) fn decide(&mut self, now: Instant) {
        let undecided = std::mem::take(&mut self.undecided);
        let mut records = Vec::with_capacity(self.records.len() + undecided.len());
        let mut before = std::mem::take(&mut self.records).into_iter();
        let mut taken = 0;
        for waiting in undecided {
            records.extend(before.by_ref().take(waiting.at - taken));
            taken = waiting.at;
            match decode(&waiting.value, now) {
                Ok(record) => records.push(Incoming {
                    record,
                    traceparent: waiting.traceparent,
                }),
                Err(rejected) => self.quarantined.push(quarantined(
                    waiting.partition,
                    waiting.offset,
                    waiting.key,
                    waiting.value,
                    *rejected,
                )),
            }
        }
        records.extend(before);
        self.records = records;
    }

    /// Records that the end of a partition was reached at this position, in this leader epoch. If a
    /// transaction marker follows the last record, the position is after that marker.
    pub(super) fn reached(&mut self, partition: i32, position: i64, leader_epoch: Option<i32>) {
        if let Some(reading) = self.partitions.get_mut(&partition)
            && position > reading.to
        {
            reading.to = position;
            reading.leader_epoch = leader_epoch;
            self.since.get_or_insert_with(Monotonic::now);
        }
    }

    /// There is nothing to hand over.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// It must be handed over before more is read.
    pub(super) fn is_full(&self, size: &Size) -> bool {
        // Tombstones too: otherwise a ride that stops everything would never be alone with some
        // before it.
        let tombstones = usize::try_from(self.tombstones).unwrap_or(usize::MAX);
        self.records.len() + self.undecided.len() + self.quarantined.len() + tombstones
            >= size.max_records()
            || self.bytes >= self.limits.batch_max_bytes
    }

    /// It has waited long enough for more records.
    pub(super) fn is_old(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() >= self.limits.batch_max_age)
    }

    /// Returns the batch, and leaves an empty one that begins at its end.
    pub(super) fn take(&mut self) -> Batch {
        let mut ranges = Vec::new();
        for (partition, reading) in &mut self.partitions {
            if reading.to > reading.from {
                ranges.push(Range {
                    partition: *partition,
                    generation: reading.generation,
                    from: reading.from,
                    to: reading.to,
                    anchor: Anchor {
                        leader_epoch: reading.leader_epoch,
                        record: reading
                            .last
                            .take()
                            .map(|offset| RecordMark::of_bytes(offset, &reading.last_bytes)),
                    },
                });
                reading.from = reading.to;
            }
        }
        let next = Vec::with_capacity(self.records.len());
        self.bytes = 0;
        self.since = None;
        Batch {
            source: Arc::clone(&self.source),
            ranges,
            records: std::mem::replace(&mut self.records, next),
            raw_reversals: std::mem::take(&mut self.raw_reversals),
            quarantined: std::mem::take(&mut self.quarantined),
            tombstones: std::mem::take(&mut self.tombstones),
        }
    }
}

/// The quarantined record.
fn quarantined(
    partition: i32,
    offset: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    rejected: RejectedRecord,
) -> QuarantinedRecord {
    // Never from a body that is too large to be read.
    let of_body = rejected
        .user_id
        .filter(|_| rejected.reason != QuarantineReason::TooLarge);
    QuarantinedRecord {
        partition,
        offset,
        user_id: of_body.or_else(|| user_id_of_key(key.as_deref())),
        key,
        value,
        reason: rejected.reason,
        detail: rejected.detail,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    fn body(second: u32) -> Vec<u8> {
        format!(
            r#"{{"ride_id":"0192f8c4-7a1e-7c5b-9a53-2f6d1c0e{second:04}","user_id":1,
                "completed_at":"2026-11-22T18:00:{second:02}Z","amount_cents":1,"currency_code":"MXN"}}"#
        )
        .into_bytes()
    }

    #[test]
    fn rides_decided_late_take_their_places_and_those_from_the_future_are_quarantined() {
        let source = Source {
            topic: "rides".into(),
            cluster_id: String::new(),
            topic_id: String::new(),
        };
        let limits = IngestConfig {
            batch_max_records: 100,
            batch_max_applied: 100,
            batch_max_bytes: 1 << 20,
            batch_max_age: Duration::from_secs(1),
            identity_check_interval: Duration::from_secs(1),
            progress_timeout: Duration::from_secs(60),
            queue_kbytes: 1_024,
        };
        let mut builder = Builder::new(Arc::new(source), limits, &BTreeMap::new());
        let base = DateTime::parse_from_rfc3339("2026-11-22T18:00:00Z").expect("an instant");
        let base = base.to_utc();
        let now = base + TimeDelta::seconds(30);
        let undecided = |builder: &mut Builder, second: u32, value: Vec<u8>| {
            builder.undecided.push(Undecided {
                at: builder.records.len(),
                partition: 0,
                offset: i64::from(second),
                key: None,
                value,
                traceparent: None,
            });
        };
        let ride = |builder: &mut Builder, second: u32| {
            let record = decode(&body(second), now).expect("a ride");
            builder.records.push(Incoming {
                record,
                traceparent: None,
            });
        };
        undecided(&mut builder, 1, body(1));
        undecided(&mut builder, 2, body(2));
        ride(&mut builder, 3);
        ride(&mut builder, 4);
        undecided(&mut builder, 5, body(5));
        let mut late = body(6);
        let year = late
            .windows(4)
            .position(|four| four == b"2026")
            .expect("a year");
        late[year..year + 4].copy_from_slice(b"2031");
        undecided(&mut builder, 6, late);
        ride(&mut builder, 7);
        assert!(builder.has_undecided());
        builder.decide(now);
        assert!(!builder.has_undecided());
        let seconds: Vec<i64> = builder
            .records
            .iter()
            .filter_map(|incoming| match &incoming.record {
                RideRecord::Completed(ride) => Some((ride.completed_at - base).num_seconds()),
                RideRecord::Reversed(_) => None,
            })
            .collect();
        assert_eq!(seconds, [1, 2, 3, 4, 5, 7]);
        let quarantined: Vec<(i64, QuarantineReason)> = builder
            .quarantined
            .iter()
            .map(|record| (record.offset, record.reason))
            .collect();
        assert_eq!(quarantined, [(6, QuarantineReason::InFuture)]);
    }
}
