//! Questions to the cluster beside its records, each asked afresh and answered in bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::metadata::Metadata as Answer;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::context::Context;
use super::topic_identity::{self, DescribeError, TopicIdentity};
use super::{config, group};
use crate::config::KafkaConfig;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the cluster did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// There is no topic of that name, at least not for us.
    #[error("the topic {0} does not exist")]
    NoSuchTopic(String),
    /// Topics are missing and may not be created.
    #[error("the topics {} do not exist and kafka.create_topics is false: create them, or allow it", .0.join(", "))]
    MissingTopics(Vec<String>),
    /// No answer in time, no leader at the moment, or a group that is just changing: worth asking
    /// again.
    #[error("Kafka is unavailable: {0}")]
    Unavailable(String),
    /// An answer that will not become another one by asking again.
    #[error("Kafka refused: {0}")]
    Refused(String),
    /// The task that asked was cut off, at the end of the process.
    #[error("the question to Kafka was cut off: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl KafkaError {
    /// Whether asking again may be answered otherwise without anybody doing something.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Where a broker of the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Its node id.
    pub id: i32,
    /// The host it advertises.
    pub host: String,
    /// The port it advertises.
    pub port: i32,
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its id; empty where the brokers have none.
    pub cluster_id: String,
    /// Its brokers, by id.
    pub brokers: Vec<BrokerAddress>,
}

/// A client that asks. Cheap to clone; connects with the first question, and again by itself.
///
/// Every answer comes from a broker at the moment of asking, or is an error after at most about
/// 10 s. The calls of librdkafka block, so they run on tokio's blocking threads; a plain thread uses
/// `Handle::block_on`.
#[derive(Clone)]
pub struct Metadata {
    asker: Arc<Asker>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("brokers", &self.asker.brokers)
            .finish_non_exhaustive()
    }
}

impl Metadata {
    /// A client for the configured brokers. Contacts nobody; an error means that librdkafka takes
    /// the settings one by one but not together.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, KafkaError> {
        let client = config::metadata_config(kafka)
            .create_with_context(Context { role: "metadata" })
            .map_err(|error: ClientError| KafkaError::Refused(error.to_string()))?;
        Ok(Self {
            asker: Arc::new(Asker {
                client,
                brokers: kafka.brokers.clone(),
            }),
        })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Asker) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let asker = Arc::clone(&self.asker);
        tokio::task::spawn_blocking(move || {
            let answer = question(&asker);
            asker.serve_events();
            answer
        })
        .await?
    }

    /// The cluster's id and brokers.
    pub async fn info(&self) -> Result<ClusterInfo, KafkaError> {
        self.ask(Asker::info).await
    }

    /// The topic's partitions, ascending.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<i32>, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |asker| asker.partitions(&topic)).await
    }

    /// Whether there is such a topic.
    pub async fn topic_exists(&self, topic: &str) -> Result<bool, KafkaError> {
        match self.partitions(topic).await {
            Ok(_) => Ok(true),
            Err(KafkaError::NoSuchTopic(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The high watermark of every partition there is: whatever was published before this call, in
    /// a transaction still open too, has a smaller offset. All or nothing, so a partition without a
    /// leader fails the whole.
    pub async fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, KafkaError> {
        self.offsets(topic, Offset::End).await
    }

    /// The first offset that is still there, of every partition there is; all or nothing.
    pub async fn begin_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, KafkaError> {
        self.offsets(topic, Offset::Beginning).await
    }

    async fn offsets(&self, topic: &str, end: Offset) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            let partitions = asker.partitions(&topic)?;
            asker.offsets(&topic, &partitions, end)
        })
        .await
    }

    /// Which cluster and which topic of this name it is.
    pub async fn identity(&self, topic: &str) -> Result<TopicIdentity, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |asker| asker.identity(&topic)).await
    }

    /// The partitions of a topic that are assigned to a live member of a consumer group. While the
    /// group is changing nobody can tell, which is [`KafkaError::Unavailable`].
    pub async fn group_owned_partitions(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<BTreeSet<i32>, KafkaError> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.ask(move |asker| asker.group_owned_partitions(&group, &topic))
            .await
    }
}

