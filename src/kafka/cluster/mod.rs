//! Requests about the cluster. Each asks the brokers at that moment, and has a timeout.

mod asker;
mod error;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::{ClientConfig, Offset};

use self::asker::Asker;
use super::clients;
use super::describe::{self, Operation};
use crate::config::KafkaConfig;
use crate::domain::source::Source;

pub use self::error::ClusterError;

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client without any response for this long is replaced by a new one.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// The prefix of the ids of librdkafka's in-process cluster. It has no controller, so a request for
/// a topic's description would run into its timeout; its topics cannot be deleted and created again
/// either.
const MOCK_CLUSTER: &str = "mockCluster";

/// The ends of one partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that still exists.
    pub low: i64,
    /// The offset of the next record, records of open transactions included.
    pub high: i64,
}

/// A topic at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNow {
    /// Which incarnation of its name it is.
    pub source: Source,
    /// Both ends of every partition.
    pub logs: BTreeMap<i32, Watermarks>,
}

/// A live member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id, which the group's coordinator gave it.
    pub member_id: String,
    /// The address that it connects from, as the broker sees it.
    pub host: String,
}

/// The address of a broker of the cluster.
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

impl ClusterInfo {
    /// Whether this is librdkafka's in-process cluster of `ride-promo demo`. It serves no admin
    /// requests.
    pub fn is_in_process(&self) -> bool {
        self.cluster_id.starts_with(MOCK_CLUSTER)
    }
}

/// A client for requests. It is cheap to clone. It connects with the first request, and reconnects.
/// librdkafka alone would not always reconnect: if a broker reports that there are no brokers, as
/// one may that was fenced and is just coming back, it may forget them all and never ask again
/// (librdkafka#5301).
///
/// Every result comes from a broker at the moment of the request. The calls of librdkafka block, so
/// they run on tokio's blocking threads; a plain thread uses `Handle::block_on`.
#[derive(Clone)]
pub struct Cluster {
    config: Arc<ClientConfig>,
    /// The settings of the consumer that reads records before the positions.
    history: Arc<ClientConfig>,
    brokers: String,
    /// The present client, the same for all clones.
    asker: Arc<Mutex<Arc<Asker>>>,
}

