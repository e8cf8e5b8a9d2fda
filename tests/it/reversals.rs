//! Rides that the platform takes back (contract 4.1, "Reversed rides").

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use ride_promo::domain::goals::Tally;
use ride_promo::domain::participation::Challenge;
use ride_promo::domain::promotion::{Conditions, Verdict};
use ride_promo::domain::ride::RideRecord;
use ride_promo::wire::ride_completed::decode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::*;
use crate::rides::{Course, conditions_with, with};

const LIMIT: Duration = Duration::from_secs(30);

fn reversal_of(ride: &Value) -> Value {
    json!({ "reversed_ride_id": ride["ride_id"], "user_id": ride["user_id"] })
}

async fn late_reversals(service: &Service) -> Vec<Value> {
    let page = service
        .admin()
        .api
        .get("/admin/v1/reversals")
        .await
        .expect(200);
    page["items"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_takes_back_what_counted_and_undoes_no_completion() {
    let course = Course::open(&conditions_with(
        2,
        &json!({ "max_rides_per_day": 2, "day_boundary_timezone": "UTC" }),
    ))
    .await;
    course.start(&[1, 2, 3]).await;
    let [first, second, third, unseen] = [0; 4].map(|_| ride(1));
    let cheap = with(ride(1), &json!({ "amount_cents": 1 }));

    // Each in a batch of its own: counted, refused, not yet come, come too late, repeated.
    course
        .ride_one_by_one(&[first.clone(), cheap.clone()])
        .await;
    course.assert_stands(1, "IN_PROGRESS", 1, 2).await;
    let reversals = [&first, &cheap, &unseen, &first].map(reversal_of);
    course.ride_one_by_one(&reversals).await;
    course
        .ride_one_by_one(&[unseen.clone(), first.clone()])
        .await;
    course.assert_stands(1, "IN_PROGRESS", 0, 3).await;
    let receipts = course.receipts_of(&[first.clone(), cheap, unseen]).await;
    let details = |before: Value| json!({ "required": null, "actual": before });
    for (receipt, before) in
        receipts
            .iter()
            .zip([json!("COUNTED"), json!("BELOW_MIN_AMOUNT"), Value::Null])
    {
        assert_eq!(
            (&receipt["verdict"], &receipt["counted"]),
            (&json!("REVERSED"), &json!(false))
        );
        assert_eq!(receipt["details"], details(before.clone()));
        assert!(receipt["reversed_at"].is_string(), "{receipt}");
        assert_eq!(
            receipt["completed_at"].is_null(),
            before.is_null(),
            "{receipt}"
        );
    }
    assert_eq!(receipts[0]["version"], 2);

    // Together: the net change makes one event, and none where it is none.
    course
        .ride_together(&[second.clone(), reversal_of(&second)])
        .await;
    course.assert_stands(1, "IN_PROGRESS", 0, 3).await;
    let [fourth, fifth] = [0; 2].map(|_| ride(1));
    course
        .ride_together(&[third.clone(), reversal_of(&third), fourth.clone()])
        .await;
    course.assert_stands(1, "IN_PROGRESS", 1, 4).await;
    // One for another, whatever their fares: a promotion that counts rides tells nothing.
    let mut dearer = ride(1);
    dearer["amount_cents"] = json!(99_900);
    course
        .ride_together(&[reversal_of(&fourth), dearer.clone()])
        .await;
    course.assert_stands(1, "IN_PROGRESS", 1, 4).await;
    // The completion comes first, so what is taken back after it in the same batch undoes nothing.
    course
        .ride_together(&[fifth.clone(), reversal_of(&dearer), ride(1)])
        .await;
    course.assert_stands(1, "COMPLETED", 2, 5).await;
    course
        .ride_one_by_one(&[
            reversal_of(&fifth),
            reversal_of(&fifth),
            reversal_of(&ride(1)),
        ])
        .await;
    let kinds: Vec<String> = course
        .published(1)
        .await
        .iter()
        .map(|record| record.kind().to_owned())
        .collect();
    let progressed = "promotion.progressed";
    assert_eq!(
        kinds,
        [
            "promotion.started",
            progressed,
            progressed,
            progressed,
            "promotion.completed"
        ]
    );
    let late: Vec<Value> = late_reversals(&course.service).await;
    let named: Vec<(&Value, &Value, &Value)> = late
        .iter()
        .map(|late| (&late["ride_id"], &late["status"], &late["application_id"]))
        .collect();
    let completed = json!("COMPLETED");
    assert_eq!(
        named,
        [
            (&fifth["ride_id"], &completed, &Value::Null),
            (&dearer["ride_id"], &completed, &Value::Null)
        ]
    );
    let receipts = course.receipts_of(&[dearer, fifth, third, fourth]).await;
    for receipt in &receipts[..2] {
        assert_eq!(receipt["verdict"], "COUNTED");
        assert!(receipt["reversed_at"].is_string());
    }
    // A ride that was taken back in its batch made no version, nor did one that came for another.
    let versions: Vec<&Value> = receipts.iter().map(|receipt| &receipt["version"]).collect();
    let [none, completed, progressed] = [Value::Null, json!(5), json!(4)];
    assert_eq!(versions, [&none, &completed, &none, &progressed]);

    // A place of the day that becomes free is for rides to come.
    let [one, two, refused] = [0; 3].map(|_| ride(2));
    let course_of = [one.clone(), one.clone()];
    course.ride_together(&course_of).await;
    course
        .ride_together(&[reversal_of(&one), refused.clone()])
        .await;
    course.assert_stands(2, "IN_PROGRESS", 1, 2).await;
    course.ride_together(&[two]).await;
    course.assert_stands(2, "COMPLETED", 2, 3).await;

    // Of an unknown client, and of a client without a challenge.
    course
        .ride_together(&[reversal_of(&ride(99)), reversal_of(&ride(3))])
        .await;
    course.assert_stands(3, "IN_PROGRESS", 0, 1).await;
    let broken = json!({ "reversed_ride_id": Uuid::new_v4().to_string(), "ride_id": Uuid::new_v4().to_string(), "user_id": 3 });
    course.ride_together(&[broken]).await;
    let metrics = course.service.metrics().await;
    let parts = [
        "rides_judged",
        "rides_duplicate",
        "rides_no_participation",
        "rides_quarantined",
        "tombstones",
        "reversals",
    ]
    .map(|name| metrics.sum(&format!("ride_promo_{name}_total"), &[]));
    assert_eq!(
        metrics.sum("ride_promo_rides_consumed_total", &[]),
        parts.iter().sum::<f64>()
    );
    assert_eq!(parts[5], 14.0);
    assert_eq!(parts[3], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn until_the_upgrade_is_finished_a_reversal_is_kept_for_a_replay() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(2)).await;
    challenges.start_an_hour_ago(&[1]).await;
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let service = world.service().roles("ingest,relay,api").start().await;
    let ride = ride(1);
    world.publish_ride(&ride).await;
    world.publish_ride(&reversal_of(&ride)).await;
    world.rides_are_applied().await;
    assert_eq!(challenges.standing(1).await.rides_completed, 1);
    let admin = service.admin();
    let open = admin
        .api
        .get("/admin/v1/quarantine?status=OPEN")
        .await
        .expect(200);
    let record = &open["items"][0];
    assert_eq!(
        (&record["reason"], &record["user_id"]),
        (&json!("MISSING_FIELD"), &json!(1))
    );
    assert!(
        record["detail"]
            .as_str()
            .expect("a text")
            .contains("migrate --finish"),
        "{record}"
    );
    let path = format!(
        "/admin/v1/quarantine/{}/replay",
        record["quarantine_id"].as_str().expect("a text")
    );
    admin
        .api
        .post(&path)
        .await
        .problem(409, "upgrade-unfinished");
    let all = admin
        .api
        .post_json(
            "/admin/v1/quarantine:replay",
            &json!({ "note": "too early" }),
        )
        .await;
    assert_eq!(all.expect(200), json!({ "resolved": 0, "left_open": 1 }));

    world
        .execute("update release_upgrade set finished_at = clock_ms()")
        .await;
    let replayed = admin.api.post(&path).await.expect(200);
    assert_eq!(replayed["outcome"], "APPLIED");
    assert_eq!(replayed["receipt"]["verdict"], "REVERSED");
    assert_eq!(challenges.standing(1).await.rides_completed, 0);
    // From now on they are applied as they come.
    let second = crate::harness::ride(1);
    world.publish_ride(&second).await;
    world.publish_ride(&reversal_of(&second)).await;
    world.rides_are_applied().await;
    assert_eq!(challenges.standing(1).await.rides_completed, 0);
    assert_eq!(
        world
            .count("select count(*) from ride_receipt where verdict = 'REVERSED'")
            .await,
        2
    );
}

/// Rides and reversals of a client in an order of their own, some repeated, some of rides that come
/// later or never.
fn history(random: &mut SmallRng, user_id: i64, from: DateTime<Utc>) -> Vec<Value> {
    let rides: Vec<Value> = (0..14)
        .map(|_| {
            let completed_at = from + TimeDelta::hours(random.random_range(-10..110));
            let amount_cents = random.random_range(4_500..9_000);
            with(
                ride_at(user_id, completed_at),
                &json!({ "amount_cents": amount_cents }),
            )
        })
        .collect();
    let mut records = Vec::new();
    for ride in &rides {
        let at = random.random_range(0..=records.len());
        records.insert(at, ride.clone());
        if random.random_bool(0.4) {
            let reversed = rides.choose(random).expect("rides");
            let at = random.random_range(0..=records.len());
            records.insert(at, reversal_of(reversed));
        }
        if random.random_bool(0.3) {
            let again = records.choose(random).expect("a record").clone();
            records.push(again);
        }
    }
    records
}

/// What the pure rules make of the records applied singly, in order: the goals and the verdicts.
fn one_by_one(
    conditions: &Conditions,
    (started_at, challenge_deadline): (DateTime<Utc>, DateTime<Utc>),
    records: &[Value],
) -> (Tally, BTreeMap<Uuid, Verdict>) {
    let mut challenge = Challenge {
        conditions,
        started_at,
        challenge_deadline,
        tally: Tally::default(),
        recorded: HashMap::new(),
        counted_per_day: HashMap::new(),
    };
    for record in records {
        match decode(record.to_string().as_bytes(), now()).expect("valid") {
            RideRecord::Completed(ride) => drop(challenge.take(&ride)),
            RideRecord::Reversed(reversal) => drop(challenge.take_back(&reversal)),
        }
    }
    let recorded = challenge.recorded.into_iter();
    (
        challenge.tally,
        recorded.map(|(id, ride)| (id, ride.verdict)).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_and_reversals_in_any_batches_end_as_one_by_one() {
    let document = conditions_with(
        4,
        &json!({ "target_days": 3, "target_amount_cents": 35_000, "max_rides_per_day": 3, "day_boundary_timezone": "America/New_York" }),
    );
    let course = Course::open(&document).await;
    // Rides end exactly at its ends, too.
    let from = (now() - TimeDelta::days(6)).trunc_subsecs(3);
    let window = (from, from + TimeDelta::days(4));
    let users: Vec<i64> = (1..=12).collect();
    course.challenges.start(&users, window.0, window.1).await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut of_user: BTreeMap<i64, Vec<Value>> = users
        .iter()
        .map(|user| (*user, history(&mut random, *user, window.0)))
        .collect();
    // Delivered twice, the second time with what the first has left.
    for records in of_user.values_mut() {
        records.extend(records.clone());
    }
    let mut rest = of_user.clone();
    while rest.values().any(|records| !records.is_empty()) {
        let mut batch = Vec::new();
        for records in rest.values_mut() {
            let taken = random.random_range(0..=6.min(records.len()));
            batch.extend(records.drain(..taken));
        }
        if random.random_bool(0.5) {
            course.ride_together(&batch).await;
        } else {
            let records = batch
                .iter()
                .map(|record| Outgoing::ride(record).partition(0));
            course.world.publish_all(records).await;
        }
    }
    course.world.rides_are_applied().await;

    let conditions = Conditions::from_json(&document).expect("valid");
    for (user_id, records) in &of_user {
        let (tally, verdicts) = one_by_one(&conditions, window, records);
        let recorded: Vec<(Uuid, String)> =
            sqlx::query_as("select ride_id, verdict from ride_receipt where user_id = $1")
                .bind(user_id)
                .fetch_all(course.world.pool())
                .await
                .unwrap();
        let recorded: BTreeMap<Uuid, Verdict> = recorded
            .into_iter()
            .map(|(id, verdict)| (id, verdict.parse().expect("a verdict")))
            .collect();
        assert_eq!(recorded, verdicts, "user {user_id}, seed {seed}");
        let client = course.service.client(*user_id);
        let progress = client
            .progress(course.challenges.promotion_id)
            .await
            .expect(200);
        let (rides, further) = (
            conditions.rides_completed(&tally),
            conditions.further_goals(&tally).expect("goals"),
        );
        let (days, amount) = (
            further.days.expect("days"),
            further.amount_cents.expect("an amount"),
        );
        let told: Vec<i64> = progress["goals"]
            .as_array()
            .expect("goals")
            .iter()
            .filter_map(|goal| goal["completed"].as_i64())
            .collect();
        assert_eq!(
            told,
            [i64::from(rides), days.completed, amount.completed],
            "user {user_id}, seed {seed}"
        );
        let is_complete = progress["status"] == "COMPLETED";
        assert_eq!(
            is_complete,
            conditions.is_reached_by(&tally),
            "user {user_id}, seed {seed}"
        );
    }
    let wrong = "select count(*) from promotion_user p
         where rides_counted <> (select count(*) from ride_receipt r where r.user_id = p.user_id and verdict = 'COUNTED')
            or amount_counted <> (select coalesce(sum(amount_cents), 0) from ride_receipt r where r.user_id = p.user_id and verdict = 'COUNTED')
            or days_counted <> (select count(distinct ride_day) from ride_receipt r where r.user_id = p.user_id and verdict = 'COUNTED')
            or days_counted <> (select count(*) from participation_day d where d.user_id = p.user_id and counted > 0)";
    assert_eq!(course.world.count(wrong).await, 0, "seed {seed}");
    course.world.events_are_published().await;
    assert_contiguous(course.world.read_status_topic().await);
}

/// Two consumers, each with a partition: the rides of one client lie in both.
#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_and_the_completing_ride_at_the_same_time() {
    let world = World::builder().partitions(2).build().await;
    let challenges = Challenges::new(&world, &conditions(2)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    let services = [
        world.service().roles("ingest,relay,api").start().await,
        world.service().roles("ingest").start().await,
    ];
    // Each has one of the partitions.
    eventually(LIMIT, || async {
        let alone = services.each_ref().map(|service| {
            let log = service.log();
            let last = log
                .lines()
                .rfind(|line| line.contains("partitions assigned"))
                .unwrap_or_default();
            last.contains("{0}") || last.contains("{1}")
        });
        equal(alone, [true, true])
    })
    .await;
    let [first, second] = [ride(1), ride(2)];
    for record in [&first, &second] {
        world.publish(&Outgoing::ride(record).partition(0)).await;
    }
    world.rides_are_applied().await;
    for (user_id, counted, is_reversal_first) in [(1, &first, false), (2, &second, true)] {
        let completing = Outgoing::ride(&ride(user_id)).partition(0);
        let reversal = Outgoing::ride(&reversal_of(counted)).partition(1);
        let order = if is_reversal_first {
            [reversal, completing]
        } else {
            [completing, reversal]
        };
        // What a batch comes to at its end, having locked the participation.
        world.events_are_published().await;
        let mut held = world.pool().begin().await.unwrap();
        sqlx::raw_sql("lock table event_outbox in share mode")
            .execute(&mut *held)
            .await
            .unwrap();
        for (waiting, record) in (1..).zip(&order) {
            world.publish(record).await;
            waiting_for_a_lock(&world, waiting).await;
        }
        held.rollback().await.unwrap();
        world.rides_are_applied().await;
        let standing = challenges.standing(user_id).await;
        let (status, rides, version) = if is_reversal_first {
            ("IN_PROGRESS", 1, 4)
        } else {
            ("COMPLETED", 2, 3)
        };
        assert_eq!(
            (
                standing.status.as_str(),
                standing.rides_completed,
                standing.version
            ),
            (status, rides, version)
        );
    }
    let late = late_reversals(&services[0]).await;
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(
        (&late[0]["user_id"], &late[0]["ride_id"]),
        (&json!(1), &first["ride_id"])
    );
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_during_an_accept_or_an_expiry_undoes_nothing() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    for (user_id, is_reversal_first) in [(1, false), (2, true)] {
        let (client, _) = service.started_client(user_id, &promotion).await;
        let ride = ride(user_id);
        world.publish_ride(&ride).await;
        world.rides_are_applied().await;
        world.events_are_published().await;
        let lock = if is_reversal_first {
            // What the reversal comes to at its end.
            "lock table late_reversal in share mode"
        } else {
            // What the accept comes to, having locked the participation.
            "lock table cash_loan_account in share mode"
        };
        let mut held = world.pool().begin().await.unwrap();
        sqlx::raw_sql(lock).execute(&mut *held).await.unwrap();
        let accept = {
            let client = client.api.clone();
            let path = format!("/v1/promotions/{}/accept_reward", promotion.id);
            async move || client.post(&path).await.expect(200)
        };
        if is_reversal_first {
            world.publish_ride(&reversal_of(&ride)).await;
            waiting_for_a_lock(&world, 1).await;
            accept().await;
            held.rollback().await.unwrap();
        } else {
            let accepting = tokio::spawn(async move { accept().await });
            waiting_for_a_lock(&world, 1).await;
            world.publish_ride(&reversal_of(&ride)).await;
            world.rides_are_applied().await;
            held.rollback().await.unwrap();
            accepting.await.expect("no panic");
        }
        world.rides_are_applied().await;
        let late = late_reversals(&service).await;
        assert_eq!(
            (&late[0]["user_id"], &late[0]["status"]),
            (&json!(user_id), &json!("REWARDED"))
        );
        assert!(late[0]["application_id"].is_string(), "{late:?}");
    }

    // Expiry has locked the participation when the reversal comes: it is over, and was not completed.
    let challenges = Challenges::new(&world, &conditions(2)).await;
    challenges
        .start(
            &[3],
            now() - TimeDelta::hours(1),
            now() + TimeDelta::seconds(3),
        )
        .await;
    world
        .execute(
            "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                            currency_code, repayment_rate, valid_until)
             select gen_random_uuid(), user_id, promotion_id, pre_offer_id, 'MX', 80, 1, 'MXN', '15', clock_ms() + interval '1 day'
               from promotion_user where user_id = 3",
        )
        .await;
    let ride = ride(3);
    world.publish_ride(&ride).await;
    world.rides_are_applied().await;
    assert_eq!(challenges.standing(3).await.rides_completed, 1);
    let mut held = world.pool().begin().await.unwrap();
    sqlx::raw_sql("select from cash_loan_account where user_id = 3 for update")
        .execute(&mut *held)
        .await
        .unwrap();
    waiting_for_a_lock(&world, 1).await;
    world.publish_ride(&reversal_of(&ride)).await;
    waiting_for_a_lock(&world, 2).await;
    held.rollback().await.unwrap();
    world.rides_are_applied().await;
    let standing = challenges.standing(3).await;
    assert_eq!(
        (
            standing.status.as_str(),
            standing.rides_completed,
            standing.version
        ),
        ("EXPIRED", 1, 3)
    );
    let receipt: (String, bool) = sqlx::query_as(
        "select verdict, reversed_at is not null from ride_receipt where user_id = 3",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(receipt, ("COUNTED".to_owned(), true));
    assert_eq!(
        late_reversals(&service).await.len(),
        2,
        "it was never completed"
    );
}
