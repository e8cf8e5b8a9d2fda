//! Where reading may begin: compares the stored positions with the topic as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::anchor::Anchor;
use crate::domain::source::Source;
use crate::domain::standing::{lost_end, stop_of_new};
use crate::kafka::{AnchoredPosition, Cluster, ClusterError, Watermarks};
use crate::store::identity::Standing;
use crate::store::positions::Position;
use crate::store::{Store, StoreError};

/// The positions to read from, all of one incarnation of the topic.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The topic as it is now, which is also the topic of the positions.
    pub(super) source: Arc<Source>,
    /// By partition.
    pub(super) positions: BTreeMap<i32, StartAt>,
}

/// Where reading one partition begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartAt {
    /// The offset of the next record to apply.
    pub(super) next_offset: i64,
    /// How often an operator has moved the position, plus one.
    pub(super) generation: i64,
    /// What is known about the log before it.
    pub(super) anchor: Anchor,
}

/// How thoroughly the logs are compared with the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogCheck {
    /// Each position must be within its log, and the log before it must be the one that was read.
    /// For the beginning of reading, or if the end of the log may have been lost.
    Compare,
    /// Each position must be within its log. For a consumer that reads on.
    BoundsOnly,
}

/// Why reading cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Nothing may be read until an operator has decided: to continue could skip rides or read the
    /// wrong ones.
    #[error("{0}")]
    Stopped(String),
    /// Kafka or Postgres is unavailable; try again.
    #[error(transparent)]
    Kafka(ClusterError),
    /// The broker does not know a new partition yet; ask again.
    #[error("partition {0} is not known to the broker yet")]
    UnknownPartition(i32),
    /// Kafka or Postgres is unavailable; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ClusterError> for StartError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::NoSuchTopic { topic } => {
                Self::Stopped(format!("the topic {topic} is gone"))
            }
            error => Self::Kafka(error),
        }
    }
}

/// Reads the positions of these partitions, or of all if none are named. If no partition of the
/// topic has a position, all begin at the start of their logs.
///
/// It stops in these cases, so that no record is ever skipped silently: a position belongs to
/// another incarnation of the topic, or is not within its log; the log before it is not the one
/// that was read; a process has recorded that for any partition; a partition has no position while
/// others have, and its log has lost its beginning. A lost end of a log is recorded, because it
/// cannot be detected for ever: the log grows. It also stops if the database is on a server that no
/// operator has accepted.
pub(super) async fn find_start(
    store: &Store,
    cluster: &Cluster,
    topic: &str,
    partitions: Option<&BTreeSet<i32>>,
    logs: LogCheck,
) -> Result<Start, StartError> {
    if let Standing::Other(other) = store.server_standing().await? {
        return Err(StartError::Stopped(other.to_string()));
    }
    // Positions are read before the ends of the logs. Another consumer may move them meanwhile, and
    // then they would seem to be after the end.
    let stored = store.positions(topic).await?;
    let now = cluster.topic_now(topic).await?;
    let wanted =
        |partition: &i32| partitions.is_none_or(|partitions| partitions.contains(partition));
    // An operator must decide about positions of another incarnation, before new positions begin
    // beside them.
    if let Some(foreign) = stored
        .values()
        .find(|position| position.source != now.source)
    {
        return Err(StartError::Stopped(format!(
            "the position {} of partition {} of {topic} belongs to cluster {:?}, topic id {:?}; the topic is now in cluster {:?} \
             with id {:?}: it was created again, or this is another cluster. See `ride-promo positions`",
            foreign.next_offset,
            foreign.partition,
            foreign.source.cluster_id,
            foreign.source.topic_id,
            now.source.cluster_id,
            now.source.topic_id
        )));
    }
    if let Some(stopped) = stored.values().find_map(stop_recorded) {
        return Err(StartError::Stopped(stopped));
    }
    let stored = begin_new(store, &now.source, stored, &now.logs, wanted).await?;
    let mut positions = BTreeMap::new();
    for (partition, position) in stored.iter().filter(|(partition, _)| wanted(partition)) {
        let Some(Watermarks { low, high }) = now.logs.get(partition) else {
            return Err(StartError::Stopped(format!(
                "partition {partition} of {topic} has a position but is not there. See `ride-promo positions`"
            )));
        };
        let next = position.next_offset;
        if let Some(reason) = lost_end(next, *low, *high) {
            return Err(record_stop(store, position, &reason).await?);
        }
        if next < *low {
            return Err(StartError::Stopped(format!(
                "the position {next} of partition {partition} of {topic} is not within its log, which goes from {low} to \
                 {high}. See `ride-promo positions`"
            )));
        }
        let start = StartAt {
            next_offset: next,
            generation: position.generation,
            anchor: position.anchor,
        };
        positions.insert(*partition, start);
    }
    if logs == LogCheck::Compare {
        compare_logs(store, cluster, topic, &stored, &positions, &now.logs).await?;
    }
    // None may be left out: no other process would read it.
    let unknown = |wanted: &BTreeSet<i32>| {
        wanted
            .iter()
            .copied()
            .find(|partition| !positions.contains_key(partition))
    };
    if let Some(unknown) = partitions.and_then(unknown) {
        return Err(StartError::UnknownPartition(unknown));
    }
    Ok(Start {
        source: Arc::new(now.source),
        positions,
    })
}

