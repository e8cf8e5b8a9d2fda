//! Requests about the cluster. Each asks the brokers at that moment, and has a timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use super::clients;
use super::describe::{self, DescribeError, Operation};
use super::group;
use super::log::{log_error, log_line};
use crate::config::KafkaConfig;
use crate::domain::source::Source;

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client without any response for this long is replaced by a new one.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// The prefix of the ids of librdkafka's in-process cluster. It has no controller, so a request for
/// a topic's description would wait for one in vain; its topics cannot be deleted and created again
/// either.
const MOCK_CLUSTER: &str = "mockCluster";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no topic of that name, or this user may not see it.
    #[error("the topic {topic} does not exist")]
    NoSuchTopic {
        /// Its name.
        topic: String,
    },
    /// Topics are missing and may not be created.
    #[error(
        "the topics {} do not exist and kafka.create_topics is false: create them, or allow it",
        .topics.join(", ")
    )]
    MissingTopics {
        /// Their names.
        topics: Vec<String>,
    },
    /// No response in time, or no leader at the moment: a repeat may succeed.
    #[error("Kafka at {brokers} does not answer: {reason}")]
    Unreachable {
        /// The configured addresses.
        brokers: String,
        /// What librdkafka says.
        reason: String,
    },
    /// An error that a repeat does not change.
    #[error("Kafka at {brokers} refused: {reason}")]
    Refused {
        /// The configured addresses.
        brokers: String,
        /// What the broker or librdkafka says.
        reason: String,
    },
    /// The task of the request was aborted, at the end of the process.
    #[error("the request to Kafka was aborted: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl ClusterError {
    /// Whether a repeat may succeed without anyone's action.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

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

/// Logs, and remembers why a connection failed.
#[derive(Default)]
struct AskerContext {
    failure: Mutex<Option<String>>,
}

impl AskerContext {
    const ROLE: &str = "metadata";

