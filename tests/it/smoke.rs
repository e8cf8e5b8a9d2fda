//! The harness itself: its servers are real, separate where they should be, and fail when told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::TimeDelta;
use chrono_tz::America::New_York;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::harness::{
    Cut, FaultProxy, Kafka, Outgoing, Port, Postgres, Rules, TransactionEnd, Trips, Window, World,
    equal, eventually, recount, ride, url,
};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_is_produced_is_read_back() {
    let world = World::builder().empty_database().build().await;
    let first = json!({ "user_id": 7, "n": 1 });
    let (partition, offset) = world.publish_ride(&first).await;
    assert_eq!(offset, 0);
    let headed = Outgoing::ride(&json!({ "user_id": 7, "n": 2 })).header("traceparent", "00-1");
    assert_eq!(
        world.publish(&headed).await,
        (partition, 1),
        "the key decides the partition"
    );
    world.publish_raw(None, None, &[]).await;

    let records = world.kafka().read_topic(world.ride_topic()).await;
    assert_eq!(records.len(), 3);
    let keyed: Vec<_> = records
        .iter()
        .filter(|record| record.key.is_some())
        .collect();
    assert_eq!(keyed[0].json(), first);
    assert_eq!(keyed[1].headers["traceparent"], "00-1");
    let ends: i64 = world
        .kafka()
        .end_offsets(world.ride_topic())
        .await
        .iter()
        .sum();
    assert_eq!(ends, 3);
    assert_eq!(world.read_status_topic().await.len(), 0);
}

#[tokio::test]
async fn many_records_keep_their_order() {
    let world = World::builder()
        .empty_database()
        .partitions(2)
        .build()
        .await;
    let rides = (0..20_000).map(|n| Outgoing::ride(&json!({ "user_id": n % 50, "n": n })));
    assert_eq!(world.publish_all(rides).await.len(), 20_000);
    let mut last = BTreeMap::new();
    for record in world.kafka().read_topic(world.ride_topic()).await {
        let n = record.json()["n"].as_i64();
        assert!(last.insert(record.key, n).is_none_or(|before| before < n));
    }
    assert_eq!(last.len(), 50);
}

#[tokio::test]
async fn an_aborted_transaction_is_not_read() {
    let world = World::builder()
        .empty_database()
        .partitions(1)
        .build()
        .await;
    for end in [TransactionEnd::Abort, TransactionEnd::Commit] {
        let ride = Outgoing::ride(&json!({ "user_id": 1, "end": format!("{end:?}") }));
        drop(world.publish_in_transaction(vec![ride], end).await);
    }
    let records = world.kafka().read_topic(world.ride_topic()).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].json()["end"], "Commit");
    assert!(
        world.kafka().end_offsets(world.ride_topic()).await[0] > 2,
        "markers take offsets"
    );
}

#[tokio::test]
async fn a_topic_is_deleted_and_created_again() {
    let world = World::builder()
        .empty_database()
        .partitions(1)
        .build()
        .await;
    world.publish_ride(&ride(1)).await;
    world.kafka().delete_topic(world.ride_topic()).await;
    world.create_ride_topic().await;
    assert_eq!(world.kafka().end_offsets(world.ride_topic()).await, [0]);
    world.kafka().grow_topic(world.ride_topic(), 3).await;
    assert_eq!(
        world.kafka().end_offsets(world.ride_topic()).await,
        [0, 0, 0]
    );
}

#[tokio::test]
async fn every_world_has_a_database_of_its_own() {
    let one = World::builder()
        .empty_database()
        .without_topics()
        .build()
        .await;
    let other = World::builder()
        .empty_database()
        .without_topics()
        .build()
        .await;
    sqlx::query("create table mine (id int)")
        .execute(one.pool())
        .await
        .unwrap();
    let there = sqlx::query("select * from mine")
        .fetch_all(other.pool())
        .await;
    assert!(there.unwrap_err().to_string().contains("does not exist"));
    let durable: String = sqlx::query_scalar("show fsync")
        .fetch_one(one.pool())
        .await
        .unwrap();
    assert_eq!(durable, "on");
}

#[tokio::test]
async fn a_private_postgres_crashes_and_recovers() {
    let postgres = Postgres::start_private().await;
    let world = World::builder()
        .postgres(&postgres)
        .empty_database()
        .without_topics()
        .build()
        .await;
    sqlx::query("create table kept (id int)")
        .execute(world.pool())
        .await
        .unwrap();
    postgres.stop_immediate().await;
    assert!(PgConnection::connect(&world.database_url()).await.is_err());
    postgres.start().await;
    eventually(SOON, || {
        sqlx::query("insert into kept values (1)").execute(world.pool())
    })
    .await;
}

#[tokio::test]
async fn a_private_kafka_is_killed_and_comes_back() {
    let kafka = Kafka::start_private().await;
    let world = World::builder()
        .kafka(&kafka)
        .empty_database()
        .build()
        .await;
    world.publish_ride(&ride(1)).await;
    kafka.restart_immediate().await;
    world.publish_ride(&ride(1)).await;
    kafka.restart().await;
    kafka.freeze();
    kafka.thaw();
    assert_eq!(kafka.read_topic(world.ride_topic()).await.len(), 2);
}

