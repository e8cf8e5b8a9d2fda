//! What one test has to itself: a database, topics, a consumer group.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::{
    error::KafkaError,
    producer::{FutureProducer, future_producer::DeliveryFuture},
    types::RDKafkaErrorCode,
};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::{
    kafka::{Kafka, Outgoing, Record, TransactionEnd},
    postgres::Postgres,
    process::new_dir,
    service::{Cli, ServiceBuilder},
    wait::{equal, eventually},
};

/// How long ingest and relay may take to catch up: generous, for a busy machine.
const CATCHING_UP: Duration = Duration::from_secs(120);

/// The schema version of the migrations there are.
pub fn schema_version() -> i64 {
    let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = std::fs::read_dir(migrations).expect("the repository has it");
    let number = |name: &str| name.split('_').next()?.parse().ok();
    let versions = files.filter_map(|file| number(file.ok()?.file_name().to_str()?));
    versions.max().expect("at least one")
}

/// One test's surroundings, on the shared servers unless it brings its own.
///
/// What it made in them is removed when it is dropped.
pub struct World {
    kafka: Arc<Kafka>,
    postgres: Arc<Postgres>,
    /// The test's name and something random: what everything of this world is called.
    name: String,
    database: String,
    ride_topic: String,
    status_topic: String,
    reminder_topic: String,
    partitions: i32,
    pool: PgPool,
    producer: FutureProducer,
    dirs: AtomicUsize,
}

/// How a [`World`] differs from the usual one.
#[derive(Default)]
#[must_use]
pub struct WorldBuilder {
    kafka: Option<Arc<Kafka>>,
    postgres: Option<Arc<Postgres>>,
    partitions: Option<i32>,
    without_topics: bool,
    empty_database: bool,
}

impl WorldBuilder {
    /// On this broker instead of the shared one.
    pub fn kafka(mut self, kafka: &Arc<Kafka>) -> Self {
        self.kafka = Some(kafka.clone());
        self
    }

    /// On this cluster instead of the shared one.
    pub fn postgres(mut self, postgres: &Arc<Postgres>) -> Self {
        self.postgres = Some(postgres.clone());
        self
    }

    /// With this many partitions in each topic instead of 4.
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Without topics: the service creates them.
    pub fn without_topics(mut self) -> Self {
        self.without_topics = true;
        self
    }

    /// With a database in which no migration has run.
    pub fn empty_database(mut self) -> Self {
        self.empty_database = true;
        self
    }

    /// Makes it.
    pub async fn build(self) -> World {
        let (kafka, postgres) = tokio::join!(
            async {
                if let Some(own) = self.kafka {
                    own
                } else {
                    Kafka::shared().await
                }
            },
            async {
                if let Some(own) = self.postgres {
                    own
                } else {
                    Postgres::shared().await
                }
            },
        );
        let partitions = self.partitions.unwrap_or(4);
        let name = unique_name();
        let database = name.replace('-', "_");
        if self.empty_database {
            postgres.create_empty_database(&database).await;
        } else {
            postgres.create_database(&database, Cli::migrate).await;
        }
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy(&postgres.url(&database))
            .expect("a valid URL");
        let world = World {
            ride_topic: format!("{name}-rides"),
            status_topic: format!("{name}-status"),
            reminder_topic: format!("{name}-reminders"),
            producer: kafka.producer(),
            kafka,
            postgres,
            name,
            database,
            partitions,
            pool,
            dirs: AtomicUsize::new(0),
        };
        if !self.without_topics {
            tokio::join!(
                world.create_ride_topic(),
                world.create_status_topic(),
                world.create_reminder_topic()
            );
        }
        world
    }
}

impl World {
    /// A migrated database and empty topics of 4 partitions, on the shared servers.
    pub async fn new() -> Self {
        Self::builder().build().await
    }

    /// A world that differs.
    pub fn builder() -> WorldBuilder {
        WorldBuilder::default()
    }

    /// The broker.
    pub fn kafka(&self) -> &Arc<Kafka> {
        &self.kafka
    }

