//! The settings of every client, in three layers: our preferences, over them the operator's
//! `[kafka.properties]`, over these the settings that our promises need.

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::config::KafkaConfig;

/// The common settings: `preferences`, then the operator's properties, then what the service itself
/// needs.
fn client(kafka: &KafkaConfig, preferences: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "ride-promo")
        // The default backs off to 10 s, which would delay recovery after each broker restart.
        .set("reconnect.backoff.max.ms", "1000")
        // Client metrics would be pushed to the broker, and are not used here.
        .set("enable.metrics.push", "false");
    for (name, value) in preferences {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    // The password may have changed since the process started. An existing client keeps the one it
    // was made with.
    for (name, file) in &kafka.property_files {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                config.set(name, text.trim_end_matches(['\r', '\n']));
            }
            Err(error) => tracing::warn!(
                property = name,
                file = %file.display(),
                %error,
                "cannot be read again; the earlier value is used"
            ),
        }
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("allow.auto.create.topics", "false");
    config
}

/// The settings of every consumer. Group offsets are advisory: nothing is committed or stored
/// automatically. A position out of range is an error, never a silent jump to either end.
fn reader(kafka: &KafkaConfig, preferences: &[(&str, &str)]) -> ClientConfig {
    let mut config = client(kafka, preferences);
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // A log may end in a transaction marker; only this event shows that its end is reached.
        .set("enable.partition.eof", "true");
    config
}

/// The group consumer of rides, with at most `queue_kbytes` KiB of fetched records. The protocol is
/// eager: each rebalance revokes all partitions, and `assign` may come later than its callback.
pub fn consumer(kafka: &KafkaConfig, queue_kbytes: u32) -> ClientConfig {
    let mut config = reader(
        kafka,
        &[
            ("queued.max.messages.kbytes", &queue_kbytes.to_string()),
            // A batch of a backlog is then of few partitions, so of fewer clients with more rides each.
            ("fetch.message.max.bytes", "8388608"),
            // With the default of a second a small queue runs dry between fetches.
            ("fetch.queue.backoff.ms", "5"),
            // An empty fetch reports the end of a partition only when it returns.
            ("fetch.wait.max.ms", "100"),
            // How long the partitions of a dead worker wait for another one; the default is 45 s.
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            // How soon new partitions of the topic are noticed.
            ("topic.metadata.refresh.interval.ms", "30000"),
        ],
    );
    config
        .set("group.id", &kafka.group_id)
        .set("partition.assignment.strategy", "range");
    config
}

/// A consumer that is assigned its partitions by hand and never commits, such as the read model's
/// tail. librdkafka needs a group id for an assignment, so it has one, but no group is joined.
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

/// The consumer that reads a few records before the positions. Like every consumer with an
/// assignment by hand it has a group id, and joins no group.
pub(super) fn history(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = reader(
        kafka,
        &[
            ("queued.max.messages.kbytes", "1024"),
            // All partitions share the queue: a partition must not wait a second because the queue
            // is not empty.
            ("fetch.queue.backoff.ms", "5"),
            // Only the first record of each partition is needed; a batch always arrives whole.
            ("fetch.message.max.bytes", "1024"),
            ("fetch.wait.max.ms", "10"),
        ],
    );
    config
        .set("group.id", &kafka.group_id)
        // An open transaction must not hide that there are other records now.
        .set("isolation.level", "read_uncommitted");
    config
}

/// A producer that loses and repeats nothing within its session, and that places keys as Java
/// clients do, which librdkafka's default does not.
pub fn producer(kafka: &KafkaConfig) -> ClientConfig {
    idempotent(kafka, &[("linger.ms", "20")])
}

/// A producer of Kafka transactions. `init_transactions` fences every other producer with that id.
///
/// After it was fenced, its `begin_transaction` and `send` still return `Ok`; only the commit
/// fails. While messages are in flight, `commit_transaction` polls in slices of 100 ms, so drain
/// them before (`in_flight_count() > 0`).
pub fn transactional_producer(kafka: &KafkaConfig, transactional_id: &str) -> ClientConfig {
    let mut config = idempotent(
        kafka,
        &[
            ("linger.ms", "0"),
            // How long a relay that died in a transaction blocks read-committed subscribers, unless
            // its successor comes first.
            // long, unless its successor comes first.
            ("transaction.timeout.ms", "15000"),
        ],
    );
    config.set("transactional.id", transactional_id);
    config
}

/// The transactional id under which a shard's events are published. It contains the topic, because
/// services that publish to other topics must not fence each other.
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

/// The client for requests about the cluster. It belongs to no group and reads no records.
///
/// Brokers list offsets by the isolation level of the client, and librdkafka's default is
/// `read_committed`. Only a `read_uncommitted` client gets the high watermark, so only its result
/// is a barrier that covers records of open transactions.
pub(super) fn metadata(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = client(kafka, &[]);
    config.set("isolation.level", "read_uncommitted");
    config
}

