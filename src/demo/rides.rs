//! The ride platform's part: publishes records to the ride topic, never far ahead of the consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::ToBytes;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::KafkaConfig;
use crate::domain::ride::Ride;
use crate::wire::ride_completed;
use crate::{kafka, replay};

/// `ce_source` of the rides published here.
const CE_SOURCE: &str = "/ride-promo/demo";

/// The most records that are published and not yet applied. The in-process broker silently drops
/// records beyond 5 MiB per partition. A ride takes half a KiB there, and all of these may be in
/// one partition.
const MAX_AHEAD: u64 = 5_000;

/// The pause between two checks whether there is room.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the last records may take to be acknowledged at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The distance between the two ends of the ride topic.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    lost: AtomicU64,
    applied: AtomicU64,
}

impl Counts {
    /// Records that Kafka has acknowledged.
    pub(super) fn published(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Records that Kafka rejected.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records how many of them the service has applied.
    pub(super) fn set_applied(&self, applied: u64) {
        self.applied.store(applied, Ordering::Relaxed);
    }

    /// Whether every acknowledged record is applied.
    pub(super) fn is_drained(&self) -> bool {
        self.applied.load(Ordering::Relaxed) >= self.published()
    }

    fn has_room(&self) -> bool {
        let (sent, applied) = (
            self.sent.load(Ordering::Relaxed),
            self.applied.load(Ordering::Relaxed),
        );
        sent.saturating_sub(applied) < MAX_AHEAD
    }
}

struct Deliveries(Arc<Counts>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line("demo", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("demo", &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        let counter = match delivered {
            Ok(_) => &self.0.acknowledged,
            Err(_) => &self.0.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes rides.
#[derive(Clone)]
pub(super) struct Publisher {
    producer: Arc<ThreadedProducer<Deliveries>>,
    counts: Arc<Counts>,
    topic: String,
}

impl Publisher {
    pub(super) fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let producer = kafka::producer(kafka)
            .create_with_context(Deliveries(Arc::clone(&counts)))
            .context("creating the producer of rides")?;
        Ok(Self {
            producer: Arc::new(producer),
            counts,
            topic: kafka.ride_topic.clone(),
        })
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Publishes a ride, as soon as there is room.
    pub(super) async fn ride(&self, ride: &Ride) {
        let key = ride.user_id.to_string();
        let headers = replay::headers(ride, CE_SOURCE);
        let value = ride_completed::encode(ride);
        self.send(
            BaseRecord::to(&self.topic)
                .key(key.as_str())
                .payload(value.as_slice())
                .headers(headers),
        )
        .await;
    }

    /// Publishes any record, as soon as there is room.
    pub(super) async fn raw(&self, key: Option<&str>, value: &str) {
        let record = BaseRecord::to(&self.topic).payload(value);
        match key {
            Some(key) => self.send(record.key(key)).await,
            None => self.send(record).await,
        }
    }

    async fn send<P: ToBytes + ?Sized>(&self, mut record: BaseRecord<'_, str, P>) {
        while !self.counts.has_room() {
            tokio::time::sleep(PAUSE).await;
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    tokio::time::sleep(PAUSE).await;
                }
                Err((error, _)) => {
                    tracing::warn!(%error, "a ride could not be published");
                    self.counts.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Waits until Kafka has acknowledged or rejected everything.
    pub(super) async fn flush(&self) -> anyhow::Result<()> {
        let producer = Arc::clone(&self.producer);
        tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT))
            .await?
            .context("waiting for the last rides to be acknowledged")
    }
}
