//! The blocking side of [`Cluster`](super::Cluster): one librdkafka client and its requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use crate::domain::source::Source;
use crate::kafka::cluster::error::ClusterError;
use crate::kafka::cluster::{
    BrokerAddress, ClusterInfo, GroupMember, MOCK_CLUSTER, RENEW_AFTER, TIMEOUT, Watermarks,
};
use crate::kafka::describe::{self, DescribeError};
use crate::kafka::group;
use crate::kafka::log::{log_error, log_line};

/// Logs, and remembers why a connection failed.
#[derive(Default)]
pub(super) struct AskerContext {
    failure: Mutex<Option<String>>,
}

impl AskerContext {
    const ROLE: &str = "metadata";

    pub(super) fn last_failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }
}

impl ClientContext for AskerContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(Self::ROLE, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(Self::ROLE, &error, reason);
        // "All brokers are down" is not a reason; the reason for the last of them came before.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            *failure = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for AskerContext {}

/// The blocking side of [`Cluster`].
pub(super) struct Asker {
    pub(super) client: BaseConsumer<AskerContext>,
    brokers: String,
    /// When the first request without a response was sent since the last response.
    unanswered_since: Mutex<Option<Monotonic>>,
}

impl Asker {
    pub(super) fn new(config: &ClientConfig, brokers: &str) -> Result<Self, ClusterError> {
        let client = config
            .create_with_context(AskerContext::default())
            .map_err(|error| ClusterError::Refused {
                brokers: brokers.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            client,
            brokers: brokers.to_owned(),
            unanswered_since: Mutex::new(None),
        })
    }

    /// Records a request's outcome; returns whether there has been no response for too long.
    pub(super) fn is_given_up(&self, answered: bool) -> bool {
        let mut since = self
            .unanswered_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if answered {
            *since = None;
        }
        !answered && since.get_or_insert_with(Monotonic::now).elapsed() >= RENEW_AFTER
    }

    pub(super) fn client(&self) -> &Client<AskerContext> {
        self.client.client()
    }

    /// Log lines and errors wait in the client's queue until it is polled, for ever if it is not.
    pub(super) fn serve_events(&self) {
        for _ in 0..64 {
            // The context has already logged an error.
            let _ = self.client.poll(Duration::ZERO);
        }
    }

    fn failed(&self, topic: &str, error: &KafkaError) -> ClusterError {
        let code = error.rdkafka_error_code();
        self.failed_with(topic, code, &error.to_string())
    }

    fn failed_with(
        &self,
        topic: &str,
        code: Option<RDKafkaErrorCode>,
        reason: &str,
    ) -> ClusterError {
        use RDKafkaErrorCode as Code;

        let brokers = self.brokers.clone();
        let reason = reason.to_owned();
        match code {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => ClusterError::NoSuchTopic {
                topic: topic.to_owned(),
            },
            Some(
                Code::Authentication
                | Code::ClusterAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::GroupIdNotFound
                | Code::InvalidArgument
                | Code::InvalidTopic
                | Code::IllegalSASLState
                | Code::SaslAuthenticationFailed
                | Code::SSL
                | Code::SecurityDisabled
                | Code::TopicAuthorizationFailed
                | Code::UnsupportedSASLMechanism
                | Code::UnsupportedVersion,
            ) => ClusterError::Refused { brokers, reason },
            // A broker that restarts returns a dozen other codes on its way up.
            _ => ClusterError::Unreachable { brokers, reason },
        }
    }

    fn metadata(&self, topic: &str) -> Result<Metadata, ClusterError> {
        self.client()
            .fetch_metadata(Some(topic), TIMEOUT)
            .map_err(|error| self.failed(topic, &error))
    }

    pub(super) fn info(&self) -> Result<ClusterInfo, ClusterError> {
        // Asks for all topics of the cluster, which only `doctor` does: a request with a name would
        // need that topic to exist.
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
        let cluster_id = describe::cluster_id(self.client(), TIMEOUT).unwrap_or_default();
        Ok(ClusterInfo {
            cluster_id,
            brokers,
        })
    }

    pub(super) fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClusterError> {
        let metadata = self.metadata(topic)?;
        let described = metadata
            .topics()
            .iter()
            .find(|described| described.name() == topic);
        let missing = || ClusterError::NoSuchTopic {
            topic: topic.to_owned(),
        };
        let described = described.ok_or_else(missing)?;
        if let Some(error) = described.error() {
            let code = RDKafkaErrorCode::from(error);
            return Err(self.failed_with(topic, Some(code), &code.to_string()));
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
    pub(super) fn offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        end: Offset,
    ) -> Result<BTreeMap<i32, i64>, ClusterError> {
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
                element
                    .error()
                    .map_err(|error| self.failed(topic, &error))?;
                match element.offset() {
                    Offset::Offset(offset) => Ok((element.partition(), offset)),
                    // The offset is still the one of the request: there is no result for this
                    // partition.
                    _ => Err(ClusterError::Unreachable {
                        brokers: self.brokers.clone(),
                        reason: format!("no offset of {topic} partition {}", element.partition()),
                    }),
                }
            })
            .collect::<Result<BTreeMap<i32, i64>, ClusterError>>()?;
        if offsets.len() == partitions.len() {
            Ok(offsets)
        } else {
            Err(ClusterError::Unreachable {
                brokers: self.brokers.clone(),
                reason: format!(
                    "offsets of {} of {} partitions of {topic}",
                    offsets.len(),
                    partitions.len()
                ),
            })
        }
    }

    /// Both ends of each partition.
    pub(super) fn watermarks(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Watermarks>, ClusterError> {
        // The low end first: it only grows, so it is never beyond the high one.
        let low = self.offsets(topic, partitions, Offset::Beginning)?;
        let high = self.offsets(topic, partitions, Offset::End)?;
        Ok(low
            .into_iter()
            .zip(high.into_values())
            .map(|((partition, low), high)| (partition, Watermarks { low, high }))
            .collect())
    }

    pub(super) fn partition_owners(
        &self,
        name: &str,
        topic: &str,
    ) -> Result<BTreeMap<i32, GroupMember>, ClusterError> {
        let list = self
            .client()
            .fetch_group_list(Some(name), TIMEOUT)
            .map_err(|error| self.failed(topic, &error))?;
        let mut owners = BTreeMap::new();
        for group in list.groups().iter().filter(|group| group.name() == name) {
            // Members of a rebalancing group have their old assignment, a new one or none.
            if !group.members().is_empty() && group.state() != "Stable" {
                return Err(ClusterError::Unreachable {
                    brokers: self.brokers.clone(),
                    reason: format!("the consumer group {name} is changing ({})", group.state()),
                });
            }
            for member in group.members() {
                let assignment = member.assignment().unwrap_or_default();
                let partitions =
                    group::assigned_partitions(assignment, topic).ok_or_else(|| {
                        ClusterError::Refused {
                            brokers: self.brokers.clone(),
                            reason: format!(
                                "the assignment of {} in the consumer group {name} cannot be read",
                                member.id()
                            ),
                        }
                    })?;
                let owner = GroupMember {
                    member_id: member.id().to_owned(),
                    host: member.client_host().trim_start_matches('/').to_owned(),
                };
                owners.extend(partitions.into_iter().map(|one| (one, owner.clone())));
            }
        }
        Ok(owners)
    }

    pub(super) fn source(&self, topic: &str) -> Result<Source, ClusterError> {
        // The cluster's id is that of the latest metadata, so fetch new metadata first.
        self.metadata(topic)?;
        let cluster_id = describe::cluster_id(self.client(), TIMEOUT).unwrap_or_default();
        let topic_id = if cluster_id.starts_with(MOCK_CLUSTER) {
            String::new()
        } else {
            self.topic_id(topic)?
        };
        Ok(Source {
            topic: topic.to_owned(),
            cluster_id,
            topic_id,
        })
    }

    /// The topic's identity and its partitions. librdkafka's in-process cluster describes no
    /// topics.
    pub(super) fn source_and_partitions(
        &self,
        topic: &str,
    ) -> Result<(Source, Vec<i32>), ClusterError> {
        // The cluster's id is that of the latest metadata, so fetch new metadata first.
        let partitions = self.partitions(topic)?;
        let cluster_id = describe::cluster_id(self.client(), TIMEOUT).unwrap_or_default();
        let (topic_id, partitions) = if cluster_id.starts_with(MOCK_CLUSTER) {
            (String::new(), partitions)
        } else {
            describe::topic_and_partitions(self.client(), topic, TIMEOUT)
                .map_err(|error| self.not_described(topic, &error))?
        };
        let source = Source {
            topic: topic.to_owned(),
            cluster_id,
            topic_id,
        };
        Ok((source, partitions))
    }

    pub(super) fn topic_id(&self, topic: &str) -> Result<String, ClusterError> {
        describe::topic_id(self.client(), topic, TIMEOUT)
            .map_err(|error| self.not_described(topic, &error))
    }

    /// `name` is the topic's or the group's.
    pub(super) fn not_described(&self, name: &str, error: &DescribeError) -> ClusterError {
        match error {
            DescribeError::NoSuchTopic => ClusterError::NoSuchTopic {
                topic: name.to_owned(),
            },
            DescribeError::TimedOut => ClusterError::Unreachable {
                brokers: self.brokers.clone(),
                reason: format!("no description of {name} in time"),
            },
            DescribeError::Refused(code) => self.failed_with(name, Some(*code), &code.to_string()),
        }
    }
}
