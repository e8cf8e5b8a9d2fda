//! Reads the status topic into a table of its newest records.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rdkafka::message::Message as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::kafka;
use crate::progress::Progress;
use crate::store::status_newest::{PublishedRecord, StatusNewest};
use crate::wire::promotion_status::PromotionStatus;

/// Records handed to Postgres at once.
const BATCH: usize = 1_000;

/// Batches read ahead.
const BATCHES_AHEAD: usize = 4;

/// The progress of reading the topic, and counts of its records.
#[derive(Debug, Default)]
pub(super) struct StatusReading {
    /// The next offset of each partition that was read.
    next: BTreeMap<i32, i64>,
    /// Records that were read.
    pub(super) records: u64,
    /// Records that are not status events of this service.
    pub(super) unreadable: u64,
}

impl StatusReading {
    /// Reads on, from the last offset read to the topic's present end.
    pub(super) async fn read_on(
        &mut self,
        kafka: &KafkaConfig,
        newest: &mut StatusNewest,
        stop: &CancellationToken,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let (send, mut receive) = mpsc::channel::<Vec<PublishedRecord>>(BATCHES_AHEAD);
        let reader = {
            let (kafka, stop) = (kafka.clone(), stop.clone());
            let next = std::mem::take(&mut self.next);
            tokio::task::spawn_blocking(move || read(&kafka, next, &stop, &send))
        };
        while let Some(batch) = receive.recv().await {
            self.records += batch.len() as u64;
            newest.take(&batch).await?;
            progress.set(self.records);
        }
        let (next, unreadable) = reader.await??;
        self.next = next;
        self.unreadable += unreadable;
        Ok(())
    }
}

/// Reads the topic in batches; returns where it ended, and how many records were not ours.
fn read(
    kafka: &KafkaConfig,
    mut next: BTreeMap<i32, i64>,
    stop: &CancellationToken,
    send: &mpsc::Sender<Vec<PublishedRecord>>,
) -> anyhow::Result<(BTreeMap<i32, i64>, u64)> {
    let topic = kafka.status_topic.as_str();
    let mut batch = Vec::with_capacity(BATCH);
    let mut unreadable = 0;
    kafka::read_on(kafka, topic, "reconcile", stop, &mut next, |message| {
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
    Ok((next, unreadable))
}

/// A record of ours, by its key and value.
fn published(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<PublishedRecord> {
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
    Some(PublishedRecord {
        key,
        partition,
        event,
    })
}
