//! The checks of `doctor` on Kafka: the connection, the topics, the rights of this user, the clock.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant as Monotonic};

use chrono::DateTime;
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::time::sleep;

use super::{Report, TIMEOUT, names};
use crate::config::{Config, KafkaConfig};
use crate::kafka::{
    Cluster, ClusterError, Operation, STATUS_COMPACTION_LAG_MS, broker_time, could_create,
    relay_transactional_id, transactional_producer,
};

/// The pause between two polls of a client.
const RETRY: Duration = Duration::from_millis(200);

/// All checks on Kafka.
pub(super) async fn examine(
    report: &mut Report<'_>,
    config: &Config,
    broker_clock: bool,
) -> io::Result<()> {
    let kafka = &config.kafka;
    let cluster = match Cluster::new(kafka) {
        Ok(cluster) => cluster,
        Err(error) => {
            return report.fail(
                "kafka",
                &error.to_string(),
                "check the settings in [kafka.properties] and that the files they name can be read",
            );
        }
    };
    let info = match cluster.info().await {
        Ok(info) => info,
        Err(error) => {
            // librdkafka reports why a connection failed apart from the result, which is only a
            // timeout.
            let failure = cluster.last_failure().unwrap_or_default();
            let finding = match failure.as_str() {
                "" => error.to_string(),
                failure => format!("{error}; {failure}"),
            };
            return report.fail("kafka", &finding, cure(&failure));
        }
    };
    security(report, kafka)?;
    let brokers: Vec<String> = info.brokers.iter().map(ToString::to_string).collect();
    report.ok(
        "kafka",
        &format!(
            "{} answers: cluster {}, brokers {}",
            kafka.brokers,
            info.cluster_id,
            brokers.join(", ")
        ),
    )?;
    names::advertised(report, &info.brokers).await?;
    if info.is_in_process() {
        return report.ok(
            "kafka",
            "this is the broker built into `ride-promo demo`; it answers no questions about topics, rights and clocks, so they were not checked",
        );
    }
    let kept = "the last ride of a client";
    if retained_topic(report, &cluster, config, &kafka.ride_topic, kept).await? {
        let needed = [Operation::Read, Operation::Describe];
        topic_rights(report, &cluster, kafka, &kafka.ride_topic, &needed).await?;
    }
    if status_topic(report, &cluster, config).await? {
        let needed = [Operation::Read, Operation::Write, Operation::Describe];
        topic_rights(report, &cluster, kafka, &kafka.status_topic, &needed).await?;
    }
    let kept = "the last reminder of a participation";
    if retained_topic(report, &cluster, config, &kafka.reminder_topic, kept).await? {
        let needed = [Operation::Write, Operation::Describe];
        topic_rights(report, &cluster, kafka, &kafka.reminder_topic, &needed).await?;
    }
    group_rights(report, &cluster, kafka).await?;
    transactions(report, config).await?;
    clock(report, kafka, broker_clock).await
}

/// The cure for a connection that failed for this reason.
fn cure(failure: &str) -> &'static str {
    let failure = failure.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| failure.contains(word));
    if says(&["certificate", "ssl handshake"]) {
        "check ssl.ca.location in [kafka.properties] against the authority that signed the brokers' certificates, and that these name the hosts in KAFKA_BROKERS"
    } else if says(&["authentication", "sasl"]) {
        "check sasl.mechanisms, sasl.username and sasl.password in [kafka.properties] against the users the cluster knows"
    } else if says(&["resolve"]) {
        "check the names in KAFKA_BROKERS"
    } else if failure.is_empty() {
        // A server accepted the connection, and did not respond or closed it.
        "check that KAFKA_BROKERS names a listener of a healthy Kafka broker, and that security.protocol in [kafka.properties] is the one of that listener"
    } else {
        "check KAFKA_BROKERS, that the broker runs, and security settings in [kafka.properties]"
    }
}

/// How the connection is encrypted, and whether the broker's identity is checked.
fn security(report: &mut Report<'_>, kafka: &KafkaConfig) -> io::Result<()> {
    const SUBJECT: &str = "kafka tls";
    let property = |name: &str| {
        let value = kafka.properties.get(name).map(String::as_str);
        value.unwrap_or_default().to_ascii_lowercase()
    };
    let protocol = property("security.protocol");
    match protocol.as_str() {
        "ssl" | "sasl_ssl" => {
            let unchecked = property("enable.ssl.certificate.verification") == "false";
            let any_host = property("ssl.endpoint.identification.algorithm") == "none";
            if unchecked || any_host {
                let what = if unchecked { "certificates" } else { "hosts" };
                return report.fail(
                    SUBJECT,
                    &format!("{protocol}, but the brokers' {what} are not checked"),
                    "remove enable.ssl.certificate.verification and ssl.endpoint.identification.algorithm from [kafka.properties]",
                );
            }
            report.ok(
                SUBJECT,
                &format!("{protocol}, the brokers' certificates and hosts are checked"),
            )
        }
        "sasl_plaintext" if property("sasl.mechanisms").contains("plain") || property("sasl.mechanism").contains("plain") => report.fail(
            SUBJECT,
            "not encrypted, and SASL PLAIN sends the password as it is",
            "use security.protocol=SASL_SSL, or a SCRAM mechanism within a network you trust",
        ),
        _ => report.ok(
            SUBJECT,
            "note: not encrypted, which is fine within a network you trust; otherwise set security.protocol in [kafka.properties]",
        ),
    }
}

