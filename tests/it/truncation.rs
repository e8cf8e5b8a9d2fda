//! Kafka loses the tail of a partition's log and gives its offsets to other records: ingest and expiry stop in every
//! process, across restarts, until an operator decides, and read nothing past it.

use std::time::Duration;

use chrono::TimeDelta;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// What was applied before the tail was lost, and where the log was cut back to.
const APPLIED: i32 = 30;
const CUT_AT: i64 = 20;

async fn started(world: &World) -> Challenges {
    let challenges = Challenges::new(world, &conditions(10_000)).await;
    challenges.start_an_hour_ago(&[1]).await;
    challenges
}

fn worker(world: &World) -> ServiceBuilder {
    world
        .service()
        .roles("ingest,relay,sweep")
        .lateness("PT0S")
        .env("RIDE_PROMO__INGEST__IDENTITY_CHECK_INTERVAL", "PT0.5S")
}

async fn counted(challenges: &Challenges, rides: i32) {
    eventually(LIMIT, || async {
        equal(challenges.standing(1).await.rides_completed, rides)
    })
    .await;
}

/// One by one, so that each is a batch of its own and the log can be cut between any two.
async fn apply_some(world: &World, challenges: &Challenges, partitions: &[i32]) {
    for _ in 0..APPLIED {
        for partition in partitions {
            let record = Outgoing::ride(&ride(1)).partition(*partition);
            world.publish(&record).await;
        }
    }
    let rides = APPLIED * i32::try_from(partitions.len()).unwrap();
    counted(challenges, rides).await;
}

/// The broker dies, loses the tail of these partitions, and comes back.
async fn lose_the_tail(world: &World, partitions: &[i32]) {
    world.kafka().kill().await;
    for partition in partitions {
        world
            .kafka()
            .cut_log(world.ride_topic(), *partition, CUT_AT);
    }
    world.kafka().start().await;
}

/// From a new producer: the broker has forgotten what the old one had sent.
async fn publish_after(world: &World, partition: i32, rides: i32) {
    let producer = world.kafka().producer();
    for _ in 0..rides {
        let record = Outgoing::ride(&ride(1)).partition(partition);
        producer
            .send(record.to(world.ride_topic()), LIMIT)
            .await
            .unwrap_or_else(|(error, _)| panic!("not published: {error}"));
    }
}