/// Begins positions for the wanted partitions that have none. If the topic has none at all, it does
/// so for every partition at once, so that a process that starts a moment later does not take the
/// missing ones for added partitions.
async fn begin_new(
    store: &Store,
    source: &Source,
    stored: BTreeMap<i32, Position>,
    logs: &BTreeMap<i32, Watermarks>,
    wanted: impl Fn(&i32) -> bool,
) -> Result<BTreeMap<i32, Position>, StartError> {
    let others = !stored.is_empty();
    let mut new = BTreeMap::new();
    for (partition, log) in logs {
        if stored.contains_key(partition) || (others && !wanted(partition)) {
            continue;
        }
        if let Some(why) = stop_of_new(log.low, others) {
            return Err(StartError::Stopped(format!(
                "partition {partition} of {} {why}. See `ride-promo positions`",
                source.topic
            )));
        }
        new.insert(*partition, log.low);
    }
    if new.is_empty() {
        return Ok(stored);
    }
    store.begin_positions(source, &new).await?;
    Ok(store.positions(&source.topic).await?)
}

/// Compares the logs before the positions with what is known about them, and records the logs that
/// are not the ones that were read.
async fn compare_logs(
    store: &Store,
    cluster: &Cluster,
    topic: &str,
    stored: &BTreeMap<i32, Position>,
    positions: &BTreeMap<i32, StartAt>,
    logs: &BTreeMap<i32, Watermarks>,
) -> Result<(), StartError> {
    let anchored = positions
        .iter()
        .map(|(partition, start)| {
            let mut anchor = start.anchor;
            // Retention has removed it: there is nothing to compare with.
            let low = logs.get(partition).map_or(i64::MAX, |log| log.low);
            anchor.record = anchor.record.filter(|mark| mark.offset >= low);
            AnchoredPosition {
                partition: *partition,
                next_offset: start.next_offset,
                anchor,
            }
        })
        .collect();
    let mut stopped = None;
    for (partition, lost) in cluster.lost_ends(topic, anchored).await? {
        if let Some(position) = stored.get(&partition) {
            stopped = Some(record_stop(store, position, &lost.to_string()).await?);
        }
    }
    stopped.map_or(Ok(()), Err)
}

/// Records that nothing may be read from a position until an operator decides.
async fn record_stop(
    store: &Store,
    position: &Position,
    reason: &str,
) -> Result<StartError, StoreError> {
    store.stop_position(position, reason).await?;
    Ok(StartError::Stopped(stop_text(position, reason)))
}

fn stop_recorded(position: &Position) -> Option<String> {
    let reason = position.stopped.as_deref()?;
    Some(stop_text(position, reason))
}

fn stop_text(position: &Position, reason: &str) -> String {
    format!(
        "partition {} of {} is stopped until an operator decides: {reason}. See `ride-promo positions`",
        position.partition, position.source.topic
    )
}
