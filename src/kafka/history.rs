//! Checks whether the log before a position is still the one that was read.
//!
//! There are two checks, because each alone misses something. A broker knows the end of a leader
//! epoch's log, unless the log was lost together with the epochs (a restored disk). The record
//! before the position is fetched and compared, unless it no longer exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant as Monotonic};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::cluster::{Cluster, ClusterError};
use super::epoch::set_epoch_in_list;
use super::log::LogContext;
use crate::domain::anchor::{Anchor, RecordMark};

/// The timeout of all requests of one call together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often the timeout is checked.
const POLL: Duration = Duration::from_millis(100);

/// The pause between two attempts to seek in a partition whose assignment has just begun.
const SEEK_RETRY: Duration = Duration::from_millis(10);

/// A position, and what is known about the log before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchoredPosition {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub next_offset: i64,
    /// What is known about the log before that offset.
    pub anchor: Anchor,
}

/// How a log shows that it is no longer the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostEnd {
    /// The log of this leader epoch ends before the position.
    Epoch {
        /// The position.
        next_offset: i64,
        /// The epoch.
        leader_epoch: i32,
    },
    /// The record at this offset is another one.
    Record(i64),
}

impl fmt::Display for LostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch {
                next_offset,
                leader_epoch,
            } => write!(
                f,
                "the log of leader epoch {leader_epoch} ends before the position {next_offset}: Kafka lost the log's end and \
                 gave its offsets out again"
            ),
            Self::Record(offset) => write!(
                f,
                "the record {offset} is not the one that was applied: Kafka lost the log's end and gave its offsets out again"
            ),
        }
    }
}

impl Cluster {
    /// Those of the positions, by partition, before which the log is no longer the one that was
    /// read. The positions must be within their logs. It uses a client of its own, which reads one
    /// record of each partition, and the few more that are fetched with it.
    pub async fn lost_ends(
        &self,
        topic: &str,
        positions: Vec<AnchoredPosition>,
    ) -> Result<BTreeMap<i32, LostEnd>, ClusterError> {
        if positions
            .iter()
            .all(|position| position.anchor == Anchor::default())
        {
            return Ok(BTreeMap::new());
        }
        let (config, brokers) = self.history_client();
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || {
            let examination = Examination {
                config: &config,
                brokers: &brokers,
                topic: &topic,
                deadline: Monotonic::now() + TIMEOUT,
            };
            let mut lost = examination.shorter_epochs(&positions)?;
            lost.extend(examination.other_records(&positions)?);
            Ok(lost)
        })
        .await?
    }
}

type Client = BaseConsumer<LogContext>;

struct Examination<'a> {
    config: &'a ClientConfig,
    brokers: &'a str,
    topic: &'a str,
    deadline: Monotonic,
}

