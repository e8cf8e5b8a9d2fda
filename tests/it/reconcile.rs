//! After a restore to an earlier moment: subscribers end with the database's state, and no client gets two loans.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::harness::*;

const GUIDE: &str = "docs/operator-guide.md";

const LIMIT: Duration = Duration::from_secs(60);

/// What a subscriber has who keeps the highest version of each key and forgets at a null value.
async fn subscribers_view(world: &World) -> BTreeMap<String, Value> {
    let mut kept = BTreeMap::<String, Value>::new();
    for record in world.kafka().read_topic(world.status_topic()).await {
        let key = record.key.clone().expect("a key");
        if record.value.is_none() {
            kept.remove(&key);
            continue;
        }
        let event = record.json();
        let known = kept.get(&key).map(|known| known["version"].as_i64());
        if known.is_none_or(|known| known < event["version"].as_i64()) {
            kept.insert(key, event);
        }
    }
    kept
}

/// Status, version and rides of each participation, by key.
async fn database_view(pool: &PgPool) -> BTreeMap<String, (String, i64, i64)> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select user_id || ':' || promotion_id, status, version::bigint, rides_completed::bigint from promotion_user",
    )
    .fetch_all(pool)
    .await
    .expect("the database answers");
    let rows = rows.into_iter();
    rows.map(|(key, status, version, rides)| (key, (status, version, rides)))
        .collect()
}