    /// The cluster.
    pub fn postgres(&self) -> &Arc<Postgres> {
        &self.postgres
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The URL of the database.
    pub fn database_url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// Connections to the database, made when they are needed.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Runs statements in the database.
    pub async fn execute(&self, sql: &str) {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        if let Err(error) = run.execute(&self.pool).await {
            panic!("{error}: {sql}");
        }
    }

    /// The number that a statement selects.
    pub async fn count(&self, sql: &str) -> i64 {
        let counted = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
        match counted.fetch_one(&self.pool).await {
            Ok(count) => count,
            Err(error) => panic!("{error}: {sql}"),
        }
    }

    /// The topic of rides.
    pub fn ride_topic(&self) -> &str {
        &self.ride_topic
    }

    /// The topic of status changes.
    pub fn status_topic(&self) -> &str {
        &self.status_topic
    }

    /// The topic of reminders.
    pub fn reminder_topic(&self) -> &str {
        &self.reminder_topic
    }

    /// The topic of the erasure ledger.
    pub fn erasure_topic(&self) -> String {
        format!("{}-erasures", self.name)
    }

    /// The consumer group.
    pub fn group_id(&self) -> &str {
        &self.name
    }

    /// The number of partitions of each topic.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Creates the topic of rides: for a test that deleted it.
    pub async fn create_ride_topic(&self) {
        self.kafka
            .create_topic(&self.ride_topic, self.partitions, &[])
            .await;
    }

    async fn create_status_topic(&self) {
        // as the contract wants it: a week of everything, then the newest of each key
        let config = [
            ("cleanup.policy", "compact"),
            ("min.compaction.lag.ms", "604800000"),
        ];
        self.kafka
            .create_topic(&self.status_topic, self.partitions, &config)
            .await;
    }

    async fn create_reminder_topic(&self) {
        let config = [("cleanup.policy", "delete"), ("retention.ms", "604800000")];
        self.kafka
            .create_topic(&self.reminder_topic, self.partitions, &config)
            .await;
    }

    /// A service in this world, to be configured and started.
    pub fn service(&self) -> ServiceBuilder {
        ServiceBuilder::new(self)
    }

    /// A command of the product in this world: `world.command(&["doctor"]).run().await`.
    pub fn command(&self, arguments: &[&str]) -> Cli {
        Cli::new(self, arguments)
    }

    /// A new directory for files of this world.
    pub fn new_dir(&self, purpose: &str) -> PathBuf {
        let number = self.dirs.fetch_add(1, Ordering::Relaxed);
        new_dir(&format!("{}/{purpose}-{number}", self.name))
    }

    /// Publishes a ride, keyed by its client; answers its partition and offset.
    pub async fn publish_ride(&self, ride: &Value) -> (i32, i64) {
        self.publish(&Outgoing::ride(ride)).await
    }

    /// Publishes anything to the topic of rides.
    pub async fn publish(&self, record: &Outgoing) -> (i32, i64) {
        let sent = self
            .producer
            .send(record.to(&self.ride_topic), Duration::from_secs(30))
            .await;
        let delivery = sent.unwrap_or_else(|(error, _)| panic!("not published: {error}"));
        (delivery.partition, delivery.offset)
    }

    /// Publishes bytes that may be no ride at all.
    pub async fn publish_raw(
        &self,
        key: Option<&str>,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> (i32, i64) {
        let record = Outgoing {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: value.map(<[u8]>::to_vec),
            ..Outgoing::default()
        };
        let record = headers
            .iter()
            .fold(record, |record, (name, value)| record.header(name, value));
        self.publish(&record).await
    }

    /// Publishes many records as fast as the broker takes them, in order; returns once all are
    /// stored. Answers their partitions and offsets.
    pub async fn publish_all(
        &self,
        records: impl IntoIterator<Item = Outgoing>,
    ) -> Vec<(i32, i64)> {
        let mut sent = Vec::new();
        for record in records {
            sent.push(self.enqueue(&record).await);
        }
        let mut stored = Vec::with_capacity(sent.len());
        for delivery in sent {
            let delivery = delivery.await.expect("the producer lives");
            let delivery = delivery.unwrap_or_else(|(error, _)| panic!("not published: {error}"));
            stored.push((delivery.partition, delivery.offset));
        }
        stored
    }

    /// Hands a record to the producer, waiting for room in its queue.
    async fn enqueue(&self, record: &Outgoing) -> DeliveryFuture {
        loop {
            match self.producer.send_result(record.to(&self.ride_topic)) {
                Ok(delivery) => return delivery,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => panic!("not published: {error}"),
            }
        }
    }

    /// Publishes rides in a Kafka transaction; see [`Kafka::produce_in_transaction`].
    pub async fn publish_in_transaction(
        &self,
        records: Vec<Outgoing>,
        end: TransactionEnd,
    ) -> FutureProducer {
        self.kafka
            .produce_in_transaction(&self.ride_topic, records, end)
            .await
    }

    /// Recounts every participation by the product's own command, which must find nothing.
    pub async fn verify_finds_nothing(&self) {
        let verified = self.command(&["verify"]).run().await;
        assert!(verified.status.success(), "{verified:#?}");
    }

    /// Waits until everything published to the topic of rides so far has been applied.
    pub async fn rides_are_applied(&self) {
        let ends = self.kafka.end_offsets(&self.ride_topic).await;
        eventually(CATCHING_UP, || async {
            let positions: Vec<i64> = sqlx::query_scalar(
                "select next_offset from consumer_position where topic = $1 order by partition",
            )
            .bind(&self.ride_topic)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| error.to_string())?;
            equal(positions, ends.clone())
        })
        .await;
    }

    /// Waits until every status change written so far has been published.
    pub async fn events_are_published(&self) {
        eventually(CATCHING_UP, || async {
            let left: i64 = sqlx::query_scalar("select count(*) from event_outbox")
                .fetch_one(&self.pool)
                .await
                .map_err(|error| error.to_string())?;
            equal(left, 0)
        })
        .await;
    }

    /// Every status change published so far, by partition, then by offset.
    pub async fn read_status_topic(&self) -> Vec<StatusRecord> {
        let records = self.kafka.read_topic(&self.status_topic).await;
        records.into_iter().map(StatusRecord::of).collect()
    }

    /// Every reminder published so far, by partition, then by offset; a redelivered one once.
    pub async fn reminders(&self) -> Vec<Record> {
        let mut seen = std::collections::BTreeSet::new();
        let mut records = self.kafka.read_topic(&self.reminder_topic).await;
        records.retain(|record| seen.insert(record.json()["event_id"].to_string()));
        records
    }

    /// The newest record of each key of the topic of status changes; `None` for a tombstone.
    pub async fn newest_statuses(&self) -> BTreeMap<String, Option<Value>> {
        let records = self.kafka.read_topic(&self.status_topic).await;
        let newest = records.into_iter().map(|record| {
            let event = record.value.is_some().then(|| record.json());
            (record.key.unwrap_or_default(), event)
        });
        newest.collect()
    }

    /// The types of one participation's status changes, in the order of their offsets.
    pub async fn kinds_of(&self, user_id: i64, promotion_id: i64) -> Vec<String> {
        let records = self.status_of(user_id, promotion_id).await;
        records
            .iter()
            .map(|record| record.kind().to_owned())
            .collect()
    }

    /// The status changes of one participation, in the order of their offsets.
    pub async fn status_of(&self, user_id: i64, promotion_id: i64) -> Vec<StatusRecord> {
        let key = format!("{user_id}:{promotion_id}");
        let mut records = self.read_status_topic().await;
        records.retain(|record| record.record.key.as_ref() == Some(&key));
        records
    }
}

impl Drop for World {
    /// Makes room in the servers, in the background; the tests do not wait for it, and what is
    /// left when they end goes with the servers.
    fn drop(&mut self) {
        if std::env::var_os("RIDE_PROMO_TEST_KEEP").is_some() {
            return;
        }
        let (kafka, postgres) = (self.kafka.clone(), self.postgres.clone());
        let database = self.database.clone();
        let topics = [
            self.ride_topic.clone(),
            self.status_topic.clone(),
            self.reminder_topic.clone(),
            self.erasure_topic(),
        ];
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                // they may be gone or stopped already, which is as good
                let _ = postgres.drop_database(&database).await;
                kafka.forget_topics(&topics).await;
            });
        });
    }
}

