//! `reconcile`: after a restore to an earlier moment, with everything else stopped, finds what the
//! status topic has and the database lacks, and repairs it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, Producer as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::kafka;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::identity::Standing;
use crate::store::reconcile::{Difference, Published, Reconciliation, Side};
use crate::wire::format_instant;
use crate::wire::promotion_status::PromotionStatus;

/// Records passed to Postgres at once.
const BATCH: usize = 1_000;

/// Batches that are read ahead.
const BATCHES_AHEAD: usize = 4;

/// The reason in the audit of accepting another server.
const RECONCILED: &str = "reconciled with the status topic";

/// How long fencing a relay may take.
const FENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many held rewards are listed.
const MAX_HELD_SHOWN: i64 = 10_000;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
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
) -> anyhow::Result<Summary> {
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
    let mut summary = Summary::default();
    load(kafka, &mut reconciliation, &mut summary, stop, progress).await?;
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

/// Reads the topic to its end into the reconciliation.
async fn load(
    kafka: &KafkaConfig,
    reconciliation: &mut Reconciliation,
    summary: &mut Summary,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (send, mut receive) = mpsc::channel::<Vec<Published>>(BATCHES_AHEAD);
    let reader = {
        let (kafka, stop) = (kafka.clone(), stop.clone());
        tokio::task::spawn_blocking(move || read(&kafka, &stop, &send))
    };
    while let Some(batch) = receive.recv().await {
        summary.records += batch.len() as u64;
        reconciliation.take(&batch).await?;
        progress.set(summary.records);
    }
    summary.unreadable = reader.await??;
    Ok(())
}

/// Reads the topic in batches; returns the number of foreign records.
fn read(
    kafka: &KafkaConfig,
    stop: &CancellationToken,
    send: &mpsc::Sender<Vec<Published>>,
) -> anyhow::Result<u64> {
    let topic = kafka.status_topic.as_str();
    let mut batch = Vec::with_capacity(BATCH);
    let mut unreadable = 0;
    kafka::read_to_end(kafka, topic, "reconcile", stop, |message| {
        match published(message.partition(), message.key(), message.payload()) {
            Some(record) => batch.push(record),
            None => {
                unreadable += 1;
                let (partition, offset) = (message.partition(), message.offset());
                tracing::warn!(topic, partition, offset, "not a status event; skipped");
            }
        }
        if batch.len() >= BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            send.blocking_send(full).context("the comparison ended")?;
        }
        Ok(())
    })?;
    if !batch.is_empty() {
        send.blocking_send(batch).context("the comparison ended")?;
    }
    Ok(unreadable)
}

/// A status event of this service, from its key and value.
fn published(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Published> {
    let (user_id, promotion_id) = std::str::from_utf8(key?).ok()?.split_once(':')?;
    let key = (user_id.parse().ok()?, promotion_id.parse().ok()?);
    let event: Option<Value> = match value {
        None => None,
        Some(bytes) => {
            let event: PromotionStatus = serde_json::from_slice(bytes).ok()?;
            if (event.state.user_id, event.state.promotion_id) != key {
                return None;
            }
            Some(serde_json::to_value(event).ok()?)
        }
    };
    Some(Published {
        key,
        partition,
        event,
    })
}
