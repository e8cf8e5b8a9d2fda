//! Throughput and latency of the real service on a real Kafka and a real PostgreSQL, against the
//! floors of its parts measured in the same run.
//!
//! `make bench` runs all of it and writes `benches/RESULTS.md`; `make bench ARGS=--quick` is a small
//! run that only prints.

mod backlog;
mod floors;
mod input;
mod latency;
mod machine;
mod processes;
mod report;

#[path = "../../tests/it/harness/mod.rs"]
#[expect(
    clippy::allow_attributes,
    dead_code,
    unused_imports,
    reason = "the tests use all of it, the measurements some"
)]
mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use ride_promo::config::KafkaConfig;

use self::harness::{Cli, Kafka, Postgres, World};
use self::input::Mix;
use self::latency::{Latency, Load};
use self::report::{Backlog, Floors, Report};

/// Measures the service against the floors of its parts.
#[derive(Parser)]
struct Arguments {
    /// A small run, to see that everything works: prints, and writes nothing.
    #[arg(long)]
    quick: bool,
    /// Rides of each backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rides: u64,
    /// Participations loaded before.
    #[arg(long, default_value_t = 1_000_000)]
    participants: i64,
    /// How many of 100 rides are by participants, a backlog each.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2, 20, 100])]
    shares: Vec<u32>,
    /// Runs of each measurement; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Rides a second whose way to the client's screen is timed.
    #[arg(long, default_value_t = 1_000)]
    rides_per_second: u32,
    /// The file the results are written to.
    #[arg(long, default_value = "benches/RESULTS.md")]
    output: PathBuf,
    /// An environment variable of the service, to try a setting: `NAME=VALUE`.
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// What Cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        arguments.rides = arguments.rides.min(100_000);
        arguments.participants = arguments.participants.min(100_000);
        arguments.runs = 1;
    }
    let load = Load {
        rides_per_second: arguments.rides_per_second,
        watchers: 1_000,
        warm_up: Duration::from_secs(5),
        measured: Duration::from_secs(if arguments.quick { 5 } else { 30 }),
    };
    let surroundings = Surroundings::start(arguments.participants).await?;
    let mut report = Report::new(
        machine::facts(&surroundings.postgres).await?,
        &arguments,
        load,
    );
    for &share in &arguments.shares {
        let backlog = surroundings.measure(&arguments, share).await?;
        eprintln!("{backlog}");
        report.backlogs.push(backlog);
    }
    for run in 1..=arguments.runs {
        eprintln!("latency: run {run} ...");
        report
            .latencies
            .push(surroundings.follow(&arguments, load).await?);
    }
    let text = report.to_string();
    println!("{text}");
    if !arguments.quick {
        std::fs::write(&arguments.output, text).context("writing the results")?;
    }
    Ok(())
}

/// The servers, and the database with the participants that every run gets a copy of.
struct Surroundings {
    kafka: std::sync::Arc<Kafka>,
    postgres: std::sync::Arc<Postgres>,
    promotion_id: i64,
}

/// The database with the participants.
const LOADED: &str = "loaded";

/// The database of the run that goes on.
const RUN: &str = "run";

impl Surroundings {
    async fn start(participants: i64) -> Result<Self> {
        eprintln!("starting Kafka and PostgreSQL ...");
        let (kafka, postgres) = tokio::join!(Kafka::start_private(), Postgres::start_private());
        for (name, value) in machine::POSTGRES_SETTINGS {
            postgres
                .execute(format!("alter system set {name} = '{value}'"))
                .await?;
        }
        postgres.restart().await;
        eprintln!("loading {participants} participants ...");
        postgres.create_database(LOADED, Cli::migrate).await;
        let promotion_id = input::load_participants(&postgres.url(LOADED), participants).await?;
        postgres
            .execute(format!(
                "alter database {LOADED} with allow_connections false"
            ))
            .await?;
        Ok(Self {
            kafka,
            postgres,
            promotion_id,
        })
    }

