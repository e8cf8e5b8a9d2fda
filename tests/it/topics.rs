//! A topic that is not the one of the positions, or has lost the records they point to: ingest and expiry stop and report
//! it, and `positions set` lets them continue.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

async fn started(world: &World) -> Challenges {
    let challenges = Challenges::new(world, &conditions(100)).await;
    challenges.start_an_hour_ago(&[1]).await;
    challenges
}

async fn counted(challenges: &Challenges, rides: i32) {
    eventually(LIMIT, || async {
        equal(challenges.standing(1).await.rides_completed, rides)
    })
    .await;
}

/// Ingest says in `/readyz`, in its metric and in the log why it stopped.
async fn stops(service: &Service, why: &str) {
    eventually(LIMIT, || async {
        let answer = service.readiness().await.ok_or("no answer")?;
        // The sweeper says so of itself, maybe earlier.
        let stopped = service
            .metrics()
            .await
            .sum("ride_promo_ingest_stopped", &[]);
        if answer.status == 503 && answer.text.contains(why) && stopped > 0.0 {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    assert!(
        service
            .log()
            .contains("ingest is stopped until an operator decides")
    );
}

async fn set_positions(world: &World, which: &[&str], to: &str) {
    let arguments = [
        &[
            "positions",
            "set",
            "--to",
            to,
            "--reason",
            "the test decided",
        ],
        which,
    ]
    .concat();
    // Who has stopped leaves the group a moment later.
    eventually(LIMIT, || async {
        let set = world.command(&arguments).run().await;
        if set.status.success() {
            Ok(())
        } else {
            Err(format!("{set:?}"))
        }
    })
    .await;
}

fn worker(world: &World) -> ServiceBuilder {
    world.service().roles("ingest,relay,sweep").lateness("PT0S")
}

/// How often ingest looks at the topic whether or not there are rides.
const CHECK_INTERVAL: &str = "RIDE_PROMO__INGEST__IDENTITY_CHECK_INTERVAL";

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_created_again_stops_ingest_and_expiry_until_positions_are_set() {
    let world = World::new().await;
    let challenges = started(&world).await;
    // No look comes in time: what was read has to be held against the topic before it is taken.
    let service = worker(&world).env(CHECK_INTERVAL, "PT1H").start().await;
    let early = ride(1);
    for record in [&early, &ride(1), &ride(1)] {
        world.publish(&Outgoing::ride(record).partition(0)).await;
    }
    counted(&challenges, 3).await;

    world.kafka().delete_topic(world.ride_topic()).await;
    world.create_ride_topic().await;
    // Two unread ones are before the old position, two after.
    for record in [&early, &ride(1), &ride(1), &ride(1)] {
        world.publish(&Outgoing::ride(record).partition(0)).await;
    }
    stops(&service, "created again").await;
    assert_eq!(
        challenges.standing(1).await.rides_completed,
        3,
        "not one of another topic was taken"
    );
    // Overdue, but it is not proven that all rides were read.
    let overdue = Challenges::new(&world, &conditions(1)).await;
    overdue
        .start(
            &[2],
            now() - TimeDelta::hours(1),
            now() - TimeDelta::seconds(1),
        )
        .await;
    // The second round from now has begun after the challenge was there.
    let refusals = || {
        let log = service.log();
        let refusals = log.matches("nothing expires: the position of partition");
        refusals.count()
    };
    let before = refusals();
    eventually(LIMIT, || async {
        if refusals() < before + 2 {
            return Err(format!("{} refusals", refusals() - before));
        }
        Ok(())
    })
    .await;
    let readiness = service.readiness().await.expect("it answers").json();
    let sweep = readiness["roles"]["sweep"].as_str().expect("a text");
    assert!(sweep.contains("nothing expires"), "{readiness}");
    assert_eq!(overdue.standing(2).await.status, "IN_PROGRESS");

    set_positions(&world, &["--all"], "beginning").await;
    counted(&challenges, 6).await;
    eventually(LIMIT, || async {
        equal(overdue.standing(2).await.status, "EXPIRED".to_owned())
    })
    .await;
    service.wait_ready().await;
    let audited: serde_json::Value = sqlx::query_scalar(
        "select after from admin_audit where call = 'positions set' order by audit_id limit 1",
    )
    .fetch_one(world.pool())
    .await
    .expect("it was audited");
    assert_eq!(audited["reason"], json!("the test decided"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_is_noticed_when_there_is_nothing_to_read_from_it() {
    let world = World::new().await;
    let challenges = started(&world).await;
    let service = worker(&world).env(CHECK_INTERVAL, "PT0.5S").start().await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    counted(&challenges, 1).await;

    world.kafka().delete_topic(world.ride_topic()).await;
    world.create_ride_topic().await;
    // Its end is where the old position is.
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    stops(&service, "created again").await;
    set_positions(&world, &["--all"], "beginning").await;
    counted(&challenges, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_end_or_before_the_start_of_its_log_stops_ingest() {
    let world = World::new().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    counted(&challenges, 1).await;
    assert!(service.sigterm_and_wait().await.success());

    sqlx::query("update consumer_position set next_offset = 1000 where partition = 0")
        .execute(world.pool())
        .await
        .expect("it is there");
    let service = worker(&world).spawn();
    stops(&service, "is not within its log").await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    set_positions(&world, &["--partition", "0"], "1").await;
    counted(&challenges, 2).await;
    service.wait_ready().await;
    assert!(service.sigterm_and_wait().await.success());

    // Retention was faster than we.
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    world.kafka().truncate(world.ride_topic(), 0, 3).await;
    let service = worker(&world).spawn();
    stops(&service, "is not within its log").await;
    set_positions(&world, &["--all"], "beginning").await;
    counted(&challenges, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_cannot_be_set_under_a_consumer_that_owns_them_nor_outside_the_log() {
    let world = World::new().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    counted(&challenges, 1).await;
    let set = |to: &'static str, reason: &'static str| {
        world
            .command(&[
                "positions",
                "set",
                "--partition",
                "0",
                "--to",
                to,
                "--reason",
                reason,
            ])
            .run()
    };
    let refused = set("beginning", "why not").await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(service.sigterm_and_wait().await.success());
    let outside = set("2", "too far").await;
    assert_eq!(outside.status.code(), Some(1), "{outside:?}");
    let before: i64 =
        sqlx::query_scalar("select next_offset from consumer_position where partition = 0")
            .fetch_one(world.pool())
            .await
            .unwrap();
    assert_eq!(before, 1);
    set("beginning", "read again").await.expect_success();
    let shown = world
        .command(&["positions", "show"])
        .run()
        .await
        .expect_success();
    assert!(
        shown.lines().count() > usize::try_from(world.partitions()).unwrap(),
        "{shown}"
    );
    // Read again, it counts no more than before.
    let _service = worker(&world).start().await;
    world.publish(&Outgoing::ride(&ride(1)).partition(0)).await;
    counted(&challenges, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_all_positions_forgets_those_of_partitions_that_are_gone_or_does_nothing() {
    let world = World::new().await;
    sqlx::raw_sql(
        "insert into consumer_position (topic, partition, cluster_id, topic_id, next_offset)
         values ('other', 99, 'c', 't', 7);
         create function refuse() returns trigger language plpgsql as $$ begin raise 'not now'; end $$;
         create trigger refuse before delete on consumer_position for each row execute function refuse()",
    )
    .execute(world.pool())
    .await
    .unwrap();
    sqlx::query("update consumer_position set topic = $1")
        .bind(world.ride_topic())
        .execute(world.pool())
        .await
        .unwrap();
    let set = async || {
        let command = [
            "positions",
            "set",
            "--all",
            "--to",
            "end",
            "--reason",
            "why",
        ];
        world.command(&command).run().await
    };
    let state = async || -> (Vec<i32>, Vec<serde_json::Value>) {
        let partitions =
            "select coalesce(array_agg(partition order by partition), '{}') from consumer_position";
        let audited = "select after from admin_audit order by audit_id";
        (
            sqlx::query_scalar(partitions)
                .fetch_one(world.pool())
                .await
                .unwrap(),
            sqlx::query_scalar(audited)
                .fetch_all(world.pool())
                .await
                .unwrap(),
        )
    };
    let failed = set().await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(state().await, (vec![99], vec![]), "nothing was set");

    sqlx::raw_sql("drop trigger refuse on consumer_position")
        .execute(world.pool())
        .await
        .unwrap();
    set().await.expect_success();
    let (partitions, audited) = state().await;
    assert_eq!(partitions, Vec::from_iter(0..world.partitions()));
    assert_eq!(audited.len(), partitions.len() + 1);
    assert_eq!(
        audited.last().unwrap(),
        &json!({ "topic": world.ride_topic(), "partition": 99, "next_offset": null, "reason": "why" })
    );
}