impl Cluster {
    /// A client for the configured brokers. It does not connect yet. An error means that librdkafka
    /// accepts the settings one by one but not together.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, ClusterError> {
        let config = clients::metadata(kafka);
        let asker = Asker::new(&config, &kafka.brokers)?;
        Ok(Self {
            config: Arc::new(config),
            history: Arc::new(clients::history(kafka)),
            brokers: kafka.brokers.clone(),
            asker: Arc::new(Mutex::new(Arc::new(asker))),
        })
    }

    fn asker(&self) -> Arc<Asker> {
        let asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&asker)
    }

    /// The settings of a consumer that reads records before the positions, and the brokers.
    pub(super) fn history_client(&self) -> (Arc<ClientConfig>, String) {
        (Arc::clone(&self.history), self.brokers.clone())
    }

    /// Replaces the client, unless a clone has done so already.
    fn renew(&self, given_up: &Arc<Asker>) {
        let mut asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&asker, given_up) {
            return;
        }
        match Asker::new(&self.config, &self.brokers) {
            Ok(new) => {
                tracing::info!("Kafka has not responded for a while, asking with a new client");
                *asker = Arc::new(new);
            }
            Err(error) => tracing::warn!(%error, "no new client to ask Kafka with"),
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Asker) -> Result<T, ClusterError> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let cluster = self.clone();
        tokio::task::spawn_blocking(move || {
            let asker = cluster.asker();
            let answer = question(&asker);
            asker.serve_events();
            if asker.is_given_up(!matches!(answer, Err(ClusterError::Unreachable { .. }))) {
                cluster.renew(&asker);
            }
            answer
        })
        .await?
    }

    /// The cluster's id and brokers.
    pub async fn info(&self) -> Result<ClusterInfo, ClusterError> {
        self.ask(Asker::info).await
    }

    /// The topic's partitions, ascending.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| asker.partitions(&topic)).await
    }

    /// Whether the topic exists.
    pub async fn has_topic(&self, topic: &str) -> Result<bool, ClusterError> {
        match self.partitions(topic).await {
            Ok(_) => Ok(true),
            Err(ClusterError::NoSuchTopic { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The high watermark of every partition: a record published before this call has a smaller
    /// offset. All or nothing: a partition without a leader fails the whole call.
    pub async fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            let partitions = asker.partitions(&topic)?;
            asker.offsets(&topic, &partitions, Offset::End)
        })
        .await
    }

    /// The topic of this name now, with both ends of every partition. Its identity and its
    /// partitions come from one response, so that they belong to the same moment.
    pub async fn topic_now(&self, topic: &str) -> Result<TopicNow, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            let (source, partitions) = asker.source_and_partitions(&topic)?;
            let logs = asker.watermarks(&topic, &partitions)?;
            Ok(TopicNow { source, logs })
        })
        .await
    }

    /// Both ends of every partition; all or nothing.
    pub async fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, Watermarks>, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            let partitions = asker.partitions(&topic)?;
            asker.watermarks(&topic, &partitions)
        })
        .await
    }

    /// The partitions of a topic that are assigned to a live member of a consumer group. While the
    /// group is rebalancing they are unknown, which is [`ClusterError::Unreachable`].
    pub async fn group_owned_partitions(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<BTreeSet<i32>, ClusterError> {
        let owners = self.partition_owners(group, topic).await?;
        Ok(owners.into_keys().collect())
    }

    /// The members of a consumer group that own a topic's partitions, by partition. As
    /// [`Cluster::group_owned_partitions`].
    pub async fn partition_owners(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<BTreeMap<i32, GroupMember>, ClusterError> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.ask(move |asker| asker.partition_owners(&group, &topic))
            .await
    }

    /// What this user may do with the topic; everything if the cluster has no ACLs.
    pub async fn topic_operations(&self, topic: &str) -> Result<BTreeSet<Operation>, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            describe::topic_operations(asker.client(), &topic, TIMEOUT)
                .map_err(|error| asker.not_described(&topic, &error))
        })
        .await
    }

    /// What this user may do with a consumer group, which need not exist; everything if the cluster
    /// has no ACLs.
    pub async fn group_operations(&self, group: &str) -> Result<BTreeSet<Operation>, ClusterError> {
        let group = group.to_owned();
        self.ask(move |asker| {
            describe::group_operations(asker.client(), &group, TIMEOUT)
                .map_err(|error| asker.not_described(&group, &error))
        })
        .await
    }

    /// Why the last failed connection failed, in librdkafka's words. A request without a response
    /// does not tell.
    pub fn last_failure(&self) -> Option<String> {
        self.asker().client.context().last_failure()
    }

    /// The topic of this name now.
    pub async fn source(&self, topic: &str) -> Result<Source, ClusterError> {
        let topic = topic.to_owned();
        self.ask(move |asker| asker.source(&topic)).await
    }

    /// Whether the topic of this name is still that one. It takes one request if the id is known,
    /// because no topic of any cluster has the same id again. A deleted topic is not that one.
    pub async fn is_still(&self, source: &Source) -> Result<bool, ClusterError> {
        let source = source.clone();
        let now = self.ask(move |asker| {
            if source.cluster_id.starts_with(MOCK_CLUSTER) {
                return Ok(true);
            }
            if source.topic_id.is_empty() {
                return Ok(asker.source(&source.topic)? == source);
            }
            Ok(asker.topic_id(&source.topic)? == source.topic_id)
        });
        match now.await {
            Err(ClusterError::NoSuchTopic { .. }) => Ok(false),
            answer => answer,
        }
    }
}
