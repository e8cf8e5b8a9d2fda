//! Checks whether ingest and expiry may continue from the recorded positions.

use std::io;
use std::time::Duration;

use anyhow::Context as _;

use super::Report;
use crate::causes;
use crate::config::Config;
use crate::domain::standing::{stop_of, stop_of_new};
use crate::kafka::{Cluster, ClusterError};
use crate::store::{Store, StoreError};

const SUBJECT: &str = "positions";

/// A line for each partition that is stopped, or one for all.
pub(super) async fn examine(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    let stops = match stops(config).await {
        Ok(Some(stops)) => stops,
        Ok(None) => {
            return report.ok(
                SUBJECT,
                "none yet: the schema or the ride topic does not exist",
            );
        }
        Err(error) => {
            return report.fail(
                SUBJECT,
                &format!("cannot be looked at: {}", causes::in_words(&error)),
                "see the lines on Kafka and Postgres above",
            );
        }
    };
    for (partition, why) in &stops {
        report.fail(
            SUBJECT,
            &format!("partition {partition} is stopped: {why}"),
            "run: ride-promo positions show, and decide with ride-promo positions set; see the runbook RidePromoIngestStopped",
        )?;
    }
    if stops.is_empty() {
        return report.ok(SUBJECT, "no partition of the ride topic is stopped");
    }
    Ok(())
}

/// The timeout of Postgres here: the hosts before the primary are tried first, for seconds each.
const HOSTS_TIMEOUT: Duration = Duration::from_secs(20);

/// The partitions at which ingest and expiry stop, with the reason; `None` if the topic or the
/// schema of this program does not exist yet.
async fn stops(config: &Config) -> anyhow::Result<Option<Vec<(i32, String)>>> {
    let topic = &config.kafka.ride_topic;
    let (url, file) = (&config.database.url, &config.database.url_file);
    let store = Store::with_url_file(url.expose(), file.clone(), 2)?;
    let cluster = Cluster::new(&config.kafka)?;
    // Positions are read before the ends of the logs. Otherwise a position that moves meanwhile
    // would seem to be after its log's end.
    let positions = async {
        if store.schema_status().await?.is_usable() {
            return Ok::<_, StoreError>(Some(store.positions(topic).await?));
        }
        Ok(None)
    };
    let Some(positions) = tokio::time::timeout(HOSTS_TIMEOUT, positions)
        .await
        .context("Postgres does not respond")??
    else {
        return Ok(None);
    };
    let now = match cluster.topic_now(topic).await {
        Ok(now) => now,
        Err(ClusterError::NoSuchTopic { .. }) if positions.is_empty() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut stops = Vec::new();
    for (partition, position) in &positions {
        let log = now.logs.get(partition).map(|log| (log.low, log.high));
        if let Some(why) = stop_of(&now.source, log, position.recorded()) {
            stops.push((*partition, why));
        }
    }
    for (partition, log) in &now.logs {
        if !positions.contains_key(partition)
            && let Some(why) = stop_of_new(log.low, !positions.is_empty())
        {
            stops.push((*partition, why));
        }
    }
    Ok(Some(stops))
}