fn brief(event: &Value) -> (String, i64, i64) {
    let number = |name: &str| event[name].as_i64().expect("a number");
    let status = event["status"].as_str().expect("a status").to_owned();
    (status, number("version"), number("rides_completed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_subscribers_converge_and_no_client_gets_two_loans() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let other = admin.open_promotion(&conditions(1)).await;
    let start = async |users: std::ops::RangeInclusive<i64>| {
        for user in users {
            service.started_client(user, &promotion).await;
        }
    };
    let ride_of = async |user: i64| {
        world.publish_ride(&ride(user)).await;
        world.rides_are_applied().await;
    };
    let accept = async |user: i64| {
        let accepted = service.client(user).accept(promotion.id).await;
        accepted.expect(200)
    };
    // 1 and 6 will be rewarded, 1 after the backup; 4 rests; 5 rides on; 7 is erased after it.
    start(1..=1).await;
    start(4..=7).await;
    ride_of(1).await;
    for _ in 0..2 {
        ride_of(6).await;
    }
    accept(6).await;
    world.events_are_published().await;
    let shell = Shell::new(&world);
    shell.run(&block(GUIDE, "dump")).await;

    // What the restore loses: a ride, a completion, rewards, starts, an erasure.
    start(2..=3).await;
    for user in [1, 2, 3, 3, 5] {
        ride_of(user).await;
    }
    accept(1).await;
    accept(3).await;
    let erase = ["erase", "--user", "7", "--reason", "a test"];
    world.command(&erase).run().await.expect_success();
    world.events_are_published().await;
    let running = world.command(&["reconcile"]).run().await;
    assert_eq!(running.status.code(), Some(1));
    let connected = "other processes are connected to the database";
    assert!(running.stderr.contains(connected), "{running:?}");
    assert!(service.sigterm_and_wait().await.success());

    // The guide's checklist.
    let name = format!("{}_restored", world.database());
    world.postgres().create_empty_database(&name).await;
    let url = world.postgres().url(&name);
    let pool = PgPool::connect(&url).await.expect("it is there");
    let shell = shell.env("OWNER_URL", &url);
    shell.run(&format!("DATABASE_URL={url}")).await;
    shell.run(&block(GUIDE, "restore")).await;
    let command = |arguments: &[&str]| world.command(arguments).env("DATABASE_URL", &url);
    command(&["doctor"]).run().await.expect_success();
    // Reconciling before erasing again would leave the erased client alone.
    let left = command(&["reconcile"]).run().await;
    let key = |user: i64| format!("{user}:{}", promotion.id);
    assert!(
        left.stdout
            .contains(&format!("{}  erased in the topic", key(7))),
        "{left:?}"
    );
    let said = shell.run(&block(GUIDE, "erase-replay")).await;
    assert!(
        said.starts_with("1 erasures in the ledger, 1 of them not in this database; 1 clients"),
        "{said}"
    );
    let said = shell.run(&block(GUIDE, "erase-replay")).await;
    assert!(
        said.starts_with("1 erasures in the ledger, 0 of them not in this database; 0 clients"),
        "{said}"
    );
    let said = shell.run(&block(GUIDE, "reconcile")).await;
    for line in [
        // started, a ride, completed, rewarded; restored with the first two
        format!(
            "{}  the topic has version 4 and the database another state, version 2: published as version 5",
            key(1)
        ),
        format!(
            "{}  rewarded in the topic (version 4) and not in the database",
            key(1)
        ),
        format!(
            "{}  the topic has version 2 and the database nothing",
            key(2)
        ),
        format!(
            "{}  the topic has version 4 and the database nothing",
            key(3)
        ),
        format!(
            "{}  rewarded in the topic (version 4) and not in the database",
            key(3)
        ),
        format!(
            "{}  the topic has version 2 and the database another state, version 1: published as version 3",
            key(5)
        ),
    ] {
        assert_eq!(said.matches(&line).count(), 2, "{line}\n{said}");
    }
    assert!(
        said.contains("6 differences, 6 of them to be put right"),
        "{said}"
    );
    assert!(
        said.contains("6 differences, 6 of them put right"),
        "{said}"
    );
    let again = command(&["reconcile", "--apply"])
        .run()
        .await
        .expect_success();
    assert!(again.contains("; 0 differences"), "{again}");
    assert!(
        again.contains(&format!("{}  held since", key(3))),
        "{again}"
    );

    // The rides come back by themselves.
    let service = world.service().env("DATABASE_URL", &url).start().await;
    let is = async |user: i64, status: &str, rides: i64| {
        eventually(LIMIT, || async {
            let progress = service
                .client(user)
                .progress(promotion.id)
                .await
                .expect(200);
            let found = (
                progress["status"].clone(),
                progress["rides_completed"].clone(),
            );
            equal(found, (json!(status), json!(rides)))
        })
        .await;
    };
    is(1, "COMPLETED", 2).await;
    is(5, "IN_PROGRESS", 1).await;
    // A client gets no second loan while the first is under review.
    let refused = service.client(1).accept(promotion.id).await;
    refused.problem(409, "reward-under-review");
    for user in [1, 3] {
        let client = service.eligible_client(user, &other).await;
        let refused = client.start(other.id).await.problem(409, "not-eligible");
        assert_eq!(refused["reason"], "ALREADY_REWARDED", "{user}");
    }
    // A start that was lost goes on above what subscribers have.
    let (_, started) = service.started_client(2, &promotion).await;
    assert_eq!(started["version"], 3);

    let accept_loss = block(GUIDE, "accept-loss").replace("48151", "1");
    let said = shell.run(&accept_loss).await;
    assert_eq!(said, "1 rewards of client 1 are given up\n");
    service.client(1).accept(promotion.id).await.expect(200);
    let nothing = command(&["reconcile", "--accept-loss", "1"]).run().await;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");

    eventually(LIMIT, || async {
        let left: i64 = sqlx::query_scalar("select count(*) from event_outbox")
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        equal(left, 0)
    })
    .await;
    let mut theirs = subscribers_view(&world).await;
    // What the database has lost for good, until a person decides.
    let lost = theirs.remove(&key(3)).expect("it was published");
    assert_eq!(lost["status"], "REWARDED");
    let theirs: BTreeMap<_, _> = theirs
        .iter()
        .map(|(key, event)| (key.clone(), brief(event)))
        .collect();
    assert_eq!(theirs, database_view(&pool).await);
    for (key, records) in by_key_without_tombstones(&world).await {
        assert_eq!(
            records.iter().max(),
            records.last(),
            "{key}: an older version is the last"
        );
    }

    // And with everything running again there is nothing to put right.
    assert!(service.sigterm_and_wait().await.success());
    let at_rest = command(&["reconcile"]).run().await.expect_success();
    assert!(at_rest.contains("; 0 differences"), "{at_rest}");
    pool.close().await;
    world
        .postgres()
        .drop_database(&name)
        .await
        .expect("no session is connected");
}

/// The versions of each key in the order of their offsets, but for keys that were forgotten.
async fn by_key_without_tombstones(world: &World) -> BTreeMap<String, Vec<i64>> {
    let mut versions = BTreeMap::<String, Vec<i64>>::new();
    for record in world.kafka().read_topic(world.status_topic()).await {
        let key = record.key.clone().expect("a key");
        if record.value.is_none() {
            versions.remove(&key);
        } else {
            let version = record.json()["version"].as_i64().expect("a number");
            versions.entry(key).or_default().push(version);
        }
    }
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_accepted_once_everything_is_put_right() {
    let world = World::new().await;
    world
        .execute("update server_identity set system_identifier = system_identifier - 1")
        .await;
    let found = world.command(&["reconcile"]).run().await;
    assert_eq!(found.status.code(), Some(1));
    let other = "the database is on another server or timeline";
    assert!(found.stdout.contains(other), "{found:?}");
    assert!(
        found.stdout.contains("1 differences, 1 of them to be"),
        "{found:?}"
    );
    world
        .command(&["reconcile", "--apply"])
        .run()
        .await
        .expect_success();
    let again = world.command(&["reconcile"]).run().await.expect_success();
    assert!(again.contains("; 0 differences"), "{again}");
    let audited = "select count(*) from admin_audit where after ->> 'reason' = 'reconciled with the status topic'";
    assert_eq!(world.count(audited).await, 1);
    // The relay, which holds otherwise, goes on.
    world.service().roles("relay").start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_database_has_is_published_again_and_a_held_lock_is_respected() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(5)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    // As after a status topic that was lost: nothing of it is there, and nothing waits.
    world.execute("delete from event_outbox").await;
    let found = world.command(&["reconcile"]).run().await;
    assert_eq!(found.status.code(), Some(1));
    let line = format!(
        "1:{}  the database has version 1 and the topic does not: published\n",
        challenges.promotion_id
    );
    assert!(found.stdout.contains(&line), "{found:?}");

    let mut relay = PgConnection::connect(&world.database_url())
        .await
        .expect("Postgres");
    sqlx::query("select pg_advisory_lock(x'5250524c'::int, 0)")
        .execute(&mut relay)
        .await
        .expect("the lock is free");
    let refused = world.command(&["reconcile", "--apply"]).run().await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("a relay holds its lock"),
        "{refused:?}"
    );
    relay.close().await.expect("it was open");

    let applied = world
        .command(&["reconcile", "--apply"])
        .run()
        .await
        .expect_success();
    assert!(
        applied.contains("2 differences, 2 of them put right"),
        "{applied}"
    );
    let again = world
        .command(&["reconcile", "--apply"])
        .run()
        .await
        .expect_success();
    assert!(again.contains("; 0 differences"), "{again}");
    let _relay = world.service().roles("relay").start().await;
    world.events_are_published().await;
    let newest = last_by_key(world.read_status_topic().await);
    assert_eq!(newest.len(), 2);
    for standing in challenges.standings().await {
        let key = format!("{}:{}", standing.user_id, challenges.promotion_id);
        assert_eq!(newest[&key].version(), i64::from(standing.version));
    }
}

/// What waits of a client who differs is older than what was published. It is taken out of its packet, and what
/// waits of others stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_packet_of_a_key_that_lags_is_not_published_after_it() {
    let world = World::builder().partitions(1).build().await;
    let challenges = Challenges::new(&world, &conditions(5)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    let service = world.service().roles("ingest,relay").start().await;
    world.events_are_published().await;
    assert!(service.sigterm_and_wait().await.success());
    // The topic has a version of client 1 that the restore lost.
    let started = world.status_of(1, challenges.promotion_id).await.remove(0);
    let mut later = started.event.clone();
    later["event_id"] = json!(uuid::Uuid::new_v4());
    later["type"] = json!("promotion.progressed");
    later["version"] = json!(7);
    later["rides_completed"] = json!(4);
    let record = Outgoing {
        key: Some(started.key().as_bytes().to_vec()),
        value: Some(later.to_string().into_bytes()),
        partition: Some(started.record.partition),
        ..Outgoing::default()
    };
    let produced = world.kafka().producer();
    let delivery = produced.send(record.to(world.status_topic()), LIMIT).await;
    delivery
        .map_err(|(error, _)| error)
        .expect("the broker is there");
    // The rides since the backup came back, and their events wait.
    let rides = [1, 2].map(|user| Outgoing::ride(&ride(user)));
    world.publish_all(rides).await;
    let ingest = world.service().roles("ingest").start().await;
    world.rides_are_applied().await;
    assert!(ingest.sigterm_and_wait().await.success());
    let waiting = "select count(*) from event_outbox where packet_user_ids = array[1, 2]::bigint[]";
    assert_eq!(world.count(waiting).await, 1, "both wait in one packet");

    let command = ["reconcile", "--apply"];
    let applied = world.command(&command).run().await.expect_success();
    let line = format!(
        "{}  the topic has version 7 and the database another state, version 2: published as version 8",
        started.key()
    );
    assert!(applied.contains(&line), "{applied}");
    assert!(
        applied.contains("1 differences, 1 of them put right"),
        "{applied}"
    );
    let _relay = world.service().roles("relay").start().await;
    world.events_are_published().await;
    for (user, versions) in [(1, vec![1, 7, 8]), (2, vec![1, 2])] {
        let records = world.status_of(user, challenges.promotion_id).await;
        let published: Vec<i64> = records.iter().map(StatusRecord::version).collect();
        assert_eq!(published, versions, "{user}");
        let last = &records.last().expect("there are some").event;
        assert_eq!(last["rides_completed"], 1, "{last}");
    }
}
