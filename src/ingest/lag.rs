//! How far reading is behind, by partition, and since when a partition that is behind has not
//! moved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Monotonic};

use crate::kafka::Watermarks;
use crate::telemetry::IngestMetrics;

/// The partitions that this process reads.
#[derive(Debug, Default)]
pub(super) struct Lags(BTreeMap<i32, Lag>);

#[derive(Debug)]
struct Lag {
    /// The durable position at the last check.
    position: i64,
    /// Since when there has been something to read while the position has not moved.
    behind_since: Option<Monotonic>,
}

/// A partition that does not move although it has records to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stalled {
    pub(super) partition: i32,
    /// Records between the position and the end.
    pub(super) lag: i64,
    /// How long it has not moved.
    pub(super) since: Duration,
}

impl Lags {
    /// These partitions are read from now on. The state of a partition that was read before stays,
    /// also with a new client.
    pub(super) fn begin(&mut self, partitions: &BTreeSet<i32>) {
        self.0.retain(|partition, _| partitions.contains(partition));
    }

    /// Kafka did not report where the logs end: time in which nothing could be read does not count.
    pub(super) fn unknown(&mut self) {
        for lag in self.0.values_mut() {
            lag.behind_since = None;
        }
    }

    /// Records the logs' ends, and sets the metrics. Returns the partition that has not moved for
    /// the longest time, if that time is at least `limit`.
    pub(super) fn look(
        &mut self,
        metrics: &IngestMetrics,
        partitions: &BTreeSet<i32>,
        logs: &BTreeMap<i32, Watermarks>,
        limit: Duration,
    ) -> Option<Stalled> {
        let now = Monotonic::now();
        let mut stalled: Option<Stalled> = None;
        for partition in partitions {
            let handles = metrics.partition(*partition);
            let position = handles.position.get();
            let end = logs.get(partition).map_or(position, |log| log.high);
            let lag = (end - position).max(0);
            handles.lag.set(lag);
            let known = self.0.entry(*partition).or_insert(Lag {
                position,
                behind_since: None,
            });
            if lag == 0 || known.position != position {
                known.behind_since = None;
            }
            known.position = position;
            let since = if lag == 0 {
                Duration::ZERO
            } else {
                now.duration_since(*known.behind_since.get_or_insert(now))
            };
            handles.stalled_seconds.set(since.as_secs_f64());
            if since >= limit && stalled.is_none_or(|longest| longest.since < since) {
                stalled = Some(Stalled {
                    partition: *partition,
                    lag,
                    since,
                });
            }
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_partition_stands_while_it_is_behind_and_does_not_move() {
        let metrics = Metrics::new();
        let partitions = BTreeSet::from([0, 1]);
        let ends = |first, second| {
            let log = |high| Watermarks { low: 0, high };
            BTreeMap::from([(0, log(first)), (1, log(second))])
        };
        let mut lags = Lags::default();
        lags.begin(&partitions);
        let limit = Duration::from_millis(20);
        let position = |partition, position| {
            metrics.ingest.partition(partition).position.set(position);
        };
        position(0, 5);
        position(1, 5);
        let mut look = |logs: &BTreeMap<i32, Watermarks>| {
            let stalled = lags.look(&metrics.ingest, &partitions, logs, limit);
            stalled.map(|stalled| (stalled.partition, stalled.lag))
        };
        assert_eq!(look(&ends(5, 7)), None);
        std::thread::sleep(limit);
        assert_eq!(look(&ends(5, 9)), Some((1, 4)));
        assert_eq!(look(&ends(6, 9)), Some((1, 4)), "0 is behind only now");
        position(1, 6);
        assert_eq!(look(&ends(6, 9)), None, "it has moved");
        std::thread::sleep(limit);
        position(1, 7);
        assert_eq!(look(&ends(6, 9)), Some((0, 1)));
        position(0, 6);
        assert_eq!(look(&ends(6, 9)), None);
        std::thread::sleep(limit);
        lags.unknown();
        let stalled = lags.look(&metrics.ingest, &partitions, &ends(6, 9), limit);
        assert_eq!(stalled, None, "Kafka was away meanwhile");
    }
}
