//! The ride topic's history as a source. It is read from a moment on, up to the ends at the
//! beginning of the run. It joins no group and commits nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::domain::Instant;
use crate::kafka::{self, LogContext};
use crate::wire::ride_completed::MAX_AHEAD;

/// The timeout of metadata and offsets.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

type Consumer = BaseConsumer<LogContext>;

/// Passes every record that was published from `from` on to `each`, in offset order within a
/// partition; tombstones are skipped. It blocks; call it on a thread of its own.
///
/// Rides are published after they were completed, or at most [`MAX_AHEAD`] before. All later
/// records are read, because a ride may arrive late.
pub fn read(
    config: &KafkaConfig,
    from: Instant,
    stop: &CancellationToken,
    mut each: impl FnMut(&[u8]),
) -> anyhow::Result<()> {
    let topic = config.ride_topic.as_str();
    let consumer: Consumer = kafka::tail_consumer(config)
        .set("queued.max.messages.kbytes", "65536")
        .create_with_context(LogContext { role: "back-test" })
        .context("creating the consumer")?;
    let reading = assign(&consumer, topic, from)?;
    kafka::read_assigned(&consumer, topic, reading, stop, |message| {
        if let Some(value) = message.payload() {
            each(value);
        }
        Ok(())
    })
}

/// Assigns every partition at its first record from `from` on; returns those that have one.
fn assign(consumer: &Consumer, topic: &str, from: Instant) -> anyhow::Result<BTreeSet<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
        .with_context(|| format!("asking for the topic {topic}"))?;
    let partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .filter(|found| found.error().is_none())
        .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
        .collect();
    if partitions.is_empty() {
        bail!("there is no topic {topic}");
    }
    let earliest = (from - MAX_AHEAD).timestamp_millis().max(0);
    let mut wanted = TopicPartitionList::new();
    for partition in partitions {
        wanted.add_partition_offset(topic, partition, Offset::Offset(earliest))?;
    }
    let found = consumer
        .offsets_for_times(wanted, REQUEST_TIMEOUT)
        .context("asking for the offsets of a time")?;
    let mut assignment = TopicPartitionList::new();
    let mut reading = BTreeSet::new();
    for element in found.elements() {
        element
            .error()
            .with_context(|| format!("partition {} of {topic}", element.partition()))?;
        // There is no record that late: the end.
        if let Offset::Offset(_) = element.offset() {
            assignment.add_partition_offset(topic, element.partition(), element.offset())?;
            reading.insert(element.partition());
        }
    }
    consumer
        .assign(&assignment)
        .context("assigning partitions")?;
    Ok(reading)
}
