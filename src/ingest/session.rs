//! The life of one consumer: it polls, fills batches, hands them over, and follows the group's
//! decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::batch::{Builder, Size};
use super::commit::Outcome;
use super::lag::{Lags, Stalled};
use super::pending::Pending;
use super::phase::Phase;
use super::reader::{Check, Reader};
use super::rebalance::{GroupConsumer, Rebalance};
use super::start::{LogCheck, Start, StartError};
use crate::domain::Instant;
use crate::kafka::{self, ClusterError};
use crate::readiness::Role;

/// How many records are read before the loop does its other work.
const RECORDS_PER_ROUND: usize = 256;

/// How long a round waits for a record when there is nothing else to do.
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// The same while records are available, or a commit or the database's clock is pending.
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// Batches handed over and not yet durable: one that commits and one that waits.
pub(super) const MAX_IN_FLIGHT: usize = 2;

/// How long a full batch waits before the partitions are paused, so that polling can go on serving
/// rebalances without reading more.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// How often an operation that failed, or that an operator must decide, is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The age up to which a reading of the database's clock can decide that a ride is from the future.
const CLOCK_FRESH: Duration = Duration::from_secs(1);

/// How often the group's offsets are written; they are for lag tools only.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(2);

/// After how many times `ingest.progress_timeout` without progress the client is replaced.
const REPLACE_AFTER: u32 = 3;

/// How often a stop is logged again.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

const KAFKA_AWAY: &str = "kafka does not answer";

/// Why a session ended without an error.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// It was stopped.
    Stopped,
    /// A partition makes no progress: a new client may help.
    Stalled(Stalled),
}

/// The life of one consumer.
pub(super) struct Session<'a> {
    reader: &'a Reader,
    consumer: GroupConsumer,
    phase: Phase,
    size: Size,
    in_flight: usize,
    /// Since when a full batch cannot be handed over.
    blocked_since: Option<Monotonic>,
    paused: bool,
    /// The database's clock, read while a ride may be from the future.
    clock: Pending<Option<Instant>>,
    /// The periodic check.
    check: Pending<Result<Check, ClusterError>>,
    lags: &'a mut Lags,
    /// The reason that readiness has for a stalled partition.
    stalled: Option<String>,
    /// Durable positions that are not yet committed to the group.
    durable: BTreeMap<i32, i64>,
    group_commit_at: Monotonic,
    began: Monotonic,
}

impl<'a> Session<'a> {
    pub(super) fn new(reader: &'a Reader, consumer: GroupConsumer, lags: &'a mut Lags) -> Self {
        Self {
            reader,
            consumer,
            phase: Phase::Unassigned,
            size: Size::new(&reader.limits),
            in_flight: 0,
            blocked_since: None,
            paused: false,
            clock: Pending::now(),
            check: Pending::now(),
            lags,
            stalled: None,
            durable: BTreeMap::new(),
            group_commit_at: Monotonic::now(),
            began: Monotonic::now(),
        }
    }

    pub(super) fn run(&mut self) -> anyhow::Result<SessionEnd> {
        let reader = self.reader;
        while !reader.stop.is_cancelled() {
            for outcome in reader.outcomes.try_iter() {
                self.learn(outcome);
            }
            for rebalance in self.consumer.context().take() {
                self.rebalance(rebalance);
            }
            self.go_on_starting()?;
            self.decide_undecided();
            if let Some(stalled) = self.check() {
                return Ok(SessionEnd::Stalled(stalled));
            }
            self.commit_to_group(CommitMode::Async);
            let input_paused = self.poll()?;
            self.hand_over(input_paused)?;
        }
        Ok(SessionEnd::Stopped)
    }

