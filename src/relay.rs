//! Events out: outbox → Kafka transaction → delete.
//!
//! The outbox is one shard. It has one relay at a time, by an advisory lock on the session that reads and
//! deletes. A lock cannot stop a relay that was paused when its session was cut. So each relay publishes
//! under the shard's transactional id, and fences its predecessors when it takes the shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use opentelemetry::KeyValue;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::causes;
use crate::clock::Clock;
use crate::config::{KafkaConfig, RelayConfig};
use crate::domain::Instant;
use crate::domain::participation::DeadlineOf;
use crate::kafka;
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::store::outbox::{OutboxRecord, RecordContent, ShardLease};
use crate::telemetry::traces::{self, Operation};
use crate::telemetry::{Metrics, RelayMetrics};
use crate::wire::format_instant;
use crate::wire::promotion_status::{EventType, SOURCE};
use crate::wire::traceparent::HEADER;

/// Timeout of a Kafka call of a transaction.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(30);

/// One slice of waiting for acknowledgements. librdkafka's `flush` and `commit_transaction` wait in
/// slices of 100 ms, so everything is drained before they are called. It sleeps and does not poll,
/// because the crate's `poll` spins through the last millisecond of its timeout.
const DRAIN_SLICE: Duration = Duration::from_micros(500);

/// How often a relay tries to take a shard that another relay holds.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);

/// The first and the longest pause after a failure.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));

/// The relay's dependencies.
#[derive(Clone)]
pub struct Relay {
    /// The topics of status changes and reminders, and how to reach them.
    pub kafka: KafkaConfig,
    /// Bounds of a transaction.
    pub limits: RelayConfig,
    /// The store with the outbox.
    pub store: Store,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Set to whether events are being published, or why not.
    pub readiness: Arc<Readiness>,
    /// Wakes the relay when there may be events in the outbox; polling is the fallback.
    pub wake: watch::Receiver<()>,
    /// The shards that cannot be served, and why; the relay is ready if there are none.
    pub failing: Arc<Mutex<BTreeMap<i16, String>>>,
}

