//! Invariant 1: counts equal distinct valid rides, also after redelivery, reordering, replays and kills. A consumer
//! that lost its partitions while it was suspended applies nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::SubsecRound as _;
use serde_json::{Value, json};

use crate::harness::*;
use crate::reminders;

/// The shortest the broker allows.
const SHORT_SESSION: &str =
    "[kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"500\"\n";

/// `target_amount_cents` of the rides of the file.
const TARGET_AMOUNT: i64 = 2_200;

/// Rides of the file as records, in the file's order.
fn records(trips: &[Trip]) -> Vec<Outgoing> {
    trips
        .iter()
        .map(|trip| Outgoing::ride(&trip.ride()))
        .collect()
}

/// The reversals of these rides.
fn reversals<'a>(trips: impl IntoIterator<Item = &'a Trip>) -> Vec<Outgoing> {
    let reversal =
        |ride: Value| json!({ "reversed_ride_id": ride["ride_id"], "user_id": ride["user_id"] });
    let trips = trips.into_iter();
    trips
        .map(|trip| Outgoing::ride(&reversal(trip.ride())))
        .collect()
}

/// One in `one_in` rides of the file, the same ones whatever their order.
fn is_chosen(trip: &Trip, one_in: u32) -> bool {
    let ride_id = trip.ride()["ride_id"].as_str().map(str::to_owned);
    let first = ride_id.and_then(|id| u32::from_str_radix(&id[..8], 16).ok());
    first.expect("a UUID").is_multiple_of(one_in)
}

