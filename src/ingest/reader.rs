//! The poll thread: reads rides as a member of the consumer group, fills batches, hands them over.
//!
//! Everything librdkafka wants is done here, on one thread: polling serves its callbacks. What
//! needs Postgres or a request to the broker runs on the runtime and is looked at in a later round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::batch::{Builder, Size};
use super::commit::{Outcome, Read};
use super::start::{Start, StartError, find_start};
use crate::causes;
use crate::config::{IngestConfig, KafkaConfig};
use crate::domain::Instant;
use crate::domain::source::Source;
use crate::kafka::{self, Cluster, ClusterError};
use crate::readiness::{Readiness, Role};
use crate::store::clock::DbClock;
use crate::store::rides::Batch;
use crate::store::{Store, TRANSACTION_TIMEOUT, within};
use crate::telemetry::Metrics;

/// How many records are read between two looks at everything else.
const RECORDS_PER_ROUND: usize = 256;

/// How long a round waits for a record when there is nothing else to do.
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// The same while records are at hand and a commit is under way.
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// Batches handed over and not yet durable: one that commits and one that waits.
pub(super) const MOST_IN_FLIGHT: usize = 2;

/// How long a full batch waits before the partitions are paused, so that polling can go on
/// serving rebalances without reading more.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// How often something that failed, or that an operator must decide, is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the database's clock is waited for.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// A look at the database's clock that is no older tells whether a ride is from the future.
const CLOCK_FRESH: Duration = Duration::from_secs(1);

/// How often the group's offsets are written; they are for lag tools only.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(2);

/// How long rides may wait to be read before this counts as not working.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a stop is said again.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// The reading half of ingest.
pub(super) struct Reader {
    pub(super) kafka: KafkaConfig,
    pub(super) limits: IngestConfig,
    pub(super) store: Store,
    pub(super) cluster: Cluster,
    pub(super) clock: Arc<DbClock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) runtime: Handle,
    pub(super) batches: mpsc::Sender<Read>,
    pub(super) outcomes: Receiver<Outcome>,
    pub(super) stop: CancellationToken,
}

/// What the group has decided, noted in librdkafka's callback and acted on by the poll loop.
#[derive(Debug)]
enum Rebalance {
    Assigned(BTreeSet<i32>),
    Revoked,
}

#[derive(Default)]
struct GroupContext {
    rebalances: Mutex<Vec<Rebalance>>,
}

impl GroupContext {
    fn note(&self, rebalance: Rebalance) {
        self.rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(rebalance);
    }

    fn take(&self) -> Vec<Rebalance> {
        std::mem::take(
            &mut *self
                .rebalances
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line("ingest", level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        kafka::log_error("ingest", &error, reason);
    }
}

impl ConsumerContext for GroupContext {
    /// Runs inside `poll`. An assignment is only noted: `assign` follows once the positions are
    /// read, which librdkafka allows for as long as `max.poll.interval.ms`.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let partitions = partitions
                .elements()
                .iter()
                .map(|element| element.partition())
                .collect();
            self.note(Rebalance::Assigned(partitions));
            return;
        }
        self.note(Rebalance::Revoked);
        if let Err(error) = consumer.unassign() {
            tracing::error!(%error, "partitions could not be given back");
        }
    }
}

type GroupConsumer = BaseConsumer<GroupContext>;

/// An answer that comes later, from the runtime.
struct Asked<T>(oneshot::Receiver<T>);

