//! The metrics of `ingest`, `relay` and `sweep`.

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntGauge, IntGaugeVec};

use crate::domain::participation::{DeadlineOf, ExpiredReason};
use crate::domain::promotion::Verdict;
use crate::telemetry::metrics::register::{Family, Make, SECONDS};
use crate::wire::promotion_status::EventType;
use crate::wire::ride_completed::QuarantineReason;

/// Labels: what holds expiry back.
const HELD_BACK_CAUSES: [&str; 2] = ["lag", "quarantine"];

/// Reading and applying rides. Every consumed record is judged, a duplicate, of no participant,
/// quarantined or a tombstone: these five add up to `consumed`.
#[derive(Debug)]
pub struct IngestMetrics {
    /// Records whose position was committed.
    pub consumed: IntCounter,
    /// Rides judged, by verdict.
    pub judged: Family<IntCounter>,
    /// Rides that were already recorded.
    pub duplicate: IntCounter,
    /// Duplicates that differ from the recorded ride; counted in `duplicate` too.
    pub duplicate_differing: IntCounter,
    /// Rides of clients without a live participation.
    pub no_participation: IntCounter,
    /// Records quarantined, by reason.
    pub quarantined: Family<IntCounter>,
    /// Null values, skipped.
    pub tombstones: IntCounter,
    /// Records that say that a ride was taken back.
    pub reversals: IntCounter,
    /// Seconds from the first statement of a batch to its commit.
    pub batch_seconds: Histogram,
    /// Records of a batch.
    pub batch_records: Histogram,
    /// Clients with a live participation, as ingest knows them.
    pub live_clients: IntGauge,
    /// Batches dropped because another consumer owned a partition.
    pub fenced_batches: IntCounter,
    /// 1 while ingest has stopped and waits for an operator.
    pub stopped: IntGauge,
    lag: IntGaugeVec,
    position: IntGaugeVec,
    stalled_seconds: GaugeVec,
}

/// One partition of the ride topic. Drop it with [`IngestMetrics::forget_partition`] when it is
/// revoked, otherwise its last values stay in the output.
#[derive(Clone, Debug)]
pub struct PartitionMetrics {
    /// Records between the recorded position and the end.
    pub lag: IntGauge,
    /// The offset recorded as next.
    pub position: IntGauge,
    /// Seconds for which there has been something to read while the position has not moved.
    pub stalled_seconds: Gauge,
}

impl IngestMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
            consumed: make.counter(
                "rides_consumed_total",
                "Records whose position was committed",
            ),
            judged: make.family(
                "rides_judged_total",
                "Rides judged",
                "verdict",
                &Verdict::WORDS,
            ),
            duplicate: make.counter("rides_duplicate_total", "Rides that were recorded before"),
            duplicate_differing: make.counter(
                "rides_duplicate_differing_total",
                "Rides that were recorded before and now say something else",
            ),
            no_participation: make.counter(
                "rides_no_participation_total",
                "Rides of clients without a live participation",
            ),
            quarantined: make.family(
                "rides_quarantined_total",
                "Records quarantined",
                "reason",
                &QuarantineReason::WORDS,
            ),
            tombstones: make.counter("tombstones_total", "Records with a null value, skipped"),
            reversals: make.counter(
                "reversals_total",
                "Records that say that a ride was taken back",
            ),
            batch_seconds: make.histogram(
                "ingest_batch_seconds",
                "Time from a batch's first statement to its commit",
                &SECONDS,
            ),
            batch_records: make.histogram(
                "ingest_batch_records",
                "Records of a batch",
                &[
                    1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0,
                    50_000.0,
                ],
            ),
            live_clients: make.gauge(
                "ingest_live_clients",
                "Clients with a live participation, as ingest knows them",
            ),
            fenced_batches: make.counter(
                "ingest_fenced_batches_total",
                "Batches dropped because another consumer owned a partition",
            ),
            stopped: make.gauge(
                "ingest_stopped",
                "1 while ingest has stopped and waits for an operator",
            ),
            lag: make.gauges(
                "ingest_lag",
                "Records between the recorded position and the end",
                "partition",
            ),
            position: make.gauges("ingest_position", "Offset recorded as next", "partition"),
            stalled_seconds: make.floats(
                "ingest_stalled_seconds",
                "Time for which there has been something to read and the position has not moved",
                "partition",
            ),
        }
    }

    /// The handles of a partition; resolve them once per assignment.
    pub fn partition(&self, partition: i32) -> PartitionMetrics {
        let label = partition.to_string();
        PartitionMetrics {
            lag: self.lag.with_label_values(&[&label]),
            position: self.position.with_label_values(&[&label]),
            stalled_seconds: self.stalled_seconds.with_label_values(&[&label]),
        }
    }

    /// Stops showing a partition that another process reads now.
    pub fn forget_partition(&self, partition: i32) {
        let label = partition.to_string();
        // An error means that it was not shown.
        let _ = self.lag.remove_label_values(&[&label]);
        let _ = self.position.remove_label_values(&[&label]);
        let _ = self.stalled_seconds.remove_label_values(&[&label]);
    }
}

