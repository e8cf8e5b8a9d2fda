//! How long a client waits: from the broker's acknowledgement of a ride to the long poll's answer
//! that shows it. Open loop: rides come at their times, however slow the answers are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::TimeDelta;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use serde_json::Value;

use crate::harness::{Answer, Client, World};
use crate::input::{clock, ride};
use crate::processes::{Cpu, Processes, peak_memory};

/// How long a long poll is held.
const WAIT_SECONDS: u32 = 30;

/// How long the last ride may take to be seen.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Rides a second, each of a client who watches.
    pub rides_per_second: u32,
    /// How many clients watch by long polls, and ride in turn.
    pub watchers: u32,
    /// How long rides come before they are measured.
    pub warm_up: Duration,
    /// How long rides are measured.
    pub measured: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Latency {
    /// From the acknowledgement to the answer, ascending.
    pub from_ack: Vec<Duration>,
    /// From the moment a ride was due to be sent to the answer, ascending.
    pub from_due: Vec<Duration>,
    /// What it cost, warm-up included, in all.
    pub cpu: Cpu,
    /// Of the service, in bytes.
    pub peak_memory: u64,
}

impl Latency {
    /// The latency that this many of 1,000 rides do not exceed.
    pub fn quantile(sorted: &[Duration], of_1000: usize) -> Duration {
        let rank = (sorted.len() * of_1000).div_ceil(1_000).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

/// When each ride was acknowledged, noted where librdkafka says so.
struct Acks(Mutex<Vec<Option<Instant>>>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ride: usize) {
        if result.is_ok() {
            let now = Instant::now();
            self.0.lock().unwrap_or_else(PoisonError::into_inner)[ride] = Some(now);
        }
    }
}

/// Has a service of all roles follow rides, the clients 1 to `watchers` of the promotion looking on.
pub async fn measure(
    world: &World,
    producer: &ClientConfig,
    settings: &[(String, String)],
    url: &str,
    promotion_id: i64,
    load: Load,
) -> Result<Latency> {
    let builder = world
        .service()
        .env("DATABASE_URL", url)
        .env("RIDE_PROMO__API__RATE_LIMIT_PER_SECOND", 0);
    let builder = settings
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    let service = builder.start().await;
    let processes = Processes {
        worker: service.pid(),
        postgres: world.postgres().pid(),
        broker: world.kafka().pid(),
    };

    let seconds = (load.warm_up + load.measured).as_secs();
    let rides = usize::try_from(u64::from(load.rides_per_second) * seconds)?;
    let watchers = usize::try_from(load.watchers)?;
    let rides_of = |watcher: usize| rides / watchers + usize::from(watcher < rides % watchers);
    let mut watching = Vec::new();
    for (watcher, user_id) in (1..=i64::from(load.watchers)).enumerate() {
        let client = service.client(user_id);
        let first = client.progress(promotion_id).await;
        watching.push(tokio::spawn(watch(
            client,
            promotion_id,
            first,
            rides_of(watcher),
        )));
    }

    let before = processes.cpu()?;
    let topic = world.ride_topic().to_owned();
    let producer: ThreadedProducer<Acks> =
        producer.create_with_context(Acks(Mutex::new(vec![None; rides])))?;
    let producer = Arc::new(producer);
    let started = Instant::now() + Duration::from_millis(100);
    let due = move |ride: usize| {
        started
            + Duration::from_secs(1) * u32::try_from(ride).unwrap_or(u32::MAX)
                / load.rides_per_second
    };
    let sender = {
        let producer = Arc::clone(&producer);
        // A thread of its own: what the runtime does must not delay rides.
        tokio::task::spawn_blocking(move || send(&producer, &topic, rides, watchers, due))
    };
    sender.await??;
    let mut seen = Vec::with_capacity(watchers);
    for watcher in watching {
        let times = tokio::time::timeout(TIMEOUT, watcher)
            .await
            .with_context(|| format!("not every ride was seen:\n{}", service.log()))???;
        seen.push(times);
    }
    let cpu = processes.cpu()? - before;
    let peak_memory = peak_memory(processes.worker)?;
    ensure!(service.sigterm_and_wait().await.success());

    let acks = producer
        .context()
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let first = usize::try_from(u64::from(load.rides_per_second) * load.warm_up.as_secs())?;
    let mut from_ack = Vec::new();
    let mut from_due = Vec::new();
    for ride in first..rides {
        let visible = seen[ride % watchers][ride / watchers];
        let acknowledged = acks[ride].context("a ride was seen and not acknowledged")?;
        // An answer may overtake the acknowledgement.
        from_ack.push(visible.saturating_duration_since(acknowledged));
        from_due.push(visible.saturating_duration_since(due(ride)));
    }
    from_ack.sort_unstable();
    from_due.sort_unstable();
    Ok(Latency {
        from_ack,
        from_due,
        cpu,
        peak_memory,
    })
}

/// Sends each ride when it is due; late ones at once.
fn send(
    producer: &ThreadedProducer<Acks>,
    topic: &str,
    rides: usize,
    watchers: usize,
    due: impl Fn(usize) -> Instant,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(0x1a7e);
    let completed_at = clock() - TimeDelta::minutes(1);
    for number in 0..rides {
        let user_id = i64::try_from(number % watchers)? + 1;
        let value = ride(&mut random, user_id, completed_at);
        let key = user_id.to_string();
        std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
        producer
            .send(
                BaseRecord::with_opaque_to(topic, number)
                    .key(&key)
                    .payload(&value),
            )
            .map_err(|(error, _)| error)
            .context("producing a ride")?;
    }
    Ok(())
}

/// Follows one client by long polls until it has this many rides; returns when each was shown.
async fn watch(
    client: Client,
    promotion_id: i64,
    first: Answer,
    rides: usize,
) -> Result<Vec<Instant>> {
    let mut answer = first;
    let mut shown = Vec::with_capacity(rides);
    loop {
        let now = Instant::now();
        if answer.status == 200 {
            let participation: Value = serde_json::from_str(&answer.text)?;
            let completed = participation["rides_completed"]
                .as_u64()
                .context("rides_completed")?;
            while (shown.len() as u64) < completed {
                shown.push(now);
            }
        } else {
            ensure!(answer.status == 304, "{answer:?}");
        }
        if shown.len() >= rides {
            return Ok(shown);
        }
        answer = client
            .long_poll(promotion_id, &answer.etag(), WAIT_SECONDS)
            .await;
    }
}
