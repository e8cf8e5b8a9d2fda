//! Servers that are unavailable for a time, at the start and later: nothing is lost, nothing happens twice, and the
//! service needs no restart.

use std::time::Duration;

use chrono::TimeDelta;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// What a session of ingest calls itself.
const INGEST: &str = concat!("ride-promo/", env!("CARGO_PKG_VERSION"), " ingest");

const USERS: std::ops::RangeInclusive<i64> = 1..=20;

async fn started(world: &World) -> Challenges {
    let challenges = Challenges::new(world, &conditions(10_000)).await;
    let users: Vec<i64> = USERS.collect();
    challenges.start_an_hour_ago(&users).await;
    challenges
}

fn one_ride_each() -> impl Iterator<Item = Outgoing> {
    USERS.map(|user| Outgoing::ride(&ride(user)))
}

/// All counted, each once, and published without a gap.
async fn everybody_has(world: &World, challenges: &Challenges, rides: i32) {
    eventually(LIMIT, || async {
        let standings = challenges.standings().await;
        equal(
            standings
                .iter()
                .map(|standing| standing.rides_completed)
                .min(),
            Some(rides),
        )
    })
    .await;
    for standing in challenges.standings().await {
        assert_eq!(
            (standing.rides_completed, standing.counted),
            (rides, i64::from(rides)),
            "{standing:?}"
        );
    }
    eventually(LIMIT, || async {
        let newest = last_by_key(world.read_status_topic().await);
        let oldest = newest
            .values()
            .map(|record| record.event["rides_completed"].as_i64())
            .min();
        equal(
            (newest.len(), oldest),
            (USERS.count(), Some(Some(i64::from(rides)))),
        )
    })
    .await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_postgres_restarted_in_the_middle_lose_and_repeat_nothing() {
    let kafka = Kafka::start_private().await;
    let postgres = Postgres::start_private().await;
    let world = World::builder()
        .kafka(&kafka)
        .postgres(&postgres)
        .build()
        .await;
    let challenges = started(&world).await;
    let service = world.service().roles("ingest,relay,sweep").start().await;
    let mut published = 0;
    for round in 0..3 {
        for _ in 0..20 {
            world.publish_all(one_ride_each()).await;
            published += 1;
        }
        match round {
            0 => postgres.restart_immediate().await,
            1 => kafka.restart_immediate().await,
            _ => kafka.restart().await,
        }
        world.publish_all(one_ride_each()).await;
        published += 1;
        everybody_has(&world, &challenges, published).await;
    }
    service.wait_ready().await;
    assert!(service.sigterm_and_wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_found_and_not_repeated() {
    let world = World::new().await;
    let challenges = started(&world).await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world
        .service()
        .roles("ingest,relay")
        .through(&proxy, &world)
        .start()
        .await;
    world.publish_all(one_ride_each()).await;
    everybody_has(&world, &challenges, 1).await;
    let lost = proxy.lose_commit_answers(Some(INGEST), 3);
    for rides in 2..6 {
        world.publish_all(one_ride_each()).await;
        everybody_has(&world, &challenges, rides).await;
    }
    assert_eq!(lost.fired(), 3);
    // And one that never arrived is made again.
    let never = proxy.arm(Cut::Request, "COMMIT\0", Some(INGEST), 2);
    for rides in 6..9 {
        world.publish_all(one_ride_each()).await;
        everybody_has(&world, &challenges, rides).await;
    }
    assert_eq!(never.fired(), 2);
    let metrics = service.metrics().await;
    assert!(metrics.sum("ride_promo_ingest_fenced_batches_total", &[]) >= 1.0);
}

/// Rewards need no Kafka, challenges do.
#[tokio::test(flavor = "multi_thread")]
async fn rewards_expire_in_time_where_kafka_is_away_at_start() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    let challenges = Challenges::new(&world, &conditions(1)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    let overdue = now() - TimeDelta::minutes(1);
    challenges
        .start(&[3], overdue - TimeDelta::minutes(1), overdue)
        .await;
    end_by_force(&world, 1, challenges.promotion_id, End::TooLate).await;
    kafka.stop().await;
    let service = world
        .service()
        .roles("ingest,relay,sweep")
        .lateness("PT0S")
        .spawn();
    let expires = async |user_id: i64| {
        eventually(LIMIT, || async {
            equal(
                challenges.standing(user_id).await.status,
                "EXPIRED".to_owned(),
            )
        })
        .await;
    };
    expires(1).await;
    end_by_force(&world, 2, challenges.promotion_id, End::TooLate).await;
    expires(2).await;
    let late = world
        .count(
            "select (extract(epoch from expired_at - reward_deadline) * 1000)::bigint
               from promotion_user where user_id = 2",
        )
        .await;
    assert!((0..5_000).contains(&late), "{late} ms");
    eventually(LIMIT, || async {
        match service.readiness().await {
            Some(answer) if answer.text.contains(&kafka.brokers()) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(challenges.standing(3).await.status, "IN_PROGRESS");

    kafka.start().await;
    service.wait_ready().await;
    expires(3).await;
    world.events_are_published().await;
    for user_id in 1..=3 {
        let events = world.status_of(user_id, challenges.promotion_id).await;
        let last = events.last().map(StatusRecord::kind);
        assert_eq!(last, Some("promotion.expired"), "{user_id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_away_at_start_are_named_and_waited_for() {
    let kafka = Kafka::start_private().await;
    let postgres = Postgres::start_private().await;
    let world = World::builder()
        .kafka(&kafka)
        .postgres(&postgres)
        .build()
        .await;
    let challenges = started(&world).await;
    kafka.stop().await;
    postgres.stop().await;
    let service = world.service().roles("ingest,relay,sweep").spawn();
    let says = |name: &'static str, address: String| {
        let service = &service;
        eventually(LIMIT, move || {
            let address = address.clone();
            async move {
                match service.readiness().await {
                    Some(answer)
                        if answer.status == 503
                            && answer.text.contains(name)
                            && answer.text.contains(&address) =>
                    {
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                }
            }
        })
    };
    says(
        "Postgres",
        postgres
            .address()
            .rsplit(':')
            .next()
            .expect("host:port")
            .to_owned(),
    )
    .await;
    postgres.start().await;
    says("Kafka", kafka.brokers()).await;
    kafka.start().await;
    service.wait_ready().await;
    world.publish_all(one_ride_each()).await;
    everybody_has(&world, &challenges, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_does_not_take_at_once_it_gets_in_parts_and_a_ride_that_stops_all_is_named() {
    let world = World::builder().partitions(1).build().await;
    let challenges = started(&world).await;
    for _ in 0..20 {
        world.publish_all(one_ride_each()).await;
    }
    // What is nothing keeps it no company.
    for _ in 0..3 {
        let tombstone = Outgoing {
            value: None,
            ..Outgoing::ride(&ride(1))
        };
        world.publish(&tombstone).await;
    }
    let refused = ride(1);
    world.publish_ride(&refused).await;
    world.publish_all(one_ride_each()).await;
    let ride_id = refused["ride_id"].as_str().expect("a text");
    world
        .execute(&format!(
            "create function refuse() returns trigger language plpgsql as $$ begin
                 if (select count(*) from fresh) > 10 then raise exception 'more than ten at once'; end if;
                 if exists (select from fresh where ride_id = '{ride_id}') then raise exception 'not this one'; end if;
                 return null;
             end $$;
             create trigger refuse after insert on ride_receipt referencing new table as fresh
                 for each statement execute function refuse();"
        ))
        .await;

    let service = world.service().spawn();
    let named = format!("ride {ride_id} of user 1 cannot be applied: ");
    eventually(LIMIT, || async {
        match service.readiness().await {
            Some(answer) if answer.text.contains(&named) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(service.log().contains("not this one"), "{}", service.log());
    // What came before it is in, what comes after it waits: going on would lose it.
    for standing in challenges.standings().await {
        assert_eq!(standing.rides_completed, 20, "{standing:?}");
    }

    world.execute("drop trigger refuse on ride_receipt").await;
    world.rides_are_applied().await;
    service.wait_ready().await;
    for standing in challenges.standings().await {
        let rides = if standing.user_id == 1 { 22 } else { 21 };
        assert_eq!(
            (standing.rides_completed, standing.counted),
            (rides, i64::from(rides)),
            "{standing:?}"
        );
    }
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_stands_still_the_partitions_are_kept_and_memory_does_not_grow() {
    /// The group takes the partitions from who has not polled for so long.
    const POLL_EVERY: Duration = Duration::from_secs(6);
    const MIB: f64 = 1024.0 * 1024.0;
    let world = World::new().await;
    let challenges = started(&world).await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world
        .service()
        .roles("ingest,relay")
        .through(&proxy, &world)
        .config_toml(&format!(
            "[kafka.properties]\n\"max.poll.interval.ms\" = \"{0}\"\n\"session.timeout.ms\" = \"{0}\"\n",
            POLL_EVERY.as_millis()
        ))
        .start()
        .await;
    let memory = async || {
        let metrics = service.metrics().await;
        metrics.sum("process_resident_memory_bytes", &[]) / MIB
    };
    world.publish_all(one_ride_each()).await;
    everybody_has(&world, &challenges, 1).await;

    proxy.pause();
    let before = memory().await;
    // 120 MiB of strangers' rides, and after them one of everybody's.
    let mut stranger = ride(1_000);
    stranger["note"] = "x".repeat(2_000).into();
    let stranger = Outgoing::ride(&stranger);
    world
        .publish_all(std::iter::repeat_n(stranger, 60_000).chain(one_ride_each()))
        .await;
    tokio::time::sleep(POLL_EVERY + Duration::from_secs(2)).await;
    let grown = memory().await - before;
    assert!(grown < 60.0, "by {grown:.0} MiB");

    proxy.resume();
    everybody_has(&world, &challenges, 2).await;
    let log = service.log();
    assert_eq!(log.matches("partitions assigned").count(), 1, "{log}");
    assert!(!log.contains("partitions revoked"), "{log}");
}
