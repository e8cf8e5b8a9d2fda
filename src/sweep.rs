//! Expiry, and the proof it needs: nobody is expired because we are late.
//!
//! A barrier is a moment together with the ends of all partitions asked for after it. Once the
//! recorded positions have passed those ends, every ride published up to that moment was applied,
//! and a challenge whose deadline and lateness lie before it can gain no more rides in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{KafkaConfig, SweepConfig};
use crate::domain::Instant;
use crate::domain::participation::ExpiredReason;
use crate::kafka::{Cluster, TopicIdentity, Watermarks};
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::store::positions::Position;
use crate::store::schema::ensure_receipt_partitions;
use crate::telemetry::Metrics;

/// How often the coming months' receipt partitions are seen to.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a round may take: a server that is gone without a word is given up then.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// How often what is held back is counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

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
}

/// A moment, and what must be read to have read everything published up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier {
    at: Instant,
    /// The topic that the ends are of.
    identity: TopicIdentity,
    ends: BTreeMap<i32, i64>,
}

impl Barrier {
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

/// Positions prove nothing where they are not of this topic, or not within its log as it was after
/// they were read: past its end they would count as read what was never there.
fn check_positions(
    topic: &str,
    identity: &TopicIdentity,
    positions: &BTreeMap<i32, Position>,
    logs: &BTreeMap<i32, Watermarks>,
) -> anyhow::Result<()> {
    for (partition, position) in positions {
        let source = &position.source;
        anyhow::ensure!(
            source.cluster_id == identity.cluster_id && source.topic_id == identity.topic_id,
            "nobody is expired: the position of partition {partition} belongs to another topic of the name {topic}. See \
             `ride-promo positions`"
        );
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
    /// Expires what may be expired until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut barrier = None;
        let mut proven = None;
        let mut began = None;
        let mut tick = tokio::time::interval(self.limits.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut partitions_due = tokio::time::Instant::now();
        let mut count_due = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let step = self.step(&mut barrier, &mut proven, &stop);
            let step = tokio::time::timeout(STEP_TIMEOUT, step).await;
            let state = match step.context("a server does not answer").flatten() {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "sweeping failed, trying again"
                    );
                    Err(format!("{error:#}"))
                }
            };
            self.readiness.set(Role::Sweep, state);
            let now = tokio::time::Instant::now();
            if now >= count_due {
                count_due = now + COUNT_INTERVAL;
                let count = self.count(proven, &mut began);
                let count = tokio::time::timeout(STEP_TIMEOUT, count).await;
                if let Err(error) = count.context("postgres does not answer").flatten() {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "what is held back could not be counted"
                    );
                }
            }
            if now >= partitions_due {
                partitions_due = now + PARTITIONS_INTERVAL;
                if let Err(error) = ensure_receipt_partitions(&self.store).await {
                    tracing::warn!(%error, "the coming months' receipt partitions could not be made; `migrate` does it too");
                }
            }
        }
    }

    /// One round: rewards by the clock alone; challenges once a barrier has passed. Neither keeps
    /// the other from its work.
    async fn step(
        &self,
        barrier: &mut Option<Barrier>,
        proven: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let rewards = self.expire_rewards(stop).await;
        let challenges = self.expire_challenges(barrier, proven, stop).await;
        rewards.and(challenges)
    }

    async fn expire_rewards(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let limit = i64::try_from(self.limits.batch_max)?;
        while !stop.is_cancelled() {
            let expired = self.store.expire_rewards(limit).await?;
            self.expired(ExpiredReason::RewardNotClaimed, expired);
            if expired < self.limits.batch_max as u64 {
                break;
            }
        }
        Ok(())
    }

    async fn expire_challenges(
        &self,
        barrier: &mut Option<Barrier>,
        proven: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let topic = &self.kafka.ride_topic;
        // Asked anew each time: the topic may have been replaced since the barrier was taken, and
        // then its ends say nothing any more.
        let identity = self.cluster.identity(topic).await?;
        let pending = match barrier
            .take()
            .filter(|pending| pending.identity == identity)
        {
            Some(pending) => pending,
            None => {
                let at = self.store.now().await?;
                let ends = self.cluster.end_offsets(topic).await?;
                Barrier { at, identity, ends }
            }
        };
        let positions = self.store.positions(topic).await?;
        let logs = self.cluster.watermarks(topic).await?;
        check_positions(topic, &pending.identity, &positions, &logs)?;
        if let Some(why) = pending.is_held_by(&positions) {
            tracing::debug!(why, barrier = %pending.at, "expiry is held back");
            *barrier = Some(pending);
            return Ok(());
        }
        *proven = Some(pending.at);
        let due = pending.at - self.lateness();
        let limit = i64::try_from(self.limits.batch_max)?;
        while !stop.is_cancelled() {
            let expired = self.store.expire_challenges(due, limit).await?;
            self.expired(ExpiredReason::ChallengeNotCompleted, expired);
            // Fewer than the limit can also mean that others were faster: then the next round sees.
            if expired < self.limits.batch_max as u64 {
                break;
            }
        }
        Ok(())
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
