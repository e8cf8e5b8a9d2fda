//! Makes batches durable, one after the other, however long Postgres is unavailable.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant as Monotonic};

use opentelemetry::KeyValue;
use opentelemetry::trace::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::domain::promotion::Verdict;
use crate::kafka::ClusterError;
use crate::readiness::{Readiness, Role};
use crate::store::clock::DbClock;
use crate::store::rides::{
    Applied, Batch, CONNECT_TIMEOUT, Cause, Counts, Incoming, Range, RideApplier,
};
use crate::store::{Store, StoreError, TRANSACTION_TIMEOUT, within};
use crate::telemetry::IngestMetrics;
use crate::telemetry::traces::{self, Operation};

/// How often the database is checked while there is nothing to apply: its clock, and whether it
/// accepts writes.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// The timeout of that check.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The first and the longest pause between two attempts to reach Postgres.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// How often a batch that Postgres rejects is tried before it is made smaller.
const TRIES_OF_A_SIZE: u32 = 3;

/// The outcome of a batch, for the reader.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is durable: these ranges, with this many rides, of which this many were of participants.
    Committed {
        /// What it covered.
        ranges: Vec<Range>,
        /// How many records it had.
        records: usize,
        /// How many of them were rides.
        rides: usize,
        /// How many of those were of participants.
        applied: u64,
    },
    /// It was dropped without an effect: another process has moved a position, or the batch cannot be
    /// shown to belong to the topic of the positions. Read the positions again.
    Dropped,
    /// Nothing was applied: the database is on a server that no operator has accepted. It is not
    /// about one batch.
    OtherServer,
    /// It was dropped without an effect, because Postgres rejects it: read fewer records at once.
    TooMuch {
        /// What it covered.
        ranges: Vec<Range>,
        /// How many records it had.
        records: usize,
    },
}

/// A batch from the reader, to be committed.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) batch: Batch,
    /// Whether the topic is still the one of the positions, asked after the last record was read.
    /// librdkafka silently goes on at the old offset if a topic was deleted and created again, and
    /// the records before that offset would be skipped.
    pub(super) of_our_topic: JoinHandle<Result<bool, ClusterError>>,
}

/// The committing half of ingest.
pub(super) struct Committer {
    /// The consumer group, as spans name it.
    pub(super) group_id: String,
    pub(super) store: Store,
    pub(super) clock: Arc<DbClock>,
    pub(super) metrics: Arc<crate::telemetry::Metrics>,
    pub(super) readiness: Arc<Readiness>,
    /// Woken after each commit that may have left events in the outbox.
    pub(super) outbox_wake: watch::Sender<()>,
    /// When it is cancelled, a batch that Postgres rejects is given up; it will be read again.
    pub(super) hard_stop: CancellationToken,
}

impl Committer {
    /// Applies batches until there are no more.
    pub(super) async fn run(
        self,
        mut batches: mpsc::Receiver<PendingBatch>,
        outcomes: SyncSender<Outcome>,
    ) {
        let mut applier = None;
        let mut given_up = Vec::new();
        let mut away = None;
        // Loads the clients while the consumer joins the group; on failure the first batch tries
        // again.
        if let Err(error) = self.session(&mut applier).await {
            tracing::debug!(%error, "no session yet");
        }
        loop {
            let pending = match tokio::time::timeout(CLOCK_INTERVAL, batches.recv()).await {
                Ok(Some(pending)) => pending,
                Ok(None) => return,
                Err(_idle) => {
                    if self.observe_clock(&mut applier, &mut away).await {
                        // If the reader does not take it now, it does in a second.
                        let _ = outcomes.try_send(Outcome::OtherServer);
                    }
                    continue;
                }
            };
            // A batch after one that was given up cannot be applied before that one is.
            if follows(&pending.batch.ranges, &given_up) {
                given_up.clear();
                if outcomes.send(Outcome::Dropped).is_err() {
                    return;
                }
                continue;
            }
            let Some(outcome) = self.take(&mut applier, pending).await else {
                return;
            };
            given_up = match &outcome {
                Outcome::TooMuch { ranges, .. } => ranges.clone(),
                _ => Vec::new(),
            };
            // The reader takes outcomes in each of its rounds; if it is gone, they are not needed.
            if outcomes.send(outcome).is_err() {
                return;
            }
        }
    }

