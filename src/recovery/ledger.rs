//! The erasure ledger as a topic: one partition, compacted, kept for ever. A backup of the database
//! may be older than an erasure; the topic is not.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::kafka::{self, Cluster};
use crate::wire::erasure::Erasure;

/// How long publishing an entry may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

/// Creates the topic if it is missing, and publishes an entry; returns once it is stored.
pub async fn publish(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    topic: &str,
    entry: &Erasure,
) -> anyhow::Result<()> {
    cluster.ensure_ledger_topic(kafka, topic).await?;
    let producer: FutureProducer = kafka::producer(kafka)
        .set(
            "message.timeout.ms",
            PUBLISH_TIMEOUT.as_millis().to_string(),
        )
        .create()
        .context("creating the producer")?;
    let value = serde_json::to_vec(entry)?;
    let record = FutureRecord::to(topic).key(&entry.client).payload(&value);
    let sent = producer.send(record, PUBLISH_TIMEOUT).await;
    sent.map_err(|(error, _)| anyhow!(error))
        .with_context(|| format!("publishing to the erasure ledger {topic}"))?;
    Ok(())
}

/// Every entry of the topic, the newest of each client; empty if the topic does not exist.
pub async fn read(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    topic: &str,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Erasure>> {
    if !cluster.has_topic(topic).await? {
        return Ok(Vec::new());
    }
    let (kafka, topic, stop) = (kafka.clone(), topic.to_owned(), stop.clone());
    tokio::task::spawn_blocking(move || {
        let mut entries = BTreeMap::new();
        kafka::read_to_end(&kafka, &topic, "erasure-ledger", &stop, |message| {
            let (partition, offset) = (message.partition(), message.offset());
            let value = message.payload().unwrap_or_default();
            let entry: Erasure = serde_json::from_slice(value).with_context(|| {
                format!("{topic} {partition}:{offset} is not an entry of the ledger")
            })?;
            entries.insert(entry.client.clone(), entry);
            Ok(())
        })?;
        Ok(entries.into_values().collect())
    })
    .await?
}
