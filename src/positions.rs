//! `positions`: shows where ingest stands in the ride topic, and records the operator's decision
//! when ingest cannot continue (the topic was deleted and created again, a position is outside of
//! its log).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant as Monotonic};

use anyhow::{Context as _, bail};

use crate::config::KafkaConfig;
use crate::domain::source::Source;
use crate::domain::standing::{stop_of, stop_of_new};
use crate::kafka::{Cluster, ClusterError, TopicNow, Watermarks};
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::identity::Standing;
use crate::store::positions::Position;

/// How long to wait for a consumer that is leaving its group.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for a group that is rebalancing, because its owners are unknown meanwhile.
const CHANGING_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the group is checked while waiting.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Where a position is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionTarget {
    /// The first record that still exists.
    Beginning,
    /// After the last record.
    End,
    /// That offset; not negative.
    Offset(i64),
}

/// What to set, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// One partition, or all. Setting all also forgets the positions of partitions that the topic
    /// no longer has.
    pub partition: Option<i32>,
    /// Where reading continues.
    pub to: PositionTarget,
    /// Who decides, for the audit.
    pub actor: String,
    /// Why, for the audit.
    pub reason: String,
}

/// Every partition's position as a table, with its fault.
pub async fn show(kafka: &KafkaConfig, store: &Store, cluster: &Cluster) -> anyhow::Result<String> {
    // Positions are read before the ends of the logs. Otherwise a position that moves meanwhile
    // would seem to be after its log's end.
    let stored = store.positions(&kafka.ride_topic).await?;
    let topic = Topic::look(kafka, cluster).await?;
    // The owner is only one column: while the group is rebalancing, the others are still right.
    let owned = cluster
        .group_owned_partitions(&kafka.group_id, &kafka.ride_topic)
        .await
        .ok();
    let server = server(store.server_standing().await?);
    Ok(table(&topic, &stored, owned.as_ref()) + &server)
}

/// Records the operator's decision that ingest, relay and sweep continue with the present
/// positions, on the server that the database is on now.
pub async fn accept_server(store: &Store, actor: &str, reason: &str) -> anyhow::Result<()> {
    Ok(store.accept_server_identity(actor, reason).await?)
}

/// The line about the database's server.
fn server(standing: Standing) -> String {
    match standing {
        Standing::Accepted(now) => format!("database: {now}: ok\n"),
        Standing::Other(other) => format!(
            "database: {}: STOPPED: was accepted with {}; `positions accept`, or `positions set`\n",
            other.now, other.accepted
        ),
        Standing::Unknown => "database: the server does not tell its identity\n".to_owned(),
    }
}

/// Sets positions, all or none, in the topic as it is now. It refuses if a live member of the
/// consumer group owns one of the partitions, and if an offset is outside of its log. It accepts
/// the server that the database is on.
pub async fn set(
    kafka: &KafkaConfig,
    store: &Store,
    cluster: &Cluster,
    decision: &Decision,
) -> anyhow::Result<()> {
    let topic = Topic::look(kafka, cluster).await?;
    let offsets = topic.resolve(decision.partition, decision.to)?;
    let stored = store.positions(&kafka.ride_topic).await?;
    let gone: BTreeSet<i32> = stored
        .into_keys()
        .filter(|partition| decision.partition.is_none() && !topic.logs.contains_key(partition))
        .collect();
    refuse_owned(kafka, cluster, &offsets).await?;
    // A consumer that takes a partition from here on either reads the new position or is fenced by
    // its generation.
    store
        .set_positions(
            &topic.source,
            offsets,
            gone,
            &Author {
                actor: decision.actor.clone(),
                call: "positions set".to_owned(),
            },
            &decision.reason,
        )
        .await?;
    Ok(())
}

/// The topic as it is now.
struct Topic {
    source: Source,
    logs: BTreeMap<i32, Watermarks>,
}

impl Topic {
    async fn look(kafka: &KafkaConfig, cluster: &Cluster) -> Result<Self, ClusterError> {
        let TopicNow { source, logs } = cluster.topic_now(&kafka.ride_topic).await?;
        Ok(Self { source, logs })
    }

