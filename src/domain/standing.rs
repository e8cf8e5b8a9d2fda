//! Decides whether reading may continue at a position, given the topic as it is now.

use super::source::Source;

/// A recorded position.
#[derive(Clone, Copy, Debug)]
pub struct RecordedPosition<'a> {
    /// The topic it belongs to.
    pub source: &'a Source,
    /// The offset of the next record to apply.
    pub next_offset: i64,
    /// Why nothing may be read from it, as recorded by the process that detected it.
    pub stopped: Option<&'a str>,
}

/// Why ingest and expiry must stop at a partition, in a few words; `None` if they need not. `log` has the
/// first offset that still exists and the one after the last; it is `None` if the topic has no such
/// partition.
pub fn stop_of(
    now: &Source,
    log: Option<(i64, i64)>,
    position: RecordedPosition<'_>,
) -> Option<String> {
    let RecordedPosition {
        source,
        next_offset,
        stopped,
    } = position;
    if source.cluster_id != now.cluster_id {
        return Some(format!("belongs to another cluster, {}", source.cluster_id));
    }
    if source.topic_id != now.topic_id {
        return Some(format!(
            "belongs to an earlier topic of this name, id {}",
            source.topic_id
        ));
    }
    if let Some(reason) = stopped {
        return Some(reason.to_owned());
    }
    match log {
        None => Some("the topic has no such partition".to_owned()),
        Some((low, _)) if next_offset < low => Some("before the log's start".to_owned()),
        Some((_, high)) if next_offset > high => Some("beyond the log's end".to_owned()),
        Some(_) => None,
    }
}

/// Why a partition without a position must not begin at its log's start, `low`, if other partitions of the
/// topic have positions: its earlier records are gone, and none of them was applied.
pub fn stop_of_new(low: i64, others_have_positions: bool) -> Option<String> {
    (low > 0 && others_have_positions).then(|| {
        format!("has no position, and its log begins at {low}: rides before that were not read")
    })
}

/// The reason to record if a position is past the end of its log, which goes from `low` to `high`. It must
/// be recorded: the log will not show it later, when it has grown past the position.
pub fn lost_end(next_offset: i64, low: i64, high: i64) -> Option<String> {
    (next_offset > high).then(|| {
        format!(
            "the position {next_offset} is not within its log, which goes from {low} to {high}: Kafka lost the log's end"
        )
    })
}
