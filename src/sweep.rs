//! Expires challenges and rewards. A challenge expires only after a proof that every ride which
//! could still count was applied, so a late service never costs a client the reward.
//!
//! A barrier is a moment together with the end offsets of all partitions, read after that moment.
//! Once the recorded positions have passed those ends, every ride published up to that moment was
//! applied. A challenge whose deadline plus the allowed lateness lies before that moment can gain
//! no more rides in time.
//!
//! Rewards need no proof, only the database's clock. They expire in a loop of their own, so that
//! neither Kafka nor a large number of challenges delays them.

mod extensions;
mod reminders;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use tokio::sync::watch;
use tokio::time::Instant as Monotonic;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::config::{KafkaConfig, SweepConfig};
use crate::domain::Instant;
use crate::domain::participation::ExpiredReason;
use crate::domain::source::Source;
use crate::domain::standing::lost_end;
use crate::kafka::{Cluster, TopicNow, Watermarks};
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::store::expiry::DeadlineRange;
use crate::store::identity::Standing;
use crate::store::positions::Position;
use crate::store::schema::ensure_receipt_partitions;
use crate::telemetry::Metrics;

/// How often the receipt partitions of the coming months are created.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The first and the longest pause before another attempt, after a lock was not available or the
/// default partition already had receipts of a month.
const PARTITIONS_RETRY: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// The longest time for the proof, or for one batch: after it, a silent server is given up. There
/// may be many batches.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// The most batches in a round. Progress is reported between two rounds.
const MAX_BATCHES: usize = 100;

/// How often the overdue participations that cannot expire yet are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// How far the next scan reaches back before the end of the last complete scan. It is longer than
/// any transaction, so a transaction that was open then is seen now.
const OVERLAP: TimeDelta = TimeDelta::seconds(120);

/// The least time between two scans of everything that is overdue. Such a scan finds the clients
/// whose quarantined ride was resolved. It takes long if many are held back, or if a long
/// transaction keeps many dead rows; so these scans take at most a twentieth of the time.
const LOOK_AT_ALL_INTERVAL: Duration = Duration::from_secs(3);
const LOOK_AT_ALL_SHARE: u32 = 20;

/// What the sweeper needs of the process.
pub struct Sweep {
    /// The ride topic.
    pub kafka: KafkaConfig,
    /// Allowed lateness, interval and bounds.
    pub limits: SweepConfig,
    /// The database.
    pub store: Store,
    /// Requests to the broker.
    pub cluster: Cluster,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Receives whether the sweeper can do its work, or why not.
    pub readiness: Arc<Readiness>,
    /// Notified after commits that left events in the outbox.
    pub outbox_wake: watch::Sender<()>,
    /// Why rewards cannot be expired now; `None` if they can.
    pub rewards_failing: Mutex<Option<String>>,
    /// Why reminders cannot be recorded now; `None` if they can.
    pub reminders_failing: Mutex<Option<String>>,
}

/// A moment, and the offsets up to which everything published before it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier {
    at: Instant,
    /// The topic that the ends belong to.
    source: Source,
    ends: BTreeMap<i32, i64>,
}

impl Barrier {
    /// `topic` has the end offsets, which were read after `at`.
    fn new(at: Instant, topic: TopicNow) -> Self {
        let ends = topic.logs.into_iter();
        Self {
            at,
            source: topic.source,
            ends: ends.map(|(partition, log)| (partition, log.high)).collect(),
        }
    }

    /// Whether it proves nothing any more: it belongs to another topic, or lacks a partition of the
    /// topic. A broker that did not know of an added partition yet may have given the ends.
    fn is_void(&self, now: &TopicNow) -> bool {
        self.source != now.source
            || now
                .logs
                .keys()
                .any(|partition| !self.ends.contains_key(partition))
    }

    /// Why it has not passed yet. `None` once the position of every partition is at or past its end.
    /// A partition without a position counts as unread.
    fn is_held_by(&self, positions: &BTreeMap<i32, Position>) -> Option<String> {
        for (partition, end) in &self.ends {
            match positions.get(partition) {
                None => return Some(format!("partition {partition} has no position")),
                Some(position) if position.next_offset < *end => {
                    return Some(format!(
                        "partition {partition} is read up to {} of {end}",
                        position.next_offset
                    ));
                }
                Some(_) => {}
            }
        }
        None
    }
}

