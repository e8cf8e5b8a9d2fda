//! Where reading may begin: the stored positions, held against the topic as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::source::Source;
use crate::kafka::{Cluster, ClusterError, Watermarks};
use crate::store::{Store, StoreError};

/// The positions to read from, all of one incarnation of the topic.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The topic as it is now, and as the positions know it.
    pub(super) source: Arc<Source>,
    /// `partition → (next_offset, generation)`.
    pub(super) positions: BTreeMap<i32, (i64, i64)>,
}

/// Why reading cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Nothing may be read until an operator has decided; going on could skip rides or read the
    /// wrong ones.
    #[error("{0}")]
    Stopped(String),
    /// Kafka or Postgres is away; try again.
    #[error(transparent)]
    Kafka(ClusterError),
    /// The broker that was asked has not heard of a new partition yet; ask again.
    #[error("partition {0} is not known to the broker yet")]
    UnknownPartition(i32),
    /// Kafka or Postgres is away; try again.
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

/// Reads the positions of these partitions, or of all where none are named; a partition that has
/// none begins at its log's start. Stops where a position belongs to another incarnation of the
/// topic or is not within its log: never a silent skip.
pub(super) async fn find_start(
    store: &Store,
    cluster: &Cluster,
    topic: &str,
    partitions: Option<&BTreeSet<i32>>,
) -> Result<Start, StartError> {
    let source = cluster.source(topic).await?;
    // Positions before the logs' ends: another consumer may move them on meanwhile, and then they
    // would seem to be past the end.
    let stored = store.positions(topic).await?;
    let logs = cluster.watermarks(topic).await?;
    let wanted =
        |partition: &i32| partitions.is_none_or(|partitions| partitions.contains(partition));
    // What belongs to another incarnation is an operator's to decide, before anything begins anew
    // beside it.
    if let Some(foreign) = stored.values().find(|position| position.source != source) {
        return Err(StartError::Stopped(format!(
            "the position {} of partition {} of {topic} belongs to cluster {:?}, topic id {:?}; the topic is now in cluster {:?} \
             with id {:?}: it was created anew, or this is another cluster. See `ride-promo positions`",
            foreign.next_offset,
            foreign.partition,
            foreign.source.cluster_id,
            foreign.source.topic_id,
            source.cluster_id,
            source.topic_id
        )));
    }
    let new: BTreeMap<i32, i64> = logs
        .iter()
        .filter(|(partition, _)| wanted(partition) && !stored.contains_key(partition))
        .map(|(partition, log)| (*partition, log.low))
        .collect();
    let stored = if new.is_empty() {
        stored
    } else {
        store.begin_positions(&source, &new).await?;
        store.positions(topic).await?
    };
    let mut positions = BTreeMap::new();
    for (partition, position) in stored.iter().filter(|(partition, _)| wanted(partition)) {
        let Some(Watermarks { low, high }) = logs.get(partition) else {
            return Err(StartError::Stopped(format!(
                "partition {partition} of {topic} has a position but is not there. See `ride-promo positions`"
            )));
        };
        let next = position.next_offset;
        if next < *low || next > *high {
            return Err(StartError::Stopped(format!(
                "the position {next} of partition {partition} of {topic} is not within its log, which goes from {low} to \
                 {high}. See `ride-promo positions`"
            )));
        }
        positions.insert(*partition, (next, position.generation));
    }
    // Not one may be left out: nobody else would read it.
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
        source: Arc::new(source),
        positions,
    })
}
