//! What everything that talks to Kafka shares: how clients are configured, what the cluster is
//! asked beside records, and whose log lines librdkafka's are.
//!
//! The promises that hang on a client's settings are kept here: rides are read committed, a lost
//! position is an error instead of a jump, keys land where Java clients put them, and a barrier is
//! taken from high watermarks rather than from what a transaction happens to hold back.

mod clients;
mod cluster;
mod group;
mod log;
mod topic_identity;
mod topics;
mod traceparent;

pub use clients::{consumer, producer, tail_consumer, transactional_producer};
pub use cluster::{BrokerAddress, Cluster, ClusterError, ClusterInfo, Watermarks};
pub use log::{LogContext, log_error, log_line};
pub use topic_identity::TopicIdentity;
pub use topics::{EnsuredTopics, STATUS_COMPACTION_LAG_MS, delete_topics};
pub use traceparent::{is_traceparent, traceparent_of};