/// A status change as read from its topic.
#[derive(Clone, Debug)]
pub struct StatusRecord {
    /// Where it was, with its key and headers.
    pub record: Record,
    /// What it says.
    pub event: Value,
}

impl StatusRecord {
    fn of(record: Record) -> Self {
        Self {
            event: record.json(),
            record,
        }
    }

    /// `version`
    #[track_caller]
    pub fn version(&self) -> i64 {
        self.event["version"]
            .as_i64()
            .unwrap_or_else(|| panic!("no version: {}", self.event))
    }

    /// `type`
    #[track_caller]
    pub fn kind(&self) -> &str {
        self.event["type"]
            .as_str()
            .unwrap_or_else(|| panic!("no type: {}", self.event))
    }

    /// The key, which must be there.
    #[track_caller]
    pub fn key(&self) -> &str {
        self.record
            .key
            .as_deref()
            .unwrap_or_else(|| panic!("no key: {:?}", self.record))
    }
}

/// The status changes of each participation, in the order of their offsets, by key.
pub fn by_key(records: Vec<StatusRecord>) -> BTreeMap<String, Vec<StatusRecord>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for record in records {
        keys.entry(record.key().to_owned())
            .or_default()
            .push(record);
    }
    keys
}

/// The last record of each key: what is left after compaction.
pub fn last_by_key(records: Vec<StatusRecord>) -> BTreeMap<String, StatusRecord> {
    records
        .into_iter()
        .map(|record| (record.key().to_owned(), record))
        .collect()
}

