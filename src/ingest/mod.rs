//! Rides in: Kafka → batch → one Postgres transaction.
//!
//! ```text
//! poll thread (session)    ── PendingBatch ──►  committer (task)
//!   polls, decodes, fills  ◄── Outcome ───────    applies, retries until durable or dropped
//! ```
//!
//! Two batches may be under way: one commits while the next is decoded. Positions live in Postgres
//! and move in the batch's transaction, so a batch is applied exactly once whoever reads it; the
//! group only spreads partitions over processes.

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

/// What ingest needs of the process.
pub struct Ingest {
    /// The ride topic and how to reach it.
    pub kafka: KafkaConfig,
    /// Bounds of a batch.
    pub limits: IngestConfig,
    /// Where effects go.
    pub store: Store,
    /// Questions to the broker.
    pub cluster: Cluster,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Told whether rides are being applied, or why not.
    pub readiness: Arc<Readiness>,
    /// Told after commits that may have left events in the outbox.
    pub outbox_wake: watch::Sender<()>,
}

impl Ingest {
    /// Applies rides until `stop`: then drains what was read, and gives up what Postgres does not
    /// take when `hard_stop` comes; that is read again by whoever is next.
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
        // The committer ends when the reader is done, or at a hard stop, after which the reader
        // has nobody to hand to and ends too.
        tokio::task::spawn_blocking(move || thread.join())
            .await?
            .map_err(|_| anyhow::anyhow!("the poll thread panicked"))
    }
}
