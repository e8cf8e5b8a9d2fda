//! `verify`: recounts participations from their receipts while everything runs, and changes nothing
//! (contract 2, "Proof").
//!
//! The topic is read first. If the database has a version that the topic lacked, the topic is read on and
//! the version is checked again: by then the topic must have it, unless it still waits in the outbox.

use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::status_topic::StatusReading;
use crate::causes;
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::{PromotionId, UserId};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::recount::{Disagreement, PAGE_TIMEOUT, RecountScope, VersionHere};
use crate::store::status_newest::StatusNewest;
use crate::store::verify_lease::VerifyLease;
use crate::telemetry::Metrics;

/// The purpose of its sessions.
pub const PURPOSE: &str = "verify";

/// Participations of the first page, and most of a page.
const PAGE: (i64, i64) = (200, 5_000);

/// A page that takes longer than this share of its time is followed by a smaller one.
const SLOW_SHARE: u32 = 2;

/// Versions that the topic lacks, before it is read on.
const MAX_PENDING: usize = 5_000;

/// Keys of the topic that are looked for at once.
const KEYS: i64 = 1_000;

/// How often it is checked whether another process still recounts.
const LEASE_INTERVAL: Duration = Duration::from_secs(30);

/// Differences of a recount by interval that are logged one by one.
const MAX_LOGGED: u64 = 100;

/// The result of a recount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifySummary {
    /// Participations that were recounted.
    pub participations: u64,
    /// Participations that were not: retention or an erasure has dropped their receipts.
    pub skipped: u64,
    /// Receipts of those that were recounted.
    pub receipts: u64,
    /// Budgets whose use was recounted.
    pub budgets: u64,
    /// Records of the status topic that were read.
    pub records: u64,
    /// Differences.
    pub differences: u64,
}

/// Something that does not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The client; `None` where it is about a promotion as a whole.
    pub user_id: Option<UserId>,
    /// The promotion.
    pub promotion_id: PromotionId,
    /// What is and what should be.
    #[serde(rename = "difference")]
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.user_id {
            Some(user_id) => write!(f, "{user_id}:{}  {}", self.promotion_id, self.what),
            None => write!(f, "promotion {}  {}", self.promotion_id, self.what),
        }
    }
}

/// A version that the topic did not have when it was looked for.
struct PendingVersion {
    key: (UserId, PromotionId),
    version: i32,
}

/// Recounts the participations of a scope, and calls `found` for every difference.
pub async fn verify(
    kafka: &KafkaConfig,
    store: &Store,
    scope: RecountScope,
    stop: &CancellationToken,
    progress: &mut Progress,
    found: impl FnMut(&Difference),
) -> anyhow::Result<VerifySummary> {
    let mut verification = Verification {
        kafka,
        store,
        newest: store.status_newest(PURPOSE).await?,
        reading: StatusReading::default(),
        stop,
        pending: Vec::new(),
        summary: VerifySummary::default(),
        found,
    };
    verification.read_on(progress).await?;
    verification.participations(scope, progress).await?;
    verification.settle(progress).await?;
    if scope == RecountScope::default() {
        verification.budgets().await?;
    }
    // What the topic says of a start is not looked at: a scope by it has participations only.
    if scope.since.is_none() {
        verification.unknown_keys(scope.user_id, progress).await?;
    }
    verification.summary.records = verification.reading.records;
    Ok(verification.summary)
}

struct Verification<'a, F> {
    kafka: &'a KafkaConfig,
    store: &'a Store,
    newest: StatusNewest,
    reading: StatusReading,
    stop: &'a CancellationToken,
    pending: Vec<PendingVersion>,
    summary: VerifySummary,
    found: F,
}

