//! Single partitions: paused and resumed across rebalances, stuck while others go on, added while no process ran.

use std::time::Duration;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

async fn started(world: &World) -> Challenges {
    let challenges = Challenges::new(world, &conditions(10_000)).await;
    challenges.start_an_hour_ago(&[1]).await;
    challenges
}

async fn counted(challenges: &Challenges, rides: i32) {
    eventually(LIMIT, || async {
        equal(challenges.standing(1).await.rides_completed, rides)
    })
    .await;
}

async fn owned(service: &Service) -> usize {
    let metrics = service.metrics().await;
    (0..6)
        .filter(|partition| {
            let label = partition.to_string();
            let labels = [("partition", label.as_str())];
            metrics.has("ride_promo_ingest_position", &labels)
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_paused_while_postgres_stands_are_read_again_whoever_comes_and_goes() {
    let world = World::builder().partitions(6).build().await;
    let challenges = started(&world).await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world
        .service()
        .roles("ingest,relay")
        .through(&proxy, &world)
        .env("RIDE_PROMO__INGEST__BATCH_MAX_RECORDS", "10")
        .start()
        .await;
    let one_each = || (0..6).map(|partition| Outgoing::ride(&ride(1)).partition(partition));
    world.publish_all(one_each()).await;
    counted(&challenges, 6).await;

    proxy.pause();
    for _ in 0..20 {
        world.publish_all(one_each()).await;
    }
    // Both batches are on their way and a third is full: the input is paused a second later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = world
        .service()
        .roles("ingest")
        .env("RIDE_PROMO__INGEST__BATCH_MAX_RECORDS", "10")
        .spawn();
    eventually(LIMIT, || async { equal(owned(&second).await, 3) }).await;
    proxy.resume();
    counted(&challenges, 6 * 21).await;
    eventually(LIMIT, || async { equal(owned(&service).await, 3) }).await;
    assert!(second.sigterm_and_wait().await.success());
    eventually(LIMIT, || async { equal(owned(&service).await, 6) }).await;
    for _ in 0..5 {
        world.publish_all(one_each()).await;
    }
    counted(&challenges, 6 * 26).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_does_not_move_is_named_while_the_others_do_and_gets_a_new_client() {
    let world = World::builder().partitions(2).build().await;
    let challenges = started(&world).await;
    let service = world
        .service()
        .roles("ingest,relay")
        .env("RIDE_PROMO__INGEST__IDENTITY_CHECK_INTERVAL", "PT0.2S")
        .env("RIDE_PROMO__INGEST__PROGRESS_TIMEOUT", "PT2S")
        .start()
        .await;
    // Rides are read committed: behind a transaction that stays open nothing can be read.
    let held = world
        .publish_in_transaction(
            vec![Outgoing::ride(&ride(1)).partition(0)],
            TransactionEnd::Leave,
        )
        .await;
    let stalled = async |partition: &str| {
        let metrics = service.metrics().await;
        metrics.sum(
            "ride_promo_ingest_stalled_seconds",
            &[("partition", partition)],
        )
    };
    let mut others = 0;
    eventually(LIMIT, || {
        others += 1;
        let world = &world;
        let service = &service;
        let stalled = &stalled;
        async move {
            let record = Outgoing::ride(&ride(1)).partition(1);
            world.publish(&record).await;
            let answer = service.readiness().await.ok_or("no answer")?;
            if answer.status != 503 || !answer.text.contains("partition 0") {
                return Err(answer.text);
            }
            if stalled("0").await < 2.0 || stalled("1").await > 1.0 {
                return Err("the metric says otherwise".to_owned());
            }
            if !service.log().contains("reading with a new client") {
                return Err("the client is the same".to_owned());
            }
            Ok(())
        }
    })
    .await;
    counted(&challenges, others).await;
    // As the alert's page says to look.
    let look = block("docs/runbooks/RidePromoIngestStuck.md", "positions");
    let shown = Shell::new(&world).run(&look).await;
    let lags: Vec<Option<&str>> = shown
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().nth(4))
        .collect();
    assert_ne!(lags[0], Some("0"), "{shown}");
    assert_eq!(lags[1], Some("0"), "{shown}");
    tokio::task::spawn_blocking(move || {
        rdkafka::producer::Producer::commit_transaction(&held, LIMIT).expect("it is open");
    })
    .await
    .unwrap();
    counted(&challenges, others + 1).await;
    service.wait_ready().await;
    eventually(LIMIT, || async { equal(stalled("0").await, 0.0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_added_and_cut_short_by_retention_while_nothing_read_stops_ingest() {
    let world = World::builder().partitions(2).build().await;
    let challenges = started(&world).await;
    let worker = || world.service().roles("ingest,relay,sweep").lateness("PT0S");
    let service = worker().start().await;
    let publish = async |partition| {
        let record = Outgoing::ride(&ride(1)).partition(partition);
        world.publish(&record).await
    };
    publish(0).await;
    counted(&challenges, 1).await;
    assert!(service.sigterm_and_wait().await.success());

    world.kafka().grow_topic(world.ride_topic(), 4).await;
    // The producer hears of it a moment later.
    eventually(LIMIT, || async {
        let producer = world.kafka().producer();
        let record = Outgoing::ride(&ride(1)).partition(2);
        let sent = producer.send(record.to(world.ride_topic()), LIMIT).await;
        sent.map(drop).map_err(|(error, _)| error.to_string())
    })
    .await;
    world.kafka().truncate(world.ride_topic(), 2, 1).await;
    let service = worker().spawn();
    eventually(LIMIT, || async {
        let answer = service.readiness().await.ok_or("no answer")?;
        let says = "partition 2 of";
        if answer.status == 503 && answer.text.contains(says) {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    let shown = world
        .command(&["positions", "show"])
        .run()
        .await
        .expect_success();
    let states: Vec<&str> = shown.lines().skip(2).collect();
    assert!(states[2].contains("STOPPED: "), "{shown}");
    assert!(states[3].contains("new: "), "{shown}");
    eventually(LIMIT, || async {
        let set = world
            .command(&[
                "positions",
                "set",
                "--partition",
                "2",
                "--to",
                "beginning",
                "--reason",
                "the test decided",
            ])
            .run()
            .await;
        if set.status.success() {
            Ok(())
        } else {
            Err(format!("{set:?}"))
        }
    })
    .await;
    publish(0).await;
    counted(&challenges, 2).await;
    service.wait_ready().await;
}
