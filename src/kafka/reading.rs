//! Reads a topic to its end, for commands that belong to no group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Monotonic};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::clients::tail_consumer;
use super::log::LogContext;
use crate::config::KafkaConfig;

/// The timeout of the request for the partitions.
const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// A read without a record for this long fails. It is longer than an abandoned transaction blocks
/// readers.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// How often the loop checks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// Passes every committed record that the topic has now to `each`, in offset order within a
/// partition, tombstones too. It blocks; call it on a thread of its own.
pub fn read_to_end(
    kafka: &KafkaConfig,
    topic: &str,
    role: &'static str,
    stop: &CancellationToken,
    each: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    read_on(kafka, topic, role, stop, &mut BTreeMap::new(), each)
}

/// As [`read_to_end`], from the offsets of `next`, or from the beginning of a partition that is not
/// there. Afterwards they are those behind the last record read.
pub fn read_on(
    kafka: &KafkaConfig,
    topic: &str,
    role: &'static str,
    stop: &CancellationToken,
    next: &mut BTreeMap<i32, i64>,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consumer: BaseConsumer<LogContext> = tail_consumer(kafka)
        .create_with_context(LogContext { role })
        .context("creating the consumer")?;
    let metadata = consumer
        .fetch_metadata(Some(topic), METADATA_TIMEOUT)
        .with_context(|| format!("asking for the topic {topic}"))?;
    let unread: BTreeSet<i32> = metadata
        .topics()
        .iter()
        .filter(|found| found.error().is_none())
        .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
        .collect();
    if unread.is_empty() {
        bail!("there is no topic {topic}");
    }
    let mut assignment = TopicPartitionList::with_capacity(unread.len());
    for partition in &unread {
        let from = next.get(partition);
        let from = from.map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
        assignment.add_partition_offset(topic, *partition, from)?;
    }
    consumer
        .assign(&assignment)
        .context("assigning partitions")?;
    read_assigned(&consumer, topic, unread, stop, |message| {
        each(message)?;
        next.insert(message.partition(), message.offset() + 1);
        Ok(())
    })
}

/// Passes the records of these partitions, which are assigned, to `each`, until each of them has
/// reached its end.
pub fn read_assigned(
    consumer: &BaseConsumer<LogContext>,
    topic: &str,
    mut unread: BTreeSet<i32>,
    stop: &CancellationToken,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut progress_at = Monotonic::now();
    while !unread.is_empty() {
        if stop.is_cancelled() {
            bail!("interrupted before the end of the topic {topic}");
        }
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                progress_at = Monotonic::now();
                each(&message)?;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                progress_at = Monotonic::now();
                unread.remove(&partition);
            }
            Some(Err(error)) if is_lasting(&error) => {
                return Err(error).with_context(|| format!("reading the topic {topic}"));
            }
            // librdkafka reconnects when unavailable brokers come back.
            Some(Err(error)) => tracing::debug!(%error, topic, "reading a topic"),
            None if progress_at.elapsed() > STALLED_AFTER => {
                bail!("the topic {topic} returned no record for {STALLED_AFTER:?}");
            }
            None => {}
        }
    }
    Ok(())
}

/// Errors that do not pass without action.
pub fn is_lasting(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::Fatal
                | Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
        )
    )
}