impl<F: FnMut(&Difference)> Verification<'_, F> {
    async fn read_on(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        self.reading
            .read_on(self.kafka, &mut self.newest, self.stop, progress)
            .await
    }

    fn differs(&mut self, (user_id, promotion_id): (UserId, PromotionId), what: String) {
        self.report(&Difference {
            user_id: Some(user_id),
            promotion_id,
            what,
        });
    }

    fn report(&mut self, difference: &Difference) {
        self.summary.differences += 1;
        (self.found)(difference);
    }

    /// The use of every budget, a promotion at a time.
    async fn budgets(&mut self) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let budget = self.store.recount_budget(after, PAGE_TIMEOUT).await;
            let budget = budget.with_context(|| {
                let after = after.unwrap_or_default();
                format!("recounting the budget of the first promotion after {after}")
            })?;
            let Some(budget) = budget else {
                return Ok(());
            };
            self.summary.budgets += 1;
            for what in budget.disagreements {
                self.report(&Difference {
                    user_id: None,
                    promotion_id: budget.promotion_id,
                    what,
                });
            }
            after = Some(budget.promotion_id);
            anyhow::ensure!(!self.stop.is_cancelled(), "interrupted");
        }
    }

    /// Page by page, each in a snapshot of its own.
    async fn participations(
        &mut self,
        scope: RecountScope,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let (mut limit, most) = PAGE;
        let mut after = None;
        loop {
            anyhow::ensure!(
                !self.stop.is_cancelled(),
                "interrupted after {} participations",
                self.summary.participations
            );
            let began = Monotonic::now();
            let page = match self.store.recount_page(scope, after, limit).await {
                Err(error) if error.may_be_too_much() && limit > 1 => {
                    limit = (limit / 4).max(1);
                    continue;
                }
                page => page?,
            };
            for Disagreement {
                user_id,
                promotion_id,
                what,
            } in page.counted.disagreements
            {
                self.differs((user_id, promotion_id), what);
            }
            self.summary.participations += page.counted.participations;
            self.summary.receipts += page.counted.receipts;
            self.summary.skipped += page.skipped;
            self.versions(&page.versions).await?;
            if self.pending.len() >= MAX_PENDING {
                self.settle(progress).await?;
            }
            progress.set(self.summary.participations);
            let Some(last) = page.last else {
                return Ok(());
            };
            after = Some(last);
            limit = next_limit(limit, began.elapsed(), most);
        }
    }

    /// Compares versions of one snapshot with the topic, which was read before it.
    async fn versions(&mut self, versions: &[VersionHere]) -> anyhow::Result<()> {
        let keys: Vec<(UserId, PromotionId)> = versions.iter().map(|here| here.key).collect();
        let published = self.newest.versions(&keys).await?;
        for here in versions {
            let published = published.get(&here.key).copied().unwrap_or_default();
            if published > here.version {
                self.differs(
                    here.key,
                    format!(
                        "the topic has version {published} and the database version {}",
                        here.version
                    ),
                );
            } else if published < here.version && here.waiting != Some(here.version) {
                self.pending.push(PendingVersion {
                    key: here.key,
                    version: here.version,
                });
            }
        }
        Ok(())
    }

    /// Reads the topic on, and looks again for the versions that it lacked. They were committed and
    /// did not wait, so they had been published.
    async fn settle(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        self.read_on(progress).await?;
        let keys: Vec<(UserId, PromotionId)> = pending.iter().map(|here| here.key).collect();
        let published = self.newest.versions(&keys).await?;
        for PendingVersion { key, version } in pending {
            match published.get(&key) {
                // A tombstone: erased since.
                Some(0) => {}
                Some(published) if *published >= version => {}
                published => {
                    let published = match published {
                        Some(published) => format!("version {published}"),
                        None => "nothing".to_owned(),
                    };
                    self.differs(
                        key,
                        format!(
                            "the database has version {version}, which does not wait to be published, and the topic {published}"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// Keys that only the topic has. One that was erased has a tombstone, which waits or was published.
    async fn unknown_keys(
        &mut self,
        user_id: Option<UserId>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let unknown = self.newest.unknown_here(user_id, after, KEYS).await?;
            let Some((last, _)) = unknown.last() else {
                return Ok(());
            };
            after = Some(*last);
            self.read_on(progress).await?;
            let keys: Vec<(UserId, PromotionId)> = unknown.iter().map(|(key, _)| *key).collect();
            let published = self.newest.versions(&keys).await?;
            for (key, version) in unknown {
                if published.get(&key) != Some(&0) {
                    self.differs(
                        key,
                        format!("the topic has version {version} and the database nothing"),
                    );
                }
            }
            anyhow::ensure!(!self.stop.is_cancelled(), "interrupted");
        }
    }
}

/// Recounts everything now and then until stopped, in one process at a time: the one that holds the
/// lease. Differences are logged and counted in a metric.
pub async fn every(
    interval: Duration,
    kafka: KafkaConfig,
    store: Store,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut lease = None;
    loop {
        let held = match &mut lease {
            None => false,
            Some(held) => VerifyLease::check(held).await.is_ok(),
        };
        let pause = if held {
            run_once(&kafka, &store, &metrics, &stop).await;
            interval
        } else {
            lease = store.try_verify_lease().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the lease of the recount could not be asked for");
                None
            });
            match lease {
                Some(_) => Duration::ZERO,
                None => LEASE_INTERVAL.min(interval),
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn run_once(kafka: &KafkaConfig, store: &Store, metrics: &Metrics, stop: &CancellationToken) {
    let mut logged = 0;
    let found = |difference: &Difference| {
        logged += 1;
        if logged <= MAX_LOGGED {
            tracing::error!(
                user_id = difference.user_id,
                promotion_id = difference.promotion_id,
                difference = difference.what,
                "a recount found a difference; `ride-promo verify` shows all"
            );
        }
    };
    let mut progress = Progress::silent();
    let verified = verify(
        kafka,
        store,
        RecountScope::default(),
        stop,
        &mut progress,
        found,
    )
    .await;
    let summary = match verified {
        Ok(summary) => summary,
        Err(error) => {
            if !stop.is_cancelled() {
                let error = causes::in_words(&error);
                tracing::warn!(error, "participations could not be recounted, trying again");
            }
            return;
        }
    };
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    metrics
        .sweep
        .verify_differences
        .set(count(summary.differences));
    metrics.sweep.verify_skipped.set(count(summary.skipped));
    let now = Clock::System.now().timestamp_millis() as f64 / 1_000.0;
    metrics.sweep.verify_last_end_timestamp_seconds.set(now);
    tracing::info!(
        participations = summary.participations,
        skipped = summary.skipped,
        differences = summary.differences,
        "participations recounted"
    );
}

/// So that the next page keeps well within its time.
fn next_limit(limit: i64, took: Duration, most: i64) -> i64 {
    if took * SLOW_SHARE > PAGE_TIMEOUT {
        (limit / 2).max(1)
    } else if took * SLOW_SHARE * 4 < PAGE_TIMEOUT {
        (limit * 2).min(most)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_keep_within_their_time() {
        let most = PAGE.1;
        let after = |limit, millis| next_limit(limit, Duration::from_millis(millis), most);
        assert_eq!(after(200, 100), 400);
        assert_eq!(after(most, 100), most);
        assert_eq!(after(200, 1_000), 200);
        assert_eq!(after(200, 4_900), 100);
        assert_eq!(after(1, 4_900), 1);
    }
}