    async fn take(
        &self,
        applier: &mut Option<RideApplier>,
        pending: PendingBatch,
    ) -> Option<Outcome> {
        match pending.of_our_topic.await {
            Ok(Ok(true)) => self.make_durable(applier, pending.batch).await,
            Ok(Ok(false)) => Some(Outcome::Dropped),
            // Kafka is unavailable, or the process stops: the batch is read again.
            Ok(Err(error)) => {
                tracing::warn!(%error, "the topic of a batch of rides could not be checked");
                Some(Outcome::Dropped)
            }
            Err(_ended) => None,
        }
    }

    /// Tries until the batch is durable or fenced. A single record is tried for ever, because
    /// skipping it would lose a ride. If the result of a commit is lost, the repeat is fenced, and
    /// the positions show that the commit succeeded. `None` when stopped.
    async fn make_durable(
        &self,
        applier: &mut Option<RideApplier>,
        batch: Batch,
    ) -> Option<Outcome> {
        let mut backoff = BACKOFF;
        let mut failures = 0_u32;
        let mut failures_of_batch = 0_u32;
        loop {
            let began = Monotonic::now();
            let (applied, tried) = match self.session(applier).await {
                Ok(session) => (self.attempt(session, &batch).await, true),
                Err(error) => (Err(error), false),
            };
            match applied {
                Ok(Applied::Committed {
                    counts,
                    now,
                    now_at,
                }) => {
                    self.clock.observe_at(now, now_at);
                    if failures > 0 {
                        tracing::info!(failures, "rides are being applied again");
                        self.readiness.set(Role::Ingest, Ok(()));
                    }
                    self.metrics
                        .ingest
                        .batch_seconds
                        .observe(began.elapsed().as_secs_f64());
                    count(&self.metrics.ingest, &batch, &counts);
                    if let Some(applier) = applier {
                        self.metrics
                            .ingest
                            .live_clients
                            .set(applier.live_clients().try_into().unwrap_or(i64::MAX));
                    }
                    let applied = counts.of_participants();
                    if applied > 0 {
                        self.outbox_wake.send_replace(());
                    }
                    return Some(Outcome::Committed {
                        records: records(&batch),
                        rides: batch.records.len(),
                        ranges: batch.ranges,
                        applied,
                    });
                }
                Ok(Applied::Fenced) => {
                    tracing::info!(ranges = ?batch.ranges, "positions have moved");
                    self.metrics.ingest.fenced_batches.inc();
                    return Some(Outcome::Dropped);
                }
                Err(StoreError::OtherServer(other)) => {
                    *applier = None;
                    tracing::warn!(%other, "a batch of rides is dropped; it is read again");
                    return Some(Outcome::Dropped);
                }
                Err(error) => {
                    // The set of live clients ends with the session.
                    *applier = None;
                    failures += 1;
                    // A session that cannot be opened says nothing about the batch.
                    failures_of_batch += u32::from(tried);
                    let records = records(&batch);
                    let alone = batch
                        .records
                        .first()
                        .filter(|_| tried && records == 1 && error.may_be_too_much());
                    if failures == 1 || failures.is_multiple_of(30) {
                        tracing::error!(
                            %error,
                            failures,
                            ranges = ?batch.ranges,
                            records,
                            user_id = alone.map(Incoming::user_id),
                            ride_id = alone.map(|alone| tracing::field::display(alone.record.ride_id())),
                            "a batch of rides could not be applied, trying again"
                        );
                    }
                    self.readiness.set(Role::Ingest, Err(why(&error, alone)));
                    let is_too_much = tried && error.may_be_too_much();
                    if records > 1 && failures_of_batch >= TRIES_OF_A_SIZE && is_too_much {
                        return Some(Outcome::TooMuch {
                            ranges: batch.ranges,
                            records,
                        });
                    }
                    tokio::select! {
                        () = tokio::time::sleep(backoff.pause()) => {}
                        () = self.hard_stop.cancelled() => return None,
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        applier: &mut RideApplier,
        batch: &Batch,
    ) -> Result<Applied, StoreError> {
        let Some(mut traced) = traces::SpanBatch::begin(
            Operation::Process,
            &batch.source.topic,
            records(batch),
            [KeyValue::new(
                "messaging.consumer.group.name",
                self.group_id.clone(),
            )],
        ) else {
            return within(TRANSACTION_TIMEOUT, applier.apply(batch, &mut |_| None)).await;
        };
        let context = traced.context();
        let mut carry = |cause: &Cause<'_>| {
            let ids = [
                KeyValue::new("ride_promo.user_id", cause.user_id),
                KeyValue::new("ride_promo.promotion_id", cause.promotion_id),
            ];
            traced.carry(cause.traceparent, ids)
        };
        let applied = within(TRANSACTION_TIMEOUT, applier.apply(batch, &mut carry))
            .with_context(context)
            .await;
        traced.end(match &applied {
            Ok(Applied::Committed { .. }) => None,
            Ok(Applied::Fenced) => Some("another consumer owns a partition".to_owned()),
            Err(error) => Some(error.to_string()),
        });
        applied
    }

    /// The present session, or a new one.
    async fn session<'a>(
        &self,
        applier: &'a mut Option<RideApplier>,
    ) -> Result<&'a mut RideApplier, StoreError> {
        match applier {
            Some(session) => Ok(session),
            none => {
                let session = within(CONNECT_TIMEOUT, RideApplier::connect(&self.store)).await?;
                Ok(none.insert(session))
            }
        }
    }

    /// Keeps the clock exact, and the session warm, while there is nothing to apply. `away` is the
    /// reason given to readiness when the database accepted no writes, which is withdrawn later.
    /// Returns whether the server is one that no operator has accepted.
    async fn observe_clock(
        &self,
        applier: &mut Option<RideApplier>,
        away: &mut Option<String>,
    ) -> bool {
        let look = async { self.session(applier).await?.look().await };
        let told = |away: &Option<String>| {
            let said = away.as_deref();
            said.is_some_and(|said| self.readiness.says(Role::Ingest, &[said]))
        };
        match within(CLOCK_TIMEOUT, look).await {
            Ok(now) => {
                self.clock.observe(now);
                if told(away) {
                    self.readiness.set(Role::Ingest, Ok(()));
                }
                *away = None;
                false
            }
            Err(error) => {
                tracing::debug!(%error, "postgres' clock could not be read");
                *applier = None;
                // The reader's reasons about Kafka or the positions stay.
                if told(away) || self.readiness.is_ready(Role::Ingest) {
                    let said = error.to_string();
                    self.readiness.set(Role::Ingest, Err(said.clone()));
                    *away = Some(said);
                }
                matches!(error, StoreError::OtherServer(_))
            }
        }
    }
}

/// Why ingest is not ready. A ride that stands alone is named where it may be the reason; that the
/// database is away is not its fault.
fn why(error: &StoreError, alone: Option<&Incoming>) -> String {
    match alone {
        None => error.to_string(),
        Some(alone) => format!(
            "ride {} of user {} cannot be applied: {error}",
            alone.record.ride_id(),
            alone.user_id()
        ),
    }
}

/// Whether one of the first ranges begins where one of the second ones ends.
fn follows(ranges: &[Range], those: &[Range]) -> bool {
    ranges.iter().any(|range| {
        those
            .iter()
            .any(|that| that.partition == range.partition && that.to == range.from)
    })
}

/// How many records were read for a batch.
fn records(batch: &Batch) -> usize {
    batch.records.len()
        + batch.quarantined.len()
        + usize::try_from(batch.tombstones).unwrap_or(usize::MAX)
}

/// Counts a durable batch; the parts add up to the records consumed.
fn count(metrics: &IngestMetrics, batch: &Batch, counts: &Counts) {
    let consumed = records(batch) as u64;
    metrics.consumed.inc_by(consumed);
    metrics.batch_records.observe(consumed as f64);
    for verdict in Verdict::ALL {
        metrics
            .judged
            .add(verdict.as_str(), counts.judged[verdict as usize]);
    }
    metrics.duplicate.inc_by(counts.duplicates);
    metrics
        .duplicate_differing
        .inc_by(counts.duplicates_differing);
    metrics.no_participation.inc_by(counts.no_participation);
    metrics.tombstones.inc_by(batch.tombstones);
    metrics.reversals.inc_by(counts.reversals);
    for record in batch
        .raw_reversals
        .iter()
        .filter(|_| counts.quarantined_reversals > 0)
    {
        metrics.quarantined.add(record.reason.as_str(), 1);
    }
    for record in &batch.quarantined {
        metrics.quarantined.add(record.reason.as_str(), 1);
    }
}
