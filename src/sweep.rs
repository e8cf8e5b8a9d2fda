//! Expiry, and the proof it needs: nobody is expired because we are late.
//!
//! A barrier is a moment together with the ends of all partitions asked for after it. Once the
//! recorded positions have passed those ends, every ride published up to that moment was applied,
//! and a challenge whose deadline and lateness lie before it can gain no more rides in time.
//!
//! Rewards need no proof, only the database's clock. They are expired beside, so that neither Kafka
//! nor very many challenges keep them waiting.

mod extensions;
mod reminders;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use tokio::sync::watch;
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
use crate::store::expiry::Window;
use crate::store::identity::Standing;
use crate::store::positions::Position;
use crate::store::schema::ensure_receipt_partitions;
use crate::telemetry::Metrics;

/// How often the coming months' receipt partitions are seen to.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The first and the longest pause before that is tried again where a lock could not be had, or a
/// month's receipts are in the default partition already.
const PARTITIONS_RETRY: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// How long the proof, or one batch, may take: a server that is gone without a word is given up
/// then. There may be many batches.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// How many batches a round may have: between two rounds it is said how things stand.
const MAX_BATCHES: usize = 100;

/// How often what is held back is counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// How far before the end of the last complete look the next one begins: longer than any
/// transaction, so that one which was still open then is seen.
const OVERLAP: TimeDelta = TimeDelta::seconds(120);

/// Between two looks at everything that is overdue: clients whose quarantined ride was resolved are
/// found then. Where many are held, or a long transaction keeps many dead rows, such a look takes
/// long, and is made at most so often that it takes a twentieth of the time.
const LOOK_AT_ALL_INTERVAL: Duration = Duration::from_secs(3);
const LOOK_AT_ALL_SHARE: u32 = 20;

/// What the sweeper needs of the process.
pub struct Sweep {
    /// The ride topic.
    pub kafka: KafkaConfig,
    /// Lateness, interval and bounds.
    pub limits: SweepConfig,
    /// Where participations are.
    pub store: Store,
    /// Questions to the broker.
    pub cluster: Cluster,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Told whether the sweeper can do its work, or why not.
    pub readiness: Arc<Readiness>,
    /// Told after commits that left events in the outbox.
    pub outbox_wake: watch::Sender<()>,
    /// Why rewards cannot be expired at the moment.
    pub rewards_failing: Mutex<Option<String>>,
    /// Why reminders cannot be recorded at the moment.
    pub reminders_failing: Mutex<Option<String>>,
}

/// A moment, and what must be read to have read everything published up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier {
    at: Instant,
    /// The topic that the ends are of.
    source: Source,
    ends: BTreeMap<i32, i64>,
}

impl Barrier {
    /// Takes the ends of a topic's logs as they are asked for after that moment.
    fn new(at: Instant, topic: TopicNow) -> Self {
        let ends = topic.logs.into_iter();
        Self {
            at,
            source: topic.source,
            ends: ends.map(|(partition, log)| (partition, log.high)).collect(),
        }
    }

    /// Whether it says nothing any more: it is of another topic, or lacks a partition that the topic
    /// has. A broker that had not heard of an added partition may have been asked for the ends.
    fn is_void(&self, now: &TopicNow) -> bool {
        self.source != now.source
            || now
                .logs
                .keys()
                .any(|partition| !self.ends.contains_key(partition))
    }

    /// Why it has not passed yet: `None` once every partition's position, in this very incarnation
    /// of the topic, is at or past its end. A partition without a position counts as unread.
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

/// How far deadlines have been looked at: a look begins where the last one ended, instead of behind
/// everything that is overdue and held, or was expired and is not yet vacuumed.
#[derive(Debug, Default)]
struct Looked {
    upto: Option<Instant>,
    all_due: Option<tokio::time::Instant>,
}

/// One look, until it is complete.
#[derive(Clone, Copy, Debug)]
struct Look {
    window: Window,
    began: tokio::time::Instant,
}

impl Looked {
    fn begin(&self, upto: Instant, began: tokio::time::Instant) -> Look {
        let is_due = self.all_due.is_none_or(|due| began >= due);
        let after = match self.upto {
            Some(looked) if !is_due => looked.min(upto) - OVERLAP,
            _ => Instant::UNIX_EPOCH,
        };
        Look {
            window: Window { after, upto },
            began,
        }
    }