/// `/readyz` says of both roles why they stopped.
async fn both_stop(service: &Service, why: &str) {
    eventually(LIMIT, || async {
        let answer = service.readiness().await.ok_or("no answer")?;
        let json = answer.json();
        let says = |role: &str| {
            let text = json["roles"][role].as_str().unwrap_or_default();
            text.contains(why)
        };
        if answer.status == 503 && says("ingest") && says("sweep") {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    let metrics = service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_ingest_stopped", &[]), 1.0);
}

/// Stays so for several of the rounds in which the two look whether they may go on.
async fn stays_stopped(service: &Service, challenges: &Challenges, rides: i32) {
    tokio::time::sleep(Duration::from_secs(4)).await;
    both_stop(service, "operator").await;
    assert_eq!(
        challenges.standing(1).await.rides_completed,
        rides,
        "nothing is read past it"
    );
}

/// The line of each partition.
async fn shown(world: &World) -> Vec<String> {
    let shown = world
        .command(&["positions", "show"])
        .run()
        .await
        .expect_success();
    let partitions = usize::try_from(world.partitions()).unwrap();
    let lines = shown.lines().skip(2).take(partitions);
    lines.map(str::to_owned).collect()
}

async fn set_position(world: &World, partition: &str, to: &str) {
    eventually(LIMIT, || async {
        let arguments = [
            "positions",
            "set",
            "--partition",
            partition,
            "--to",
            to,
            "--reason",
            "the test decided",
        ];
        let set = world.command(&arguments).run().await;
        if set.status.success() {
            Ok(())
        } else {
            Err(format!("{set:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_stops_ingest_and_expiry_though_the_log_has_outgrown_the_position() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).partitions(2).build().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    apply_some(&world, &challenges, &[0]).await;
    assert!(service.sigterm_and_wait().await.success());

    lose_the_tail(&world, &[0]).await;
    publish_after(&world, 0, 40).await;
    let overdue = Challenges::new(&world, &conditions(1)).await;
    overdue
        .start(
            &[2],
            now() - TimeDelta::hours(1),
            now() - TimeDelta::seconds(1),
        )
        .await;
    let service = worker(&world).spawn();
    both_stop(&service, "partition 0").await;
    // A second process takes the partitions of the first, and stops like it.
    let second = worker(&world).spawn();
    both_stop(&second, "partition 0").await;
    stays_stopped(&service, &challenges, APPLIED).await;
    assert_eq!(overdue.standing(2).await.status, "IN_PROGRESS");
    let lines = shown(&world).await;
    assert!(lines[0].contains("STOPPED: "), "{lines:?}");
    assert!(lines[1].ends_with(" ok"), "{lines:?}");
    // Not even a process of the release before, which knows nothing of a stop, gets past it.
    let advanced = sqlx::query(
        "update consumer_position set next_offset = next_offset + 1 where partition = 0",
    )
    .execute(world.pool())
    .await;
    assert!(advanced.is_err(), "{advanced:?}");
    assert!(second.sigterm_and_wait().await.success());
    assert!(service.sigterm_and_wait().await.success());

    let service = worker(&world).spawn();
    both_stop(&service, "partition 0").await;
    let doctor = world.command(&["doctor"]).run().await;
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    assert!(
        doctor.stdout.contains("FAIL  positions: partition 0"),
        "{doctor:?}"
    );
    set_position(&world, "0", "20").await;
    counted(&challenges, APPLIED + 40).await;
    eventually(LIMIT, || async {
        equal(overdue.standing(2).await.status, "EXPIRED".to_owned())
    })
    .await;
    service.wait_ready().await;
    assert!(shown(&world).await.iter().all(|line| line.ends_with(" ok")));
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_lost_while_reading_stops_it_for_good_also_once_the_log_has_grown_past() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).partitions(1).build().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    apply_some(&world, &challenges, &[0]).await;

    lose_the_tail(&world, &[0]).await;
    both_stop(&service, "operator").await;
    publish_after(&world, 0, 40).await;
    stays_stopped(&service, &challenges, APPLIED).await;
    assert!(service.sigterm_and_wait().await.success());
    let service = worker(&world).spawn();
    both_stop(&service, "operator").await;
    stays_stopped(&service, &challenges, APPLIED).await;
    set_position(&world, "0", "20").await;
    counted(&challenges, APPLIED + 40).await;
    service.wait_ready().await;
}

/// Each of the two traces alone is enough: the leader epoch, and the record before the position.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_epoch_or_the_record_before_the_position_tells_that_a_tail_was_lost() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).partitions(3).build().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    apply_some(&world, &challenges, &[0, 1, 2]).await;
    assert!(service.sigterm_and_wait().await.success());
    world
        .execute(
            "update consumer_position set record_offset = null, record_fingerprint = null where partition = 0;
             update consumer_position set leader_epoch = null where partition = 1;",
        )
        .await;
    lose_the_tail(&world, &[0, 1]).await;
    for partition in [0, 1] {
        publish_after(&world, partition, 40).await;
    }
    let service = worker(&world).spawn();
    both_stop(&service, "operator").await;
    eventually(LIMIT, || async {
        let lines = shown(&world).await;
        let stopped: Vec<bool> = lines
            .iter()
            .map(|line| line.contains("STOPPED: "))
            .collect();
        equal(stopped, vec![true, true, false])
    })
    .await;
    for partition in ["0", "1"] {
        set_position(&world, partition, "20").await;
    }
    counted(&challenges, 3 * APPLIED + 2 * 40).await;
}

/// A broker that dies and comes back with its whole log is no reason to stop, nor is a position that
/// a process of the release before has moved, which leaves no traces of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_with_the_whole_log_or_traces_that_are_out_of_date_stop_nothing() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).partitions(2).build().await;
    let challenges = started(&world).await;
    let service = worker(&world).start().await;
    apply_some(&world, &challenges, &[0]).await;
    world.kafka().restart_immediate().await;
    publish_after(&world, 0, 5).await;
    counted(&challenges, APPLIED + 5).await;
    assert!(service.sigterm_and_wait().await.success());

    world.kafka().restart_immediate().await;
    publish_after(&world, 0, 3).await;
    // As the release before moves it, past records of a later epoch.
    world
        .execute("update consumer_position set next_offset = 37, updated_at = clock_ms() where partition = 0")
        .await;
    let service = worker(&world).start().await;
    counted(&challenges, APPLIED + 5 + 1).await;
    // A transaction ends with a marker, which is not a record.
    let transaction = vec![Outgoing::ride(&ride(1)).partition(0)];
    let _producer = world
        .publish_in_transaction(transaction, TransactionEnd::Commit)
        .await;
    counted(&challenges, APPLIED + 5 + 2).await;
    world.rides_are_applied().await;
    assert!(service.sigterm_and_wait().await.success());
    world.kafka().restart_immediate().await;
    let service = worker(&world).start().await;
    publish_after(&world, 0, 1).await;
    counted(&challenges, APPLIED + 5 + 3).await;
    // Where an operator of the release before has decided, what was known of the log is void.
    assert!(service.sigterm_and_wait().await.success());
    world
        .execute(
            "update consumer_position set next_offset = 3, generation = generation + 1, updated_at = clock_ms()
              where partition = 0",
        )
        .await;
    let known = world
        .count("select count(record_offset) + count(leader_epoch) from consumer_position where partition = 0")
        .await;
    assert_eq!(known, 0);
    let _service = worker(&world).start().await;
    publish_after(&world, 0, 1).await;
    // Read again from there: also the two that were skipped above count now.
    counted(&challenges, APPLIED + 5 + 4 + 2).await;
}
