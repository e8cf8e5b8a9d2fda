//! The settings of every client. What an operator set in `[kafka.properties]` comes over our
//! preferences and under what our promises need.

use rdkafka::ClientConfig;

use crate::config::KafkaConfig;

/// The common part: `preferences` that an operator may override, then the operator's properties,
/// then what the service itself needs.
fn client(kafka: &KafkaConfig, preferences: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "ride-promo")
        // The default backs off to 10 s, which a broker's restart would then cost every time.
        .set("reconnect.backoff.max.ms", "1000")
        // Client metrics are pushed to the broker for nobody here.
        .set("enable.metrics.push", "false");
    for (name, value) in preferences {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("allow.auto.create.topics", "false");
    config
}

/// The part of every reader. Group offsets are advisory: nothing is committed or stored by itself,
/// and a position that is out of range is an error, never a silent jump to either end.
fn reader(kafka: &KafkaConfig, preferences: &[(&str, &str)]) -> ClientConfig {
    let mut config = client(kafka, preferences);
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // A log may end in a transaction marker; only this event says that its end is reached.
        .set("enable.partition.eof", "true");
    config
}

/// The group consumer of rides, `queue_kbytes` KiB of fetched records at most. The protocol is
/// eager: each rebalance revokes everything, and `assign` may come later than its callback.
pub fn consumer(kafka: &KafkaConfig, queue_kbytes: u32) -> ClientConfig {
    let mut config = reader(
        kafka,
        &[
            ("queued.max.messages.kbytes", &queue_kbytes.to_string()),
            // The default of a second makes a small queue run dry between fetches.
            ("fetch.queue.backoff.ms", "5"),
            // An empty fetch tells that an end is reached when it returns, not before.
            ("fetch.wait.max.ms", "100"),
            // How long the rides of a worker that died wait for another: not 45 s.
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            // How soon partitions added to the topic are noticed.
            ("topic.metadata.refresh.interval.ms", "30000"),
        ],
    );
    config
        .set("group.id", &kafka.group_id)
        .set("partition.assignment.strategy", "range");
    config
}

/// A consumer that is assigned its partitions by hand and never commits, such as the read model's
/// tail. librdkafka assigns nothing without a group id, so it has one that nobody ever joins.
pub fn tail_consumer(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = reader(
        kafka,
        &[
            ("queued.max.messages.kbytes", "8192"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.wait.max.ms", "100"),
        ],
    );
    config.set("group.id", format!("{}-tail", kafka.group_id));
    config
}

/// A producer that loses and repeats nothing within its session and places keys as Java clients
/// do, which librdkafka's default does not.
pub fn producer(kafka: &KafkaConfig) -> ClientConfig {
    idempotent(kafka, &[("linger.ms", "20")])
}

/// A producer of Kafka transactions; `init_transactions` fences every other one of that id.
///
/// Its `begin_transaction` and `send` answer `Ok` after it was fenced, only the commit tells. And
/// `commit_transaction` polls in slices of 100 ms while messages are in flight: poll them out
/// (`in_flight_count() > 0`) before.
pub fn transactional_producer(kafka: &KafkaConfig, transactional_id: &str) -> ClientConfig {
    let mut config = idempotent(
        kafka,
        &[
            ("linger.ms", "0"),
            // A relay that died in a transaction keeps read-committed subscribers waiting so
            // long, unless its successor comes first.
            ("transaction.timeout.ms", "15000"),
        ],
    );
    config.set("transactional.id", transactional_id);
    config
}

/// The transactional id under which a shard's events are published: of the topic, since services that
/// publish elsewhere must not fence each other.
pub fn relay_transactional_id(status_topic: &str, shard: impl std::fmt::Display) -> String {
    format!("ride-promo-relay-{status_topic}-{shard}")
}

fn idempotent(kafka: &KafkaConfig, preferences: &[(&str, &str)]) -> ClientConfig {
    let mut config = client(kafka, preferences);
    config
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    config
}

/// The client that asks about the cluster. It belongs to no group and reads no records.
///
/// Offsets are listed by the isolation level of the client that asks, and librdkafka's default is
/// `read_committed`: only a `read_uncommitted` client is told the high watermark, so only its
/// answer is a barrier that covers records of transactions still open.
pub(super) fn metadata(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = client(kafka, &[]);
    config.set("isolation.level", "read_uncommitted");
    config
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::RESERVED_PROPERTIES;

    fn kafka(properties: &[(&str, &str)]) -> KafkaConfig {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>();
        KafkaConfig {
            brokers: "localhost:1".into(),
            ride_topic: "rides".into(),
            status_topic: "status".into(),
            group_id: "group".into(),
            create_topics: true,
            partitions: 12,
            replication_factor: 1,
            properties,
        }
    }

    fn all(kafka: &KafkaConfig) -> [ClientConfig; 5] {
        [
            consumer(kafka, 1_024),
            tail_consumer(kafka),
            producer(kafka),
            transactional_producer(kafka, "group-0"),
            metadata(kafka),
        ]
    }

    #[test]
    fn librdkafka_knows_every_setting() {
        for config in all(&kafka(&[])) {
            config.create_native_config().expect("valid settings");
        }
    }

    #[test]
    fn an_operator_overrides_preferences_but_no_promise() {
        let overriding: Vec<(&str, &str)> = RESERVED_PROPERTIES
            .iter()
            .map(|name| (*name, "theirs"))
            .chain([("linger.ms", "7"), ("fetch.queue.backoff.ms", "9")])
            .collect();
        let kafka = kafka(&overriding);
        let ours = [
            ("consumer", "enable.auto.commit"),
            ("consumer", "auto.offset.reset"),
            ("consumer", "isolation.level"),
            ("consumer", "group.id"),
            ("producer", "enable.idempotence"),
            ("producer", "partitioner"),
            ("producer", "transactional.id"),
        ];
        for (kind, name) in ours {
            let config = match kind {
                "consumer" => consumer(&kafka, 1_024),
                _ => transactional_producer(&kafka, "group-0"),
            };
            assert_ne!(config.get(name), Some("theirs"), "{name}");
        }
        assert_eq!(
            consumer(&kafka, 1_024).get("fetch.queue.backoff.ms"),
            Some("9")
        );
        assert_eq!(producer(&kafka).get("linger.ms"), Some("7"));
    }
}