    fn end(&mut self, look: Look, now: tokio::time::Instant) {
        self.upto = Some(look.window.upto);
        if look.window.after == Instant::UNIX_EPOCH {
            let pause = (now - look.began) * LOOK_AT_ALL_SHARE;
            self.all_due = Some(now + pause.max(LOOK_AT_ALL_INTERVAL));
        }
    }
}

/// Positions prove nothing where they are not of this topic, or not within its log as it was after
/// they were read: past its end they would count as read what was never there.
fn check_positions(positions: &BTreeMap<i32, Position>, now: &TopicNow) -> anyhow::Result<()> {
    let TopicNow { source, logs } = now;
    let topic = &source.topic;
    for (partition, position) in positions {
        anyhow::ensure!(
            position.source == *source,
            "nobody is expired: the position of partition {partition} belongs to another topic of the name {topic}. See \
             `ride-promo positions`"
        );
        if let Some(reason) = &position.stopped {
            anyhow::bail!(
                "nobody is expired: partition {partition} of {topic} is stopped until an operator decides: {reason}. See \
                 `ride-promo positions`"
            );
        }
        let log = logs.get(partition).with_context(|| {
            format!("nobody is expired: partition {partition} of {topic} is gone")
        })?;
        anyhow::ensure!(
            (log.low..=log.high).contains(&position.next_offset),
            "nobody is expired: the position {} of partition {partition} of {topic} is not within its log, which goes from {} \
             to {}. See `ride-promo positions`",
            position.next_offset,
            log.low,
            log.high
        );
    }
    Ok(())
}

impl Sweep {
    /// Expires rewards, and sees to the coming months' receipts, until stopped. Postgres must be
    /// there; Kafka need not.
    pub async fn expire_rewards(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = self.tick();
        let mut looked = Looked::default();
        let mut partitions_due = tokio::time::Instant::now();
        let mut partitions_pause = PARTITIONS_RETRY.0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let expired = self.expire_overdue_rewards(&mut looked, &stop).await;
            *self.failing_of(&self.rewards_failing) = told(expired).err();
            let now = tokio::time::Instant::now();
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
                                "the coming months' receipt partitions could not be made, trying again; `migrate` does it too"
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
        looked: &mut Looked,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let now = in_time(async { Ok(self.store.now().await?) }).await?;
        let look = looked.begin(now, tokio::time::Instant::now());
        let batch = |limit| self.store.expire_rewards(look.window, limit);
        if self
            .expire_all(ExpiredReason::RewardNotClaimed, stop, batch)
            .await?
        {
            looked.end(look, tokio::time::Instant::now());
        }
        Ok(())
    }

    /// Makes the coming months' partitions that are missing.
    async fn see_to_partitions(&self) -> anyhow::Result<()> {
        let missing = in_time(async { Ok(ensure_receipt_partitions(&self.store).await?) }).await?;
        anyhow::ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
        Ok(())
    }

    /// Expires challenges, and says how all the sweeping is going, until stopped. The topics must be
    /// there.
    pub async fn expire_challenges(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut barrier = None;
        let mut looked = Looked::default();
        let mut proven = None;
        let mut began = None;
        let mut tick = self.tick();
        let mut count_due = tokio::time::Instant::now();
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
            let now = tokio::time::Instant::now();
            if now >= count_due {
                let count = self.count(proven, &mut began);
                if let Err(error) = in_time(count).await {
                    tracing::debug!(
                        error = causes::in_words(&error),
                        "what is held back could not be counted"
                    );
                }
                // It counts all that is overdue.
                count_due = now + COUNT_INTERVAL.max(now.elapsed() * LOOK_AT_ALL_SHARE);
            }
        }
    }

