//! Figures on the service's work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Monotonic};

use axum::Json;
use axum::extract::State;
use tokio::sync::Mutex;

use super::AdminState;
use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::kafka::{Cluster, Watermarks};
use crate::store::Store;
use crate::store::positions::Position;
use crate::wire::stats::{
    IngestStats, OutboxStats, PartitionStats, PromotionStats, Stats, SweepStats,
};

/// The timeout of Kafka. The database's figures are useful without Kafka's.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(2);

/// A count is reused for this many times as long as it took. So counting takes at most a twentieth of a
/// core, at any number of participations and requests.
const COUNTS_HOLD: u32 = 20;

/// The maximum age of the counts. The time of counting includes the wait for a database session.
const MAX_AGE: Duration = Duration::from_secs(10);

/// The latest counts of participations. One request at a time counts; the others wait for its result.
#[derive(Debug, Default)]
pub struct RecentCounts(Mutex<Option<CachedCounts>>);

#[derive(Debug)]
struct CachedCounts {
    promotions: Vec<PromotionStats>,
    good_until: Monotonic,
}

impl RecentCounts {
    async fn get(&self, store: &Store) -> crate::store::Result<Vec<PromotionStats>> {
        let mut recent = self.0.lock().await;
        let began = Monotonic::now();
        if let Some(counted) = recent.as_ref().filter(|counted| began < counted.good_until) {
            return Ok(counted.promotions.clone());
        }
        let promotions = store.promotion_stats().await?;
        *recent = Some(CachedCounts {
            promotions: promotions.clone(),
            good_until: Monotonic::now() + (began.elapsed() * COUNTS_HOLD).min(MAX_AGE),
        });
        Ok(promotions)
    }
}

error_responses!(GetStatsErrors = admin);

/// Shows the service in figures
///
/// Figures that come from Kafka are `null` while it is unavailable. The counts of
/// participations may be older than the response, by at most twenty times the duration of counting and at
/// most ten seconds.
#[utoipa::path(
    get,
    path = "/admin/v1/stats",
    operation_id = "get_stats",
    tag = "stats",
    responses(
        GetStatsErrors,
        (status = 200, description = "The figures", body = Stats),
    ),
)]
pub async fn get(_: Admin, State(state): State<AdminState>) -> Result<Json<Stats>> {
    let store = &state.store;
    let topic = &state.kafka.ride_topic;
    let from_database = async {
        let positions = store.positions(topic).await?;
        let promotions = state.counts.get(store).await?;
        let (depth, oldest_age_seconds) = store.outbox_depth().await?;
        let quarantine_open = store.quarantine_open().await?;
        let held = store
            .held_back(store.now().await? - state.allowed_lateness)
            .await?;
        Ok::<_, crate::store::StoreError>((
            positions,
            promotions,
            OutboxStats {
                depth,
                oldest_age_seconds,
            },
            quarantine_open,
            SweepStats {
                held_back: held.by_lag + held.by_quarantine,
                held_back_by_quarantine: held.by_quarantine,
            },
        ))
    };
    let (watermarks, from_database) =
        tokio::join!(watermarks(&state.cluster, topic), from_database);
    let (positions, promotions, outbox, quarantine_open, sweep) = from_database?;
    Ok(Json(Stats {
        promotions,
        ingest: ingest(&positions, watermarks.as_ref()),
        outbox,
        quarantine_open,
        sweep,
    }))
}

async fn watermarks(cluster: &Cluster, topic: &str) -> Option<BTreeMap<i32, Watermarks>> {
    match tokio::time::timeout(KAFKA_TIMEOUT, cluster.watermarks(topic)).await {
        Ok(Ok(watermarks)) => Some(watermarks),
        Ok(Err(error)) => {
            tracing::debug!(%error, "figures without Kafka");
            None
        }
        Err(_) => None,
    }
}

/// Every partition that has a position or exists in Kafka. If a partition was never read, all its
/// records count as lag.
fn ingest(
    positions: &BTreeMap<i32, Position>,
    watermarks: Option<&BTreeMap<i32, Watermarks>>,
) -> IngestStats {
    let known = watermarks.into_iter().flat_map(BTreeMap::keys);
    let partitions: BTreeSet<i32> = positions.keys().chain(known).copied().collect();
    let position = |partition| Some(positions.get(&partition)?.next_offset);
    let lag = watermarks.map(|watermarks| {
        watermarks
            .iter()
            .map(|(partition, ends)| {
                let position = position(*partition).unwrap_or(ends.low);
                (ends.high - position).max(0)
            })
            .sum()
    });
    IngestStats {
        lag,
        partitions: partitions
            .into_iter()
            .map(|partition| PartitionStats {
                partition,
                position: position(partition),
                end: watermarks.and_then(|watermarks| Some(watermarks.get(&partition)?.high)),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::source::Source;

    #[test]
    fn lag_counts_partitions_never_read_and_is_unknown_without_kafka() {
        let position = Position {
            partition: 0,
            next_offset: 7,
            generation: 1,
            source: Source {
                topic: "rides".to_owned(),
                cluster_id: String::new(),
                topic_id: String::new(),
            },
            updated_at: chrono::DateTime::UNIX_EPOCH,
            anchor: crate::domain::anchor::Anchor::default(),
            stopped: None,
        };
        let positions = BTreeMap::from([(0, position)]);
        let watermarks = BTreeMap::from([
            (0, Watermarks { low: 0, high: 10 }),
            (1, Watermarks { low: 5, high: 9 }),
        ]);
        let both = ingest(&positions, Some(&watermarks));
        assert_eq!(both.lag, Some(3 + 4));
        let shown = |partition, position, end| PartitionStats {
            partition,
            position,
            end,
        };
        assert_eq!(
            both.partitions,
            [shown(0, Some(7), Some(10)), shown(1, None, Some(9))]
        );
        let away = ingest(&positions, None);
        assert_eq!(away.lag, None);
        assert_eq!(away.partitions, [shown(0, Some(7), None)]);
    }
}
