//! The topic that rides come from. A name alone does not identify it: a topic that is deleted and
//! created again has the same name and smaller offsets.

/// One incarnation of a topic, identified by ids that are never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The topic's name.
    pub topic: String,
    /// The Kafka cluster's id; empty if a broker has none.
    pub cluster_id: String,
    /// The topic's id as Kafka's own tools write it, 22 characters of base64url. Empty if there is none
    /// (a broker before Kafka 2.8, or librdkafka's in-process cluster); then watermarks must be compared.
    pub topic_id: String,
}