    /// Why one of the loops beside cannot do its work at the moment.
    fn failing_of<'a>(&self, of: &'a Mutex<Option<String>>) -> MutexGuard<'a, Option<String>> {
        // A task that panicked left a whole text behind.
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> tokio::time::Interval {
        let mut tick = tokio::time::interval(self.limits.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick
    }

    /// Expires challenges where a barrier has passed; it stays until none is left that it allows.
    async fn round(
        &self,
        barrier: &mut Option<Barrier>,
        looked: &mut Looked,
        proven: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(passed) = in_time(self.pass(barrier)).await? else {
            return Ok(());
        };
        *proven = Some(passed);
        let look = looked.begin(passed - self.lateness(), tokio::time::Instant::now());
        let batch = |limit| self.store.expire_challenges(look.window, limit);
        let reason = ExpiredReason::ChallengeNotCompleted;
        if self.expire_all(reason, stop, batch).await? {
            looked.end(look, tokio::time::Instant::now());
            *barrier = None;
        }
        Ok(())
    }

    /// Takes a barrier where there is none, and answers its moment once it has passed.
    async fn pass(&self, barrier: &mut Option<Barrier>) -> anyhow::Result<Option<Instant>> {
        if let Standing::Other(other) = self.store.server_standing().await? {
            return Err(other.into());
        }
        let topic = &self.kafka.ride_topic;
        if barrier.is_none() {
            let at = self.store.now().await?;
            *barrier = Some(Barrier::new(at, self.cluster.topic_now(topic).await?));
        }
        // Positions before the logs' ends, or one that moves on meanwhile would seem to be past its
        // end. The topic is asked for each time: it may have been replaced, or have more partitions,
        // since the barrier was taken, and then the barrier's ends say nothing any more.
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

    /// Records the positions past their logs' ends, so that ingest and expiry stop there also when the
    /// logs have grown.
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

    /// Batch by batch; answers whether none is left, or else the round has had its share.
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
            // Fewer than the limit can also mean that others were faster: then the next round sees.
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

    /// Counts what is held back. Until a barrier has passed, its age is that of this sweeper, whose
    /// first count `began` keeps.
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
        // The configuration bounds it far inside the range.
        TimeDelta::from_std(self.limits.allowed_lateness).unwrap_or(TimeDelta::MAX)
    }
}

/// Within [`STEP_TIMEOUT`].
async fn in_time<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(STEP_TIMEOUT, step)
        .await
        .context("a server does not answer")
        .flatten()
}

/// Logs a failure, and hands it on as readiness tells it.
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
        assert!(barrier.is_void(&topic("a", &[7, 9, 0])), "one was added");
        assert!(barrier.is_void(&topic("b", &[7, 9])), "created anew");
    }

    #[test]
    fn a_look_begins_where_the_last_ended_and_now_and_then_at_everything() {
        let at = |seconds: i64| Instant::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let began = tokio::time::Instant::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        let mut looked = Looked::default();
        let first = looked.begin(at(10_000), began);
        assert_eq!(first.window.after, Instant::UNIX_EPOCH);
        // A look that was not complete is made again.
        let again = looked.begin(at(10_001), after(1));
        assert_eq!(again.window.after, Instant::UNIX_EPOCH);
        looked.end(first, after(2));
        let next = looked.begin(at(10_002), after(2));
        assert_eq!(next.window.after, at(10_000) - OVERLAP);
        looked.end(next, after(3));
        // The first took two seconds: a twentieth of the time.
        let later = looked.begin(at(10_041), after(41));
        assert_eq!(later.window.after, at(10_002) - OVERLAP);
        let all = looked.begin(at(10_042), after(42));
        assert_eq!(all.window.after, Instant::UNIX_EPOCH);
    }
}
