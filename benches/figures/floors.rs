//! What cannot be beaten: each part of the way alone, on the backlog that the service then gets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use ride_promo::domain::promotion::Verdict;
use ride_promo::domain::ride::{Ride, RideRecord};
use ride_promo::domain::source::Source;
use ride_promo::store::Store;
use ride_promo::store::rides::{Applied, Batch, Incoming, Range, RideApplier};
use ride_promo::wire::ride_completed::decode_ride;

use crate::input::clock;

/// Participants' rides in a transaction, as many as ingest puts into one.
const RIDES_PER_TRANSACTION: usize = 4_000;

/// Reads the whole topic, handing each value on; answers how long that took from the assignment.
pub fn drain(
    config: &ClientConfig,
    topic: &str,
    rides: u64,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Duration> {
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let topic_metadata = metadata.topics().first().context("the topic")?;
    let mut assignment = TopicPartitionList::new();
    for partition in topic_metadata.partitions() {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    let started = Instant::now();
    consumer.assign(&assignment)?;
    let mut read = 0;
    while read < rides {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                each(message.payload().context("a tombstone")?)?;
                read += 1;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => bail!("only {read} of {rides} rides came"),
        }
    }
    Ok(started.elapsed())
}

/// Reads and parses the whole topic.
pub fn drain_and_parse(config: &ClientConfig, topic: &str, rides: u64) -> Result<Duration> {
    let now = clock();
    let mut cents = 0;
    let took = drain(config, topic, rides, |value| {
        cents += parse(value, now)?.amount_cents;
        Ok(())
    })?;
    ensure!(cents > 0, "rides cost something");
    Ok(took)
}

/// The participants' rides of a topic.
pub fn rides_of_participants(
    config: &ClientConfig,
    topic: &str,
    rides: u64,
    participants: i64,
) -> Result<Vec<Ride>> {
    let now = clock();
    let mut theirs = Vec::new();
    drain(config, topic, rides, |value| {
        let ride = parse(value, now)?;
        if ride.user_id <= participants {
            theirs.push(ride);
        }
        Ok(())
    })?;
    Ok(theirs)
}

fn parse(value: &[u8], now: chrono::DateTime<chrono::Utc>) -> Result<Ride> {
    decode_ride(value, now).map_err(|rejected| anyhow::anyhow!("not a ride: {}", rejected.detail))
}

/// Applies rides to the database at `url`, batches prepared and nothing else going on; answers how
/// long that took.
pub async fn apply(url: &str, rides: Vec<Ride>) -> Result<Duration> {
    let source = Arc::new(Source {
        topic: "floor".to_owned(),
        cluster_id: "floor".to_owned(),
        topic_id: String::new(),
    });
    let total = rides.len() as u64;
    let batches: Vec<Batch> = rides
        .chunks(RIDES_PER_TRANSACTION)
        .scan(0, |position, rides| {
            let from = *position;
            *position += rides.len() as i64;
            Some(Batch {
                source: Arc::clone(&source),
                ranges: vec![Range {
                    anchor: ride_promo::domain::anchor::Anchor::default(),
                    partition: 0,
                    generation: 1,
                    from,
                    to: *position,
                }],
                records: rides
                    .iter()
                    .map(|ride| Incoming {
                        record: RideRecord::Completed(ride.clone()),
                        traceparent: None,
                    })
                    .collect(),
                raw_reversals: Vec::new(),
                quarantined: Vec::new(),
                tombstones: 0,
            })
        })
        .collect();
    let store = Store::new(url, 1)?;
    store.begin_positions(&source, &[(0, 0)].into()).await?;
    let mut applier = RideApplier::connect(&store).await?;
    let started = Instant::now();
    let mut counted = 0;
    for batch in &batches {
        match applier.apply(batch, &mut |_| None).await? {
            Applied::Committed { counts, .. } => {
                counted += counts.judged[Verdict::Counted as usize]
            }
            Applied::Fenced => bail!("nobody else moves these positions"),
        }
    }
    let took = started.elapsed();
    ensure!(counted == total, "{counted} of {total} rides counted");
    Ok(took)
}