impl Examination<'_> {
    /// The positions that lie after the end of their leader epoch's log. librdkafka asks the broker
    /// when it seeks to an offset with an epoch, and reports the result only as an error without a
    /// partition. So the possible partitions are asked once more, one by one.
    fn shorter_epochs(
        &self,
        positions: &[AnchoredPosition],
    ) -> Result<BTreeMap<i32, LostEnd>, ClusterError> {
        let with_epoch: Vec<(&AnchoredPosition, i32)> = positions
            .iter()
            .filter_map(|position| Some((position, position.anchor.leader_epoch?)))
            .collect();
        let suspects = self.not_validated(&with_epoch)?;
        let mut lost = BTreeMap::new();
        for (position, leader_epoch) in with_epoch {
            if suspects.contains(&position.partition)
                && !self.not_validated(&[(position, leader_epoch)])?.is_empty()
            {
                let end = LostEnd::Epoch {
                    next_offset: position.next_offset,
                    leader_epoch,
                };
                lost.insert(position.partition, end);
            }
        }
        Ok(lost)
    }

    /// The partitions that returned neither a record nor their end; the same number of errors came
    /// instead.
    fn not_validated(
        &self,
        positions: &[(&AnchoredPosition, i32)],
    ) -> Result<BTreeSet<i32>, ClusterError> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let mut waiting = BTreeSet::new();
        for (position, leader_epoch) in positions {
            self.add(&mut list, position.partition, position.next_offset)?;
            set_epoch_in_list(&mut list, self.topic, position.partition, *leader_epoch);
            waiting.insert(position.partition);
        }
        if waiting.is_empty() {
            return Ok(waiting);
        }
        let client = self.client()?;
        self.assign(&client, &list)?;
        self.seek(&client, list)?;
        self.first_records(&client, &mut waiting, |_| {})?;
        Ok(waiting)
    }

    /// The positions whose last applied record is another one now. A record that no longer exists
    /// (removed by retention or compaction) proves nothing.
    fn other_records(
        &self,
        positions: &[AnchoredPosition],
    ) -> Result<BTreeMap<i32, LostEnd>, ClusterError> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let mut marks = BTreeMap::new();
        for position in positions {
            if let Some(mark) = position.anchor.record {
                self.add(&mut list, position.partition, mark.offset)?;
                marks.insert(position.partition, mark);
            }
        }
        let mut lost = BTreeMap::new();
        if marks.is_empty() {
            return Ok(lost);
        }
        let client = self.client()?;
        self.assign(&client, &list)?;
        let mut waiting = marks.keys().copied().collect();
        self.first_records(&client, &mut waiting, |message| {
            if let Some(mark) = marks.get(&message.partition())
                && message.offset() == mark.offset
                && mark_of(message) != *mark
            {
                lost.insert(message.partition(), LostEnd::Record(mark.offset));
            }
        })?;
        Ok(lost)
    }

    /// Reads until each partition has returned a record or its end, or was out of range; those out
    /// of range stay in `waiting`.
    fn first_records(
        &self,
        client: &Client,
        waiting: &mut BTreeSet<i32>,
        mut first: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), ClusterError> {
        let mut out_of_range = 0;
        while waiting.len() > out_of_range {
            self.in_time()?;
            match client.poll(POLL) {
                None => {}
                Some(Ok(message)) if waiting.remove(&message.partition()) => {
                    first(&message);
                    self.pause(client, message.partition())?;
                }
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    waiting.remove(&partition);
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    out_of_range += 1;
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(self.failed(&error));
                }
                // librdkafka retries until the timeout.
                Some(Err(error)) => tracing::debug!(%error, "looking at the log before a position"),
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<Client, ClusterError> {
        self.config
            .create_with_context(LogContext { role: "history" })
            .map_err(|error| self.failed(&error))
    }

    fn add(
        &self,
        list: &mut TopicPartitionList,
        partition: i32,
        offset: i64,
    ) -> Result<(), ClusterError> {
        list.add_partition_offset(self.topic, partition, Offset::Offset(offset))
            .map_err(|error| self.failed(&error))
    }

    fn assign(&self, client: &Client, list: &TopicPartitionList) -> Result<(), ClusterError> {
        client.assign(list).map_err(|error| self.failed(&error))
    }

    /// Stops fetching a partition that has returned its record or its end.
    fn pause(&self, client: &Client, partition: i32) -> Result<(), ClusterError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(self.topic, partition);
        client.pause(&list).map_err(|error| self.failed(&error))
    }

    fn seek(&self, client: &Client, list: TopicPartitionList) -> Result<(), ClusterError> {
        loop {
            self.in_time()?;
            let sought = client
                .seek_partitions(list.clone(), POLL * 10)
                .map_err(|error| self.failed(&error))?;
            if sought
                .elements()
                .iter()
                .all(|element| element.error().is_ok())
            {
                return Ok(());
            }
            std::thread::sleep(SEEK_RETRY);
        }
    }

    fn in_time(&self) -> Result<(), ClusterError> {
        if Monotonic::now() < self.deadline {
            return Ok(());
        }
        Err(ClusterError::Unreachable {
            brokers: self.brokers.to_owned(),
            reason: format!("no record of {} in time", self.topic),
        })
    }

    fn failed(&self, error: &KafkaError) -> ClusterError {
        ClusterError::Unreachable {
            brokers: self.brokers.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// The fingerprint of a record as it is now.
fn mark_of(message: &BorrowedMessage<'_>) -> RecordMark {
    RecordMark::new(
        message.offset(),
        message.timestamp().to_millis().unwrap_or(-1),
        message.key(),
        message.payload(),
    )
}
