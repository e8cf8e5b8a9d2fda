//! The service against a backlog: the real binary, started with the rides already there.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Service, World};
use crate::processes::{Cpu, Processes, peak_memory};

/// The longest a backlog may take.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// From the positions' beginning to the positions' end.
    pub took: Duration,
    /// Until the last event was published and deleted, too.
    pub published: Duration,
    /// Within `took`.
    pub cpu: Cpu,
    /// Of the worker, since it started, in bytes.
    pub peak_memory: u64,
}

/// Has a service work off the backlog of `world`'s topic into the database at `url`, and checks
/// what is there afterwards.
pub async fn run(
    world: &World,
    settings: &[(String, String)],
    group: &str,
    url: &str,
    rides: u64,
    by_participants: u64,
) -> Result<Run> {
    let mut connection = PgConnection::connect(url).await?;
    let builder = world
        .service()
        .roles("ingest,relay,sweep")
        .env("DATABASE_URL", url)
        .env("RIDE_PROMO__KAFKA__GROUP_ID", group);
    let builder = settings
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    let service = builder.spawn();
    let processes = Processes {
        worker: service.pid(),
        postgres: world.postgres().pid(),
        broker: world.kafka().pid(),
    };

    // Ingest is ready when it has found where each partition begins, and reads from that moment on.
    let (mut started, mut before) = (Instant::now(), processes.cpu()?);
    let waiting = Instant::now();
    while position(&mut connection).await?.is_none() {
        ensure!(
            waiting.elapsed() < TIMEOUT && service.is_running(),
            "not ready:\n{}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
        (started, before) = (Instant::now(), processes.cpu()?);
    }
    let expected = rides.cast_signed();
    while position(&mut connection).await? != Some(expected) {
        ensure!(
            started.elapsed() < TIMEOUT && service.is_running(),
            "not done:\n{}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    let cpu = processes.cpu()? - before;
    while scalar(
        &mut connection,
        "select count(*) from (select from event_outbox limit 1) event",
    )
    .await?
        > 0
    {
        ensure!(
            started.elapsed() < TIMEOUT && service.is_running(),
            "not published:\n{}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let published = started.elapsed();
    check(&mut connection, expected, by_participants.cast_signed()).await?;
    let peak_memory = peak_memory(processes.worker)?;
    end(service).await?;
    connection.close().await?;
    Ok(Run {
        took,
        published,
        cpu,
        peak_memory,
    })
}

async fn position(connection: &mut PgConnection) -> Result<Option<i64>> {
    let sum = "select sum(next_offset)::bigint from consumer_position";
    Ok(sqlx::query_scalar(sum).fetch_one(connection).await?)
}

async fn scalar(connection: &mut PgConnection, sql: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Every ride has had its one effect.
async fn check(connection: &mut PgConnection, rides: i64, by_participants: i64) -> Result<()> {
    let counts = [
        (
            "receipts",
            "select count(*) from ride_receipt where verdict = 'COUNTED'",
            by_participants,
        ),
        (
            "rejected rides",
            "select count(*) from ride_receipt where verdict <> 'COUNTED'",
            0,
        ),
        (
            "rides completed",
            "select sum(rides_completed)::bigint from promotion_user",
            by_participants,
        ),
        (
            "quarantined rides",
            "select count(*) from quarantined_ride",
            0,
        ),
        (
            "positions",
            "select sum(next_offset)::bigint from consumer_position",
            rides,
        ),
    ];
    for (what, sql, expected) in counts {
        let found = scalar(connection, sql).await?;
        ensure!(found == expected, "{found} {what} where {expected} are due");
    }
    Ok(())
}

async fn end(service: Service) -> Result<()> {
    let status = service.sigterm_and_wait().await;
    ensure!(status.success(), "the service ended with {status}");
    Ok(())
}