    /// The offsets to set, each within its log.
    fn resolve(
        &self,
        partition: Option<i32>,
        to: PositionTarget,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let topic = &self.source.topic;
        if let Some(partition) = partition
            && !self.logs.contains_key(&partition)
        {
            bail!(
                "the topic {topic} has no partition {partition}, only {}; --all also forgets the positions of partitions that are gone",
                list(self.logs.keys())
            );
        }
        let mut offsets = BTreeMap::new();
        let chosen = |number: &i32| partition.is_none_or(|partition| partition == *number);
        for (number, log) in self.logs.iter().filter(|(number, _)| chosen(number)) {
            let offset = match to {
                PositionTarget::Beginning => log.low,
                PositionTarget::End => log.high,
                PositionTarget::Offset(offset) => offset,
            };
            if offset < log.low || offset > log.high {
                bail!(
                    "the offset {offset} is not within partition {number} of {topic}, which goes from {} to {}; nothing was set",
                    log.low,
                    log.high
                );
            }
            offsets.insert(*number, offset);
        }
        Ok(offsets)
    }
}

async fn refuse_owned(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    offsets: &BTreeMap<i32, i64>,
) -> anyhow::Result<()> {
    let began = Monotonic::now();
    loop {
        let looked = cluster
            .group_owned_partitions(&kafka.group_id, &kafka.ride_topic)
            .await;
        match looked {
            Ok(mut owned) => {
                owned.retain(|partition| offsets.contains_key(partition));
                if owned.is_empty() {
                    return Ok(());
                }
                if began.elapsed() >= LEAVING_TIMEOUT {
                    bail!(
                        "partitions {} are owned by live members of the consumer group {}: stop every process that runs the role ingest first \
                         (one that was killed counts as live until its session times out, after 10 s by default)",
                        list(&owned),
                        kafka.group_id
                    );
                }
            }
            Err(error) if error.is_transient() && began.elapsed() < CHANGING_TIMEOUT => {}
            Err(error) => return Err(error).context("asking who owns the partitions"),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn list<'a>(partitions: impl IntoIterator<Item = &'a i32>) -> String {
    let partitions: Vec<String> = partitions.into_iter().map(i32::to_string).collect();
    partitions.join(", ")
}

/// `owned` is `None` while the group is rebalancing.
fn table(topic: &Topic, stored: &BTreeMap<i32, Position>, owned: Option<&BTreeSet<i32>>) -> String {
    let source = &topic.source;
    let or_none = |id: &str| if id.is_empty() { "-" } else { id }.to_owned();
    let mut rows = vec![
        [
            "PARTITION",
            "POSITION",
            "BEGIN",
            "END",
            "LAG",
            "GENERATION",
            "OWNED",
            "STATE",
        ]
        .map(str::to_owned),
    ];
    let partitions: BTreeSet<i32> = topic.logs.keys().chain(stored.keys()).copied().collect();
    for partition in partitions {
        let log = topic.logs.get(&partition);
        let position = stored.get(&partition);
        let number =
            |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let state = state(source, log, position, !stored.is_empty());
        // Offsets of another topic have no meaning in this one.
        let next = position
            .filter(|position| position.source == *source)
            .map(|position| position.next_offset);
        rows.push([
            partition.to_string(),
            number(position.map(|position| position.next_offset)),
            number(log.map(|log| log.low)),
            number(log.map(|log| log.high)),
            number(
                log.zip(next)
                    .map(|(log, next)| log.high.saturating_sub(next)),
            ),
            number(position.map(|position| position.generation)),
            match owned {
                Some(owned) if owned.contains(&partition) => "yes".to_owned(),
                Some(_) => "no".to_owned(),
                None => "unknown".to_owned(),
            },
            state,
        ]);
    }
    let mut text = format!(
        "topic {}, cluster {}, topic id {}\n",
        source.topic,
        or_none(&source.cluster_id),
        or_none(&source.topic_id)
    );
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:>width$}  ");
        }
        text.push_str(&row[7]);
        text.push('\n');
    }
    if owned.is_none() {
        text.push_str(
            "OWNED is unknown: the consumer group is rebalancing, or did not respond; run the command again\n",
        );
    }
    text
}

