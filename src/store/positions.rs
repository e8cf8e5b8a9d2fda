//! The position of each partition of the ride topic, and how an operator sets it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::audit::{self, Author};
use super::{Result, Store};
use crate::domain::Instant;
use crate::domain::anchor::{Anchor, RecordMark};
use crate::domain::source::Source;
use crate::domain::standing::RecordedPosition;

/// A stored position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to apply.
    pub next_offset: i64,
    /// How often an operator has set it, plus one.
    pub generation: i64,
    /// The incarnation of the topic it belongs to.
    pub source: Source,
    /// When it last moved.
    pub updated_at: Instant,
    /// What is known of the log before it.
    pub anchor: Anchor,
    /// Why nothing may be read from it until an operator sets it; `None` if reading may go on.
    pub stopped: Option<String>,
}

impl Position {
    /// The parts that the rules need.
    pub fn recorded(&self) -> RecordedPosition<'_> {
        RecordedPosition {
            source: &self.source,
            next_offset: self.next_offset,
            stopped: self.stopped.as_deref(),
        }
    }
}

impl Store {
    /// Every position of a topic, by partition.
    pub async fn positions(&self, topic: &str) -> Result<BTreeMap<i32, Position>> {
        let rows = sqlx::query!(
            "select topic, partition, cluster_id, topic_id, next_offset, generation, updated_at,
                    leader_epoch, epoch_offset, record_offset, record_fingerprint, stopped_reason
               from consumer_position where topic = $1",
            topic
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let source = Source {
                    topic: row.topic,
                    cluster_id: row.cluster_id,
                    topic_id: row.topic_id,
                };
                let position = Position {
                    partition: row.partition,
                    next_offset: row.next_offset,
                    generation: row.generation,
                    source,
                    updated_at: row.updated_at,
                    anchor: Anchor {
                        // A process of a release without epochs may have moved it since.
                        leader_epoch: row
                            .leader_epoch
                            .filter(|_| row.epoch_offset == Some(row.next_offset)),
                        record: row.record_offset.zip(row.record_fingerprint).map(
                            |(offset, fingerprint)| RecordMark {
                                offset,
                                fingerprint,
                            },
                        ),
                    },
                    stopped: row.stopped_reason,
                };
                (row.partition, position)
            })
            .collect())
    }

    /// Inserts positions at the given offsets for partitions that have none; existing ones stay.
    pub async fn begin_positions(
        &self,
        source: &Source,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<()> {
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = offsets
            .iter()
            .map(|(partition, offset)| (*partition, *offset))
            .unzip();
        sqlx::query!(
            "insert into consumer_position (topic, partition, cluster_id, topic_id, next_offset)
             select $1, partition, $2, $3, next_offset from unnest($4::int[], $5::bigint[]) v (partition, next_offset)
              order by partition
             on conflict (topic, partition) do nothing",
            source.topic,
            source.cluster_id,
            source.topic_id,
            &partitions,
            &offsets
        )
        .execute(&mut *self.acquire().await?)
        .await?;
        Ok(())
    }

    /// Records that nothing may be read from a position, and nothing may expire, until an operator sets it. Changes
    /// nothing if an operator has set it meanwhile, or if it is stopped already.
    pub async fn stop_position(&self, position: &Position, reason: &str) -> Result<()> {
        sqlx::query!(
            "update consumer_position set stopped_reason = $6, stopped_at = clock_ms()
              where topic = $1 and partition = $2 and cluster_id = $3 and topic_id = $4 and generation = $5
                and stopped_reason is null",
            position.source.topic,
            position.partition,
            position.source.cluster_id,
            position.source.topic_id,
            position.generation,
            reason
        )
        .execute(&mut *self.acquire().await?)
        .await?;
        Ok(())
    }

    /// The operator's decision, audited: sets positions in this incarnation of the topic, and removes those of
    /// partitions that do not exist any more. A batch that was read before cannot commit later, even at the same
    /// offset, because the generation grows. This also accepts the present server.
    pub async fn set_positions(
        &self,
        source: &Source,
        offsets: BTreeMap<i32, i64>,
        gone: BTreeSet<i32>,
        author: &Author,
        reason: &str,
    ) -> Result<()> {
        let gone: Vec<i32> = gone.into_iter().collect();
        let (source, author, reason) = (source.clone(), author.clone(), reason.to_owned());
        self.run_tx("set_positions", move |connection| {
            let (source, offsets, gone) = (source.clone(), offsets.clone(), gone.clone());
            let (author, reason) = (author.clone(), reason.clone());
            Box::pin(async move {
                super::identity::accept(connection, &author.actor, &reason).await?;
                for (partition, offset) in offsets {
                    let before = sqlx::query!(
                        "select cluster_id, topic_id, next_offset, generation from consumer_position
                          where topic = $1 and partition = $2 for update",
                        source.topic,
                        partition
                    )
                    .fetch_optional(&mut *connection)
                    .await?;
                    sqlx::query!(
                        "insert into consumer_position (topic, partition, cluster_id, topic_id, next_offset)
                         values ($1, $2, $3, $4, $5)
                         on conflict (topic, partition) do update
                            set cluster_id = excluded.cluster_id, topic_id = excluded.topic_id,
                                next_offset = excluded.next_offset, generation = consumer_position.generation + 1,
                                updated_at = clock_ms()",
                        source.topic,
                        partition,
                        source.cluster_id,
                        source.topic_id,
                        offset
                    )
                    .execute(&mut *connection)
                    .await?;
                    let before = before.map(|row| {
                        json!({ "topic": source.topic, "partition": partition, "next_offset": row.next_offset,
                            "cluster_id": row.cluster_id, "topic_id": row.topic_id, "generation": row.generation })
                    });
                    let after = json!({ "topic": source.topic, "partition": partition, "next_offset": offset,
                        "cluster_id": source.cluster_id, "topic_id": source.topic_id, "reason": reason });
                    audit::record(connection, &author, before, Some(after)).await?;
                }
                let forgotten = sqlx::query!(
                    "delete from consumer_position where topic = $1 and partition = any($2)
                     returning partition, cluster_id, topic_id, next_offset, generation",
                    source.topic,
                    &gone
                )
                .fetch_all(&mut *connection)
                .await?;
                for row in forgotten {
                    let before = json!({ "topic": source.topic, "partition": row.partition, "next_offset": row.next_offset,
                        "cluster_id": row.cluster_id, "topic_id": row.topic_id, "generation": row.generation });
                    let after = json!({ "topic": source.topic, "partition": row.partition, "next_offset": null,
                        "reason": reason });
                    audit::record(connection, &author, Some(before), Some(after)).await?;
                }
                Ok(())
            })
        })
        .await
    }
}
