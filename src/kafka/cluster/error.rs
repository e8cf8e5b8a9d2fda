//! Why a request about the cluster failed.

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
