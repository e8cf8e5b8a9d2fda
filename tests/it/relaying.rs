//! Status events: in order per participation, whichever relay publishes them and whichever was suspended.

use std::time::Duration;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

async fn started(world: &World, users: i64) -> (Challenges, Vec<i64>) {
    let challenges = Challenges::new(world, &conditions(10_000)).await;
    let users: Vec<i64> = (1..=users).collect();
    challenges.start_an_hour_ago(&users).await;
    (challenges, users)
}

async fn newest_is_published(world: &World, challenges: &Challenges, rides: i32) {
    eventually(LIMIT, || async {
        let standings = challenges.standings().await;
        if standings
            .iter()
            .any(|standing| standing.rides_completed != rides)
        {
            return Err("not all applied".to_owned());
        }
        let newest = last_by_key(world.read_status_topic().await);
        let expected: Vec<i64> = standings
            .iter()
            .map(|standing| i64::from(standing.version))
            .collect();
        let published: Vec<i64> = standings
            .iter()
            .filter_map(|standing| {
                newest.get(&format!("{}:{}", standing.user_id, challenges.promotion_id))
            })
            .map(StatusRecord::version)
            .collect();
        equal(published, expected)
    })
    .await;
}

/// With the broker frozen, a relay that has read events sits between reading and publishing them,
/// which is where it falls asleep here.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_wakes_up_after_its_successor_published_changes_nothing() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    let _ingest = world.service().roles("ingest").start().await;
    let sleeper = world
        .service()
        .roles("relay")
        .env("RIDE_PROMO__RELAY__POLL_INTERVAL", "PT0.1S")
        .start()
        .await;
    kafka.freeze();
    let (challenges, users) = started(&world, 40).await;
    let transactions = || async {
        let query = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'ride-promo/% relay'
                     and state = 'idle' and query like '%promotion_key%' and state_change < clock_timestamp() - interval '1 s'";
        let waiting: i64 = sqlx::query_scalar(query)
            .fetch_one(world.pool())
            .await
            .expect("answers");
        // A relay that found nothing asks again soon: these have read events.
        if waiting > 0 {
            Ok(())
        } else {
            Err("none is waiting")
        }
    };
    eventually(LIMIT, transactions).await;
    sleeper.sigstop();
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like 'ride-promo/% relay'")
        .execute(world.pool())
        .await
        .expect("the test is a superuser");
    kafka.thaw();

    let _successor = world.service().roles("relay").start().await;
    world
        .publish_all(users.iter().map(|user| Outgoing::ride(&ride(*user))))
        .await;
    newest_is_published(&world, &challenges, 1).await;
    sleeper.sigcont();
    eventually(LIMIT, || async {
        if sleeper.log().contains("relaying failed") {
            Ok(())
        } else {
            Err(sleeper.log())
        }
    })
    .await;
    // Whether its last events were published or not, no old event came last.
    assert_contiguous(world.read_status_topic().await);
    // It tries again, and finds the shards taken.
    world
        .publish_all(users.iter().map(|user| Outgoing::ride(&ride(*user))))
        .await;
    newest_is_published(&world, &challenges, 2).await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_relays_one_killed_again_and_again_keep_the_order() {
    let world = World::new().await;
    let (challenges, users) = started(&world, 40).await;
    let _steady = world
        .service()
        .roles("ingest,relay")
        .env("RIDE_PROMO__RELAY__BATCH_MAX", 10)
        .start()
        .await;
    let mut rides = 0;
    for round in 0..4 {
        let victim = world
            .service()
            .roles("relay")
            .env("RIDE_PROMO__RELAY__BATCH_MAX", 10)
            .start()
            .await;
        for _ in 0..10 {
            world
                .publish_all(users.iter().map(|user| Outgoing::ride(&ride(*user))))
                .await;
            rides += 1;
        }
        tokio::time::sleep(Duration::from_millis(40 * round)).await;
        victim.sigkill().await;
    }
    newest_is_published(&world, &challenges, rides).await;
    assert_contiguous(world.read_status_topic().await);
}