/// Publishing.
#[derive(Debug)]
pub struct RelayMetrics {
    /// Events published, each counted when its Kafka transaction committed.
    pub published: IntCounter,
    /// The same by type. An event that is published again after a failure is counted again.
    pub transitions: Family<IntCounter>,
    /// Kafka transactions committed.
    pub transactions: IntCounter,
    /// Kafka transactions that failed or were fenced.
    pub failures: IntCounter,
    /// Seconds of a transaction, from reading the outbox to the commit.
    pub transaction_seconds: Histogram,
    /// Rows in the outbox.
    pub outbox_depth: IntGauge,
    /// Age of the outbox's oldest row, in seconds; 0 when it is empty.
    pub outbox_oldest_age_seconds: Gauge,
    /// Seconds from recording a status change, with the receipts of its rides, to the commit of the
    /// Kafka transaction that published it.
    pub status_delay_seconds: Histogram,
    /// Reminders published, by the deadline they are about. One that is published again after a
    /// failure is counted again.
    pub reminders_published: Family<IntCounter>,
    /// Seconds from the moment at which a reminder was due to the commit of the Kafka transaction that
    /// published it.
    pub reminder_delay_seconds: Histogram,
    /// When the last import of pre-offers that reached the database began, as Unix time; 0 where there
    /// is none in the newest part of the audit.
    pub import_last_timestamp_seconds: Gauge,
}

impl RelayMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
            published: make.counter("relay_published_total", "Events published"),
            transitions: make.family(
                "transitions_total",
                "Status changes published",
                "type",
                &EventType::WORDS,
            ),
            transactions: make.counter("relay_transactions_total", "Kafka transactions committed"),
            failures: make.counter(
                "relay_failures_total",
                "Kafka transactions that failed or were fenced",
            ),
            transaction_seconds: make.histogram(
                "relay_transaction_seconds",
                "Time from reading the outbox to the Kafka commit",
                &SECONDS,
            ),
            outbox_depth: make.gauge("outbox_depth", "Rows in the outbox"),
            outbox_oldest_age_seconds: make.float(
                "outbox_oldest_age_seconds",
                "Age of the outbox's oldest row",
            ),
            status_delay_seconds: make.histogram(
                "status_delay_seconds",
                "Time from recording a status change to its publication",
                &SECONDS,
            ),
            reminders_published: make.family(
                "reminders_published_total",
                "Reminders published",
                "of",
                &DeadlineOf::WORDS,
            ),
            reminder_delay_seconds: make.histogram(
                "reminder_delay_seconds",
                "Time from the moment at which a reminder was due to its publication",
                &SECONDS,
            ),
            import_last_timestamp_seconds: make.float(
                "import_last_timestamp_seconds",
                "Unix time of the last import of pre-offers, 0 for none",
            ),
        }
    }
}

/// Expiring.
#[derive(Debug)]
pub struct SweepMetrics {
    /// Seconds since the time up to which all rides are proven processed.
    pub barrier_age_seconds: Gauge,
    /// Participations past their deadline that cannot expire yet, by cause.
    pub held_back: Family<IntGauge>,
    /// Participations expired, by reason.
    pub expired: Family<IntCounter>,
    /// Differences that the last recount by `verify.interval` found.
    pub verify_differences: IntGauge,
    /// Participations that it skipped.
    pub verify_skipped: IntGauge,
    /// When it ended, as Unix time; 0 where there was none in this process.
    pub verify_last_end_timestamp_seconds: Gauge,
    /// Seconds for which the reminder that waits longest has been due and not recorded; 0 where none
    /// is.
    pub reminders_due_age_seconds: Gauge,
    /// Extensions that are not done.
    pub extensions_running: IntGauge,
    /// Seconds since the oldest of them was ordered.
    pub extension_oldest_age_seconds: Gauge,
    /// Steps that took an extension further.
    pub extension_steps: IntCounter,
}

impl SweepMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
            barrier_age_seconds: make.float(
                "sweep_barrier_age_seconds",
                "Time since the instant up to which all rides are proven processed",
            ),
            held_back: {
                let gauges = make.gauges(
                    "sweep_held_back",
                    "Participations past their deadline that may not be expired yet",
                    "cause",
                );
                Family::new(&HELD_BACK_CAUSES, |cause| {
                    gauges.with_label_values(&[cause])
                })
            },
            expired: make.family(
                "expired_total",
                "Participations expired",
                "reason",
                &ExpiredReason::WORDS,
            ),
            verify_differences: make.gauge(
                "verify_differences",
                "Differences that the last recount found",
            ),
            verify_skipped: make.gauge(
                "verify_skipped",
                "Participations that the last recount skipped",
            ),
            verify_last_end_timestamp_seconds: make.float(
                "verify_last_end_timestamp_seconds",
                "Unix time of the end of the last recount, 0 for none",
            ),
            reminders_due_age_seconds: make.float(
                "reminders_due_age_seconds",
                "Time for which the oldest reminder that is due has not been recorded",
            ),
            extensions_running: make.gauge("extensions_running", "Extensions that are not done"),
            extension_oldest_age_seconds: make.float(
                "extension_oldest_age_seconds",
                "Time since the oldest extension that is not done was ordered, 0 for none",
            ),
            extension_steps: make.counter(
                "extension_steps_total",
                "Steps that took an extension further",
            ),
        }
    }
}