#[tokio::test]
async fn the_proxy_loses_a_commits_answer_but_not_the_commit() {
    let world = World::builder()
        .empty_database()
        .without_topics()
        .build()
        .await;
    let proxy = FaultProxy::start(world.postgres().address());
    let through = url(proxy.address(), world.database());
    sqlx::query("create table ledger (entry text)")
        .execute(world.pool())
        .await
        .unwrap();
    let insert = async |entry: &'static str| {
        let pool = sqlx::PgPool::connect_lazy(&through).unwrap();
        let mut transaction = pool.begin().await?;
        let query = sqlx::query("insert into ledger values ($1)").bind(entry);
        query.execute(&mut *transaction).await?;
        transaction.commit().await
    };
    let entries = async || -> Vec<String> {
        let query = sqlx::query_scalar("select entry from ledger order by entry");
        query.fetch_all(world.pool()).await.unwrap()
    };

    insert("a: undisturbed").await.unwrap();
    let someone_else = proxy.lose_commit_answers(Some("update nothing"), 1);
    let answer = proxy.lose_commit_answers(Some("insert into ledger"), 1);
    insert("b: answer lost").await.unwrap_err();
    assert_eq!((answer.fired(), someone_else.fired()), (1, 0));
    assert_eq!(entries().await, ["a: undisturbed", "b: answer lost"]);

    let request = proxy.arm(Cut::Request, "COMMIT\0", None, 1);
    insert("c: request lost").await.unwrap_err();
    assert_eq!(request.fired(), 1);
    insert("d: undisturbed again").await.unwrap();
    assert_eq!(
        entries().await,
        ["a: undisturbed", "b: answer lost", "d: undisturbed again"]
    );
}

#[tokio::test]
async fn the_proxy_holds_back_cuts_and_refuses() {
    let world = World::builder()
        .empty_database()
        .without_topics()
        .build()
        .await;
    let proxy = FaultProxy::start(world.postgres().address());
    let pool = sqlx::PgPool::connect_lazy(&url(proxy.address(), world.database())).unwrap();
    let one = async || {
        sqlx::query_scalar::<_, i32>("select 1")
            .fetch_one(&pool)
            .await
    };
    assert_eq!(one().await.unwrap(), 1);

    proxy.pause();
    let held = tokio::time::timeout(Duration::from_millis(100), one()).await;
    assert!(held.is_err(), "answered during a pause");
    proxy.resume();
    eventually(SOON, one).await;

    assert_eq!(proxy.cut_where("no such statement"), 0);
    assert!(proxy.cut_where("select 1") > 0);
    eventually(SOON, || async { equal(proxy.connections(), 0) }).await;
    eventually(SOON, one).await;
    proxy.refuse(true);
    let refused = PgConnection::connect(&url(proxy.address(), world.database())).await;
    assert!(refused.is_err());
    proxy.refuse(false);
    eventually(SOON, one).await;
}

#[test]
fn ports_are_given_once() {
    let ports: Vec<Port> = (0..200).map(|_| Port::reserve()).collect();
    let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
    assert_eq!(numbers.len(), ports.len());
}

#[test]
fn trips_are_recounted() {
    let file = Trips::load();
    let lines: BTreeSet<&str> = file.trips.iter().map(|trip| trip.line.as_str()).collect();
    assert_eq!(lines.len(), file.trips.len(), "none is there twice");
    let trips = u32::try_from(lines.len()).unwrap();
    let users = u32::try_from(file.users().len()).unwrap();
    assert!(0 < users && users < trips, "{users} of {trips}");
    assert!(file.trips.is_sorted_by_key(|trip| trip.completed_at));
    let [first, .., last] = file.trips.as_slice() else {
        panic!("there are trips");
    };
    let said = first.line.split(',').nth(3).expect("a drop-off");
    let wall_clock = first.completed_at.with_timezone(&New_York).naive_local();
    assert_eq!(wall_clock.to_string(), said, "by the clocks of New York");
    let (first, last) = (first.completed_at, last.completed_at);
    let everything = Window {
        started_at: first,
        deadline: last + TimeDelta::seconds(1),
    };
    let participants: BTreeMap<_, _> = file
        .users()
        .into_iter()
        .map(|user| (user, everything))
        .collect();
    let sum = |rules: &Rules, participants: &BTreeMap<_, _>| -> u32 {
        recount(&file.trips, participants, rules).values().sum()
    };
    let all = Rules::dollars(10_000, 0);
    assert_eq!(sum(&all, &participants), trips);
    assert_eq!(sum(&Rules::dollars(1, 0), &participants), users);
    assert_eq!(
        sum(
            &Rules {
                currency_code: "MXN".to_owned(),
                ..all.clone()
            },
            &participants
        ),
        0
    );
    let half_open = Window {
        started_at: first,
        deadline: last,
    };
    let shorter = participants.keys().map(|user| (*user, half_open)).collect();
    let at_the_end = file
        .trips
        .iter()
        .filter(|trip| trip.completed_at == last)
        .count();
    assert_eq!(sum(&all, &shorter) as usize, lines.len() - at_the_end);

    let shuffled = Trips::read(file.shuffled(1));
    assert_ne!(shuffled.trips, file.trips);
    let rules = Rules::dollars(3, 700);
    assert_eq!(
        recount(&shuffled.trips, &participants, &rules),
        recount(&file.trips, &participants, &rules)
    );
}
