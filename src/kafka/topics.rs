//! Creates missing topics, and checks existing ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as Monotonic};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::clients;
use super::cluster::{Cluster, ClusterError};
use super::log::LogContext;
use crate::config::KafkaConfig;

/// How long every status change is kept before compaction may remove the older ones: 7 days.
pub const STATUS_COMPACTION_LAG_MS: i64 = 7 * 86_400_000;

/// How long reminders are kept: 7 days.
pub const REMINDER_RETENTION_MS: i64 = 7 * 86_400_000;

/// How long all attempts together may take.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(20);

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The topics after the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsuredTopics {
    /// Topics this call created.
    pub created: Vec<String>,
    /// Partitions of the ride topic.
    pub ride_partitions: usize,
    /// Partitions of the status topic.
    pub status_partitions: usize,
}

impl Cluster {
    /// Creates the missing topics, if `kafka.create_topics` allows it, and waits until they can be
    /// used. Several processes may do so at once. It takes at most about 20 s; a transient error
    /// after that time can be tried again.
    pub async fn ensure_topics(&self, kafka: &KafkaConfig) -> Result<EnsuredTopics, ClusterError> {
        let give_up = Monotonic::now() + TOPIC_TIMEOUT;
        let mut created = Vec::new();
        loop {
            match self.ensure_topics_once(kafka, &mut created).await {
                Err(error) if error.is_transient() && Monotonic::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(error) => return Err(error),
                Ok((ride_partitions, status_partitions)) => {
                    return Ok(EnsuredTopics {
                        created,
                        ride_partitions,
                        status_partitions,
                    });
                }
            }
        }
    }

    async fn ensure_topics_once(
        &self,
        kafka: &KafkaConfig,
        created: &mut Vec<String>,
    ) -> Result<(usize, usize), ClusterError> {
        let mut missing = Vec::new();
        for topic in [
            &kafka.ride_topic,
            &kafka.status_topic,
            &kafka.reminder_topic,
        ] {
            if !self.has_topic(topic).await? {
                missing.push(topic.clone());
            }
        }
        if !missing.is_empty() {
            if !kafka.create_topics {
                return Err(ClusterError::MissingTopics { topics: missing });
            }
            created.extend(create(kafka, &missing, Creation::Real).await?);
        }
        // Their leaders respond: only now can they be read and written.
        let usable = async |topic: &str| match self.end_offsets(topic).await {
            // Just created; this broker does not know it yet.
            Err(ClusterError::NoSuchTopic { topic }) => Err(ClusterError::Unreachable {
                brokers: kafka.brokers.clone(),
                reason: format!("the topic {topic} was created and is not there yet"),
            }),
            answer => answer.map(|offsets| offsets.len()),
        };
        usable(&kafka.reminder_topic).await?;
        Ok((
            usable(&kafka.ride_topic).await?,
            usable(&kafka.status_topic).await?,
        ))
    }

