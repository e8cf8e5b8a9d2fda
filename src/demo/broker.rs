//! Where the demo's topics are: in librdkafka's in-process broker, or in a real cluster under names
//! of this run.

use anyhow::Context as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::config::KafkaConfig;
use crate::kafka;

/// Partitions of each topic.
const PARTITIONS: i32 = 12;

/// The demo's Kafka.
pub(super) enum Broker {
    /// In this process, gone with this value. It keeps at most 5 MiB per partition and silently
    /// drops older records, so the publisher must not run far ahead of the consumer. It serves no
    /// admin requests, so its topics are created here.
    InProcess {
        cluster: MockCluster<'static, DefaultProducerContext>,
    },
    /// A real cluster; the service creates the topics, and they are deleted at the end.
    Named {
        /// `host:port`, comma-separated.
        brokers: String,
    },
}

/// What the topics and the group are called in this run.
pub(super) struct Names {
    pub(super) ride_topic: String,
    pub(super) status_topic: String,
    pub(super) reminder_topic: String,
    pub(super) group_id: String,
}

impl Broker {
    /// The in-process broker, or the named one.
    pub(super) fn open(brokers: Option<&str>) -> anyhow::Result<Self> {
        Ok(match brokers {
            Some(brokers) => Self::Named {
                brokers: brokers.to_owned(),
            },
            None => Self::InProcess {
                cluster: MockCluster::new(1).context("starting the broker in this process")?,
            },
        })
    }

    /// The contract's names in the in-process broker, names of this run in a shared cluster.
    pub(super) fn names(&self, run: &str) -> Names {
        let suffix = match self {
            Self::InProcess { .. } => String::new(),
            Self::Named { .. } => format!("-demo-{run}"),
        };
        Names {
            ride_topic: format!("ride-completed{suffix}"),
            status_topic: format!("promotion-status{suffix}"),
            reminder_topic: format!("promotion-reminder{suffix}"),
            group_id: format!("ride-promo{suffix}"),
        }
    }

    /// Creates the topics where the service cannot; returns the bootstrap servers.
    pub(super) fn ready(&self, names: &Names) -> anyhow::Result<String> {
        match self {
            Self::InProcess { cluster } => {
                for topic in [
                    &names.ride_topic,
                    &names.status_topic,
                    &names.reminder_topic,
                ] {
                    cluster
                        .create_topic(topic, PARTITIONS, 1)
                        .with_context(|| format!("making the topic {topic}"))?;
                }
                Ok(cluster.bootstrap_servers())
            }
            Self::Named { brokers } => Ok(brokers.clone()),
        }
    }

    /// Whether the service can create topics.
    pub(super) fn takes_admin_requests(&self) -> bool {
        matches!(self, Self::Named { .. })
    }

    /// A description for people.
    pub(super) fn look(&self, names: &Names) -> String {
        match self {
            Self::InProcess { cluster } => {
                format!("in this process, at {}", cluster.bootstrap_servers())
            }
            Self::Named { brokers } => format!(
                "{brokers}, topics {}, {} and {}, deleted at the end",
                names.ride_topic, names.status_topic, names.reminder_topic
            ),
        }
    }

    /// Removes what was created.
    pub(super) async fn close(self, kafka: &KafkaConfig) -> anyhow::Result<()> {
        match self {
            Self::InProcess { cluster } => drop(cluster),
            Self::Named { .. } => {
                kafka::delete_topics(kafka)
                    .await
                    .context("deleting the topics of this run")?;
            }
        }
        Ok(())
    }
}
