//! Reads a broker's clock. Kafka has no request for it. Only a record in a topic whose records the
//! broker stamps shows it, so this writes one into a topic that it creates and deletes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rdkafka::Timestamp;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use super::clients;
use super::cluster::ClusterError;
use super::topics::{admin, failed, refused};
use crate::clock::Clock;
use crate::config::KafkaConfig;

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A reading of a broker's clock, between two readings of this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerTime {
    /// This machine's clock before the record was sent.
    pub before: DateTime<Utc>,
    /// The broker's, in milliseconds since 1970, when it stored the record.
    pub there_ms: i64,
    /// This machine's clock when the response arrived.
    pub after: DateTime<Utc>,
}

/// Reads the clock of the broker that leads a topic of one partition, which is created for this and
/// deleted afterwards. Needs the rights to create, write and delete a topic `ride-promo-doctor-…`.
pub async fn broker_time(kafka: &KafkaConfig) -> Result<BrokerTime, ClusterError> {
    let topic = format!("ride-promo-doctor-{}", Uuid::new_v4().simple());
    let admin = admin(kafka)?;
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let replicas = TopicReplication::Fixed(kafka.replication_factor);
    let new = NewTopic::new(&topic, 1, replicas)
        .set("message.timestamp.type", "LogAppendTime")
        .set("retention.ms", "60000");
    let created = admin.create_topics([&new], &options).await;
    for answer in created.map_err(|error| failed(kafka, &error))? {
        answer.map_err(|(topic, code)| {
            refused(kafka, &format!("creating the topic {topic}: {code}"))
        })?;
    }
    let time = stamped(kafka, &topic).await;
    // A failed clean-up does not change the result, which is the record's.
    if let Err(error) = admin.delete_topics(&[&topic], &options).await {
        tracing::warn!(%error, topic, "the topic is left behind");
    }
    time
}

async fn stamped(kafka: &KafkaConfig, topic: &str) -> Result<BrokerTime, ClusterError> {
    let producer: FutureProducer = clients::producer(kafka)
        .set("linger.ms", "0")
        .set("message.timeout.ms", TIMEOUT.as_millis().to_string())
        .create()
        .map_err(|error| refused(kafka, &error.to_string()))?;
    let send = async || {
        let before = Clock::System.now();
        let record = FutureRecord::<(), str>::to(topic).payload("what time is it?");
        let stored = producer.send(record, TIMEOUT).await;
        let after = Clock::System.now();
        let stored = stored.map_err(|(error, _)| failed(kafka, &error))?;
        match stored.timestamp {
            Timestamp::LogAppendTime(there_ms) => Ok(BrokerTime {
                before,
                there_ms,
                after,
            }),
            other => Err(refused(kafka, &format!("a record stamped {other:?}"))),
        }
    };
    // The first record also finds the leader and connects, which takes time.
    send().await?;
    send().await
}