/// How far deadlines were scanned. A scan begins where the last one ended, so it does not pass again
/// over rows that are held back, or that expired and are not vacuumed yet.
#[derive(Debug, Default)]
struct ScanProgress {
    upto: Option<Instant>,
    all_due: Option<Monotonic>,
}

/// One scan, until it is complete.
#[derive(Clone, Copy, Debug)]
struct Scan {
    window: DeadlineRange,
    began: Monotonic,
}

impl ScanProgress {
    fn begin(&self, upto: Instant, began: Monotonic) -> Scan {
        let is_due = self.all_due.is_none_or(|due| began >= due);
        let after = match self.upto {
            Some(looked) if !is_due => looked.min(upto) - OVERLAP,
            _ => Instant::UNIX_EPOCH,
        };
        Scan {
            window: DeadlineRange { after, upto },
            began,
        }
    }

    fn end(&mut self, look: Scan, now: Monotonic) {
        self.upto = Some(look.window.upto);
        if look.window.after == Instant::UNIX_EPOCH {
            let pause = (now - look.began) * LOOK_AT_ALL_SHARE;
            self.all_due = Some(now + pause.max(LOOK_AT_ALL_INTERVAL));
        }
    }
}

/// Fails if the positions prove nothing: if they belong to another topic, or are not within the log
/// as it was after they were read. A position past the end would count records as read that never
/// were in this log.
fn check_positions(positions: &BTreeMap<i32, Position>, now: &TopicNow) -> anyhow::Result<()> {
    let TopicNow { source, logs } = now;
    let topic = &source.topic;
    for (partition, position) in positions {
        anyhow::ensure!(
            position.source == *source,
            "nothing expires: the position of partition {partition} belongs to another topic of the name {topic}. See \
             `ride-promo positions`"
        );
        if let Some(reason) = &position.stopped {
            anyhow::bail!(
                "nothing expires: partition {partition} of {topic} is stopped until an operator decides: {reason}. See \
                 `ride-promo positions`"
            );
        }
        let log = logs.get(partition).with_context(|| {
            format!("nothing expires: partition {partition} of {topic} does not exist any more")
        })?;
        anyhow::ensure!(
            (log.low..=log.high).contains(&position.next_offset),
            "nothing expires: the position {} of partition {partition} of {topic} is not within its log, which goes from {} \
             to {}. See `ride-promo positions`",
            position.next_offset,
            log.low,
            log.high
        );
    }
    Ok(())
}