/// The blocking side of [`Metadata`].
struct Asker {
    client: BaseConsumer<Context>,
    brokers: String,
}

impl Asker {
    fn client(&self) -> &Client<Context> {
        self.client.client()
    }

    /// Log lines and errors wait in the client's queue until somebody polls, for ever if need be.
    fn serve_events(&self) {
        for _ in 0..64 {
            // An error was logged by the context already.
            let _ = self.client.poll(Duration::ZERO);
        }
    }

    fn unavailable(&self, reason: impl fmt::Display) -> KafkaError {
        KafkaError::Unavailable(format!("{reason} (brokers {})", self.brokers))
    }

    fn failed(&self, topic: &str, error: &ClientError) -> KafkaError {
        match error.rdkafka_error_code() {
            Some(code) => self.answered(topic, code),
            None => KafkaError::Refused(error.to_string()),
        }
    }

    /// What an error code means for the question.
    fn answered(&self, topic: &str, code: RDKafkaErrorCode) -> KafkaError {
        use RDKafkaErrorCode as Code;

        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                KafkaError::NoSuchTopic(topic.to_owned())
            }
            Code::AllBrokersDown
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::NotCoordinator
            | Code::NotLeaderForPartition
            | Code::OffsetNotAvailable
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::Resolve
            // A partition of metadata just fetched that the client's cache does not know yet.
            | Code::UnknownPartition => self.unavailable(code),
            code => KafkaError::Refused(format!("{code} (brokers {})", self.brokers)),
        }
    }

    fn metadata(&self, topic: &str) -> Result<Answer, KafkaError> {
        self.client()
            .fetch_metadata(Some(topic), TIMEOUT)
            .map_err(|error| self.failed(topic, &error))
    }

    fn info(&self) -> Result<ClusterInfo, KafkaError> {
        // Asks for every topic of the cluster: with a topic's name that topic would have to exist.
        let metadata = self
            .client()
            .fetch_metadata(None, TIMEOUT)
            .map_err(|error| self.failed("", &error))?;
        let mut brokers: Vec<BrokerAddress> = metadata
            .brokers()
            .iter()
            .map(|broker| BrokerAddress {
                id: broker.id(),
                host: broker.host().to_owned(),
                port: broker.port(),
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        let cluster_id = topic_identity::cluster_id(self.client(), TIMEOUT).unwrap_or_default();
        Ok(ClusterInfo {
            cluster_id,
            brokers,
        })
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, KafkaError> {
        let metadata = self.metadata(topic)?;
        let missing = || KafkaError::NoSuchTopic(topic.to_owned());
        let described = metadata
            .topics()
            .iter()
            .find(|described| described.name() == topic)
            .ok_or_else(missing)?;
        if let Some(error) = described.error() {
            return Err(self.answered(topic, error.into()));
        }
        let mut partitions: Vec<i32> = described
            .partitions()
            .iter()
            .map(rdkafka::metadata::MetadataPartition::id)
            .collect();
        partitions.sort_unstable();
        if partitions.is_empty() {
            return Err(missing());
        }
        Ok(partitions)
    }

    /// One end of each partition: one ListOffsets request per leader.
    fn offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        end: Offset,
    ) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            asked
                .add_partition_offset(topic, *partition, end)
                .map_err(|error| self.failed(topic, &error))?;
        }
        let answered = self
            .client
            .offsets_for_times(asked, TIMEOUT)
            .map_err(|error| self.failed(topic, &error))?;
        let offsets = answered
            .elements()
            .into_iter()
            .map(|element| {
                // A partition that failed has its error here, and what was asked as its offset.
                element
                    .error()
                    .map_err(|error| self.failed(topic, &error))?;
                match element.offset() {
                    Offset::Offset(offset) => Ok((element.partition(), offset)),
                    _ => Err(self.unavailable(format_args!(
                        "no offset of {topic} partition {}",
                        element.partition()
                    ))),
                }
            })
            .collect::<Result<BTreeMap<i32, i64>, KafkaError>>()?;
        if offsets.len() == partitions.len() {
            Ok(offsets)
        } else {
            Err(self.unavailable(format_args!(
                "offsets of {} of {} partitions of {topic}",
                offsets.len(),
                partitions.len()
            )))
        }
    }

    fn identity(&self, topic: &str) -> Result<TopicIdentity, KafkaError> {
        // The cluster's id is the one of the latest metadata: have some that is new.
        self.metadata(topic)?;
        let cluster_id = topic_identity::cluster_id(self.client(), TIMEOUT)
            .ok_or_else(|| self.unavailable("no cluster id in time"))?;
        let topic_id = topic_identity::topic_id(self.client(), topic, TIMEOUT).map_err(
            |error| match error {
                DescribeError::NoSuchTopic => KafkaError::NoSuchTopic(topic.to_owned()),
                DescribeError::TimedOut => self.unavailable("no description of the topic in time"),
                DescribeError::Refused(code) => self.answered(topic, code),
            },
        )?;
        Ok(TopicIdentity {
            cluster_id,
            topic_id,
        })
    }

    fn group_owned_partitions(&self, name: &str, topic: &str) -> Result<BTreeSet<i32>, KafkaError> {
        let list = self
            .client()
            .fetch_group_list(Some(name), TIMEOUT)
            .map_err(|error| self.failed(topic, &error))?;
        let mut owned = BTreeSet::new();
        for group in list.groups().iter().filter(|group| group.name() == name) {
            // Members of a group that is changing have their old assignment, a new one or none.
            if !group.members().is_empty() && group.state() != "Stable" {
                return Err(self.unavailable(format_args!(
                    "the consumer group {name} is changing ({})",
                    group.state()
                )));
            }
            for member in group.members() {
                let assignment = member.assignment().unwrap_or_default();
                let partitions =
                    group::assigned_partitions(assignment, topic).ok_or_else(|| {
                        KafkaError::Refused(format!(
                            "the assignment of {} in the consumer group {name} cannot be read",
                            member.id()
                        ))
                    })?;
                owned.extend(partitions);
            }
        }
        Ok(owned)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn kafka(brokers: String) -> KafkaConfig {
        KafkaConfig {
            brokers,
            ride_topic: "rides".into(),
            status_topic: "status".into(),
            group_id: "group".into(),
            create_topics: true,
            partitions: 3,
            replication_factor: 1,
            properties: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn the_in_process_broker_answers_and_has_no_topic_ids() {
        let broker = MockCluster::new(1).expect("broker");
        broker.create_topic("rides", 3, 1).expect("topic");
        let metadata = Metadata::new(&kafka(broker.bootstrap_servers())).expect("client");
        let zeros = BTreeMap::from([(0, 0), (1, 0), (2, 0)]);
        assert_eq!(
            metadata.partitions("rides").await.expect("partitions"),
            [0, 1, 2]
        );
        assert_eq!(metadata.begin_offsets("rides").await.expect("begin"), zeros);
        assert_eq!(metadata.end_offsets("rides").await.expect("end"), zeros);
        let identity = metadata.identity("rides").await.expect("identity");
        assert!(!identity.cluster_id.is_empty(), "{identity:?}");
        assert_eq!(identity.topic_id, "");
    }

    #[tokio::test]
    async fn an_absent_broker_is_unavailable() {
        let metadata = Metadata::new(&kafka("127.0.0.1:1".into())).expect("client");
        let error = metadata
            .end_offsets("rides")
            .await
            .expect_err("nobody there");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