/// The operator's property that librdkafka rejects in combination though it accepts it alone, with
/// librdkafka's text: `security.protocol=SASL_SSL` without a mechanism, or a missing file of
/// certificates. It creates clients of every kind without brokers, which connect nowhere.
pub fn check_properties(kafka: &KafkaConfig) -> Result<(), (String, String)> {
    let clients = [
        (consumer(kafka, 1_024), true),
        (tail_consumer(kafka), true),
        (metadata(kafka), true),
        (producer(kafka), false),
        (transactional_producer(kafka, "check"), false),
    ];
    for (mut config, consumes) in clients {
        config.remove("bootstrap.servers");
        let made = if consumes {
            config
                .create_with_context::<_, BaseConsumer<SilentContext>>(SilentContext)
                .map(drop)
        } else {
            config
                .create_with_context::<_, BaseProducer<SilentContext>>(SilentContext)
                .map(drop)
        };
        if let Err(error) = made {
            return Err(at_fault(kafka, &error));
        }
    }
    Ok(())
}

/// The property that an error is about, and the error's text without parts that may be secret.
fn at_fault(kafka: &KafkaConfig, error: &KafkaError) -> (String, String) {
    let text = match error {
        KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::ClientConfig(_, description, name, _) => format!("{name}: {description}"),
        other => other.to_string(),
    };
    let is_set = |name: &str| kafka.properties.contains_key(name);
    // The text mostly names the property, but it calls a mechanism only that.
    let named = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c)))
        .map(|word| word.trim_matches('.'))
        .find(|word| is_set(word) || word.starts_with("sasl.") || word.starts_with("ssl."));
    let name = match named {
        Some(name) => name.to_owned(),
        None if text.contains("SASL mechanism") => "sasl.mechanisms".to_owned(),
        None => ["security.protocol"]
            .into_iter()
            .find(|name| is_set(name))
            .map(str::to_owned)
            .or_else(|| kafka.properties.keys().next().cloned())
            .unwrap_or_default(),
    };
    let secret = kafka.properties.iter().any(|(name, value)| {
        let may_be = ["password", "secret", "pem", "jaas", "config"];
        may_be.iter().any(|word| name.contains(word)) && text.contains(value.as_str())
    });
    let text = if secret {
        "librdkafka's message is not shown because it contains a secret".to_owned()
    } else {
        text
    };
    (name, text)
}

/// Logs nothing: the fault comes as an error.
struct SilentContext;

impl ClientContext for SilentContext {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ConsumerContext for SilentContext {}

impl ProducerContext for SilentContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::config::{Config, Needs, RESERVED_PROPERTIES};

    fn kafka(properties: &[(&str, &str)]) -> KafkaConfig {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>();
        KafkaConfig {
            brokers: "localhost:1".into(),
            ride_topic: "rides".into(),
            status_topic: "status".into(),
            reminder_topic: "reminders".into(),
            group_id: "group".into(),
            create_topics: true,
            partitions: 12,
            replication_factor: 1,
            properties,
            property_files: BTreeMap::new(),
        }
    }

    #[test]
    fn a_password_is_read_again_for_every_new_client() {
        let name = format!("ride-promo-sasl-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, "first\n").expect("a file");
        let environment = [
            ("KAFKA_BROKERS", "broker:9092"),
            (
                "RIDE_PROMO__KAFKA__PROPERTIES__SASL_PASSWORD_FILE",
                file.to_str().expect("a path"),
            ),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let kafka = Config::from_sources(None, environment, Needs::KAFKA)
            .expect("valid")
            .kafka;
        let password = || client(&kafka, &[]).get("sasl.password").map(str::to_owned);
        assert_eq!(password().as_deref(), Some("first"));
        fs::write(&file, "second").expect("a file");
        assert_eq!(password().as_deref(), Some("second"));
        fs::remove_file(&file).expect("ours");
        assert_eq!(password().as_deref(), Some("first"), "the one of the start");
    }

    fn all(kafka: &KafkaConfig) -> [ClientConfig; 6] {
        [
            history(kafka),
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
    fn properties_that_are_wrong_only_together_are_named_and_no_secret_is() {
        let names = |properties: &[(&str, &str)]| {
            let (name, text) = check_properties(&kafka(properties)).expect_err("wrong together");
            assert!(!text.contains("hunter2"), "{text}");
            name
        };
        let mechanism = ("sasl.mechanisms", "SCRAM-SHA-512");
        let password = ("sasl.password", "hunter2");
        let ssl = ("security.protocol", "SSL");
        let sasl = ("security.protocol", "SASL_SSL");
        assert_eq!(names(&[sasl]), "sasl.mechanisms");
        assert!(names(&[sasl, mechanism, password]).starts_with("sasl."));
        assert_eq!(
            names(&[ssl, ("ssl.ca.location", "/no/such/file")]),
            "ssl.ca.location"
        );
        assert_eq!(
            names(&[ssl, ("ssl.key.location", "/no/such/file")]),
            "ssl.key.location"
        );
        let good = [sasl, mechanism, password, ("sasl.username", "me")];
        assert_eq!(check_properties(&kafka(&good)), Ok(()));
        assert_eq!(check_properties(&kafka(&[])), Ok(()));
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
