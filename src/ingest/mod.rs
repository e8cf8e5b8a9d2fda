//! Rides in: Kafka → batch → one Postgres transaction.
//!
//! ```text
//! poll thread (session)    ── PendingBatch ──►  committer (task)
//!   polls, decodes, fills  ◄── Outcome ───────    applies, retries until durable or dropped
//! ```
//!
//! At most two batches are in flight: one commits while the next is decoded. Positions live in
//! Postgres and move in the batch's transaction, so a batch is applied exactly once by any process.
//! The group only spreads partitions over processes.

mod batch;
mod commit;
mod lag;
mod pending;
mod phase;
mod reader;
mod rebalance;
mod session;
mod start;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::commit::Committer;
use self::reader::Reader;
use self::session::MAX_IN_FLIGHT;
use crate::config::{IngestConfig, KafkaConfig};
use crate::kafka::Cluster;
use crate::readiness::Readiness;
use crate::store::Store;
use crate::store::clock::DbClock;
use crate::telemetry::Metrics;

/// The dependencies of ingest.
pub struct Ingest {
    /// The ride topic and how to reach it.
    pub kafka: KafkaConfig,
    /// The limits of a batch.
    pub limits: IngestConfig,
    /// The database.
    pub store: Store,
    /// Requests to the brokers.
    pub cluster: Cluster,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Set to whether rides are being applied, or why not.
    pub readiness: Arc<Readiness>,
    /// Woken after commits that may have left events in the outbox.
    pub outbox_wake: watch::Sender<()>,
}

impl Ingest {
    /// Applies rides until `stop`, then drains the records read. At `hard_stop` it gives up batches
    /// that Postgres rejects; the next reader reads them again.
    pub async fn run(
        self,
        stop: CancellationToken,
        hard_stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let clock = Arc::new(DbClock::default());
        let (batches, incoming) = mpsc::channel(MAX_IN_FLIGHT);
        let (outgoing, outcomes) = std::sync::mpsc::sync_channel(MAX_IN_FLIGHT);
        let committer = Committer {
            group_id: self.kafka.group_id.clone(),
            store: self.store.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            outbox_wake: self.outbox_wake,
            hard_stop,
        };
        let reader = Reader {
            kafka: self.kafka,
            limits: self.limits,
            store: self.store,
            cluster: self.cluster,
            clock,
            metrics: self.metrics,
            readiness: self.readiness,
            runtime: tokio::runtime::Handle::current(),
            batches,
            outcomes,
            stop,
        };
        let thread = std::thread::Builder::new()
            .name("ingest-poll".to_owned())
            .spawn(move || reader.run())
            .context("starting the poll thread")?;
        committer.run(incoming, outgoing).await;
        // The committer ends when the reader is done, or at a hard stop. After a hard stop the
        // reader cannot hand over a batch, and ends too.
        tokio::task::spawn_blocking(move || thread.join())
            .await?
            .map_err(|_| anyhow::anyhow!("the poll thread panicked"))
    }
}