#[tokio::test(flavor = "multi_thread")]
async fn real_rides_replayed_and_shuffled_count_once_while_workers_are_killed() {
    let world = World::builder().partitions(6).build().await;
    let trips = Trips::load();
    let first = trips.trips.first().expect("there are trips").completed_at;
    let last = trips.trips.last().expect("there are trips").completed_at;
    // Every second client takes part; half of them from the middle of the file on, the others until
    // the middle, so that both ends of the window cut something off.
    let middle = (first + (last - first) / 2).trunc_subsecs(0);
    let early = Window {
        started_at: first,
        deadline: middle,
    };
    let late = Window {
        started_at: middle,
        deadline: last,
    };
    let mut windows = BTreeMap::new();
    for (index, user_id) in trips.users().into_iter().enumerate() {
        match index % 4 {
            0 => windows.insert(user_id, early),
            2 => windows.insert(user_id, late),
            _ => None,
        };
    }
    let rules = Rules {
        daily_limit: None,
        ..Rules::dollars(2, 700)
    };
    // The platform takes rides back. Some before they come, for whoever completes and not. Others after they
    // came, of clients who complete it neither with nor without them: an end would keep what came before it.
    let taken_before = |trip: &&Trip| is_chosen(trip, 11);
    let left: Vec<Trip> = trips
        .trips
        .iter()
        .filter(|trip| !taken_before(trip))
        .cloned()
        .collect();
    let with_all = recount(&left, &windows, &rules);
    let taken_after = |trip: &&Trip| {
        is_chosen(trip, 5) && with_all.get(&trip.user_id).is_some_and(|rides| *rides < 2)
    };
    let left: Vec<Trip> = left
        .into_iter()
        .filter(|trip| !taken_after(&trip))
        .collect();
    let early_reversals = reversals(trips.trips.iter().filter(taken_before));
    let late_reversals = reversals(trips.trips.iter().filter(taken_after));
    let expected = recount(&left, &windows, &rules);
    let lost = with_all
        .iter()
        .filter(|(user_id, rides)| expected[*user_id] < **rides);
    assert!(lost.count() > 0, "no ride that counts is taken back");
    for rides in [1, 2] {
        assert!(
            expected.values().any(|count| *count == rides),
            "the file is too short to tell anything: nobody has {rides} rides in half of its time"
        );
    }
    // Two rides complete it only with fares of this sum; the sums tell apart who has them.
    let sums = fares(&left, &windows, &rules);
    let completes = |user_id: &i64| {
        expected[user_id] == 2 && sums.get(user_id).is_some_and(|sum| *sum >= TARGET_AMOUNT)
    };
    let all_complete: Vec<i64> = windows.keys().copied().filter(completes).collect();
    let with_two_rides = expected.values().filter(|count| **count == 2).count();
    assert!(
        !all_complete.is_empty() && all_complete.len() < with_two_rides,
        "the fares of the file tell nothing apart"
    );
    // The reminder is due a second after the completion.
    let challenges = Challenges::new(
        &world,
        &json!({ "target_rides": 2, "target_days": 1, "target_amount_cents": TARGET_AMOUNT, "min_amount_cents": 700,
                "currency_code": "USD", "challenge_period": "P14D", "claim_period": "P7D",
                "day_boundary_timezone": "America/New_York",
                "reminders": { "challenge": ["PT1M"], "reward": ["P6DT23H59M59S"] } }),
    )
    .await
    .with_budget(windows.len() as i64)
    .await;
    for window in [early, late] {
        let users: Vec<i64> = windows
            .iter()
            .filter(|(_, own)| **own == window)
            .map(|(user, _)| *user)
            .collect();
        challenges
            .start(&users, window.started_at, window.deadline)
            .await;
    }

    let worker = || {
        // Small batches, so that a kill finds one under way.
        let service = world
            .service()
            .roles("ingest,relay")
            .config_toml(SHORT_SESSION);
        service
            .env("RIDE_PROMO__INGEST__BATCH_MAX_RECORDS", 200)
            .env("RIDE_PROMO__INGEST__BATCH_MAX_APPLIED", 100)
    };
    let steady = worker().start().await;
    let all = &trips.trips;
    let mut shuffled = Trips::read(trips.shuffled(7)).trips;
    world.publish_all(early_reversals.clone()).await;
    for (round, part) in [all.as_slice(), all.as_slice(), shuffled.as_mut_slice()]
        .into_iter()
        .enumerate()
    {
        for (step, chunk) in part.chunks(part.len().div_ceil(2)).enumerate() {
            let victim = worker().start().await;
            world.publish_all(records(chunk)).await;
            if step == 1 {
                let again = late_reversals.iter().chain(&early_reversals).cloned();
                world.publish_all(again).await;
            }
            // Not at the same moment each time.
            tokio::time::sleep(Duration::from_millis(
                150 * (1 + (round as u64 + 2 * step as u64) % 4),
            ))
            .await;
            victim.sigkill().await;
        }
    }
    world.rides_are_applied().await;
    world.events_are_published().await;

    let standings = challenges.standings().await;
    let counts: BTreeMap<i64, u32> = standings
        .iter()
        .map(|standing| {
            (
                standing.user_id,
                u32::try_from(standing.rides_completed).unwrap(),
            )
        })
        .collect();
    assert_eq!(counts, expected);
    for standing in &standings {
        // Rides go on counting until the last goal is reached.
        let counted = standing.counted.min(2);
        assert_eq!(i64::from(standing.rides_completed), counted, "{standing:?}");
        let status = if completes(&standing.user_id) {
            "COMPLETED"
        } else {
            "IN_PROGRESS"
        };
        assert_eq!(standing.status, status, "{standing:?}");
    }
    let published = world.read_status_topic().await;
    let newest = last_by_key(published.clone());
    let taken_back =
        "select count(*) from ride_receipt where verdict = 'REVERSED' and completed_at is not null";
    assert!(world.count(taken_back).await > 0);
    for standing in &standings {
        let last = &newest[&format!("{}:{}", standing.user_id, challenges.promotion_id)];
        assert_eq!(last.version(), i64::from(standing.version));
        assert_eq!(last.event["rides_completed"], standing.rides_completed);
    }
    assert_contiguous(published);

    // Those who missed the target expire, one sweeper being killed at it, and give their places back.
    let all = standings.len() as i64;
    let in_use = async || budget_in_use(&world, challenges.promotion_id).await;
    assert_eq!(in_use().await, (all, 0));
    let sweeper = || {
        let service = world.service().roles("sweep").lateness("PT0S");
        service.env("RIDE_PROMO__SWEEP__BATCH_MAX", 50).start()
    };
    let in_progress = "select count(*) from promotion_user where status = 'IN_PROGRESS'";
    let before = world.count(in_progress).await;
    let victim = sweeper().await;
    eventually(Duration::from_secs(60), || async {
        let has_begun = world.count(in_progress).await < before;
        has_begun.then_some(()).ok_or("none yet")
    })
    .await;
    victim.sigkill().await;
    let _sweeper = sweeper().await;
    eventually(Duration::from_secs(60), || async {
        equal(world.count(in_progress).await, 0)
    })
    .await;
    assert_eq!(in_use().await, (all_complete.len() as i64, 0));
    // Who completed it is reminded once, by whichever sweeper.
    assert_eq!(reminders::reminded(&world).await, all_complete);
    world.verify_finds_nothing().await;
    assert!(steady.sigterm_and_wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_through_a_takeover_applies_nothing_twice() {
    let world = World::new().await;
    let mut asked = conditions(10_000);
    asked["target_amount_cents"] = json!(1_000_000_000);
    asked["target_days"] = json!(10);
    asked["day_boundary_timezone"] = json!("America/Mexico_City");
    // An hour is left: it is due as soon as there is a sweeper.
    asked["reminders"] = json!({ "challenge": ["PT1H"], "reward": ["P1D"] });
    let challenges = Challenges::new(&world, &asked).await;
    let challenges = challenges.with_budget(50).await;
    // Receipts would hide from the counts that a batch was applied again; the position would not.
    sqlx::raw_sql(
        "create table went_back (partition int, was bigint, became bigint);
         create function note_going_back() returns trigger language plpgsql as $$
             begin insert into went_back values (new.partition, old.next_offset, new.next_offset); return new; end $$;
         create trigger going_back after update on consumer_position for each row
             when (new.next_offset <= old.next_offset) execute function note_going_back();",
    )
    .execute(world.pool())
    .await
    .expect("the schema has the table");
    let users: Vec<i64> = (1..=50).collect();
    challenges.start_an_hour_ago(&users).await;
    let worker = || {
        let service = world
            .service()
            .roles("ingest,relay,sweep")
            .config_toml(SHORT_SESSION);
        service
            .env("RIDE_PROMO__INGEST__BATCH_MAX_RECORDS", 50)
            .env("RIDE_PROMO__INGEST__BATCH_MAX_APPLIED", 50)
    };
    let rides = |each: usize| -> Vec<Outgoing> {
        (0..each)
            .flat_map(|_| users.iter().map(|user| Outgoing::ride(&ride(*user))))
            .collect()
    };

    // It falls asleep in the middle of a batch that it has read, and of reminders that are due: while it
    // waits for one client.
    let mut held = world.pool().begin().await.expect("a session");
    sqlx::query("select from promotion_user where user_id = 1 for update")
        .execute(&mut *held)
        .await
        .expect("the lock is free");
    let sleeper = worker().start().await;
    world.publish_all(rides(40)).await;
    waiting_for_a_lock(&world, 2).await;
    sleeper.sigstop();
    // The server gives up on it as on any client that has fallen silent, only sooner.
    let given_up: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock'",
    )
    .fetch_one(world.pool())
    .await
    .expect("its session is this user's");
    assert_eq!(
        given_up, 2,
        "it was not in the middle of a batch and of reminders"
    );
    held.rollback().await.expect("it was held");
    let successor = worker().start().await;
    world.rides_are_applied().await;
    world.publish_all(rides(20)).await;
    sleeper.sigcont();
    // Awake, it applies its batch again, and finds that this is not its business any more.
    eventually(Duration::from_secs(120), || async {
        sleeper.log().contains("positions have moved")
    })
    .await;
    world.publish_all(rides(20)).await;
    world.rides_are_applied().await;
    world.events_are_published().await;

    let went_back: i64 = sqlx::query_scalar("select count(*) from went_back")
        .fetch_one(world.pool())
        .await
        .expect("answers");
    assert_eq!(went_back, 0, "a batch was applied a second time");
    for standing in challenges.standings().await {
        assert_eq!(
            (standing.rides_completed, standing.counted),
            (80, 80),
            "{standing:?}"
        );
    }
    assert_contiguous(world.read_status_topic().await);
    let in_use = budget_in_use(&world, challenges.promotion_id).await;
    assert_eq!(in_use, (50, 0));
    assert_eq!(reminders::reminded(&world).await, users);
    world.verify_finds_nothing().await;
    assert!(sleeper.sigterm_and_wait().await.success());
    assert!(successor.sigterm_and_wait().await.success());
}