impl Relay {
    /// Publishes events of every shard that it can take, until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let shards = loop {
            match self.store.shards().await {
                Ok(shards) => break shards,
                Err(error) => {
                    self.readiness.set(Role::Relay, Err(error.to_string()));
                    tokio::select! {
                        () = tokio::time::sleep(BACKOFF.longest()) => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            }
        };
        let mut tasks = JoinSet::new();
        for shard in &shards {
            // Ready means to serve, or to stand by for, every one of them.
            self.report(*shard, Some("starting".to_owned()));
        }
        for shard in shards {
            tasks.spawn(self.clone().run_shard(shard, stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a relay's task died")?;
        }
        Ok(())
    }

    /// Serves one shard, and takes it again after each failure.
    async fn run_shard(mut self, shard: i16, stop: CancellationToken) {
        let mut backoff = BACKOFF;
        while !stop.is_cancelled() {
            let Err(error) = self.serve_shard(shard, &stop, &mut backoff).await else {
                return;
            };
            self.metrics.relay.failures.inc();
            let error = causes::in_words(&error);
            tracing::warn!(shard, error, "relaying failed, taking the shard again");
            self.report(shard, Some(error));
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Publishes a shard's events while it owns the shard; ends without an error if another relay
    /// owns it.
    async fn serve_shard(
        &mut self,
        shard: i16,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let mut lease = tokio::select! {
            lease = self.store.lease_shard(shard, LEASE_INTERVAL, || self.report(shard, None)) => lease?,
            () = stop.cancelled() => return Ok(()),
        };
        // After the lock and before the first read: from here on a predecessor cannot publish.
        // Events that it published and did not delete are read and published again, in order.
        let publisher = Arc::new(self.take_over(shard).await?);
        tracing::debug!(shard, "relaying");
        self.report(shard, None);
        backoff.reset();
        while !stop.is_cancelled() {
            self.wake.mark_unchanged();
            // An empty read also proves that the session, and so the lock, still exists.
            if self.relay_batch(&mut lease, &publisher).await? >= self.limits.batch_max {
                continue;
            }
            tokio::select! {
                changed = self.wake.changed() => if changed.is_err() {
                    // No process is left to wake the relay, so it polls.
                    tokio::time::sleep(self.limits.poll_interval).await;
                },
                () = tokio::time::sleep(self.limits.poll_interval) => {}
                () = stop.cancelled() => {}
            }
        }
        // Events that ingest wrote while it stopped are published before the shard is released.
        // Events that others go on writing are for the successor.
        while self.relay_batch(&mut lease, &publisher).await? >= self.limits.batch_max {}
        lease.release().await;
        Ok(())
    }

    /// A relay is ready if none of its shards fails.
    fn report(&self, shard: i16, failure: Option<String>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(why) => failing.insert(shard, why),
            None => failing.remove(&shard),
        };
        let first = failing
            .iter()
            .next()
            .map(|(shard, why)| format!("shard {shard}: {why}"));
        self.readiness.set(Role::Relay, first.map_or(Ok(()), Err));
    }

    async fn take_over(&self, shard: i16) -> anyhow::Result<Publisher> {
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || {
            let transactional_id = kafka::relay_transactional_id(&kafka.status_topic, shard);
            let producer: BaseProducer<RelayContext> =
                kafka::transactional_producer(&kafka, &transactional_id)
                    .create_with_context(RelayContext)
                    .context("creating the producer")?;
            producer
                .init_transactions(KAFKA_TIMEOUT)
                .context("taking over the transactional id")?;
            Ok(Publisher {
                producer,
                status_topic: kafka.status_topic,
                reminder_topic: kafka.reminder_topic,
            })
        })
        .await?
    }

    /// One step: publishes the oldest events and deletes them. Returns their number.
    async fn relay_batch(
        &self,
        lease: &mut ShardLease,
        publisher: &Arc<Publisher>,
    ) -> anyhow::Result<usize> {
        let began = Monotonic::now();
        let mut events = lease
            .read(i64::try_from(self.limits.batch_max).unwrap_or(i64::MAX))
            .await?;
        if events.is_empty() {
            return Ok(0);
        }
        let count = events.len();
        let mut ids: Vec<i64> = events.iter().map(|event| event.id).collect();
        ids.dedup();
        let published_now = PublishedNow::of(&events);
        let traced = self.trace(&mut events);
        let publisher = Arc::clone(publisher);
        let published = tokio::task::spawn_blocking(move || publisher.publish(&events)).await?;
        if let Some(traced) = traced {
            traced.end(published.as_ref().err().map(causes::in_words));
        }
        published?;
        published_now.observe_delays(&self.metrics.relay);
        // If this fails they are published again, with the same ids and versions.
        lease.delete(&ids).await?;
        self.metrics.relay.published.inc_by(count as u64);
        published_now.count(&self.metrics.relay);
        self.metrics.relay.transactions.inc();
        self.metrics
            .relay
            .transaction_seconds
            .observe(began.elapsed().as_secs_f64());
        Ok(count)
    }

    /// Begins the spans of publishing these events, and sets their `traceparent` to them.
    fn trace(&self, events: &mut [OutboxRecord]) -> Option<traces::SpanBatch> {
        let topic = &self.kafka.status_topic;
        let mut traced = traces::SpanBatch::begin(Operation::Send, topic, events.len(), [])?;
        for pending in events {
            // A reminder has no cause but the clock.
            let RecordContent::Status(event) = &pending.content else {
                continue;
            };
            let ids = [
                KeyValue::new("messaging.message.id", event.event_id.to_string()),
                KeyValue::new("ride_promo.event.type", event.event_type.as_str()),
                KeyValue::new("ride_promo.user_id", pending.user_id),
                KeyValue::new("ride_promo.promotion_id", pending.promotion_id),
            ];
            let carried = pending.traceparent.as_deref();
            if let Some(own) = carried.and_then(|came| traced.carry(came, ids)) {
                pending.traceparent = Some(own);
            }
        }
        Some(traced)
    }
}

/// What a transaction publishes, for the metrics.
#[derive(Default)]
struct PublishedNow {
    transitions: BTreeMap<EventType, u64>,
    recorded_at: Vec<Instant>,
    reminders: BTreeMap<DeadlineOf, u64>,
    due_at: Vec<Instant>,
}

impl PublishedNow {
    fn of(events: &[OutboxRecord]) -> Self {
        let mut this = Self::default();
        for pending in events {
            match &pending.content {
                RecordContent::Status(event) => {
                    *this.transitions.entry(event.event_type).or_default() += 1;
                    this.recorded_at.push(event.occurred_at);
                }
                RecordContent::Reminder { reminder, due_at } => {
                    *this.reminders.entry(reminder.of).or_default() += 1;
                    this.due_at.push(*due_at);
                }
                RecordContent::Tombstone => {}
            }
        }
        this
    }

    /// How late they are, once Kafka has committed: Postgres' clock against this machine's, which may
    /// be behind.
    fn observe_delays(&self, metrics: &RelayMetrics) {
        let now = Clock::System.now();
        for (since, histogram) in [
            (&self.recorded_at, &metrics.status_delay_seconds),
            (&self.due_at, &metrics.reminder_delay_seconds),
        ] {
            for at in since {
                let delay = (now - *at).to_std().unwrap_or_default();
                histogram.observe(delay.as_secs_f64());
            }
        }
    }

    fn count(&self, metrics: &RelayMetrics) {
        for (event_type, count) in &self.transitions {
            metrics.transitions.add(event_type.as_str(), *count);
        }
        for (of, count) in &self.reminders {
            metrics.reminders_published.add(of.as_str(), *count);
        }
    }
}

struct RelayContext;

impl ClientContext for RelayContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line("relay", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("relay", &error, reason);
    }
}

impl rdkafka::producer::ProducerContext for RelayContext {
    type DeliveryOpaque = ();
    /// A record that was not delivered fails the commit of the transaction.
    fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
}

struct Publisher {
    producer: BaseProducer<RelayContext>,
    status_topic: String,
    reminder_topic: String,
}

impl Publisher {
    /// Publishes events in one transaction. Only a successful commit counts: a fenced producer
    /// still accepts records without an error.
    fn publish(&self, events: &[OutboxRecord]) -> anyhow::Result<()> {
        self.producer
            .begin_transaction()
            .context("beginning a transaction")?;
        let committed = self.send_and_commit(events);
        if committed.is_err() {
            // The shard is taken again after this, which ends the transaction in any case.
            let _ = self.producer.abort_transaction(KAFKA_TIMEOUT);
        }
        committed
    }

