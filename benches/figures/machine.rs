//! What the figures were measured on.

use std::fs::read_to_string;

use anyhow::{Context as _, Result};
use sqlx::{Connection as _, PgConnection};

use crate::harness::Postgres;

/// What differs from the defaults of Postgres; all durable settings are on.
pub const POSTGRES_SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("track_io_timing", "off"),
];

/// Name and value of each fact.
pub async fn facts(postgres: &Postgres) -> Result<Vec<(&'static str, String)>> {
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await?;
    let postgres_version: String = sqlx::query_scalar("show server_version")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    let settings = POSTGRES_SETTINGS.map(|(name, value)| format!("{name} = {value}"));
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    Ok(vec![
        ("Processor", field("/proc/cpuinfo", "model name")?),
        ("Cores", std::thread::available_parallelism()?.to_string()),
        ("Memory", gigabytes(&field("/proc/meminfo", "MemTotal")?)?),
        ("Kernel", kernel()?),
        (
            "PostgreSQL",
            format!(
                "{postgres_version}, {}, otherwise its defaults",
                settings.join(", ")
            ),
        ),
        (
            "Apache Kafka",
            format!("{}, one node, 12 partitions a topic", kafka_version()?),
        ),
        (
            "rdkafka",
            format!("{}, librdkafka {librdkafka}", locked_version("rdkafka")?),
        ),
        (
            "ride-promo",
            format!("{}, release build", env!("CARGO_PKG_VERSION")),
        ),
    ])
}

/// The first value of a name in one of the kernel's lists.
fn field(file: &str, name: &str) -> Result<String> {
    let text = read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_once(':'));
    Ok(value
        .with_context(|| format!("no {name} in {file}"))?
        .1
        .trim()
        .to_owned())
}

fn gigabytes(kilobytes: &str) -> Result<String> {
    let number: f64 = kilobytes.trim_end_matches(" kB").parse()?;
    Ok(format!("{:.0} GiB", number / 1_048_576.0))
}

/// The version without what a distribution or a host adds to it.
fn kernel() -> Result<String> {
    let release = read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "Linux {}",
        release.trim().split('-').next().unwrap_or_default()
    ))
}

fn kafka_version() -> Result<&'static str> {
    let pom = include_str!("../../tests/kafka/pom.xml");
    let version = pom
        .split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once('<'));
    Ok(version.context("no version in the pom")?.0)
}

fn locked_version(name: &str) -> Result<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let package = format!("name = \"{name}\"\nversion = \"");
    let version = lock
        .split_once(&package)
        .and_then(|(_, rest)| rest.split_once('"'));
    Ok(version
        .with_context(|| format!("{name} is not in Cargo.lock"))?
        .0)
}