    /// Creates the topic of the erasure ledger if it is missing and `kafka.create_topics` allows
    /// it: one partition, compacted.
    pub async fn ensure_ledger_topic(
        &self,
        kafka: &KafkaConfig,
        topic: &str,
    ) -> Result<(), ClusterError> {
        if self.has_topic(topic).await? {
            return Ok(());
        }
        let topics = vec![topic.to_owned()];
        if !kafka.create_topics {
            return Err(ClusterError::MissingTopics { topics });
        }
        let ledger = KafkaConfig {
            partitions: 1,
            // Its topics of status changes are the compacted ones.
            status_topic: topic.to_owned(),
            ..kafka.clone()
        };
        create(&ledger, &topics, Creation::Real).await?;
        let give_up = Monotonic::now() + TOPIC_TIMEOUT;
        while !self.has_topic(topic).await? {
            if Monotonic::now() > give_up {
                return Err(ClusterError::MissingTopics { topics });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The topic's settings by Kafka's names, defaults included.
    pub async fn topic_settings(
        &self,
        kafka: &KafkaConfig,
        topic: &str,
    ) -> Result<BTreeMap<String, String>, ClusterError> {
        let admin = admin(kafka)?;
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let answer = admin
            .describe_configs([&ResourceSpecifier::Topic(topic)], &options)
            .await
            .map_err(|error| failed(kafka, &error))?;
        let resource = match answer.into_iter().next() {
            Some(Ok(resource)) => resource,
            Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) | None => {
                return Err(ClusterError::NoSuchTopic {
                    topic: topic.to_owned(),
                });
            }
            Some(Err(code)) => return Err(refused(kafka, &format!("{topic}: {code}"))),
        };
        Ok(resource
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect())
    }
}

/// Deletes the topics and the group, those that are there: what a run that made them for itself
/// leaves behind otherwise.
pub async fn delete_topics(kafka: &KafkaConfig) -> Result<(), ClusterError> {
    let admin = admin(kafka)?;
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let topics = admin
        .delete_topics(
            &[
                &kafka.ride_topic,
                &kafka.status_topic,
                &kafka.reminder_topic,
            ],
            &options,
        )
        .await
        .map_err(|error| failed(kafka, &error))?;
    let groups = admin
        .delete_groups(&[&kafka.group_id], &options)
        .await
        .map_err(|error| failed(kafka, &error))?;
    for answer in topics.into_iter().chain(groups) {
        match answer {
            Ok(_)
            | Err((
                _,
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::GroupIdNotFound,
            )) => {}
            Err((name, code)) => return Err(refused(kafka, &format!("deleting {name}: {code}"))),
        }
    }
    Ok(())
}

pub(super) fn admin(kafka: &KafkaConfig) -> Result<AdminClient<LogContext>, ClusterError> {
    clients::metadata(kafka)
        .create_with_context(LogContext { role: "admin" })
        .map_err(|error| refused(kafka, &error.to_string()))
}

pub(super) fn refused(kafka: &KafkaConfig, reason: &str) -> ClusterError {
    ClusterError::Refused {
        brokers: kafka.brokers.clone(),
        reason: reason.to_owned(),
    }
}

pub(super) fn failed(kafka: &KafkaConfig, error: &KafkaError) -> ClusterError {
    ClusterError::Unreachable {
        brokers: kafka.brokers.clone(),
        reason: error.to_string(),
    }
}

/// Asks the cluster whether a missing topic could be created as [`Cluster::ensure_topics`] would:
/// the right to it, and the number of replicas. It creates nothing.
pub async fn could_create(kafka: &KafkaConfig, topic: &str) -> Result<(), ClusterError> {
    create(kafka, &[topic.to_owned()], Creation::ValidateOnly)
        .await
        .map(drop)
}

/// Whether to create topics, or only to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Creation {
    Real,
    ValidateOnly,
}

/// Creates them; topics that another process created first are not in the result.
async fn create(
    kafka: &KafkaConfig,
    missing: &[String],
    creation: Creation,
) -> Result<Vec<String>, ClusterError> {
    let lag = STATUS_COMPACTION_LAG_MS.to_string();
    let retention = REMINDER_RETENTION_MS.to_string();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|name| {
            let mut topic = NewTopic::new(
                name,
                kafka.partitions,
                TopicReplication::Fixed(kafka.replication_factor),
            );
            if kafka.replication_factor >= 3 {
                // Then an acknowledged record survives the loss of one broker.
                topic = topic.set("min.insync.replicas", "2");
            }
            if *name == kafka.status_topic {
                topic = topic
                    .set("cleanup.policy", "compact")
                    .set("min.compaction.lag.ms", &lag)
                    // Only closed segments are compacted, and the default closes one after 7 days.
                    .set("segment.ms", "86400000");
            }
            if *name == kafka.reminder_topic {
                topic = topic
                    .set("cleanup.policy", "delete")
                    .set("retention.ms", &retention)
                    // Only closed segments are deleted.
                    .set("segment.ms", "86400000");
            }
            topic
        })
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT))
        .validate_only(creation == Creation::ValidateOnly);
    let answers = admin(kafka)?
        .create_topics(&topics, &options)
        .await
        .map_err(|error| failed(kafka, &error))?;
    let mut created = Vec::new();
    for answer in answers {
        match answer {
            Ok(topic) if creation == Creation::ValidateOnly => created.push(topic),
            Ok(topic) => {
                tracing::info!(
                    topic,
                    partitions = kafka.partitions,
                    "topic {topic} created"
                );
                created.push(topic);
            }
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((
                topic,
                code @ (RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::BrokerTransportFailure),
            )) => {
                return Err(ClusterError::Unreachable {
                    brokers: kafka.brokers.clone(),
                    reason: format!("creating the topic {topic}: {code}"),
                });
            }
            Err((topic, code)) => {
                return Err(refused(
                    kafka,
                    &format!(
                        "creating the topic {topic} with {} partitions and {} replicas: {code}",
                        kafka.partitions, kafka.replication_factor
                    ),
                ));
            }
        }
    }
    Ok(created)
}
