//! Filling a batch: decoding each record where it lies in librdkafka's buffer, within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::config::IngestConfig;
use crate::domain::Instant;
use crate::domain::source::Source;
use crate::kafka;
use crate::store::rides::{Batch, IncomingRide, QuarantinedRecord, Range};
use crate::wire::ride_completed::{QuarantineReason, decode, user_id_of_key};
use crate::wire::traceparent::{HEADER, first_of};

/// Where one partition stands for the reader.
#[derive(Clone, Copy, Debug)]
struct Reading {
    generation: i64,
    /// The end of the last batch handed over, which the next one follows on.
    from: i64,
    /// The offset after the last record read.
    to: i64,
}

/// The first and the longest pause before a batch may be larger again than one that was too much.
const GROW_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// How many records a batch may have, learned from the batches before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    max_records: usize,
    max_applied: usize,
    /// What holds as many rides of participants as a transaction may have.
    for_applied: usize,
    /// What Postgres is known to take.
    taken: usize,
    /// How long it stays so, longer after each attempt at more that failed.
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

    pub(super) fn most_records(&self) -> usize {
        self.for_applied.min(self.taken)
    }

    /// Learns from a durable batch of so many records, of whose `rides` that many were `applied`,
    /// which is to say of participants: those are what a transaction's length depends on, so the
    /// next batch is sized to hold a set number of them.
    pub(super) fn learn(&mut self, records: usize, rides: usize, applied: u64) {
        /// Fewer tell too little.
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

    /// Learns from a batch of so many records that Postgres did not take.
    pub(super) fn halve(&mut self, records: usize) {
        if std::mem::take(&mut self.has_grown) {
            self.pause = (self.pause * 2).min(GROW_AFTER.1);
        }
        self.taken = self.taken.min(records / 2).max(1);
        self.grows_at = Monotonic::now() + self.pause;
    }
}

/// Collects records into the next batch, and knows where each partition stands.
#[derive(Debug)]
pub(super) struct Builder {
    source: Arc<Source>,
    limits: IngestConfig,
    partitions: BTreeMap<i32, Reading>,
    rides: Vec<IncomingRide>,
    quarantined: Vec<QuarantinedRecord>,
    tombstones: u64,
    bytes: usize,
    /// When the first record of this batch was read.
    since: Option<Monotonic>,
}

impl Builder {
    /// A builder for partitions assigned at these positions (`partition → (next_offset, generation)`).
    pub(super) fn new(
        source: Arc<Source>,
        limits: IngestConfig,
        positions: &BTreeMap<i32, (i64, i64)>,
    ) -> Self {
        let reading = |(partition, (next_offset, generation)): (&i32, &(i64, i64))| {
            (
                *partition,
                Reading {
                    generation: *generation,
                    from: *next_offset,
                    to: *next_offset,
                },
            )
        };
        Self {
            source,
            partitions: positions.iter().map(reading).collect(),
            rides: Vec::new(),
            quarantined: Vec::new(),
            tombstones: 0,
            bytes: 0,
            since: None,
            limits,
        }
    }

    /// Takes a record in; `now` is the database's clock as it is carried here, `exact` asks it. A
    /// record of a partition that is not ours (any more) is left to whoever it is now.
    pub(super) fn push(
        &mut self,
        message: &BorrowedMessage<'_>,
        now: Instant,
        exact: impl FnOnce() -> Option<Instant>,
    ) {
        let Some(reading) = self.partitions.get_mut(&message.partition()) else {
            return;
        };
        if message.offset() < reading.to {
            return;
        }
        reading.to = message.offset() + 1;
        self.since.get_or_insert_with(Monotonic::now);
        let Some(value) = message.payload() else {
            self.tombstones += 1;
            return;
        };
        // Our idea of the time may be behind, as after a suspension: that is no fault of the ride.
        let decoded = match decode(value, now) {
            Err(rejected) if rejected.reason == QuarantineReason::InFuture => {
                decode(value, exact().unwrap_or(now))
            }
            decoded => decoded,
        };
        match decoded {
            Ok(ride) => {
                self.bytes += value.len();
                let traceparent = message
                    .headers()
                    .and_then(|all| first_of(kafka::header_values(all, HEADER)))
                    .map(Into::into);
                self.rides.push(IncomingRide { ride, traceparent });
            }
            Err(rejected) => {
                self.bytes += value.len() + message.key_len();
                // Never from a body that is too large to be looked into.
                let of_body = rejected
                    .user_id
                    .filter(|_| rejected.reason != QuarantineReason::TooLarge);
                self.quarantined.push(QuarantinedRecord {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: value.to_vec(),
                    user_id: of_body.or_else(|| user_id_of_key(message.key())),
                    reason: rejected.reason,
                    detail: rejected.detail,
                });
            }
        }
    }

    /// The end of a partition was reached at this position, which is past the last record where
    /// that was followed by a transaction's marker.
    pub(super) fn reached(&mut self, partition: i32, position: i64) {
        if let Some(reading) = self.partitions.get_mut(&partition)
            && position > reading.to
        {
            reading.to = position;
            self.since.get_or_insert_with(Monotonic::now);
        }
    }

    /// Nothing to hand over.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Has to be handed over before more is read.
    pub(super) fn is_full(&self, size: &Size) -> bool {
        // Tombstones too: otherwise a ride that stops everything would never be alone with some
        // before it.
        let tombstones = usize::try_from(self.tombstones).unwrap_or(usize::MAX);
        self.rides.len() + self.quarantined.len() + tombstones >= size.most_records()
            || self.bytes >= self.limits.batch_max_bytes
    }

    /// Has waited long enough for more.
    pub(super) fn is_old(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() >= self.limits.batch_max_age)
    }

    /// The batch, leaving an empty one that follows on it.
    pub(super) fn take(&mut self) -> Batch {
        let mut ranges = Vec::new();
        for (partition, reading) in &mut self.partitions {
            if reading.to > reading.from {
                ranges.push(Range {
                    partition: *partition,
                    generation: reading.generation,
                    from: reading.from,
                    to: reading.to,
                });
                reading.from = reading.to;
            }
        }
        let next = Vec::with_capacity(self.rides.len());
        self.bytes = 0;
        self.since = None;
        Batch {
            source: Arc::clone(&self.source),
            ranges,
            rides: std::mem::replace(&mut self.rides, next),
            quarantined: std::mem::take(&mut self.quarantined),
            tombstones: std::mem::take(&mut self.tombstones),
        }
    }
}