/// Asserts what subscribers rely on, for every participation in the topic: one partition, versions
/// that count from 1 without a gap, a repeat that is the same event, and the newest version last.
#[track_caller]
pub fn assert_contiguous(records: Vec<StatusRecord>) {
    for (key, records) in by_key(records) {
        let mut events: Vec<&Value> = Vec::new();
        for StatusRecord { record, event } in &records {
            assert_eq!(record.partition, records[0].record.partition, "{key} moved");
            let index = event["version"]
                .as_u64()
                .and_then(|version| version.checked_sub(1));
            let index = index.unwrap_or_else(|| panic!("{key}: no version in {event}"));
            match events.get(index as usize) {
                Some(first) => assert_eq!(*first, event, "{key}: a repeat that differs"),
                None if index as usize == events.len() => events.push(event),
                None => panic!("{key}: after version {} came {event}", events.len()),
            }
        }
        let last = records.last().map(|record| &record.event);
        assert_eq!(
            last,
            events.last().copied(),
            "{key}: an old version is the last record"
        );
    }
}

/// Waits until this many sessions of the world's database wait for a lock of another: the moment at
/// which a test that holds the lock knows that the others have come to it.
pub async fn waiting_for_a_lock(world: &World, sessions: i64) {
    eventually(CATCHING_UP, || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(world.pool())
        .await
        .map_err(|error| error.to_string())?;
        equal(waiting, sessions)
    })
    .await;
}

/// Now, by the machine's clock, which the servers of the tests share.
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// An instant in the form of the contract.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A ride of this client that has just ended, with every field: MX$65 in Mexico City.
pub fn ride(user_id: i64) -> Value {
    ride_at(user_id, now())
}

/// The same ride, ended at another time.
pub fn ride_at(user_id: i64, completed_at: DateTime<Utc>) -> Value {
    json!({
        "ride_id": Uuid::new_v4().to_string(), "user_id": user_id,
        "completed_at": instant(completed_at), "amount_cents": 6_500, "currency_code": "MXN",
        "country_code": "MX", "city_id": 4_198, "service_type": "city",
    })
}

/// The test's name (which libtest gives to its thread) made fit for topics and databases, and
/// something random.
fn unique_name() -> String {
    let thread = std::thread::current();
    let test = thread
        .name()
        .unwrap_or("test")
        .rsplit("::")
        .next()
        .unwrap_or_default();
    let test: String = test
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(30)
        .collect();
    let random = Uuid::new_v4().simple().to_string();
    format!("t-{test}-{}", &random[..8])
}