/// Whether this user may do what the service does with a topic.
async fn topic_rights(
    report: &mut Report<'_>,
    cluster: &Cluster,
    kafka: &KafkaConfig,
    topic: &str,
    needed: &[Operation],
) -> io::Result<()> {
    let allowed = cluster.topic_operations(topic).await;
    rights(
        report,
        kafka,
        topic,
        &format!("--topic {topic}"),
        needed,
        allowed,
    )
}

/// Whether this user may be a member of the consumer group.
async fn group_rights(
    report: &mut Report<'_>,
    cluster: &Cluster,
    kafka: &KafkaConfig,
) -> io::Result<()> {
    let group = &kafka.group_id;
    let subject = format!("kafka group {group}");
    // A new cluster creates the topic of consumer groups at the first request for a group, and has
    // no coordinator until then.
    let late = Monotonic::now() + TIMEOUT;
    let allowed = loop {
        match cluster.group_operations(group).await {
            Err(error) if error.is_transient() && Monotonic::now() < late => sleep(RETRY).await,
            allowed => break allowed,
        }
    };
    let allowed = match allowed {
        // Only a user who may describe the group gets this result, and it does not include the
        // rights to it.
        Err(ClusterError::Refused { reason, .. }) if reason.contains("GroupIdNotFound") => {
            return report.ok("kafka group", &format!("{group} has no members yet"));
        }
        Err(error) if error.is_transient() => {
            return report.fail(
                &subject,
                &error.to_string(),
                "check that __consumer_offsets can be created (its replication factor against the number of brokers) and that its brokers run",
            );
        }
        allowed => allowed,
    };
    let needed = [Operation::Read, Operation::Describe];
    rights(
        report,
        kafka,
        &subject,
        &format!("--group {group}"),
        &needed,
        allowed,
    )
}

fn rights(
    report: &mut Report<'_>,
    kafka: &KafkaConfig,
    subject: &str,
    resource: &str,
    needed: &[Operation],
    allowed: Result<BTreeSet<Operation>, ClusterError>,
) -> io::Result<()> {
    let missing: Vec<&str> = match &allowed {
        Ok(allowed) => needed
            .iter()
            .filter(|operation| !allowed.contains(operation))
            .map(|operation| operation.as_str())
            .collect(),
        Err(_) => needed.iter().map(|operation| operation.as_str()).collect(),
    };
    let finding = match (&allowed, missing.as_slice()) {
        (Ok(_), []) => {
            let names: Vec<&str> = needed.iter().map(|operation| operation.as_str()).collect();
            return report.ok(subject, &format!("may {}", names.join(", ")));
        }
        (Ok(_), missing) => format!("may not {}", missing.join(", ")),
        (Err(error), _) => error.to_string(),
    };
    report.fail(subject, &finding, &grant(kafka, resource, &missing))
}

/// The command that grants it.
fn grant(kafka: &KafkaConfig, resource: &str, operations: &[&str]) -> String {
    let user = kafka.properties.get("sasl.username");
    let user = user.map_or("USER", String::as_str);
    let operations: String = operations
        .iter()
        .map(|operation| format!(" --operation {operation}"))
        .collect();
    format!(
        "run as an administrator: kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{user}{operations} {resource}",
        kafka.brokers
    )
}

/// Kafka has no request for its time. The time decides nothing about rides and rewards, but it does
/// about a topic's retention.
async fn clock(report: &mut Report<'_>, kafka: &KafkaConfig, asked: bool) -> io::Result<()> {
    const SUBJECT: &str = "kafka clock";
    if !asked {
        return report.ok(
            SUBJECT,
            "not read: doctor --broker-clock reads it by a record in a topic that it creates and deletes",
        );
    }
    let time = match broker_time(kafka).await {
        Ok(time) => time,
        Err(error) => {
            return report.fail(
                SUBJECT,
                &format!("cannot be read: {error}"),
                "leave out --broker-clock, or allow Create, Write and Delete on the topics ride-promo-doctor-*",
            );
        }
    };
    match DateTime::from_timestamp_millis(time.there_ms) {
        Some(there) => super::compare_clocks(report, SUBJECT, there, time.before, time.after),
        None => report.fail(
            SUBJECT,
            "the broker's time is out of range",
            "set its clock",
        ),
    }
}