    fn send_and_commit(&self, events: &[OutboxRecord]) -> anyhow::Result<()> {
        let deadline = Monotonic::now() + KAFKA_TIMEOUT;
        for pending in events {
            self.send(pending, deadline)?;
        }
        loop {
            let in_flight = self.producer.in_flight_count();
            if in_flight == 0 {
                break;
            }
            anyhow::ensure!(
                Monotonic::now() < deadline,
                "kafka did not acknowledge {in_flight} events"
            );
            self.producer.poll(Duration::ZERO);
            if self.producer.in_flight_count() == in_flight {
                std::thread::sleep(DRAIN_SLICE);
            }
        }
        self.producer
            .commit_transaction(KAFKA_TIMEOUT)
            .context("committing a transaction")
    }

    fn send(&self, pending: &OutboxRecord, deadline: Monotonic) -> anyhow::Result<()> {
        let key = format!("{}:{}", pending.user_id, pending.promotion_id);
        let (topic, value, head) = match &pending.content {
            RecordContent::Status(event) => {
                let head = Head {
                    event_id: event.event_id,
                    event_type: event.event_type.as_str(),
                    occurred_at: event.occurred_at,
                };
                let value = serde_json::to_vec(event)?;
                (&self.status_topic, Some(value), Some(head))
            }
            RecordContent::Reminder { reminder, .. } => {
                let head = Head {
                    event_id: reminder.event_id,
                    event_type: reminder.event_type.as_str(),
                    occurred_at: reminder.occurred_at,
                };
                let value = serde_json::to_vec(reminder)?;
                (&self.reminder_topic, Some(value), Some(head))
            }
            // It is its key and nothing else: who filters by headers must not miss it.
            RecordContent::Tombstone => (&self.status_topic, None, None),
        };
        let mut record = BaseRecord::to(topic).key(&key);
        if let Some(value) = &value {
            record = record.payload(value);
        }
        if let Some(head) = &head {
            record = record.headers(headers(head, &key, pending.traceparent.as_deref()));
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    anyhow::ensure!(Monotonic::now() < deadline, "kafka accepted no events");
                    self.producer.poll(Duration::ZERO);
                    std::thread::sleep(DRAIN_SLICE);
                    record = returned;
                }
                Err((error, _)) => return Err(error).context("producing an event"),
            }
        }
    }
}

/// What an event's headers say of it.
struct Head {
    event_id: Uuid,
    event_type: &'static str,
    occurred_at: Instant,
}

/// The headers of an event: CloudEvents in binary mode, and its trace.
fn headers(head: &Head, key: &str, traceparent: Option<&str>) -> OwnedHeaders {
    let event_id = head.event_id.to_string();
    let occurred_at = format_instant(head.occurred_at);
    let mut headers = OwnedHeaders::new_with_capacity(8);
    for (name, text) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &event_id),
        ("ce_type", head.event_type),
        ("ce_source", SOURCE),
        ("ce_time", &occurred_at),
        ("ce_subject", key),
        ("content-type", "application/json"),
    ] {
        headers = headers.insert(Header {
            key: name,
            value: Some(text),
        });
    }
    if let Some(traceparent) = traceparent {
        headers = headers.insert(Header {
            key: HEADER,
            value: Some(traceparent),
        });
    }
    headers
}
