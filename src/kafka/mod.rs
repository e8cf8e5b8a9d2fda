//! What everything that talks to Kafka shares: how clients are configured, what the cluster is
//! asked beside records, and whose log lines librdkafka's are.
//!
//! The promises that hang on a client's settings are kept here: rides are read committed, a lost
//! position is an error instead of a jump, keys land where Java clients put them, and a barrier is
//! taken from high watermarks rather than from what a transaction happens to hold back.

mod config;
mod context;
mod group;
mod metadata;
mod topic_identity;
mod topics;
mod trace_parent;

pub use config::{
    base, consumer_config, producer_config, tail_consumer_config, transactional_producer_config,
};
pub use context::{Context, log_error, log_line};
pub use metadata::{BrokerAddress, ClusterInfo, KafkaError, Metadata};
pub use topic_identity::TopicIdentity;
pub use topics::{EnsuredTopics, STATUS_COMPACTION_LAG_MS};
pub use trace_parent::{is_traceparent, trace_parent};