    /// A new copy of the database with the participants; the copy before it goes. Its URL.
    async fn fresh_database(&self) -> Result<String> {
        self.postgres.drop_database(RUN).await?;
        // By copying files, which ends with a checkpoint: each run begins with the same log ahead.
        self.postgres
            .execute(format!(
                "create database {RUN} template {LOADED} strategy file_copy"
            ))
            .await?;
        Ok(self.postgres.url(RUN))
    }

    /// New topics of 12 partitions, and how to reach them.
    async fn topics(&self) -> (World, KafkaConfig) {
        let world = World::builder()
            .kafka(&self.kafka)
            .postgres(&self.postgres)
            .partitions(12)
            .build()
            .await;
        let config = KafkaConfig {
            brokers: self.kafka.brokers(),
            ride_topic: world.ride_topic().to_owned(),
            status_topic: world.status_topic().to_owned(),
            reminder_topic: world.reminder_topic().to_owned(),
            group_id: "floor".to_owned(),
            create_topics: false,
            partitions: 12,
            replication_factor: 1,
            properties: BTreeMap::new(),
            property_files: BTreeMap::new(),
        };
        (world, config)
    }

    /// Rides on their way to the screens of clients who wait.
    async fn follow(&self, arguments: &Arguments, load: Load) -> Result<Latency> {
        let (world, config) = self.topics().await;
        let url = self.fresh_database().await?;
        let mut producer = ride_promo::kafka::producer(&config);
        // The platform's own delay is not ours to measure.
        producer.set("linger.ms", "0");
        latency::measure(
            &world,
            &producer,
            &arguments.settings,
            &url,
            self.promotion_id,
            load,
        )
        .await
    }

    /// One backlog: its floors, then the service on it.
    async fn measure(&self, arguments: &Arguments, share: u32) -> Result<Backlog> {
        let mix = Mix {
            rides: arguments.rides,
            share,
            participants: arguments.participants,
        };
        let (world, config) = self.topics().await;
        let topic = world.ride_topic().to_owned();
        let producer = ride_promo::kafka::producer(&config);
        // Exactly what ingest reads with, so that the same is asked of the broker.
        let consumer = ride_promo::kafka::consumer(&config, 8_192);

        eprintln!("{share} %: producing {} rides ...", mix.rides);
        let (produce, by_participants) = {
            let topic = topic.clone();
            blocking(move || input::produce(&producer, &topic, mix)).await?
        };
        let mut drain = Vec::new();
        let mut parse = Vec::new();
        let mut apply = Vec::new();
        let mut runs = Vec::new();
        for run in 1..=arguments.runs {
            eprintln!("{share} %: run {run}, floors ...");
            let read = {
                let (consumer, topic) = (consumer.clone(), topic.clone());
                blocking(move || {
                    let drain = floors::drain(&consumer, &topic, mix.rides, |_| Ok(()))?;
                    let parse = floors::drain_and_parse(&consumer, &topic, mix.rides)?;
                    let rides = floors::rides_of_participants(
                        &consumer,
                        &topic,
                        mix.rides,
                        mix.participants,
                    )?;
                    Ok((drain, parse, rides))
                })
                .await?
            };
            drain.push(read.0);
            parse.push(read.1);
            let url = self.fresh_database().await?;
            apply.push(floors::apply(&url, read.2).await?);
            eprintln!("{share} %: run {run}, service ...");
            let url = self.fresh_database().await?;
            let group = format!("{}-{run}", world.group_id());
            runs.push(
                backlog::run(
                    &world,
                    &arguments.settings,
                    &group,
                    &url,
                    mix.rides,
                    by_participants,
                )
                .await?,
            );
        }
        Ok(Backlog {
            share,
            rides: mix.rides,
            floors: Floors {
                produce,
                drain: median(drain),
                parse: median(parse),
                apply: median(apply),
            },
            runs,
        })
    }
}

/// Off the async threads: librdkafka's calls block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}
