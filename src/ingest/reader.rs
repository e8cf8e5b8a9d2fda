//! What the poll thread works with, and the questions it asks the runtime.
//!
//! Everything librdkafka wants is done on this one thread: polling serves its callbacks. What needs
//! Postgres or a request to a broker is asked on the runtime, see [`Pending`](super::pending). What
//! does block: librdkafka's own calls that wait for its main thread (`assign`, `unassign`, `pause`,
//! `position`: milliseconds, no network), and at the end of a consumer's life the batches that are
//! still under way and the last commit to the group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::Consumer as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commit::{Outcome, PendingBatch};
use super::lag::Lags;
use super::pending::ask;
use super::rebalance::{GroupConsumer, GroupContext};
use super::session::{Ended, Session};
use super::start::{LogCheck, Start, StartError, find_start};
use crate::causes;
use crate::config::{IngestConfig, KafkaConfig};
use crate::domain::Instant;
use crate::kafka::{self, Cluster, ClusterError, TopicNow};
use crate::readiness::{Readiness, Role};
use crate::store::clock::DbClock;
use crate::store::rides::Batch;
use crate::store::{Store, TRANSACTION_TIMEOUT, within};
use crate::telemetry::Metrics;

/// How long the reader waits before it starts again with a new consumer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the database's clock is waited for.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the periodic check waits for Postgres.
const STOPS_TIMEOUT: Duration = Duration::from_secs(5);

/// The reading half of ingest.
pub(super) struct Reader {
    pub(super) kafka: KafkaConfig,
    pub(super) limits: IngestConfig,
    pub(super) store: Store,
    pub(super) cluster: Cluster,
    pub(super) clock: Arc<DbClock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) runtime: Handle,
    pub(super) batches: mpsc::Sender<PendingBatch>,
    pub(super) outcomes: Receiver<Outcome>,
    pub(super) stop: CancellationToken,
}

/// What the periodic check asks for.
#[derive(Debug)]
pub(super) struct Check {
    /// The ride topic as it is now.
    pub(super) topic: TopicNow,
    /// Whether some process has recorded that a partition is stopped. `false` where Postgres did not
    /// say: then nothing can be committed either.
    pub(super) stopped: bool,
}

impl Reader {
    /// Reads until stopped, with a new consumer whenever librdkafka gives one up for good, or one has
    /// read nothing for too long.
    pub(super) fn run(self) {
        let mut lags = Lags::default();
        while !self.stop.is_cancelled() {
            match self.read(&mut lags) {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Stalled(stalled)) => tracing::warn!(
                    partition = stalled.partition,
                    lag = stalled.lag,
                    seconds = stalled.since.as_secs(),
                    "no progress for too long, reading with a new client"
                ),
                Err(error) => {
                    let error = causes::in_words(&error);
                    tracing::error!(error, "reading rides failed, starting again");
                    self.readiness.set(Role::Ingest, Err(error));
                    std::thread::sleep(RETRY_INTERVAL);
                }
            }
        }
    }

    fn read(&self, lags: &mut Lags) -> anyhow::Result<Ended> {
        let consumer: GroupConsumer = kafka::consumer(&self.kafka, self.limits.queue_kbytes)
            .create_with_context(GroupContext::default())
            .context("creating the consumer of rides")?;
        consumer
            .subscribe(&[&self.kafka.ride_topic])
            .context("subscribing to rides")?;
        self.readiness
            .set(Role::Ingest, Err("joining the group".to_owned()));
        let mut session = Session::new(self, consumer, lags);
        let result = session.run();
        session.finish();
        result
    }

    /// Asks where reading may begin in these partitions, or in all.
    pub(super) fn ask_start(
        &self,
        partitions: Option<BTreeSet<i32>>,
        logs: LogCheck,
    ) -> Receiver<Result<Start, StartError>> {
        let (store, cluster, clock) = (
            self.store.clone(),
            self.cluster.clone(),
            Arc::clone(&self.clock),
        );
        let topic = self.kafka.ride_topic.clone();
        ask(&self.runtime, async move {
            let start = async {
                // Rides are held against the database's clock from the first one on.
                clock.observe(store.now().await?);
                find_start(&store, &cluster, &topic, partitions.as_ref(), logs).await
            };
            within(TRANSACTION_TIMEOUT, start).await
        })
    }

    /// Asks for what the periodic check looks at.
    pub(super) fn ask_check(&self) -> Receiver<Result<Check, ClusterError>> {
        let (store, cluster) = (self.store.clone(), self.cluster.clone());
        let topic = self.kafka.ride_topic.clone();
        ask(&self.runtime, async move {
            let positions = within(STOPS_TIMEOUT, store.positions(&topic)).await;
            let stopped = positions.is_ok_and(|positions| {
                positions
                    .values()
                    .any(|position| position.stopped.is_some())
            });
            let topic = cluster.topic_now(&topic).await?;
            Ok(Check { topic, stopped })
        })
    }

    /// Asks for the database's clock; `None` where it is not told in time.
    pub(super) fn ask_clock(&self) -> Receiver<Option<Instant>> {
        let store = self.store.clone();
        ask(&self.runtime, async move {
            within(CLOCK_TIMEOUT, store.now()).await.ok()
        })
    }

    /// The batch, and the question whether what was read is of the topic that it seems to be of.
    pub(super) fn checked(&self, batch: Batch) -> PendingBatch {
        let (cluster, source) = (self.cluster.clone(), Arc::clone(&batch.source));
        let of_our_topic = self
            .runtime
            .spawn(async move { cluster.is_still(&source).await });
        PendingBatch {
            batch,
            of_our_topic,
        }
    }
}
