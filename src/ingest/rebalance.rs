//! The decisions of the consumer group: recorded in librdkafka's callback, executed by the poll
//! loop.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::kafka;

/// A consumer that is a member of the group.
pub(super) type GroupConsumer = BaseConsumer<GroupContext>;

/// A decision of the group. The protocol is eager: an assignment is the whole one, and a revocation
/// takes all partitions.
#[derive(Debug)]
pub(super) enum Rebalance {
    /// This process reads these partitions.
    Assigned(BTreeSet<i32>),
    /// This process reads no partition any more.
    Revoked,
}

/// Keeps the group's decisions until the poll loop takes them.
#[derive(Default)]
pub(super) struct GroupContext {
    rebalances: Mutex<Vec<Rebalance>>,
}

impl GroupContext {
    fn note(&self, rebalance: Rebalance) {
        let mut rebalances = self
            .rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rebalances.push(rebalance);
    }

    /// The decisions since the last call, in order.
    pub(super) fn take(&self) -> Vec<Rebalance> {
        let mut rebalances = self
            .rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rebalances)
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line("ingest", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("ingest", &error, reason);
    }
}

impl ConsumerContext for GroupContext {
    /// Runs inside `poll`. An assignment is only recorded: `assign` follows once the positions are
    /// read, which librdkafka allows for up to `max.poll.interval.ms`.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let partitions = partitions
                .elements()
                .iter()
                .map(|element| element.partition())
                .collect();
            self.note(Rebalance::Assigned(partitions));
            return;
        }
        self.note(Rebalance::Revoked);
        if let Err(error) = consumer.unassign() {
            tracing::error!(%error, "partitions could not be released");
        }
    }
}