    fn last_failure(&self) -> Option<String> {
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
struct Asker {
    client: BaseConsumer<AskerContext>,
    brokers: String,
    /// When the first request without a response was sent since the last response.
    unanswered_since: Mutex<Option<Monotonic>>,
}

impl Asker {
    fn new(config: &ClientConfig, brokers: &str) -> Result<Self, ClusterError> {
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
    fn is_given_up(&self, answered: bool) -> bool {
        let mut since = self
            .unanswered_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if answered {
            *since = None;
        }
        !answered && since.get_or_insert_with(Monotonic::now).elapsed() >= RENEW_AFTER
    }

    fn client(&self) -> &Client<AskerContext> {
        self.client.client()
    }

    /// Log lines and errors wait in the client's queue until it is polled, for ever if it is not.
    fn serve_events(&self) {
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

    fn info(&self) -> Result<ClusterInfo, ClusterError> {
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

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClusterError> {
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
    fn offsets(
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
    fn watermarks(
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

    fn partition_owners(
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

    fn source(&self, topic: &str) -> Result<Source, ClusterError> {
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
    fn source_and_partitions(&self, topic: &str) -> Result<(Source, Vec<i32>), ClusterError> {
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

    fn topic_id(&self, topic: &str) -> Result<String, ClusterError> {
        describe::topic_id(self.client(), topic, TIMEOUT)
            .map_err(|error| self.not_described(topic, &error))
    }

    /// `name` is the topic's or the group's.
    fn not_described(&self, name: &str, error: &DescribeError) -> ClusterError {
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

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    const TOPIC: &str = "rides";

    /// So many that librdkafka is still reading the answer when its connections close.
    const PARTITIONS: i32 = 2_000;

    /// As much of a broker as tells where a topic's partitions are. A real one says that there are
    /// no brokers only in the moment in which it comes back, which no test can choose.
    struct Broker {
        port: u16,
        /// Whether it says that there are no brokers.
        fenced: Arc<AtomicBool>,
    }

    impl Broker {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("bound").port();
            let fenced = Arc::new(AtomicBool::new(false));
            let says = Arc::clone(&fenced);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let says = Arc::clone(&says);
                    // It ends with the connection.
                    thread::spawn(move || serve(stream, port, &says));
                }
            });
            Self { port, fenced }
        }
    }

    fn serve(mut stream: TcpStream, port: u16, fenced: &AtomicBool) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request)?;
            let (api, correlation) = (&request[..4], &request[4..8]);
            let mut answer = correlation.to_vec();
            match api {
                [0, 18, 0, version] => {
                    // In version 0, the only one there is (35: an unsupported version).
                    let error: i16 = if *version == 0 { 0 } else { 35 };
                    answer.extend(error.to_be_bytes());
                    answer.extend(2_i32.to_be_bytes());
                    for number in [3_i16, 0, 4, 18, 0, 0] {
                        answer.extend(number.to_be_bytes());
                    }
                }
                [0, 3, 0, 4] => answer.extend(metadata(port, fenced.load(Ordering::SeqCst))),
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
            let length = u32::try_from(answer.len()).expect("it is short");
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
        }
    }

    /// The body of a metadata response, version 4: one broker or none, one topic.
    fn metadata(port: u16, fenced: bool) -> Vec<u8> {
        let mut body = Vec::new();
        let int = |body: &mut Vec<u8>, number: i32| body.extend(number.to_be_bytes());
        let short = |body: &mut Vec<u8>, number: i16| body.extend(number.to_be_bytes());
        let text = |body: &mut Vec<u8>, text: &str| {
            let length = i16::try_from(text.len()).expect("it is short");
            body.extend(length.to_be_bytes());
            body.extend(text.as_bytes());
        };
        int(&mut body, 0); // throttled for
        int(&mut body, i32::from(!fenced)); // brokers
        if !fenced {
            int(&mut body, 1);
            text(&mut body, "127.0.0.1");
            int(&mut body, port.into());
            short(&mut body, -1); // no rack
        }
        text(&mut body, "a cluster");
        int(&mut body, -1); // no controller
        int(&mut body, 1); // topics
        short(&mut body, 0);
        text(&mut body, TOPIC);
        body.push(0); // not internal
        int(&mut body, PARTITIONS);
        for partition in 0..PARTITIONS {
            short(&mut body, if fenced { 5 } else { 0 }); // no leader
            int(&mut body, partition);
            int(&mut body, if fenced { -1 } else { 1 });
            for _ in ["replicas", "in sync"] {
                int(&mut body, 1);
                int(&mut body, 1);
            }
        }
        body
    }

    #[tokio::test]
    async fn a_client_that_lost_all_brokers_is_replaced() {
        let broker = Broker::start();
        let cluster = Cluster::new(&KafkaConfig {
            brokers: format!("127.0.0.1:{}", broker.port),
            ride_topic: TOPIC.into(),
            status_topic: "status".into(),
            reminder_topic: "reminders".into(),
            group_id: "group".into(),
            create_topics: false,
            partitions: 1,
            replication_factor: 1,
            properties: BTreeMap::new(),
            property_files: BTreeMap::new(),
        })
        .expect("a client");
        // Which of librdkafka's threads comes first decides; mostly it is lost in the first round.
        for _ in 0..50 {
            let asked = cluster.partitions(TOPIC).await;
            assert_eq!(asked.expect("an answer").len(), 2_000);
            broker.fenced.store(true, Ordering::SeqCst);
            let _ = cluster.partitions(TOPIC).await;
            broker.fenced.store(false, Ordering::SeqCst);
            let mut unanswered = 0;
            while let Err(error) = cluster.partitions(TOPIC).await {
                assert!(error.is_transient(), "{error}");
                unanswered += 1;
                assert!(unanswered < 10, "still: {error}");
            }
            if unanswered > 0 {
                return;
            }
        }
    }
}