    /// Reads records until there are none available, the batch is full, or other work is due.
    /// Returns whether the input has paused.
    fn poll(&mut self) -> anyhow::Result<bool> {
        let mut wait = match &self.phase {
            Phase::Reading { builder, .. } if self.paused || builder.is_empty() => IDLE_WAIT,
            Phase::Reading { builder, .. } if builder.is_full(&self.size) => return Ok(false),
            Phase::Reading { builder, .. } if builder.has_undecided() => BUSY_WAIT,
            Phase::Reading { .. } if self.in_flight == 0 => Duration::ZERO,
            Phase::Reading { .. } => BUSY_WAIT,
            _ => IDLE_WAIT,
        };
        for _ in 0..RECORDS_PER_ROUND {
            let polled = self.consumer.poll(wait);
            wait = Duration::ZERO;
            match polled {
                None => return Ok(true),
                Some(Ok(message)) => {
                    let clock = &self.reader.clock;
                    // Observed before reading began, see `Reader::ask_start`.
                    let (Some(builder), Some(now)) = (self.phase.builder(), clock.now()) else {
                        continue;
                    };
                    builder.push(&message, now, || clock.is_fresh(CLOCK_FRESH));
                    if builder.is_full(&self.size) {
                        return Ok(false);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.reached_end(partition)?,
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    // The offset is out of range, or librdkafka has found that the log of our
                    // leader epoch ends before the last record read. The start finds out which of
                    // them, and where.
                    tracing::error!("the position is not within its partition's log");
                    self.start_again(LogCheck::Compare);
                    return Ok(true);
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown))) => {
                    // A broker that comes back may have lost the end of its log.
                    self.start_again(LogCheck::Compare);
                    return Ok(true);
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(error.into());
                }
                Some(Err(error)) => {
                    // The periodic check finds faults of the topic; librdkafka retries after all
                    // other errors.
                    tracing::warn!(%error, "reading rides");
                    self.check.hurry();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// If a partition ends with a transaction marker, the position is after its last record.
    fn reached_end(&mut self, partition: i32) -> anyhow::Result<()> {
        let Some(builder) = self.phase.builder() else {
            return Ok(());
        };
        let positions = self
            .consumer
            .position()
            .context("asking librdkafka for its position")?;
        let topic = &self.reader.kafka.ride_topic;
        if let Some(element) = positions.find_partition(topic, partition)
            && let Offset::Offset(position) = element.offset()
        {
            let leader_epoch = kafka::epoch_in_list(&positions, topic, partition);
            builder.reached(partition, position, leader_epoch);
        }
        Ok(())
    }

    /// Reads the database's clock while a ride may be from the future, and decides when the result
    /// arrives. A producer whose clock is ahead must not cost a request per ride, nor block
    /// polling.
    fn decide_undecided(&mut self) {
        let Some(builder) = self.phase.builder() else {
            return;
        };
        if !builder.has_undecided() {
            return;
        }
        let Some(told) = self.clock.advance(|| self.reader.ask_clock()) else {
            return;
        };
        let clock = &self.reader.clock;
        if let Some(now) = told {
            clock.observe(now);
        }
        // If it does not arrive in time, the carried clock decides.
        if let Some(now) = clock.now() {
            builder.decide(now);
        }
    }

    /// Hands the batch over when the input pauses, or when it is full or old. If two batches are in
    /// flight, or a ride is undecided, a full batch waits. After a while the input is paused, so
    /// that the batch does not grow.
    fn hand_over(&mut self, input_paused: bool) -> anyhow::Result<()> {
        let Some(builder) = self.phase.builder() else {
            return Ok(());
        };
        let full = builder.is_full(&self.size);
        let places = if full { MAX_IN_FLIGHT } else { 1 };
        let undecided = builder.has_undecided();
        if self.in_flight < places && !undecided {
            if !builder.is_empty() && (full || input_paused || builder.is_old()) {
                let batch = self.reader.checked(builder.take());
                self.reader
                    .batches
                    .try_send(batch)
                    .ok()
                    .context("the committer is gone")?;
                self.in_flight += 1;
            }
            self.blocked_since = None;
            if self.paused {
                self.resume()?;
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
        let wait = if undecided { BUSY_WAIT } else { IDLE_WAIT };
        match self.reader.outcomes.recv_timeout(wait) {
            Ok(outcome) => self.learn(outcome),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the committer is gone"),
        }
        Ok(())
    }

    /// Resumes all assigned partitions. librdkafka keeps a partition paused even while it is not
    /// assigned, so this follows every assignment.
    fn resume(&mut self) -> anyhow::Result<()> {
        self.consumer
            .resume(&self.consumer.assignment()?)
            .context("resuming the input")?;
        self.paused = false;
        Ok(())
    }

    fn learn(&mut self, outcome: Outcome) {
        // This outcome is not about one batch.
        if !matches!(outcome, Outcome::OtherServer) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        match outcome {
            Outcome::Committed {
                ranges,
                records,
                rides,
                applied,
            } => {
                self.size.learn(records, rides, applied);
                // A batch may become durable after its partitions were assigned to another process.
                for range in ranges
                    .into_iter()
                    .filter(|range| self.phase.has(range.partition))
                {
                    self.durable.insert(range.partition, range.to);
                    let handles = self.reader.metrics.ingest.partition(range.partition);
                    handles.position.set(range.to);
                }
            }
            Outcome::Dropped => self.start_again(LogCheck::Compare),
            // The next start finds the reason, and stops.
            Outcome::OtherServer => self.start_again(LogCheck::BoundsOnly),
            Outcome::TooMuch { records, .. } => {
                self.size.halve(records);
                self.start_again(LogCheck::BoundsOnly);
            }
        }
    }

    fn rebalance(&mut self, rebalance: Rebalance) {
        if matches!(self.phase, Phase::Stopped { .. }) {
            // This is the revocation by leaving the group; an operator's decision comes first.
            return;
        }
        // Records that were read and not handed over belong to the next reader of these partitions.
        // Batches that were handed over commit before that, or are fenced.
        for partition in self.phase.partitions() {
            self.reader.metrics.ingest.forget_partition(partition);
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
                Phase::Starting {
                    partitions,
                    start: Pending::now(),
                    logs: LogCheck::Compare,
                }
            }
        };
    }

    /// Reads the positions again and continues from there, without the records that are not handed
    /// over.
    fn start_again(&mut self, logs: LogCheck) {
        if let Phase::Reading { partitions, .. } = &self.phase {
            self.phase = Phase::Starting {
                partitions: partitions.clone(),
                start: Pending::now(),
                logs,
            };
        }
    }

    fn go_on_starting(&mut self) -> anyhow::Result<()> {
        match &mut self.phase {
            Phase::Unassigned | Phase::Reading { .. } => {}
            Phase::Starting {
                partitions,
                start,
                logs,
            } => {
                let ask = || self.reader.ask_start(Some(partitions.clone()), *logs);
                match start.advance(ask) {
                    None => {}
                    Some(Ok(found)) => {
                        let partitions = std::mem::take(partitions);
                        self.begin(partitions, &found)?;
                    }
                    Some(Err(StartError::Stopped(why))) => self.stop(why),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the positions cannot be read yet, trying again");
                        let why = error.to_string();
                        self.reader.readiness.set(Role::Ingest, Err(why));
                        *start = Pending::after(RETRY_INTERVAL);
                    }
                }
            }
            Phase::Stopped { why, said, start } => {
                match start.advance(|| self.reader.ask_start(None, LogCheck::Compare)) {
                    None => {}
                    Some(Ok(_)) => {
                        tracing::info!("reading continues");
                        self.reader.metrics.ingest.stopped.set(0);
                        self.reader
                            .readiness
                            .set(Role::Ingest, Err("joining the group".to_owned()));
                        self.consumer
                            .subscribe(&[&self.reader.kafka.ride_topic])
                            .context("subscribing to rides")?;
                        self.phase = Phase::Unassigned;
                    }
                    Some(Err(error)) => {
                        // The obstacle may have changed: a topic that was missing exists again, and
                        // is another one.
                        if let StartError::Stopped(now) = &error
                            && now != why
                        {
                            why.clone_from(now);
                            tracing::error!(why, "ingest is stopped until an operator decides");
                        } else if said.elapsed() >= REMIND_INTERVAL {
                            tracing::error!(why, now = %error, "ingest is stopped until an operator decides");
                            *said = Monotonic::now();
                        }
                        self.reader.readiness.set(Role::Ingest, Err(why.clone()));
                        *start = Pending::after(RETRY_INTERVAL);
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, partitions: BTreeSet<i32>, start: &Start) -> anyhow::Result<()> {
        let topic = &self.reader.kafka.ride_topic;
        let mut assignment = TopicPartitionList::new();
        for (partition, from) in &start.positions {
            let offset = Offset::Offset(from.next_offset);
            assignment.add_partition_offset(topic, *partition, offset)?;
            // With it librdkafka has the broker validate the position when the leader changes.
            if let Some(leader_epoch) = from.anchor.leader_epoch {
                kafka::set_epoch_in_list(&mut assignment, topic, *partition, leader_epoch);
            }
            let handles = self.reader.metrics.ingest.partition(*partition);
            handles.position.set(from.next_offset);
        }
        self.consumer
            .assign(&assignment)
            .context("assigning partitions")?;
        self.resume()?;
        self.lags.begin(&partitions);
        let builder = Box::new(Builder::new(
            Arc::clone(&start.source),
            self.reader.limits.clone(),
            &start.positions,
        ));
        self.phase = Phase::Reading {
            partitions,
            builder,
            source: Arc::clone(&start.source),
        };
        self.reader.readiness.set(Role::Ingest, Ok(()));
        // Also reports soon that a partition still makes no progress.
        self.check.hurry();
        let positions: BTreeMap<i32, i64> = start
            .positions
            .iter()
            .map(|(partition, from)| (*partition, from.next_offset))
            .collect();
        tracing::info!(?positions, "reading rides");
        Ok(())
    }

    /// Stops with an error, and leaves the group, so that an operator finds the partitions free.
    fn stop(&mut self, why: String) {
        tracing::error!(why, "ingest is stopped until an operator decides");
        self.reader.metrics.ingest.stopped.set(1);
        self.reader.readiness.set(Role::Ingest, Err(why.clone()));
        for partition in self.phase.partitions() {
            self.reader.metrics.ingest.forget_partition(partition);
        }
        // An unanswered assignment would keep this process in the group, and `unassign` does not
        // answer it.
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::error!(%error, "partitions could not be released");
        }
        self.consumer.unsubscribe();
        self.phase = Phase::Stopped {
            why,
            said: Monotonic::now(),
            start: Pending::after(RETRY_INTERVAL),
        };
    }

    /// Checks periodically that the topic is still the one of the positions, that no log ends
    /// before its position, that no process has recorded a stop, and that every partition makes
    /// progress. Returns the partition that has made none for so long that a new client is needed.
    fn check(&mut self) -> Option<Stalled> {
        let checked = self.check.advance(|| self.reader.ask_check())?;
        self.check = Pending::after(self.reader.limits.identity_check_interval);
        let Phase::Reading {
            partitions, source, ..
        } = &self.phase
        else {
            return None;
        };
        let readiness = &self.reader.readiness;
        let check = match checked {
            Ok(check) => check,
            Err(ClusterError::NoSuchTopic { .. }) => {
                self.start_again(LogCheck::Compare);
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "the ride topic could not be checked");
                self.lags.unknown();
                readiness.set(Role::Ingest, Err(KAFKA_AWAY.to_owned()));
                return None;
            }
        };
        let metrics = &self.reader.metrics.ingest;
        let shorter = partitions.iter().any(|partition| {
            let position = metrics.partition(*partition).position.get();
            let log = check.topic.logs.get(partition);
            log.is_some_and(|log| log.high < position)
        });
        if check.topic.source != **source || check.stopped || shorter {
            self.start_again(LogCheck::Compare);
            return None;
        }
        let limit = self.reader.limits.progress_timeout;
        let stalled = self
            .lags
            .look(metrics, partitions, &check.topic.logs, limit);
        let Some(stalled) = stalled else {
            let said = self.stalled.take().unwrap_or_default();
            if readiness.says(Role::Ingest, &[KAFKA_AWAY, &said]) {
                readiness.set(Role::Ingest, Ok(()));
            }
            return None;
        };
        let why = format!(
            "{} rides wait in partition {}, and none of them was applied for {} s",
            stalled.lag,
            stalled.partition,
            limit.as_secs()
        );
        // Keeps the committer's reason about Postgres, which says more.
        let said = self.stalled.replace(why.clone()).unwrap_or_default();
        if readiness.is_ready(Role::Ingest) || readiness.says(Role::Ingest, &[KAFKA_AWAY, &said]) {
            readiness.set(Role::Ingest, Err(why));
        }
        // While a batch is in flight, reading waits for Postgres.
        let replace = limit * REPLACE_AFTER;
        (self.in_flight == 0 && stalled.since >= replace && self.began.elapsed() >= replace)
            .then_some(stalled)
    }

    fn commit_to_group(&mut self, mode: CommitMode) {
        if self.durable.is_empty() || self.group_commit_at.elapsed() < GROUP_COMMIT_INTERVAL {
            return;
        }
        self.group_commit_at = Monotonic::now();
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in std::mem::take(&mut self.durable) {
            // An offset from the log is a valid offset.
            let _ = offsets.add_partition_offset(
                &self.reader.kafka.ride_topic,
                partition,
                Offset::Offset(offset),
            );
        }
        if let Err(error) = self.consumer.commit(&offsets, mode) {
            tracing::debug!(%error, "the group's offsets could not be written; they are for lag tools only");
        }
    }

    /// Hands over the records read and waits until they are durable, or given up.
    pub(super) fn finish(&mut self) {
        if let Some(builder) = self.phase.builder()
            && !builder.is_empty()
            && !builder.has_undecided()
        {
            let batch = self.reader.checked(builder.take());
            if self.reader.batches.blocking_send(batch).is_ok() {
                self.in_flight += 1;
            }
        }
        while self.in_flight > 0 {
            match self.reader.outcomes.recv() {
                Ok(outcome) => self.learn(outcome),
                Err(_gone) => break,
            }
        }
        if let Some(earlier) = Monotonic::now().checked_sub(GROUP_COMMIT_INTERVAL) {
            self.group_commit_at = earlier;
        }
        self.commit_to_group(CommitMode::Sync);
    }
}
