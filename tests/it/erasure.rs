//! Erasing a client: the effect on the loan, on the status topic, and on a restored backup.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

fn erase<'a>(world: &World, user: &'a str, more: &[&'a str]) -> Cli {
    let command = [&["erase", "--user", user, "--reason", "a test"], more].concat();
    world.command(&command)
}

/// A client who was rewarded.
async fn rewarded(world: &World, service: &Service, user: i64, promotion: &Promotion) -> Client {
    let (client, _) = service.started_client(user, promotion).await;
    world.publish_ride(&ride(user)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    client.accept(promotion.id).await.expect(200);
    client
}

async fn refused_as_rewarded(service: &Service, user: i64, promotion: &Promotion) {
    let client = service.eligible_client(user, promotion).await;
    let refused = client.start(promotion.id).await;
    let problem = refused.problem(409, "not-eligible");
    assert_eq!(problem["reason"], "ALREADY_REWARDED", "{problem}");
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_ne!(landing["screen"], "PROMO_OFFER", "{landing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewarded_client_stays_rewarded_whatever_becomes_of_the_loan() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let other = admin.open_promotion(&conditions(1)).await;
    for user in [48_151, 48_152] {
        rewarded(&world, &service, user, &promotion).await;
    }
    world.events_are_published().await;

    let undecided = erase(&world, "48151", &[]).run().await;
    assert_eq!(undecided.status.code(), Some(1));
    assert!(undecided.stderr.contains("--keep-loan"), "{undecided:?}");
    assert_eq!(
        admin.user(48_151).await["applications"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(world.count("select count(*) from erasure").await, 0);

    let kept = erase(&world, "48151", &["--keep-loan"])
        .run()
        .await
        .expect_success();
    let kept: Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(
        (&kept["loan_kept"], &kept["tombstones"]),
        (&json!(true), &json!(0))
    );
    let seen = admin.user(48_151).await;
    for (list, left) in [
        ("applications", 1),
        ("sessions", 1),
        ("active_pre_offers", 1),
        ("participations", 1),
        ("splits", 1),
        ("pre_offers", 0),
        ("quarantine", 0),
    ] {
        assert_eq!(seen[list].as_array().unwrap().len(), left, "{list}");
    }
    assert_eq!(seen["participations"][0]["receipts"], json!([]));

    let gone = erase(&world, "48152", &["--forget-loan"])
        .run()
        .await
        .expect_success();
    let gone: Value = serde_json::from_str(&gone).expect("JSON");
    assert_eq!(
        (&gone["applications"], &gone["tombstones"]),
        (&json!(1), &json!(1))
    );
    world.events_are_published().await;
    let newest = world.newest_statuses().await;
    let key = |user| format!("{user}:{}", promotion.id);
    assert_eq!(newest[&key(48_151)].as_ref().unwrap()["status"], "REWARDED");
    assert_eq!(newest[&key(48_152)], None);
    for user in [48_151, 48_152] {
        refused_as_rewarded(&service, user, &other).await;
    }
    // The entry in the topic names no client.
    let ledger = world.kafka().read_topic(&world.erasure_topic()).await;
    let entries: Vec<Value> = ledger.iter().map(Record::json).collect();
    assert_eq!(entries.len(), 2, "{entries:?}");
    for (entry, loan) in entries.iter().zip(["KEPT", "FORGOTTEN"]) {
        assert_eq!(
            (&entry["rewarded"], &entry["loan"]),
            (&json!(true), &json!(loan))
        );
        assert!(!entry.to_string().contains("4815"), "{entry}");
    }

    // Without the secret, or with another one, they would be taken for strangers.
    for secret in ["", "another secret, which is long enough"] {
        let blind = world
            .service()
            .env("RIDE_PROMO__ERASE__SECRET", secret)
            .spawn();
        assert_eq!(blind.wait().await.code(), Some(1));
        assert!(blind.log().contains("set erase.secret"), "{}", blind.log());
    }
    let missing = erase(&world, "48153", &[]).env("RIDE_PROMO__ERASE__SECRET", "");
    let missing = missing.run().await;
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(missing.stderr.contains("erase.secret"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_who_was_not_rewarded_may_come_back_and_begins_with_version_1() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    let seen = client.progress(promotion.id).await.etag();
    // A long poll does not return a state that is gone.
    erase(&world, "1", &[]).run().await.expect_success();
    world.events_are_published().await;
    let key = format!("1:{}", promotion.id);
    eventually(LIMIT, || async {
        equal(
            client
                .progress_since(promotion.id, &seen)
                .await
                .status
                .as_u16(),
            404,
        )
    })
    .await;
    assert_eq!(world.newest_statuses().await[&key], None);

    let (client, again) = service.started_client(1, &promotion).await;
    assert_eq!(again["version"], 1);
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(
        (&progress["version"], &progress["rides_completed"]),
        (&json!(2), &json!(1))
    );
    world.events_are_published().await;
    assert_eq!(
        world.newest_statuses().await[&key].as_ref().unwrap()["version"],
        2
    );
}

/// The order in the topic is that of the outbox: whatever a relay has in its hands when the client is
/// erased comes out before the tombstone.
#[tokio::test(flavor = "multi_thread")]
async fn the_tombstone_is_the_last_record_of_its_key_beside_rides_and_relays() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(10_000)).await;
    let users: Vec<i64> = (1..=40).collect();
    challenges.start_an_hour_ago(&users).await;
    let small = || world.service().env("RIDE_PROMO__RELAY__BATCH_MAX", 5);
    let _service = small().roles("ingest,relay").start().await;
    let _second = small().roles("relay").start().await;
    let rides = async {
        for _ in 0..80 {
            world
                .publish_all(users.iter().map(|user| Outgoing::ride(&ride(*user))))
                .await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let erasures = async {
        for user in 1..=6 {
            erase(&world, &user.to_string(), &[])
                .run()
                .await
                .expect_success();
        }
    };
    tokio::join!(rides, erasures);
    world.rides_are_applied().await;
    world.events_are_published().await;
    let newest = world.newest_statuses().await;
    for user in users {
        let last = &newest[&format!("{user}:{}", challenges.promotion_id)];
        match last {
            None => assert!(user <= 6, "{user} was not erased"),
            Some(event) => assert!(user > 6, "{user} was erased: {event}"),
        }
    }
}

/// The packets that wait, as `promotion.progressed` of clients without a row of their own.
const IN_PACKETS: &str =
    "select coalesce(sum(events), 0)::bigint from event_outbox where packet_event_ids is not null";

/// Progress waits in packets, many clients in a row of the outbox. Two erasures at the same time take one
/// client each out of the same packet, and leave the others as they were: each with its own goals and trace.
#[tokio::test(flavor = "multi_thread")]
async fn erased_clients_are_taken_out_of_the_packets_that_wait() {
    let world = World::builder().partitions(1).build().await;
    let mut rules = conditions(10);
    rules["target_amount_cents"] = json!(1_000_000);
    let challenges = Challenges::new(&world, &rules).await;
    let users = [1, 2, 3, 4, 5];
    challenges.start_an_hour_ago(&users).await;
    world.execute("delete from event_outbox").await;
    let trace = |user: i64| format!("00-{user:032x}-{user:016x}-01");
    let amount = |user: i64| 10_000 + user;
    let ride_of = |user: i64| {
        let mut ride = ride(user);
        ride["amount_cents"] = json!(amount(user));
        // One of them has no trace.
        match user {
            5 => Outgoing::ride(&ride),
            _ => Outgoing::ride(&ride).header("traceparent", &trace(user)),
        }
    };
    // What is there at its start is one batch. Client 2 is also alone in a packet.
    world.publish_all(users.map(ride_of)).await;
    let _ingest = world.service().roles("ingest").start().await;
    world.rides_are_applied().await;
    world.publish(&ride_of(2)).await;
    world.rides_are_applied().await;
    assert_eq!(world.count(IN_PACKETS).await, 6);
    let mut held = world.pool().begin().await.expect("a session");
    sqlx::query("select from event_outbox where cardinality(packet_event_ids) = 5 for update")
        .execute(&mut *held)
        .await
        .expect("nobody holds it");
    let both = tokio::spawn({
        let erase = [2, 4].map(|user| erase(&world, &user.to_string(), &[]));
        let [second, fourth] = erase.map(Cli::run);
        async move { tokio::join!(second, fourth) }
    });
    waiting_for_a_lock(&world, 2).await;
    held.rollback().await.expect("it was held");
    let (second, fourth) = both.await.expect("no panic");
    for erased in [second, fourth] {
        let erased: Value = serde_json::from_str(&erased.expect_success()).expect("JSON");
        assert_eq!(erased["tombstones"], 1);
    }
    // Of what was only the client's nothing is left, not even an empty row.
    let left = "select count(*) from event_outbox where events = 0 or packet_user_ids && array[2, 4]::bigint[]";
    assert_eq!(world.count(left).await, 0);
    assert_eq!(world.count(IN_PACKETS).await, 3);

    let _relay = world.service().roles("relay").start().await;
    world.events_are_published().await;
    let records = world.kafka().read_topic(world.status_topic()).await;
    let of = |user: i64| -> Vec<&Record> {
        let key = format!("{user}:{}", challenges.promotion_id);
        let of_key = records
            .iter()
            .filter(|record| record.key.as_ref() == Some(&key));
        of_key.collect()
    };
    for user in [2, 4] {
        assert_eq!(of(user).len(), 1, "only the tombstone: {:?}", of(user));
        assert_eq!(of(user)[0].value, None);
    }
    for user in [1, 3, 5] {
        let [record] = of(user)[..] else {
            panic!("one event of {user}: {:?}", of(user));
        };
        let event = record.json();
        let standing = challenges.standing(user).await;
        assert_eq!(event["type"], "promotion.progressed");
        assert_eq!(event["user_id"], user);
        assert_eq!(event["version"], standing.version);
        assert_eq!(event["rides_completed"], 1);
        assert_eq!(
            (&event["status"], &event["previous_status"]),
            (&json!("IN_PROGRESS"), &json!("IN_PROGRESS"))
        );
        let goals = json!([{ "goal": "RIDES", "completed": 1, "target": 10 },
            { "goal": "AMOUNT", "completed": amount(user), "target": 1_000_000 }]);
        assert_eq!(event["goals"], goals, "{user}");
        let expected = (user != 5).then(|| trace(user));
        assert_eq!(
            record.headers.get("traceparent"),
            expected.as_ref(),
            "{user}"
        );
    }
}

/// The relay reads the rows of the outbox, and then their packets. An erasure in between has taken an event
/// out of a packet, and with it a later row that the relay has read: neither may be published, or subscribers
/// would see a version without the one before.
#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_between_the_two_reads_of_a_relay_leaves_only_the_tombstone() {
    let world = World::builder().partitions(1).build().await;
    let challenges = Challenges::new(&world, &conditions(2)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    world.execute("delete from event_outbox").await;
    // The progress of both waits in a packet, and the completion of 2 in a row of its own behind it.
    let rides = [1, 2].map(|user| Outgoing::ride(&ride(user)));
    world.publish_all(rides).await;
    let ingest = world.service().roles("ingest").start().await;
    world.rides_are_applied().await;
    world.publish_ride(&ride(2)).await;
    world.rides_are_applied().await;
    assert_eq!(world.count(IN_PACKETS).await, 2);
    assert_eq!(world.count("select count(*) from event_outbox").await, 2);
    assert!(ingest.sigterm_and_wait().await.success());

    let proxy = FaultProxy::start(world.postgres().address());
    let held = proxy.hold("packet_challenge_deadlines as");
    let _relay = world
        .service()
        .roles("relay")
        .through(&proxy, &world)
        .start()
        .await;
    eventually(LIMIT, || async {
        held.has_arrived()
            .then_some(())
            .ok_or("it has not read yet")
    })
    .await;
    erase(&world, "2", &[]).run().await.expect_success();
    drop(held);
    world.events_are_published().await;
    let records = world.kafka().read_topic(world.status_topic()).await;
    let values_of = |user: i64| -> Vec<Option<Value>> {
        let key = format!("{user}:{}", challenges.promotion_id);
        let of_key = records
            .iter()
            .filter(|record| record.key.as_ref() == Some(&key));
        of_key
            .map(|record| record.value.is_some().then(|| record.json()))
            .collect()
    };
    assert_eq!(values_of(2), [None]);
    let [Some(event)] = &values_of(1)[..] else {
        panic!("one event of the other client: {records:?}");
    };
    assert_eq!(event["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_erased_before_the_upgrade_is_finished() {
    let world = World::new().await;
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    for command in [
        erase(&world, "1", &[]),
        world.command(&["erase", "--replay"]),
    ] {
        let refused = command.run().await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("migrate --finish"), "{refused:?}");
    }
    let refused = world.command(&["reconcile"]).run().await;
    assert!(refused.stderr.contains("migrate --finish"), "{refused:?}");
}
