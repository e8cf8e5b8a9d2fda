//! Shared code for Kafka: the configuration of clients, requests about the cluster, and
//! librdkafka's log lines.
//!
//! It keeps the promises that depend on a client's settings: rides are read committed, a lost
//! position is an error instead of a jump, keys are placed as Java clients place them, and a
//! barrier uses high watermarks rather than the end of committed transactions.

mod broker_clock;
mod clients;
mod cluster;
mod describe;
mod epoch;
mod group;
mod headers;
mod history;
mod log;
mod reading;
mod topics;

pub use broker_clock::{BrokerTime, broker_time};
pub use clients::{
    check_properties, consumer, producer, relay_transactional_id, tail_consumer,
    transactional_producer,
};
pub use cluster::{
    BrokerAddress, Cluster, ClusterError, ClusterInfo, GroupMember, TopicNow, Watermarks,
};
pub use describe::Operation;
pub use epoch::{epoch_in_list, leader_epoch, set_epoch_in_list};
pub use headers::header_values;
pub use history::{AnchoredPosition, LostEnd};
pub use log::{LogContext, log_error, log_line};
pub use reading::{is_lasting, read_assigned, read_on, read_to_end};
pub use topics::{
    EnsuredTopics, REMINDER_RETENTION_MS, STATUS_COMPACTION_LAG_MS, could_create, delete_topics,
};