impl<T: Send + 'static> Asked<T> {
    fn new(runtime: &Handle, question: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, receiver) = oneshot::channel();
        runtime.spawn(async move {
            // Nobody waits for it any more if this fails.
            let _ = sender.send(question.await);
        });
        Self(receiver)
    }

    fn answer(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

/// Where the reader stands with its partitions.
enum Phase {
    /// The group has assigned nothing yet.
    Unassigned,
    /// These were assigned; their positions are being asked for, or will be again at that moment.
    Starting {
        partitions: BTreeSet<i32>,
        asked: Result<Asked<Result<Start, StartError>>, Monotonic>,
    },
    /// These are being read.
    Reading {
        partitions: BTreeSet<i32>,
        builder: Box<Builder>,
        source: Arc<Source>,
    },
    /// Out of the group, waiting for an operator; looks again whether reading may begin.
    Stopped {
        why: String,
        said: Monotonic,
        asked: Result<Asked<Result<Start, StartError>>, Monotonic>,
    },
}

/// What the periodic check asks of the broker.
struct Check {
    source: Source,
    ends: BTreeMap<i32, i64>,
}

impl Reader {
    /// Reads until stopped, with a new consumer whenever librdkafka gives one up for good.
    pub(super) fn run(mut self) {
        while !self.stop.is_cancelled() {
            if let Err(error) = self.read() {
                let error = causes::in_words(&error);
                tracing::error!(error, "reading rides failed, starting again");
                self.readiness.set(Role::Ingest, Err(error));
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let consumer: GroupConsumer = kafka::consumer(&self.kafka, self.limits.queue_kbytes)
            .create_with_context(GroupContext::default())
            .context("creating the consumer of rides")?;
        consumer
            .subscribe(&[&self.kafka.ride_topic])
            .context("subscribing to rides")?;
        self.readiness
            .set(Role::Ingest, Err("joining the group".to_owned()));
        let mut session = Session {
            consumer,
            phase: Phase::Unassigned,
            size: Size::new(&self.limits),
            in_flight: 0,
            blocked_since: None,
            paused: false,
            check: Err(Monotonic::now()),
            durable: BTreeMap::new(),
            group_commit_at: Monotonic::now(),
            progress_at: Monotonic::now(),
        };
        let result = session.run(self);
        session.finish(self);
        result
    }

    /// The database's clock, asked at once where that was not just done: a producer whose clock is
    /// ahead must not cost a question a ride. `None` where it does not answer.
    fn ask_clock(&self) -> Option<Instant> {
        if self.clock.is_fresh(CLOCK_FRESH) {
            return self.clock.now();
        }
        let asked = async { tokio::time::timeout(CLOCK_TIMEOUT, self.store.now()).await };
        let now = self.runtime.block_on(asked).ok()?.ok()?;
        self.clock.observe(now);
        Some(now)
    }

    /// The batch, and the question whether what was read is of the topic that it seems to be of.
    fn checked(&self, batch: Batch) -> Read {
        let (cluster, source) = (self.cluster.clone(), Arc::clone(&batch.source));
        let of_our_topic = self
            .runtime
            .spawn(async move { cluster.is_still(&source).await });
        Read {
            batch,
            of_our_topic,
        }
    }

    fn ask_start(&self, partitions: Option<BTreeSet<i32>>) -> Asked<Result<Start, StartError>> {
        let (store, cluster, clock) = (
            self.store.clone(),
            self.cluster.clone(),
            Arc::clone(&self.clock),
        );
        let topic = self.kafka.ride_topic.clone();
        Asked::new(&self.runtime, async move {
            let start = async {
                // Rides are held against the database's clock from the first one on.
                clock.observe(store.now().await?);
                find_start(&store, &cluster, &topic, partitions.as_ref()).await
            };
            within(TRANSACTION_TIMEOUT, start).await
        })
    }
}

/// One consumer's life.
struct Session {
    consumer: GroupConsumer,
    phase: Phase,
    size: Size,
    in_flight: usize,
    /// Since when a full batch cannot be handed over.
    blocked_since: Option<Monotonic>,
    paused: bool,
    /// The periodic check under way, or when the next one is due.
    check: Result<Asked<Result<Check, ClusterError>>, Monotonic>,
    /// Durable positions that the group has not been told yet.
    durable: BTreeMap<i32, i64>,
    group_commit_at: Monotonic,
    /// When a batch became durable last, or there was nothing to read.
    progress_at: Monotonic,
}

impl Session {
    fn run(&mut self, reader: &Reader) -> anyhow::Result<()> {
        while !reader.stop.is_cancelled() {
            for outcome in reader.outcomes.try_iter() {
                self.learn(reader, outcome);
            }
            for rebalance in self.consumer.context().take() {
                self.rebalance(reader, rebalance);
            }
            self.go_on_starting(reader)?;
            self.check(reader);
            self.commit_to_group(reader, CommitMode::Async);
            let input_paused = self.poll(reader)?;
            self.hand_over(reader, input_paused)?;
        }
        Ok(())
    }

    /// Reads records until there are none at hand, the batch is full, or it is time to look at
    /// everything else. Answers whether the input has paused.
    fn poll(&mut self, reader: &Reader) -> anyhow::Result<bool> {
        let mut wait = match &self.phase {
            Phase::Reading { builder, .. } if self.paused || builder.is_empty() => IDLE_WAIT,
            Phase::Reading { .. } if self.in_flight == 0 => Duration::ZERO,
            Phase::Reading { builder, .. } if builder.is_full(&self.size) => return Ok(false),
            Phase::Reading { .. } => BUSY_WAIT,
            _ => IDLE_WAIT,
        };
        for _ in 0..RECORDS_PER_ROUND {
            let polled = self.consumer.poll(wait);
            wait = Duration::ZERO;
            match polled {
                None => return Ok(true),
                Some(Ok(message)) => {
                    // Observed before reading began, see `ask_start`.
                    let (Phase::Reading { builder, .. }, Some(now)) =
                        (&mut self.phase, reader.clock.now())
                    else {
                        continue;
                    };
                    builder.push(&message, now, || reader.ask_clock());
                    if builder.is_full(&self.size) {
                        return Ok(false);
                    }
                }
                Some(Err(ClientError::PartitionEOF(partition))) => {
                    self.reached_end(reader, partition)?
                }
                Some(Err(ClientError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    tracing::error!("a position is outside its partition's log");
                    self.start_again(reader);
                    return Ok(true);
                }
                Some(Err(error @ ClientError::MessageConsumptionFatal(_))) => {
                    return Err(error.into());
                }
                Some(Err(error)) => {
                    // What concerns the topic itself shows in the check; the rest, librdkafka retries.
                    tracing::warn!(%error, "reading rides");
                    if let Err(due) = &mut self.check {
                        *due = Monotonic::now();
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Where a partition ends with a transaction's marker, the position is past its last record.
    fn reached_end(&mut self, reader: &Reader, partition: i32) -> anyhow::Result<()> {
        let Phase::Reading { builder, .. } = &mut self.phase else {
            return Ok(());
        };
        let positions = self
            .consumer
            .position()
            .context("asking librdkafka for its position")?;
        if let Some(element) = positions.find_partition(&reader.kafka.ride_topic, partition)
            && let Offset::Offset(position) = element.offset()
        {
            builder.reached(partition, position);
        }
        Ok(())
    }

    /// Hands the batch over when the input pauses, or when it is full or old. With both places
    /// taken a full batch waits; after a while the input is paused instead of growing.
    fn hand_over(&mut self, reader: &Reader, input_paused: bool) -> anyhow::Result<()> {
        let Phase::Reading { builder, .. } = &mut self.phase else {
            return Ok(());
        };
        let full = builder.is_full(&self.size);
        let most = if full { MOST_IN_FLIGHT } else { 1 };
        if self.in_flight < most {
            if !builder.is_empty() && (full || input_paused || builder.is_old()) {
                reader
                    .batches
                    .try_send(reader.checked(builder.take()))
                    .ok()
                    .context("the committer is gone")?;
                self.in_flight += 1;
            }
            self.blocked_since = None;
            if self.paused {
                self.consumer
                    .resume(&self.consumer.assignment()?)
                    .context("resuming the input")?;
                self.paused = false;
            }
            return Ok(());
        }
        if !full || self.paused {
            return Ok(());
        }
        if self
            .blocked_since
            .get_or_insert_with(Monotonic::now)
            .elapsed()
            >= PAUSE_AFTER
        {
            self.consumer
                .pause(&self.consumer.assignment()?)
                .context("pausing the input")?;
            self.paused = true;
            return Ok(());
        }
        match reader.outcomes.recv_timeout(IDLE_WAIT) {
            Ok(outcome) => self.learn(reader, outcome),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the committer is gone"),
        }
        Ok(())
    }

    fn learn(&mut self, reader: &Reader, outcome: Outcome) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Committed {
                ranges,
                records,
                rides,
                applied,
            } => {
                self.progress_at = Monotonic::now();
                self.size.learn(records, rides, applied);
                // A batch may become durable after its partitions went to somebody else.
                let ours = self.partitions();
                for range in ranges
                    .into_iter()
                    .filter(|range| ours.contains(&range.partition))
                {
                    self.durable.insert(range.partition, range.to);
                    reader
                        .metrics
                        .ingest
                        .partition(range.partition)
                        .position
                        .set(range.to);
                }
            }
            Outcome::Dropped => self.start_again(reader),
            Outcome::TooMuch { records, .. } => {
                self.size.halve(records);
                self.start_again(reader);
            }
        }
    }

    fn rebalance(&mut self, reader: &Reader, rebalance: Rebalance) {
        if matches!(self.phase, Phase::Stopped { .. }) {
            // The revocation that leaving the group brings; an operator's decision comes first.
            return;
        }
        // What was read and not handed over belongs to whoever reads these partitions next; what
        // was handed over either commits before they do or is fenced.
        for partition in self.partitions() {
            reader.metrics.ingest.forget_partition(partition);
        }
        self.durable.clear();
        self.blocked_since = None;
        self.phase = match rebalance {
            Rebalance::Revoked => {
                tracing::info!("partitions revoked");
                Phase::Unassigned
            }
            Rebalance::Assigned(partitions) => {
                tracing::info!(?partitions, "partitions assigned");
                let asked = Ok(reader.ask_start(Some(partitions.clone())));
                Phase::Starting { partitions, asked }
            }
        };
    }

    fn partitions(&self) -> BTreeSet<i32> {
        match &self.phase {
            Phase::Reading { partitions, .. } | Phase::Starting { partitions, .. } => {
                partitions.clone()
            }
            Phase::Unassigned | Phase::Stopped { .. } => BTreeSet::new(),
        }
    }

    /// Reads the positions again and goes on from there, dropping what is not handed over.
    fn start_again(&mut self, reader: &Reader) {
        if let Phase::Reading { partitions, .. } = &self.phase {
            let partitions = partitions.clone();
            let asked = Ok(reader.ask_start(Some(partitions.clone())));
            self.phase = Phase::Starting { partitions, asked };
        }
    }

    fn go_on_starting(&mut self, reader: &Reader) -> anyhow::Result<()> {
        match &mut self.phase {
            Phase::Unassigned | Phase::Reading { .. } => {}
            Phase::Starting { partitions, asked } => match asked {
                Err(due) if Monotonic::now() >= *due => {
                    *asked = Ok(reader.ask_start(Some(partitions.clone())))
                }
                Err(_) => {}
                Ok(question) => match question.answer() {
                    None => {}
                    Some(Ok(start)) => {
                        let partitions = std::mem::take(partitions);
                        self.begin(reader, partitions, &start)?;
                    }
                    Some(Err(StartError::Stopped(why))) => self.stop(reader, why),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "where to begin reading is not known yet, asking again");
                        reader.readiness.set(Role::Ingest, Err(error.to_string()));
                        *asked = Err(Monotonic::now() + RETRY_INTERVAL);
                    }
                },
            },
            Phase::Stopped { why, said, asked } => match asked {
                Err(due) if Monotonic::now() >= *due => *asked = Ok(reader.ask_start(None)),
                Err(_) => {}
                Ok(question) => match question.answer() {
                    None => {}
                    Some(Ok(_)) => {
                        tracing::info!("reading may go on");
                        reader.metrics.ingest.stopped.set(0);
                        reader
                            .readiness
                            .set(Role::Ingest, Err("joining the group".to_owned()));
                        self.consumer
                            .subscribe(&[&reader.kafka.ride_topic])
                            .context("subscribing to rides")?;
                        self.phase = Phase::Unassigned;
                    }
                    Some(Err(error)) => {
                        // What stands in the way may have changed: a topic that was gone is
                        // there again, and is another one.
                        if let StartError::Stopped(now) = &error
                            && now != why
                        {
                            why.clone_from(now);
                            tracing::error!(why, "ingest is stopped until an operator decides");
                        } else if said.elapsed() >= REMIND_INTERVAL {
                            tracing::error!(why, now = %error, "ingest is stopped until an operator decides");
                            *said = Monotonic::now();
                        }
                        reader.readiness.set(Role::Ingest, Err(why.clone()));
                        *asked = Err(Monotonic::now() + RETRY_INTERVAL);
                    }
                },
            },
        }
        Ok(())
    }

    fn begin(
        &mut self,
        reader: &Reader,
        partitions: BTreeSet<i32>,
        start: &Start,
    ) -> anyhow::Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, (next_offset, _)) in &start.positions {
            assignment.add_partition_offset(
                &reader.kafka.ride_topic,
                *partition,
                Offset::Offset(*next_offset),
            )?;
            reader
                .metrics
                .ingest
                .partition(*partition)
                .position
                .set(*next_offset);
        }
        self.consumer
            .assign(&assignment)
            .context("assigning partitions")?;
        if self.paused {
            self.consumer
                .resume(&assignment)
                .context("resuming the input")?;
            self.paused = false;
        }
        let builder = Box::new(Builder::new(
            Arc::clone(&start.source),
            reader.limits.clone(),
            &start.positions,
        ));
        self.phase = Phase::Reading {
            partitions,
            builder,
            source: Arc::clone(&start.source),
        };
        reader.readiness.set(Role::Ingest, Ok(()));
        tracing::info!(positions = ?start.positions, "reading rides");
        Ok(())
    }

    /// Stops loudly and leaves the group, so that an operator finds the partitions free.
    fn stop(&mut self, reader: &Reader, why: String) {
        tracing::error!(why, "ingest is stopped until an operator decides");
        reader.metrics.ingest.stopped.set(1);
        reader.readiness.set(Role::Ingest, Err(why.clone()));
        // An assignment that is still to be answered would keep us in the group; `unassign` is no
        // answer to it.
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::error!(%error, "partitions could not be given back");
        }
        self.consumer.unsubscribe();
        let now = Monotonic::now();
        self.phase = Phase::Stopped {
            why,
            said: now,
            asked: Err(now + RETRY_INTERVAL),
        };
    }

    /// Checks now and then that the topic is still the one whose positions we hold, and measures
    /// the lag.
    fn check(&mut self, reader: &Reader) {
        let answer = match &mut self.check {
            Err(due) if Monotonic::now() < *due => return,
            Err(_) => {
                let (cluster, topic) = (reader.cluster.clone(), reader.kafka.ride_topic.clone());
                self.check = Ok(Asked::new(&reader.runtime, async move {
                    let source = cluster.source(&topic).await?;
                    let ends = cluster.end_offsets(&topic).await?;
                    Ok(Check { source, ends })
                }));
                return;
            }
            Ok(question) => match question.answer() {
                None => return,
                Some(answer) => answer,
            },
        };
        self.check = Err(Monotonic::now() + reader.limits.identity_check_interval);
        let Phase::Reading {
            partitions, source, ..
        } = &self.phase
        else {
            return;
        };
        match answer {
            Ok(check) if check.source != **source => self.start_again(reader),
            Err(ClusterError::NoSuchTopic { .. }) => self.start_again(reader),
            Ok(check) => {
                let mut lag = 0;
                for partition in partitions {
                    let handles = reader.metrics.ingest.partition(*partition);
                    let end = check.ends.get(partition).copied().unwrap_or_default();
                    handles.lag.set((end - handles.position.get()).max(0));
                    lag += handles.lag.get();
                }
                if lag == 0 {
                    self.progress_at = Monotonic::now();
                }
                if self.progress_at.elapsed() >= PROGRESS_TIMEOUT {
                    reader
                        .readiness
                        .set(Role::Ingest, Err(NO_PROGRESS.to_owned()));
                } else if reader
                    .readiness
                    .says(Role::Ingest, &[KAFKA_AWAY, NO_PROGRESS])
                {
                    reader.readiness.set(Role::Ingest, Ok(()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the ride topic could not be checked");
                reader
                    .readiness
                    .set(Role::Ingest, Err(KAFKA_AWAY.to_owned()));
            }
        }
    }

    fn commit_to_group(&mut self, reader: &Reader, mode: CommitMode) {
        if self.durable.is_empty() || self.group_commit_at.elapsed() < GROUP_COMMIT_INTERVAL {
            return;
        }
        self.group_commit_at = Monotonic::now();
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in std::mem::take(&mut self.durable) {
            // An offset that comes from the log is one that can be written.
            let _ = offsets.add_partition_offset(
                &reader.kafka.ride_topic,
                partition,
                Offset::Offset(offset),
            );
        }
        if let Err(error) = self.consumer.commit(&offsets, mode) {
            tracing::debug!(%error, "the group's offsets could not be written; they are for lag tools only");
        }
    }

    /// Hands over what was read and waits until it is durable, or given up.
    fn finish(&mut self, reader: &Reader) {
        if let Phase::Reading { builder, .. } = &mut self.phase
            && !builder.is_empty()
            && reader
                .batches
                .blocking_send(reader.checked(builder.take()))
                .is_ok()
        {
            self.in_flight += 1;
        }
        while self.in_flight > 0 {
            match reader.outcomes.recv() {
                Ok(outcome) => self.learn(reader, outcome),
                Err(_gone) => break,
            }
        }
        if let Some(earlier) = Monotonic::now().checked_sub(GROUP_COMMIT_INTERVAL) {
            self.group_commit_at = earlier;
        }
        self.commit_to_group(reader, CommitMode::Sync);
    }
}

const KAFKA_AWAY: &str = "kafka does not answer";
const NO_PROGRESS: &str = "there are rides to read, and none was applied for a minute";
