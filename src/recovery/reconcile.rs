//! `reconcile`: after a restore to an earlier moment, with everything else stopped, finds what the
//! status topic has and the database lacks, and repairs it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio_util::sync::CancellationToken;

use super::status_topic::StatusReading;
use crate::config::KafkaConfig;
use crate::kafka;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::identity::Standing;
use crate::store::reconcile::{Difference, Side};
use crate::wire::format_instant;

/// The reason in the audit of accepting another server.
const RECONCILED: &str = "reconciled with the status topic";

/// How long fencing a relay may take.
const FENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many held rewards are listed.
const MAX_HELD_SHOWN: i64 = 10_000;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconcileSummary {
    /// Records of the topic.
    pub records: u64,
    /// Records that are not status events of this service.
    pub unreadable: u64,
    /// Keys that differ; a lost reward counts on its own.
    pub differences: u64,
    /// Keys among them that are left unchanged: erased clients, and then another server too.
    pub left: u64,
}

/// Compares, writes a line to `out` for everything that differs, and repairs it if `apply` names
/// the actor.
pub async fn reconcile(
    kafka: &KafkaConfig,
    store: &Store,
    apply: Option<&Author>,
    out: &mut impl Write,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> anyhow::Result<ReconcileSummary> {
    let others = store.other_sessions().await?;
    if !others.is_empty() {
        bail!(
            "other processes are connected to the database ({}): stop every one of them first",
            others.join(", ")
        );
    }
    let Some(mut reconciliation) = store.begin_reconciliation().await? else {
        bail!("a relay holds its lock: stop every process first");
    };
    // A relay that lost its lock and has not noticed yet cannot publish any more, and its open
    // transaction is aborted.
    for shard in store.shards().await? {
        fence(kafka, shard).await?;
    }
    let mut summary = ReconcileSummary::default();
    let mut reading = StatusReading::default();
    reading
        .read_on(kafka, reconciliation.newest(), stop, progress)
        .await?;
    (summary.records, summary.unreadable) = (reading.records, reading.unreadable);
    for side in [Side::Topic, Side::Database] {
        let mut after = None;
        loop {
            let page = reconciliation.compare(side, after, apply).await?;
            for ((user_id, promotion_id), difference) in page.differences {
                summary.differences += 1;
                summary.left += u64::from(difference == Difference::Erased);
                writeln!(out, "{user_id}:{promotion_id}  {difference}")?;
            }
            if page.last.is_none() {
                break;
            }
            after = page.last;
            if stop.is_cancelled() {
                bail!("interrupted; repairs made so far stay, run it again");
            }
        }
    }
    reconciliation.end().await;
    if let Standing::Other(other) = store.server_standing().await? {
        summary.differences += 1;
        writeln!(out, "{other}")?;
        match apply {
            // Adds what the topic lacks.
            Some(author) if summary.left == 0 => {
                store
                    .accept_server_identity(&author.actor, RECONCILED)
                    .await?;
            }
            Some(_) => summary.left += 1,
            None => {}
        }
    }
    for held in store.held_rewards(MAX_HELD_SHOWN).await? {
        let (user_id, promotion_id) = (held.user_id, held.promotion_id);
        let since = format_instant(held.noted_at);
        writeln!(
            out,
            "{user_id}:{promotion_id}  held since {since}, the topic's version {}",
            held.version
        )?;
    }
    Ok(summary)
}

async fn fence(kafka: &KafkaConfig, shard: i16) -> anyhow::Result<()> {
    let kafka = kafka.clone();
    tokio::task::spawn_blocking(move || {
        let id = kafka::relay_transactional_id(&kafka.status_topic, shard);
        let producer: BaseProducer = kafka::transactional_producer(&kafka, &id)
            .create()
            .context("creating the producer")?;
        producer
            .init_transactions(FENCE_TIMEOUT)
            .context("taking over the relay's transactional id")
    })
    .await?
}
