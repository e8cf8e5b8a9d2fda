//! Everything a test needs: started once, and cleaned up also after a failure.
//!
//! ```ignore
//! let world = World::new().await;                        // a database and topics of its own
//! let service = world.service().lateness("PT1S").start().await; // the real binary, ready
//! let promotion = service.admin().open_promotion(&conditions(3)).await;
//! let (client, _) = service.started_client(48151, &promotion).await;
//! world.publish_ride(&ride(48151)).await;
//! eventually(Duration::from_secs(10), || async {
//!     equal(client.progress(promotion.id).await.expect(200)["rides_completed"].clone(), json!(1))
//! })
//! .await;
//! ```
//!
//! All tests share one broker and one cluster ([`Kafka::shared`], [`Postgres::shared`]), which
//! start with the first test that needs them. A test that stops, crashes or freezes a server brings
//! its own ([`Kafka::start_private`], [`Postgres::start_private`]).
//!
//! Nothing here sleeps to let something happen: what takes time is waited for with [`eventually`],
//! within a bound.

mod authority;
mod browser;
mod challenges;
mod collector;
mod guide;
mod http;
mod issuer;
mod kafka;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
mod service;
mod sse;
mod trips;
mod wait;
mod world;

pub use self::{
    authority::Authority,
    browser::{Journey, node},
    challenges::{Challenges, End, Standing, budget_in_use, end_by_force},
    collector::{Collector, Span},
    guide::{Shell, block, blocks},
    http::{
        Admin, Answer, Api, Client, Promotion, SECRET, admin_token, client_claims, client_token,
        conditions, token, unix_seconds,
    },
    issuer::{Issuer, SigningKey, key_set},
    kafka::{KAFKA_PASSWORD, KAFKA_USER, Kafka, Outgoing, Record, TransactionEnd},
    pgbouncer::PgBouncer,
    postgres::{Postgres, url},
    process::{Port, Process, Signal, new_dir, tail},
    proxy::{Cut, FaultProxy},
    service::{Cli, Output, Service, ServiceBuilder},
    sse::{SseItem, SseStream},
    trips::{Rules, Trip, Trips, Window, fares, recount},
    wait::{equal, eventually},
    world::{
        StatusRecord, World, assert_contiguous, by_key, instant, last_by_key, now, ride, ride_at,
        schema_version, waiting_for_a_lock,
    },
};
