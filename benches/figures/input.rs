//! The rides, and the participations they are for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use ride_promo::domain::ride::Ride;
use ride_promo::wire::ride_completed::encode;
use sqlx::{Connection as _, PgConnection};
use uuid::Builder;

/// Clients without a participation, above all who have one.
const STRANGERS: i64 = 10_000_000;

/// Which rides a backlog has.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// How many.
    pub rides: u64,
    /// How many of 100 are by participants.
    pub share: u32,
    /// Participants are the clients 1 to this.
    pub participants: i64,
}

/// A ride to be published.
pub struct Outgoing {
    /// Who rode.
    pub user_id: i64,
    /// The record's value.
    pub value: String,
}

/// Rides as the platform sends them, of clients chosen at random; the same ones for the same mix.
pub fn rides(mix: Mix) -> impl Iterator<Item = Outgoing> {
    let mut random = StdRng::seed_from_u64(0x71de + u64::from(mix.share));
    // All are a little different, as real ones are, and none is from the future.
    let earliest = clock() - TimeDelta::hours(1);
    (0..mix.rides).map(move |_| {
        let user_id = if random.random_ratio(mix.share, 100) {
            random.random_range(1..=mix.participants)
        } else {
            mix.participants + random.random_range(1..=STRANGERS)
        };
        let completed_at = earliest + TimeDelta::milliseconds(random.random_range(0..3_600_000));
        Outgoing {
            user_id,
            value: ride(&mut random, user_id, completed_at),
        }
    })
}

/// One ride's JSON: a counting one.
pub fn ride(random: &mut StdRng, user_id: i64, completed_at: chrono::DateTime<Utc>) -> String {
    let ride = Ride {
        country_code: "MX".parse().ok(),
        city_id: Some(4_198),
        service_type: Some("city".into()),
        ..Ride::new(
            Builder::from_random_bytes(random.random()).into_uuid(),
            user_id,
            completed_at,
            random.random_range(5_000..50_000),
            "MXN".parse().expect("a currency"),
        )
    };
    String::from_utf8(encode(&ride)).expect("JSON is UTF-8")
}

/// The machine's clock, which all servers of a run share.
#[expect(
    clippy::disallowed_methods,
    reason = "rides are made, not judged, by this clock"
)]
pub fn clock() -> chrono::DateTime<Utc> {
    Utc::now()
}

/// Counts acknowledgements.
#[derive(Default)]
struct Acknowledged {
    stored: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() {
            &self.stored
        } else {
            &self.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes a backlog as fast as it is acknowledged; answers how long that took, and how many
/// rides are by participants. The rides are made beforehand.
pub fn produce(config: &ClientConfig, topic: &str, mix: Mix) -> Result<(Duration, u64)> {
    let producer: ThreadedProducer<Acknowledged> =
        config.create_with_context(Acknowledged::default())?;
    let backlog: Vec<Outgoing> = rides(mix).collect();
    let started = Instant::now();
    for ride in &backlog {
        let key = ride.user_id.to_string();
        let mut record = BaseRecord::to(topic).key(&key).payload(&ride.value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    std::thread::sleep(Duration::from_millis(1));
                    record = returned;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    let acknowledged = producer.context();
    while acknowledged.stored.load(Ordering::Relaxed) < mix.rides {
        let failed = acknowledged.failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} rides were not stored");
        std::thread::sleep(Duration::from_millis(1));
    }
    let by_participants = backlog
        .iter()
        .filter(|ride| ride.user_id <= mix.participants);
    Ok((started.elapsed(), by_participants.count() as u64))
}

/// Loads the clients 1 to `participants`, each with a challenge in progress that no backlog ends.
/// Answers the promotion's id.
pub async fn load_participants(url: &str, participants: i64) -> Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    let conditions = serde_json::json!({
        "target_rides": 10_000, "min_amount_cents": 5_000, "currency_code": "MXN",
        "challenge_period": "P14D", "claim_period": "P7D", "country_codes": ["MX"],
        "city_ids": [4_198], "service_types": ["city"],
    });
    let promotion_id: i64 = sqlx::query_scalar(
        "insert into promotion (promotion_key, title, conditions) values ('bench', 'Bench', $1) returning promotion_id",
    )
    .bind(&conditions)
    .fetch_one(&mut connection)
    .await?;
    let terms_id: i64 = sqlx::query_scalar(
        "insert into promotion_terms (promotion_id, conditions) values ($1, $2) returning terms_id",
    )
    .bind(promotion_id)
    .bind(&conditions)
    .fetch_one(&mut connection)
    .await?;
    let loaded = sqlx::query(
        r#"insert into promotion_user (user_id, promotion_id, terms_id, status, rides_target, started_at, challenge_deadline,
                                       reward, pre_offer_id, country_code, receipts_month)
           select user_id, $1, $2, 'IN_PROGRESS', 10000, start.at, start.at + interval '14 days',
                  '{"product_id": 80, "amount_cents": 100000, "currency_code": "MXN", "repayment_rate": "15"}',
                  gen_random_uuid(), 'MX', date_trunc('month', start.at at time zone 'UTC')::date
             from generate_series(1, $3) user_id, lateral (select clock_ms() - interval '1 day' as at) start"#,
    )
    .bind(promotion_id)
    .bind(terms_id)
    .bind(participants)
    .execute(&mut connection)
    .await
    .context("loading the participants")?;
    ensure!(loaded.rows_affected().cast_signed() == participants);
    // As a database that has been running for long: hint bits set, statistics there.
    sqlx::raw_sql("vacuum (analyze) promotion_user")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(promotion_id)
}