/// A topic that keeps every record; `kept` says what compaction would leave. Returns whether the
/// topic exists.
async fn retained_topic(
    report: &mut Report<'_>,
    cluster: &Cluster,
    config: &Config,
    topic: &str,
    kept: &str,
) -> io::Result<bool> {
    let Some((partitions, settings)) = topic_facts(report, cluster, config, topic).await? else {
        return Ok(false);
    };
    let policy = settings("cleanup.policy");
    if policy.contains("compact") {
        report.fail(
            topic,
            &format!("cleanup.policy is {policy}: all but {kept} get lost"),
            "set cleanup.policy=delete on the topic",
        )?;
        return Ok(true);
    }
    let retention = settings("retention.ms");
    report.ok(
        topic,
        &format!("{partitions} partitions, retention.ms {retention}"),
    )?;
    Ok(true)
}

/// Returns whether the topic exists.
async fn status_topic(
    report: &mut Report<'_>,
    cluster: &Cluster,
    config: &Config,
) -> io::Result<bool> {
    let topic = &config.kafka.status_topic;
    let Some((partitions, settings)) = topic_facts(report, cluster, config, topic).await? else {
        return Ok(false);
    };
    let policy = settings("cleanup.policy");
    if policy != "compact" {
        report.fail(
            topic,
            &format!("cleanup.policy is {policy}: the newest state of a participation gets lost"),
            "set cleanup.policy=compact on the topic",
        )?;
        return Ok(true);
    }
    let lag = settings("min.compaction.lag.ms");
    if !lag
        .parse()
        .is_ok_and(|lag: i64| lag >= STATUS_COMPACTION_LAG_MS)
    {
        report.fail(
            topic,
            &format!(
                "min.compaction.lag.ms is {lag}: subscribers may miss events of the last 7 days"
            ),
            &format!("set min.compaction.lag.ms={STATUS_COMPACTION_LAG_MS} on the topic"),
        )?;
        return Ok(true);
    }
    report.ok(topic, &format!("{partitions} partitions, compacted"))?;
    Ok(true)
}

/// The number of partitions, each with a leader that answers, and a look-up of settings; `None`
/// where a line was written already.
async fn topic_facts(
    report: &mut Report<'_>,
    cluster: &Cluster,
    config: &Config,
    topic: &str,
) -> io::Result<Option<(usize, impl Fn(&str) -> String + use<>)>> {
    let asked = async {
        let partitions = cluster.end_offsets(topic).await?.len();
        let settings = cluster.topic_settings(&config.kafka, topic).await?;
        Ok((partitions, settings))
    };
    match asked.await {
        Ok((partitions, settings)) => Ok(Some((partitions, move |name: &str| {
            settings.get(name).cloned().unwrap_or_else(|| "?".into())
        }))),
        Err(ClusterError::NoSuchTopic { .. }) if config.kafka.create_topics => {
            let partitions = config.kafka.partitions;
            match could_create(&config.kafka, topic).await {
                Ok(()) => report.ok(
                    topic,
                    &format!("does not exist; serve creates it with {partitions} partitions"),
                )?,
                Err(error) => report.fail(
                    topic,
                    &format!("does not exist, and serve cannot create it: {error}"),
                    "create it, allow Create on it, or fit kafka.replication_factor to the number of brokers",
                )?,
            }
            Ok(None)
        }
        Err(error @ ClusterError::NoSuchTopic { .. }) => {
            report.fail(
                topic,
                &error.to_string(),
                "create it, or set kafka.create_topics = true",
            )?;
            Ok(None)
        }
        Err(error) => {
            report.fail(
                topic,
                &error.to_string(),
                "check that the brokers' advertised addresses can be reached from here and that we may describe the topic",
            )?;
            Ok(None)
        }
    }
}

/// Whether the relay could publish: its transactions need a coordinator and a right.
async fn transactions(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    let topic = &config.kafka.status_topic;
    let id = relay_transactional_id(topic, "doctor");
    let client = transactional_producer(&config.kafka, &id);
    let tried = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = client.create()?;
        producer.init_transactions(TIMEOUT)
    });
    let error = match tried.await {
        Ok(Ok(())) => return report.ok("kafka transactions", "can be used"),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let prefix = format!(
        "--transactional-id {} --resource-pattern-type prefixed",
        relay_transactional_id(topic, "")
    );
    report.fail(
        "kafka transactions",
        &error,
        &format!(
            "check that __transaction_state can be created (its replication factor against the number of brokers) and the rights, {}",
            grant(&config.kafka, &prefix, &["Describe", "Write"])
        ),
    )
}
