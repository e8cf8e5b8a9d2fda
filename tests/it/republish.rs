//! Publishing present states again: the same event, never an older version last, never too many at once.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

async fn republish(world: &World, arguments: &[&str]) -> String {
    let command = [&["republish"], arguments].concat();
    world.command(&command).run().await.expect_success()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_state_comes_again_with_the_event_id_and_version_it_had() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    // One who has started, one under way, one rewarded.
    for (user, rides) in [(1, 0), (2, 1), (3, 2)] {
        let (client, _) = service.started_client(user, &promotion).await;
        for _ in 0..rides {
            world.publish_ride(&ride(user)).await;
            world.rides_are_applied().await;
        }
        if rides == 2 {
            client.accept(promotion.id).await.expect(200);
        }
    }
    // And one of another promotion, as a release before 0.2.0 left it.
    let old = Challenges::new(&world, &conditions(5)).await;
    old.start_an_hour_ago(&[4]).await;
    world.events_are_published().await;
    let before = last_by_key(world.read_status_topic().await);

    let said = republish(&world, &["--promotion", &promotion.id.to_string()]).await;
    assert_eq!(
        said,
        "3 participations published again, 0 of them with a new version\n"
    );
    world.events_are_published().await;
    let records = by_key(world.read_status_topic().await);
    for (user, kinds) in [(1, 1), (2, 2), (3, 4)] {
        let key = format!("{user}:{}", promotion.id);
        let again = &records[&key];
        assert_eq!(again.len(), kinds + 1, "{key}");
        assert_eq!(again[kinds].event, before[&key].event, "{key}");
    }

    // Its event is not known, so it gets its next version; then it is known.
    let key = format!("4:{}", old.promotion_id);
    let said = republish(&world, &["--user", "4"]).await;
    assert_eq!(
        said,
        "1 participations published again, 1 of them with a new version\n"
    );
    world.events_are_published().await;
    let lifted = last_by_key(world.read_status_topic().await)[&key].clone();
    assert_eq!(
        (lifted.version(), lifted.kind()),
        (2, "promotion.progressed")
    );
    let said = Shell::new(&world)
        .run(&block("docs/operator-guide.md", "republish"))
        .await;
    assert_eq!(
        said,
        "4 participations published again, 0 of them with a new version\n"
    );
    world.events_are_published().await;
    let records = world.read_status_topic().await;
    assert_eq!(last_by_key(records.clone())[&key].event, lifted.event);
    assert_contiguous(records);

    let audit = service
        .admin()
        .api
        .get("/admin/v1/audit?limit=1")
        .await
        .expect(200);
    assert_eq!(audit["items"][0]["call"], "republish");
    assert_eq!(
        audit["items"][0]["after"],
        json!({ "all": true, "published": 4 })
    );
    assert_eq!(
        republish(&world, &["--user", "99"]).await,
        "0 participations published again, 0 of them with a new version\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_rides_and_relays_an_older_version_is_never_the_last() {
    const USERS: std::ops::RangeInclusive<i64> = 1..=30;
    let world = Arc::new(World::new().await);
    let challenges = Challenges::new(&world, &conditions(10_000)).await;
    challenges
        .start_an_hour_ago(&USERS.collect::<Vec<_>>())
        .await;
    let small = || world.service().env("RIDE_PROMO__RELAY__BATCH_MAX", 7);
    let _service = small().roles("ingest,relay").start().await;
    let _second = small().roles("ingest,relay").start().await;
    let rides = tokio::spawn({
        let world = world.clone();
        async move {
            for _ in 0..60 {
                world
                    .publish_all(USERS.map(|user| Outgoing::ride(&ride(user))))
                    .await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let of_it = challenges.promotion_id.to_string();
    let arguments = ["--promotion", &of_it];
    let mut runs = 0;
    while !rides.is_finished() || runs < 3 {
        let (one, other) =
            tokio::join!(republish(&world, &["--all"]), republish(&world, &arguments));
        assert!(
            one.starts_with("30 ") && other.starts_with("30 "),
            "{one}{other}"
        );
        runs += 1;
    }
    rides.await.expect("the rides were published");
    world.rides_are_applied().await;
    world.events_are_published().await;
    let records = world.read_status_topic().await;
    let newest = last_by_key(records.clone());
    for standing in challenges.standings().await {
        let key = format!("{}:{}", standing.user_id, challenges.promotion_id);
        assert_eq!(newest[&key].version(), i64::from(standing.version), "{key}");
        assert_eq!(newest[&key].event["rides_completed"], 60, "{key}");
    }
    assert_contiguous(records);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pauses_while_very_many_events_wait_to_be_published() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(5)).await;
    challenges.start_an_hour_ago(&[1]).await;
    world
        .execute(
            "insert into event_outbox (event_id, type, user_id, promotion_id, status, version, rides_completed, rides_target,
                                       started_at, challenge_deadline, reward, occurred_at)
             select gen_random_uuid(), type, user_id, promotion_id, status, version, rides_completed, rides_target, started_at,
                    challenge_deadline, reward, occurred_at
               from event_outbox, generate_series(1, 10000)",
        )
        .await;
    let waiting = "select count(*) from event_outbox";
    assert_eq!(world.count(waiting).await, 10_001);
    let run = tokio::spawn(world.command(&["republish", "--all"]).run());
    let begun = "select count(*) from admin_audit where call = 'republish'";
    eventually(LIMIT, || async { equal(world.count(begun).await, 1) }).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!run.is_finished());
    assert_eq!(world.count(waiting).await, 10_001);
    world
        .execute("delete from event_outbox where id = (select min(id) from event_outbox)")
        .await;
    run.await.expect("it ends").expect_success();
    assert_eq!(world.count(waiting).await, 10_001);
}