impl Sweep {
    /// Expires rewards, and creates the receipt partitions of the coming months, until stopped. It
    /// needs Postgres, not Kafka.
    pub async fn expire_rewards(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = self.tick();
        let mut looked = ScanProgress::default();
        let mut partitions_due = Monotonic::now();
        let mut partitions_pause = PARTITIONS_RETRY.0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let expired = self.expire_overdue_rewards(&mut looked, &stop).await;
            *self.failing_of(&self.rewards_failing) = told(expired).err();
            let now = Monotonic::now();
            if now >= partitions_due {
                partitions_due = now
                    + match self.see_to_partitions().await {
                        Ok(()) => {
                            partitions_pause = PARTITIONS_RETRY.0;
                            PARTITIONS_INTERVAL
                        }
                        Err(error) => {
                            let error = causes::in_words(&error);
                            tracing::warn!(
                                error,
                                "the receipt partitions of the coming months could not be created, trying again; `migrate` creates them too"
                            );
                            partitions_pause = (partitions_pause * 2).min(PARTITIONS_RETRY.1);
                            partitions_pause
                        }
                    };
            }
        }
    }

    async fn expire_overdue_rewards(
        &self,
        looked: &mut ScanProgress,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let now = in_time(async { Ok(self.store.now().await?) }).await?;
        let look = looked.begin(now, Monotonic::now());
        let batch = |limit| self.store.expire_rewards(look.window, limit);
        if self
            .expire_all(ExpiredReason::RewardNotClaimed, stop, batch)
            .await?
        {
            looked.end(look, Monotonic::now());
        }
        Ok(())
    }

    /// Creates the missing receipt partitions of the coming months.
    async fn see_to_partitions(&self) -> anyhow::Result<()> {
        let missing = in_time(async { Ok(ensure_receipt_partitions(&self.store).await?) }).await?;
        anyhow::ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
        Ok(())
    }

    /// Expires challenges, and reports readiness for all loops of the sweeper, until stopped. The
    /// topics must exist.
    pub async fn expire_challenges(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut barrier = None;
        let mut looked = ScanProgress::default();
        let mut proven = None;
        let mut began = None;
        let mut tick = self.tick();
        let mut count_due = Monotonic::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let challenges = told(
                self.round(&mut barrier, &mut looked, &mut proven, &stop)
                    .await,
            );
            let failing = |of| self.failing_of(of).clone().map_or(Ok(()), Err);
            let beside = failing(&self.rewards_failing).and(failing(&self.reminders_failing));
            let state = beside.and(challenges);
            self.readiness.set(Role::Sweep, state);
            let now = Monotonic::now();
            if now >= count_due {
                let count = self.count(proven, &mut began);
                if let Err(error) = in_time(count).await {
                    tracing::debug!(
                        error = causes::in_words(&error),
                        "the participations that are held back could not be counted"
                    );
                }
                // This counts everything that is overdue.
                count_due = now + COUNT_INTERVAL.max(now.elapsed() * LOOK_AT_ALL_SHARE);
            }
        }
    }

    /// Why one of the other loops cannot do its work now.
    fn failing_of<'a>(&self, of: &'a Mutex<Option<String>>) -> MutexGuard<'a, Option<String>> {
        // The text is assigned as a whole, so a panic cannot have left half of it.
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> tokio::time::Interval {
        let mut tick = tokio::time::interval(self.limits.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick
    }

    /// Once a barrier has passed, expires all challenges that it allows; the barrier stays until then.
    async fn round(
        &self,
        barrier: &mut Option<Barrier>,
        looked: &mut ScanProgress,
        proven: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(passed) = in_time(self.pass(barrier)).await? else {
            return Ok(());
        };
        *proven = Some(passed);
        let look = looked.begin(passed - self.lateness(), Monotonic::now());
        let batch = |limit| self.store.expire_challenges(look.window, limit);
        let reason = ExpiredReason::ChallengeNotCompleted;
        if self.expire_all(reason, stop, batch).await? {
            looked.end(look, Monotonic::now());
            *barrier = None;
        }
        Ok(())
    }

    /// Takes a barrier if there is none. Returns its moment once it has passed.
    async fn pass(&self, barrier: &mut Option<Barrier>) -> anyhow::Result<Option<Instant>> {
        if let Standing::Other(other) = self.store.server_standing().await? {
            return Err(other.into());
        }
        let topic = &self.kafka.ride_topic;
        if barrier.is_none() {
            let at = self.store.now().await?;
            *barrier = Some(Barrier::new(at, self.cluster.topic_now(topic).await?));
        }
        // Positions are read before the logs' ends. Otherwise a position that moves in between would
        // seem to be past the end. The topic is described each time: since the barrier was taken, it
        // may have been replaced or got more partitions, and then the barrier's ends prove nothing.
        let positions = self.store.positions(topic).await?;
        let now = self.cluster.topic_now(topic).await?;
        self.record_lost_ends(&positions, &now).await?;
        barrier.take_if(|pending| pending.is_void(&now));
        check_positions(&positions, &now)?;
        let Some(pending) = barrier else {
            return Ok(None);
        };
        if let Some(why) = pending.is_held_by(&positions) {
            tracing::debug!(why, barrier = %pending.at, "expiry is held back");
            return Ok(None);
        }
        Ok(Some(pending.at))
    }

    /// Records each position that is past the end of its log, so that ingest and expiry stay stopped
    /// there even after the log has grown.
    async fn record_lost_ends(
        &self,
        positions: &BTreeMap<i32, Position>,
        now: &TopicNow,
    ) -> anyhow::Result<()> {
        let of_this_topic = positions
            .values()
            .filter(|position| position.source == now.source && position.stopped.is_none());
        for position in of_this_topic {
            let Some(Watermarks { low, high }) = now.logs.get(&position.partition) else {
                continue;
            };
            if let Some(reason) = lost_end(position.next_offset, *low, *high) {
                tracing::error!(
                    partition = position.partition,
                    reason,
                    "a partition is stopped"
                );
                self.store.stop_position(position, &reason).await?;
            }
        }
        Ok(())
    }

    /// Expires batch by batch. Returns true if none is left, false after [`MAX_BATCHES`].
    async fn expire_all<F>(
        &self,
        reason: ExpiredReason,
        stop: &CancellationToken,
        batch: impl Fn(i64) -> F,
    ) -> anyhow::Result<bool>
    where
        F: Future<Output = crate::store::Result<u64>>,
    {
        let limit = i64::try_from(self.limits.batch_max)?;
        for _ in 0..MAX_BATCHES {
            if stop.is_cancelled() {
                break;
            }
            let expired = in_time(async { Ok(batch(limit).await?) }).await?;
            self.expired(reason, expired);
            // A batch may also be short because another process was faster; the next round sees it.
            if expired < self.limits.batch_max as u64 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn expired(&self, reason: ExpiredReason, count: u64) {
        if count > 0 {
            tracing::info!(count, reason = reason.as_str(), "expired");
            self.metrics.sweep.expired.add(reason.as_str(), count);
            self.outbox_wake.send_replace(());
        }
    }

    /// Counts what is held back. Until a barrier has passed, `began`, the moment of the first count,
    /// stands for it in the barrier's age.
    async fn count(
        &self,
        proven: Option<Instant>,
        began: &mut Option<Instant>,
    ) -> anyhow::Result<()> {
        let now = self.store.now().await?;
        let began = *began.get_or_insert(now);
        let held = self.store.held_back(now - self.lateness()).await?;
        self.metrics.sweep.held_back.set("lag", held.by_lag);
        self.metrics
            .sweep
            .held_back
            .set("quarantine", held.by_quarantine);
        let age = (now - proven.unwrap_or(began)).as_seconds_f64();
        self.metrics.sweep.barrier_age_seconds.set(age.max(0.0));
        Ok(())
    }

    fn lateness(&self) -> TimeDelta {
        // The configuration's bound lies far inside the range.
        TimeDelta::from_std(self.limits.allowed_lateness).unwrap_or(TimeDelta::MAX)
    }
}

/// Runs a step within [`STEP_TIMEOUT`].
async fn in_time<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(STEP_TIMEOUT, step)
        .await
        .context("a server did not respond in time")
        .flatten()
}

/// Logs a failure, and returns its text for readiness.
fn told<T>(result: anyhow::Result<T>) -> Result<T, String> {
    result.map_err(|error| {
        let error = causes::in_words(&error);
        tracing::warn!(error, "sweeping failed, trying again");
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn topic(topic_id: &str, ends: &[i64]) -> TopicNow {
        let log = |high: &i64| Watermarks {
            low: 0,
            high: *high,
        };
        TopicNow {
            source: Source {
                topic: "rides".into(),
                cluster_id: "cluster".into(),
                topic_id: topic_id.into(),
            },
            logs: (0..).zip(ends.iter().map(log)).collect(),
        }
    }

    #[test]
    fn a_barrier_that_lacks_a_partition_or_is_of_another_topic_is_void() {
        let barrier = Barrier::new(Clock::System.now(), topic("a", &[7, 9]));
        assert!(!barrier.is_void(&topic("a", &[8, 9])));
        assert!(
            barrier.is_void(&topic("a", &[7, 9, 0])),
            "a partition was added"
        );
        assert!(
            barrier.is_void(&topic("b", &[7, 9])),
            "the topic was created again"
        );
    }

    #[test]
    fn a_look_begins_where_the_last_ended_and_now_and_then_at_everything() {
        let at = |seconds: i64| Instant::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let began = Monotonic::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        let mut looked = ScanProgress::default();
        let first = looked.begin(at(10_000), began);
        assert_eq!(first.window.after, Instant::UNIX_EPOCH);
        // A scan that was not complete is repeated.
        let again = looked.begin(at(10_001), after(1));
        assert_eq!(again.window.after, Instant::UNIX_EPOCH);
        looked.end(first, after(2));
        let next = looked.begin(at(10_002), after(2));
        assert_eq!(next.window.after, at(10_000) - OVERLAP);
        looked.end(next, after(3));
        // The first scan took two seconds, which may be a twentieth of the time.
        let later = looked.begin(at(10_041), after(41));
        assert_eq!(later.window.after, at(10_002) - OVERLAP);
        let all = looked.begin(at(10_042), after(42));
        assert_eq!(all.window.after, Instant::UNIX_EPOCH);
    }
}
