//! Expiry, and the proof it needs: nobody is expired because we are late.
//!
//! A barrier is a moment together with the ends of all partitions asked for after it. Once the
//! recorded positions have passed those ends, every ride published up to that moment was applied,
//! and a challenge whose deadline and lateness lie before it can gain no more rides in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{KafkaConfig, SweepConfig};
use crate::domain::Instant;
use crate::domain::participation::ExpiredReason;
use crate::kafka::{Cluster, TopicIdentity};
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::store::positions::Position;
use crate::store::schema::ensure_receipt_partitions;
use crate::telemetry::Metrics;

/// How often the coming months' receipt partitions are seen to.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

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
    ends: BTreeMap<i32, i64>,
}

impl Barrier {
    /// Why it has not passed yet: `None` once every partition's position, in this very incarnation
    /// of the topic, is at or past its end. A partition without a position counts as unread.
    fn is_held_by(
        &self,
        identity: &TopicIdentity,
        positions: &BTreeMap<i32, Position>,
    ) -> Option<String> {
        for (partition, end) in &self.ends {
            match positions.get(partition) {
                None => return Some(format!("partition {partition} has no position")),
                Some(position)
                    if position.source.cluster_id != identity.cluster_id
                        || position.source.topic_id != identity.topic_id =>
                {
                    return Some(format!(
                        "the position of partition {partition} belongs to another topic of this name"
                    ));
                }
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

impl Sweep {
    /// Expires what may be expired until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut barrier = None;
        let mut proven = None;
        let mut tick = tokio::time::interval(self.limits.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut partitions_due = tokio::time::Instant::now() + PARTITIONS_INTERVAL;
        let mut count_due = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let state = match self.step(&mut barrier, &mut proven, &stop).await {
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
                if let Err(error) = self.count(proven).await {
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

    /// One round: rewards by the clock alone; challenges once a barrier has passed.
    async fn step(
        &self,
        barrier: &mut Option<Barrier>,
        proven: &mut Option<Instant>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let limit = i64::try_from(self.limits.batch_max)?;
        while !stop.is_cancelled() {
            let expired = self.store.expire_rewards(limit).await?;
            self.expired(ExpiredReason::RewardNotClaimed, expired);
            if expired < self.limits.batch_max as u64 {
                break;
            }
        }

        let topic = &self.kafka.ride_topic;
        let pending = match barrier.take() {
            Some(pending) => pending,
            None => {
                let at = self.store.now().await?;
                Barrier {
                    at,
                    ends: self.cluster.end_offsets(topic).await?,
                }
            }
        };
        // Asked anew each time: the topic may have been replaced since the barrier was taken.
        let identity = self.cluster.identity(topic).await?;
        let positions = self.store.positions(topic).await?;
        if let Some(why) = pending.is_held_by(&identity, &positions) {
            tracing::debug!(why, barrier = %pending.at, "expiry is held back");
            // A barrier whose ends another incarnation will never reach is taken anew.
            let replaced = positions
                .values()
                .any(|position| position.source.topic_id != identity.topic_id);
            *barrier = (!replaced).then_some(pending);
            return Ok(());
        }
        *proven = Some(pending.at);
        let due = pending.at - self.lateness();
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

    async fn count(&self, proven: Option<Instant>) -> anyhow::Result<()> {
        let now = self.store.now().await?;
        let held = self.store.held_back(now - self.lateness()).await?;
        self.metrics.sweep.held_back.set("lag", held.by_lag);
        self.metrics
            .sweep
            .held_back
            .set("quarantine", held.by_quarantine);
        if let Some(proven) = proven {
            let age = (now - proven).as_seconds_f64();
            self.metrics.sweep.barrier_age_seconds.set(age.max(0.0));
        }
        Ok(())
    }

    fn lateness(&self) -> TimeDelta {
        // The configuration bounds it far inside the range.
        TimeDelta::from_std(self.limits.allowed_lateness).unwrap_or(TimeDelta::MAX)
    }
}
