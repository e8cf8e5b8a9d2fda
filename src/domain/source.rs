//! Which topic rides come from: names come again, with smaller offsets.

/// One incarnation of a topic, by what never comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The topic's name.
    pub topic: String,
    /// The Kafka cluster's id; empty where a broker has none.
    pub cluster_id: String,
    /// The topic's id as Kafka's own tools write it, 22 characters of base64url; empty where there
    /// is none (a broker from before Kafka 2.8, librdkafka's in-process cluster). Watermarks must be
    /// compared then.
    pub topic_id: String,
}