/// What ingest makes of a position.
fn state(
    source: &Source,
    log: Option<&Watermarks>,
    position: Option<&Position>,
    others_have_positions: bool,
) -> String {
    let stop = match position {
        Some(position) => stop_of(
            source,
            log.map(|log| (log.low, log.high)),
            position.recorded(),
        ),
        None => log.and_then(|log| stop_of_new(log.low, others_have_positions)),
    };
    match (stop, position) {
        (Some(why), _) => format!("STOPPED: {why}"),
        (None, Some(_)) => "ok".to_owned(),
        (None, None) => "new: begins at its log's start".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::domain::anchor::Anchor;

    fn topic() -> Topic {
        let log = |low, high| Watermarks { low, high };
        Topic {
            source: source("new"),
            logs: BTreeMap::from([(0, log(5, 10)), (1, log(0, 0)), (2, log(3, 4))]),
        }
    }

    fn stopped(partition: i32, next_offset: i64, reason: &str) -> (i32, Position) {
        let (_, mut position) = position(partition, next_offset, "new");
        position.stopped = Some(reason.to_owned());
        (partition, position)
    }

    fn source(topic_id: &str) -> Source {
        Source {
            topic: "rides".into(),
            cluster_id: "cluster".into(),
            topic_id: topic_id.into(),
        }
    }

    fn position(partition: i32, next_offset: i64, topic_id: &str) -> (i32, Position) {
        let position = Position {
            partition,
            next_offset,
            generation: 1,
            source: source(topic_id),
            updated_at: Clock::System.now(),
            anchor: Anchor::default(),
            stopped: None,
        };
        (partition, position)
    }

    #[test]
    fn a_target_is_an_offset_within_each_log_or_nothing() {
        let topic = topic();
        let all = |to| topic.resolve(None, to).expect("offsets");
        assert_eq!(
            all(PositionTarget::Beginning),
            BTreeMap::from([(0, 5), (1, 0), (2, 3)])
        );
        assert_eq!(
            all(PositionTarget::End),
            BTreeMap::from([(0, 10), (1, 0), (2, 4)])
        );
        for offset in [5, 10] {
            let one = topic.resolve(Some(0), PositionTarget::Offset(offset));
            assert_eq!(one.expect("offset"), BTreeMap::from([(0, offset)]));
        }
        for (partition, offset) in [(Some(0), 4), (Some(0), 11), (Some(7), 0), (None, 5)] {
            topic
                .resolve(partition, PositionTarget::Offset(offset))
                .expect_err("outside");
        }
    }

    #[test]
    fn the_table_says_what_is_wrong() {
        let stored = BTreeMap::from([
            position(0, 7, "new"),
            position(1, 1, "new"),
            position(2, 3, "old"),
            position(9, 3, "new"),
        ]);
        let text = table(&topic(), &stored, Some(&BTreeSet::from([0])));
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "topic rides, cluster cluster, topic id new",
                "PARTITION POSITION BEGIN END LAG GENERATION OWNED STATE",
                "0 7 5 10 3 1 yes ok",
                "1 1 0 0 -1 1 no STOPPED: beyond the log's end",
                "2 3 3 4 - 1 no STOPPED: belongs to an earlier topic of this name, id old",
                "9 3 - - - 1 no STOPPED: the topic has no such partition",
            ]
        );
        let stored = BTreeMap::from([stopped(0, 7, "another record"), position(1, 0, "new")]);
        let text = table(&topic(), &stored, None);
        for state in [
            "STOPPED: another record",
            "ok",
            "STOPPED: has no position, and its log begins at 3: rides before that were not read",
        ] {
            assert!(text.lines().any(|line| line.ends_with(state)), "{text}");
        }
        let fresh = table(&topic(), &BTreeMap::new(), None);
        assert!(
            fresh.contains("unknown  new: begins at its log's start"),
            "{fresh}"
        );
        let last = fresh.lines().last().expect("a note");
        assert!(last.starts_with("OWNED is unknown: "), "{fresh}");
    }
}
