//! The dependencies of the poll thread, and its requests to the runtime.
//!
//! This one thread makes all calls of librdkafka, because polling serves its callbacks. Requests to
//! Postgres and to brokers run on the runtime, see [`Pending`](super::pending). The thread blocks
//! only in librdkafka's own calls that wait for its main thread (`assign`, `unassign`, `pause`,
//! `position`: milliseconds, no network), and at the end of a consumer's life in the batches in
//! flight and the last commit to the group.

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
use super::session::{Session, SessionEnd};
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

/// The pause before the reader starts again with a new consumer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The timeout of reading the database's clock.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of Postgres in the periodic check.
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

/// The results of the periodic check.
#[derive(Debug)]
pub(super) struct Check {
    /// The ride topic now.
    pub(super) topic: TopicNow,
    /// Whether any process has recorded that a partition is stopped. `false` if Postgres did not
    /// respond: then nothing can be committed either.
    pub(super) stopped: bool,
}

impl Reader {
    /// Reads until stopped. It takes a new consumer when librdkafka gives one up for good, or when
    /// one has made no progress for too long.
    pub(super) fn run(self) {
        let mut lags = Lags::default();
        while !self.stop.is_cancelled() {
            match self.read(&mut lags) {
                Ok(SessionEnd::Stopped) => return,
                Ok(SessionEnd::Stalled(stalled)) => tracing::warn!(
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

    fn read(&self, lags: &mut Lags) -> anyhow::Result<SessionEnd> {
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

    /// Finds where reading may begin in these partitions, or in all.
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
                // Rides are compared with the database's clock from the first one on.
                clock.observe(store.now().await?);
                find_start(&store, &cluster, &topic, partitions.as_ref(), logs).await
            };
            within(TRANSACTION_TIMEOUT, start).await
        })
    }

    /// Runs the periodic check.
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

    /// Reads the database's clock; `None` if it does not arrive in time.
    pub(super) fn ask_clock(&self) -> Receiver<Option<Instant>> {
        let store = self.store.clone();
        ask(&self.runtime, async move {
            within(CLOCK_TIMEOUT, store.now()).await.ok()
        })
    }

    /// Returns the batch, and the request whether its records are of the topic that they seem to be
    /// of.
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
