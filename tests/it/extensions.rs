//! Extensions of deadlines, applied once to each participation, and outages.

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn order(service: &Service, key: &str, body: &Value) -> Answer {
    let api = service.admin().api;
    let request = api
        .request(Method::POST, "/admin/v1/extensions")
        .header("Idempotency-Key", key)
        .json(body);
    api.send(request).await
}

/// The extension once it is done.
pub(crate) async fn done(service: &Service, ordered: &Value) -> Value {
    let id = ordered["extension_id"].as_str().expect("an id");
    let path = format!("/admin/v1/extensions/{id}");
    eventually(LIMIT, || async {
        let extension = service.admin().api.get(&path).await.expect(200);
        equal(extension["state"].clone(), json!("DONE")).map(|_| extension)
    })
    .await
}

fn counts(extension: &Value) -> (i64, i64, i64) {
    let count = |name: &str| extension[name].as_i64().expect("a number");
    (count("matched"), count("done"), count("skipped"))
}

async fn deadline(world: &World, user_id: i64, column: &'static str) -> DateTime<Utc> {
    let deadline: Option<DateTime<Utc>> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select {column} from promotion_user where user_id = $1"
    )))
    .bind(user_id)
    .fetch_one(world.pool())
    .await
    .expect("it is there");
    deadline.expect("it has one")
}

fn wrong_field(answer: &Answer) -> String {
    let problem = answer.problem(422, "invalid-request");
    let field = problem["errors"][0]["field"].as_str();
    field.expect("a field is named").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_moves_the_deadlines_that_it_covers_and_no_others() {
    let world = World::new().await;
    let service = world
        .service()
        .roles("api,sweep,relay")
        .lateness("PT1H")
        .start()
        .await;
    let challenges = Challenges::new(&world, &conditions(3)).await;
    let others = Challenges::new(&world, &conditions(3)).await;
    let promotion = challenges.promotion_id;
    let began = now() - TimeDelta::hours(2);
    let (ahead, passed) = (
        (now() + TimeDelta::hours(1)).trunc_subsecs(3),
        (now() - TimeDelta::minutes(1)).trunc_subsecs(3),
    );
    challenges.start(&[1, 3, 4], began, ahead).await;
    challenges.start(&[2], began, passed).await;
    others.start(&[5], began, ahead).await;
    end_by_force(&world, 3, promotion, End::Completed).await;
    end_by_force(&world, 4, promotion, End::NotCompleted).await;
    let claim = deadline(&world, 3, "reward_deadline").await;

    let body = json!({ "promotion_id": promotion, "country_code": "MX", "of": "CHALLENGE", "by": "PT6H",
        "reason": "the app was down" });
    let without_key = service
        .admin()
        .api
        .post_json("/admin/v1/extensions", &body)
        .await;
    assert_eq!(wrong_field(&without_key), "Idempotency-Key");
    for (field, value) in [
        ("promotion_id", json!(4_711)),
        ("country_code", json!("Mexico")),
        ("by", json!("P1M")),
        ("of", json!("RIDES")),
        ("reason", Value::Null),
    ] {
        let mut wrong = body.clone();
        wrong[field] = value;
        assert_eq!(wrong_field(&order(&service, "wrong", &wrong).await), field);
    }
    let outage = json!({ "promotion_id": promotion, "outage_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "reason": "none" });
    assert_eq!(
        wrong_field(&order(&service, "wrong", &outage).await),
        "outage_id"
    );
    // Support extends for one client, and whoever may edit for more than one.
    let one = json!({ "promotion_id": promotion, "user_id": 1, "of": "CHALLENGE", "by": "PT6H", "reason": "a test" });
    for (scope, wrong, missing) in [("support", &body, "edit"), ("edit", &one, "support")] {
        let mut claims = client_claims(1);
        claims["scope"] = json!(format!("ride-promo:{scope}"));
        let api = service.admin_listener().with_token(token(&claims));
        let request = api
            .request(Method::POST, "/admin/v1/extensions")
            .header("Idempotency-Key", "wrong");
        let refused = api.send(request.json(wrong)).await;
        let problem = refused.problem(403, "forbidden");
        let missing = format!("ride-promo:{missing}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(&missing), "{problem}");
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{missing}\"");
        assert_eq!(refused.header("www-authenticate"), Some(&*challenge));
    }
    assert_eq!(world.count("select count(*) from extension").await, 0);

    let answer = order(&service, "first", &body).await;
    let ordered = answer.expect(202);
    assert_eq!(ordered["matched"], 2, "{ordered}");
    let location = answer.header("location").expect("an address").to_owned();
    assert_eq!(
        service.admin().api.get(&location).await.expect(200)["at"],
        ordered["at"]
    );
    let extension = done(&service, &ordered).await;
    assert_eq!(counts(&extension), (2, 2, 0), "{extension}");
    assert_eq!(extension["by"], "PT6H");
    let again = order(&service, "first", &body).await.expect(202);
    assert_eq!(again, extension, "the same key and body");
    let mut other = body.clone();
    other["by"] = json!("PT7H");
    assert_eq!(
        wrong_field(&order(&service, "first", &other).await),
        "Idempotency-Key"
    );

    let six_hours = TimeDelta::hours(6);
    assert_eq!(
        deadline(&world, 1, "challenge_deadline").await,
        ahead + six_hours
    );
    assert_eq!(
        deadline(&world, 2, "challenge_deadline").await,
        passed + six_hours,
        "settling"
    );
    assert_eq!(
        deadline(&world, 3, "challenge_deadline").await,
        ahead,
        "completed"
    );
    assert_eq!(
        deadline(&world, 4, "challenge_deadline").await,
        ahead,
        "expired"
    );
    assert_eq!(
        deadline(&world, 5, "challenge_deadline").await,
        ahead,
        "elsewhere"
    );

    // The other deadline, of one client: at once.
    let reward = json!({ "user_id": 3, "of": "REWARD", "by": "P1D", "reason": "a goodwill" });
    let extension = done(
        &service,
        &order(&service, "second", &reward).await.expect(202),
    )
    .await;
    assert_eq!(counts(&extension), (1, 1, 0));
    assert_eq!(
        deadline(&world, 3, "reward_deadline").await,
        claim + TimeDelta::days(1)
    );
    let nobody = json!({ "user_id": 77, "of": "REWARD", "by": "P1D", "reason": "a stranger" });
    let extension = done(
        &service,
        &order(&service, "third", &nobody).await.expect(202),
    )
    .await;
    assert_eq!(counts(&extension), (0, 0, 0));

    let list = service
        .admin()
        .api
        .get("/admin/v1/extensions?limit=2")
        .await
        .expect(200);
    assert_eq!(list["items"][0]["user_id"], 77);
    assert_eq!(list["items"][1]["user_id"], 3);
    let cursor = list["next_cursor"].as_str().expect("there is another");
    let next = format!("/admin/v1/extensions?cursor={cursor}");
    let next = service.admin().api.get(&next).await.expect(200);
    assert_eq!(next["items"][0]["promotion_id"], promotion);
    assert_eq!(next["next_cursor"], Value::Null);
    let audit = service.admin().api.get("/admin/v1/audit").await.expect(200);
    assert_eq!(audit["items"][2]["call"], "POST /extensions");
    assert_eq!(audit["items"][2]["after"]["reason"], "the app was down");

    // What subscribers are told, also when it is published again.
    world.events_are_published().await;
    let republish = world.command(&["republish", "--user", "1"]).run().await;
    republish.expect_success();
    world.events_are_published().await;
    let events = world.status_of(1, promotion).await;
    let kinds: Vec<&str> = events.iter().map(StatusRecord::kind).collect();
    assert_eq!(
        kinds,
        [
            "promotion.started",
            "promotion.extended",
            "promotion.extended"
        ]
    );
    assert_eq!(events[0].event["extension"], Value::Null);
    assert_eq!(events[1].event, events[2].event);
    let event = &events[1].event;
    assert_eq!(event["version"], 2);
    assert_eq!(event["previous_status"], "IN_PROGRESS");
    assert_eq!(event["challenge_deadline"], instant(ahead + six_hours));
    let told = json!({ "of": "CHALLENGE", "from": instant(ahead), "to": instant(ahead + six_hours),
        "reason": "the app was down" });
    assert_eq!(event["extension"], told);
    let progress = service.client(1).progress(promotion).await.expect(200);
    assert_eq!(progress["challenge_deadline"], instant(ahead + six_hours));
    assert!(progress.get("extension").is_none(), "{progress}");

    // As the guide says it.
    let admin_token = admin_token();
    let shell = Shell::new(&world)
        .env("ADMIN", service.admin_listener().address())
        .env("ADMIN_TOKEN", &admin_token);
    let said = shell.run(&block("docs/operator-guide.md", "extend")).await;
    let ordered: Value = serde_json::from_str(said.trim()).expect("JSON");
    assert_eq!(ordered["by"], "PT6H", "{said}");
    let said = shell.run(&block("docs/operator-guide.md", "credit")).await;
    assert!(said.contains("NO_PARTICIPATION"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_that_were_too_late_for_the_old_deadline_are_judged_again_in_order() {
    let world = World::new().await;
    // Longer than the deadline is over, so that the sweeper does not end the challenge meanwhile.
    let service = world.service().lateness("PT2H").start().await;
    let mut rules = conditions(2);
    rules["city_ids"] = json!([4_198]);
    let challenges = Challenges::new(&world, &rules).await;
    let promotion = challenges.promotion_id;
    let began = now() - TimeDelta::minutes(120);
    let ago = |minutes: i64| began + TimeDelta::minutes(120 - minutes);
    challenges.start(&[1], began, ago(60)).await;
    let in_time = ride_at(1, ago(90));
    let (mut elsewhere, mut cheap) = (ride_at(1, ago(50)), ride_at(1, ago(40)));
    elsewhere["city_id"] = json!(1);
    cheap["amount_cents"] = json!(4_999);
    // Recorded in this order, completed in the other.
    let (enough, surplus) = (ride_at(1, ago(10)), ride_at(1, ago(20)));
    let beyond = ride_at(1, ago(-4));
    for ride in [&in_time, &elsewhere, &cheap, &beyond] {
        world.publish_ride(ride).await;
    }
    // In one batch.
    let together = [&enough, &surplus].map(Outgoing::ride);
    let transaction = world.publish_in_transaction(together.into(), TransactionEnd::Commit);
    drop(transaction.await);
    world.rides_are_applied().await;
    let client = service.client(1);
    let verdicts = async || {
        let rides = client.rides(promotion).await.expect(200);
        let rides = rides["items"].as_array().expect("a list").clone();
        let verdict = |ride: &Value| {
            let receipt = rides
                .iter()
                .find(|receipt| receipt["ride_id"] == ride["ride_id"]);
            let receipt = receipt.expect("it is recorded");
            receipt["verdict"].as_str().expect("a word").to_owned()
        };
        [&in_time, &elsewhere, &cheap, &enough, &surplus, &beyond].map(verdict)
    };
    assert_eq!(
        verdicts().await,
        [
            "COUNTED",
            "AFTER_DEADLINE",
            "AFTER_DEADLINE",
            "AFTER_DEADLINE",
            "AFTER_DEADLINE",
            "AFTER_DEADLINE"
        ]
    );
    let settling = client.progress(promotion).await;
    assert_eq!(settling.expect(200)["settling"], true);

    // One who waits hears of it.
    let etag = settling.etag();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.long_poll(promotion, &etag, 25).await }
    });
    let body = json!({ "user_id": 1, "of": "CHALLENGE", "by": "PT1H", "reason": "an outage of the platform" });
    let extension = done(&service, &order(&service, "late", &body).await.expect(202)).await;
    assert_eq!(counts(&extension), (1, 1, 0));
    let heard = waiting.await.expect("no panic").expect(200);
    assert_ne!(
        heard["challenge_deadline"],
        settling.expect(200)["challenge_deadline"]
    );
    assert_eq!(
        verdicts().await,
        [
            "COUNTED",
            "OUTSIDE_AREA",
            "BELOW_MIN_AMOUNT",
            "COUNTED",
            "AFTER_DEADLINE",
            "AFTER_DEADLINE"
        ]
    );
    let standing = challenges.standing(1).await;
    assert_eq!(
        (standing.status.as_str(), standing.counted),
        ("COMPLETED", 2)
    );
    // Each is still one ride.
    world.publish_ride(&enough).await;
    world.rides_are_applied().await;
    assert_eq!(challenges.standing(1).await, standing);
    world.events_are_published().await;
    let kinds = world.kinds_of(1, promotion).await;
    assert_eq!(
        kinds,
        [
            "promotion.started",
            "promotion.progressed",
            "promotion.extended",
            "promotion.completed"
        ]
    );
    assert_contiguous(world.read_status_topic().await);
    // The ride that came after the completing one keeps its verdict, and is no difference.
    world.verify_finds_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_killed_in_the_middle_leaves_each_participation_extended_once() {
    let world = World::new().await;
    let service = async || {
        world
            .service()
            .roles("api,sweep")
            .env("RIDE_PROMO__SWEEP__BATCH_MAX", 10)
            .start()
            .await
    };
    let first = service().await;
    let challenges = Challenges::new(&world, &conditions(3)).await;
    let users: Vec<i64> = (1..=200).collect();
    let (began, ends) = (now(), (now() + TimeDelta::hours(1)).trunc_subsecs(3));
    challenges.start(&users, began, ends).await;
    // The sweeper comes to a row that it cannot have.
    let mut held = world.pool().begin().await.expect("a session");
    sqlx::query("select from promotion_user where user_id = 105 for update")
        .execute(&mut *held)
        .await
        .expect("it is there");
    let body =
        json!({ "country_code": "MX", "of": "CHALLENGE", "by": "P1D", "reason": "a holiday" });
    let ordered = order(&first, "killed", &body).await.expect(202);
    assert_eq!(ordered["matched"], 200);
    waiting_for_a_lock(&world, 1).await;
    let extended = "select count(*) from participation_extension";
    assert_eq!(world.count(extended).await, 100);
    first.sigkill().await;
    held.rollback().await.expect("it was held");

    let second = service().await;
    let extension = done(&second, &ordered).await;
    assert_eq!(counts(&extension), (200, 200, 0), "{extension}");
    assert_eq!(world.count(extended).await, 200);
    let right = sqlx::query_scalar::<_, i64>(
        "select count(*) from promotion_user where version = 2 and challenge_deadline = $1",
    )
    .bind(ends + TimeDelta::days(1));
    assert_eq!(right.fetch_one(world.pool()).await.expect("a count"), 200);
    let events = "select count(distinct user_id) from event_outbox where type = 'promotion.extended' and version = 2";
    assert_eq!(world.count(events).await, 200);
    let events = "select count(*) from event_outbox where type = 'promotion.extended'";
    assert_eq!(world.count(events).await, 200);
    eventually(LIMIT, || async {
        let metrics = second.metrics().await;
        equal(metrics.sum("ride_promo_extensions_running", &[]), 0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_windows_get_back_what_they_share_with_an_outage() {
    let world = World::new().await;
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let service = world.service().roles("api,sweep").start().await;
    let challenges = Challenges::new(&world, &conditions(3)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    end_by_force(&world, 1, challenges.promotion_id, End::Completed).await;
    // The release before neither knows extensions nor notes that it reaches the database.
    let body = json!({ "country_code": "MX", "of": "REWARD", "by": "PT1H", "reason": "too early" });
    order(&service, "early", &body)
        .await
        .problem(409, "upgrade-unfinished");
    assert_eq!(world.count("select count(*) from api_presence").await, 0);
    world
        .execute("update release_upgrade set finished_at = clock_ms()")
        .await;
    eventually(LIMIT, || async {
        equal(world.count("select count(*) from api_presence").await, 1)
    })
    .await;

    let outages = async || {
        let outages = service
            .admin()
            .api
            .get("/admin/v1/outages")
            .await
            .expect(200);
        outages["items"].as_array().expect("a list").clone()
    };
    assert_eq!(outages().await, [] as [Value; 0]);
    let seven_minutes_ago = (now() - TimeDelta::minutes(7)).trunc_subsecs(3);
    sqlx::query("update promotion_user set completed_at = $1 where user_id = 1")
        .bind(seven_minutes_ago)
        .execute(world.pool())
        .await
        .expect("it may be so");
    world
        .execute("update api_presence set reached_at = reached_at - interval '10 minutes'")
        .await;
    let outage = eventually(LIMIT, || async {
        outages().await.pop().ok_or_else(|| "no outage".to_owned())
    })
    .await;
    let at = |name: &str| -> DateTime<Utc> {
        let text = outage[name].as_str().expect("an instant");
        text.parse().expect("RFC 3339")
    };
    let length = at("to") - at("from");
    assert!(
        length > TimeDelta::minutes(9) && length < TimeDelta::minutes(12),
        "{outage}"
    );
    // Completed after it.
    end_by_force(&world, 2, challenges.promotion_id, End::Completed).await;
    let before = [
        deadline(&world, 1, "reward_deadline").await,
        deadline(&world, 2, "reward_deadline").await,
    ];
    let body =
        json!({ "country_code": "MX", "outage_id": outage["outage_id"], "reason": "we were away" });
    let ordered = order(&service, "outage", &body).await.expect(202);
    assert_eq!(
        (&ordered["of"], &ordered["by"]),
        (&json!("REWARD"), &Value::Null)
    );
    let extension = done(&service, &ordered).await;
    assert_eq!(counts(&extension), (2, 1, 1), "{extension}");
    let shared = at("to") - seven_minutes_ago;
    let after = [
        deadline(&world, 1, "reward_deadline").await,
        deadline(&world, 2, "reward_deadline").await,
    ];
    assert_eq!(after, [before[0] + shared, before[1]]);
    // Once, however often it is ordered.
    let again = done(&service, &order(&service, "again", &body).await.expect(202)).await;
    assert_eq!(counts(&again), (2, 0, 2), "{again}");
    assert_eq!(deadline(&world, 1, "reward_deadline").await, after[0]);
}

/// Without a sweeper, the transaction that first judges a deadline applies the running extensions.
#[tokio::test(flavor = "multi_thread")]
async fn every_judge_of_a_deadline_knows_of_an_extension_that_is_not_yet_applied() {
    let world = World::new().await;
    let service = world.service().roles("api,ingest").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let elsewhere = admin.open_promotion(&conditions(2)).await;
    let mut clients = Vec::new();
    for user_id in 1..=10 {
        clients.push(service.started_client(user_id, &promotion).await.0);
        if user_id <= 6 || user_id == 10 {
            end_by_force(&world, user_id, promotion.id, End::Completed).await;
        }
    }
    let client = |user_id: usize| &clients[user_id - 1];
    let challenge_of_9 = async || {
        let progress = service.client(9).progress(promotion.id).await.expect(200);
        json!([progress["rides_completed"], progress["version"]])
    };
    sqlx::query("update promotion_user set started_at = started_at - interval '1 day', completed_at = completed_at - interval '1 day'")
        .execute(world.pool())
        .await
        .expect("it may be so");
    let set_deadlines = async |ends: DateTime<Utc>, users: &[i64]| {
        sqlx::query(
            "update promotion_user
                set challenge_deadline = $1, reward_deadline = case when status = 'COMPLETED' then $1 end
              where user_id = any($2)",
        )
        .bind(ends)
        .bind(users)
        .execute(world.pool())
        .await
        .expect("it may be so");
    };
    // Too late for the deadline as it is.
    let soon = now() + TimeDelta::minutes(1);
    set_deadlines(soon, &[9]).await;
    world
        .publish_ride(&ride_at(9, soon + TimeDelta::minutes(1)))
        .await;
    world.rides_are_applied().await;
    assert_eq!(challenge_of_9().await, json!([0, 1]));
    let mut ends = now();
    for (key, of) in [("rewards", "REWARD"), ("challenges", "CHALLENGE")] {
        let body =
            json!({ "promotion_id": promotion.id, "of": of, "by": "PT1H", "reason": "a test" });
        let ordered = order(&service, key, &body).await.expect(202);
        assert_eq!(ordered["state"], "RUNNING");
        assert_eq!(ordered["done"], 0);
        let at = ordered["at"].as_str().expect("an instant");
        ends = at.parse().expect("RFC 3339");
    }
    // The deadlines lie behind the extensions, and pass at once.
    ends += TimeDelta::milliseconds(200);
    set_deadlines(ends, &(1..=10).collect::<Vec<_>>()).await;
    tokio::time::sleep((ends - now()).to_std().unwrap_or_default() + Duration::from_millis(50))
        .await;

    let extended = instant(ends + TimeDelta::hours(1));
    let path = |what: &str| format!("/v1/promotions/{}/{what}", promotion.id);
    let reward = client(1).api.get(&path("get_reward")).await.expect(200);
    assert_eq!(reward["reward_deadline"], extended);
    let accepted = client(2).accept(promotion.id).await.expect(200);
    assert_eq!(accepted["participation"]["status"], "REWARDED");
    assert_eq!(accepted["participation"]["reward_deadline"], extended);
    let landing = client(3).api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "REWARD_READY");
    let progress = client(4).progress(promotion.id).await.expect(200);
    assert_eq!(progress["reward_deadline"], extended);
    client(5)
        .api
        .post(&path("acknowledge"))
        .await
        .problem(409, "not-expired");
    service.eligible_client(6, &elsewhere).await;
    let refused = client(6)
        .start(elsewhere.id)
        .await
        .problem(409, "not-eligible");
    assert_eq!(refused["reason"], "ANOTHER_CHALLENGE_LIVE");
    let cancelled = admin.cancel(10, promotion.id).await.expect(200);
    assert_eq!(cancelled["expired_reason"], "CANCELLED");
    assert_eq!(cancelled["reward_deadline"], extended);
    let progress = client(7).progress(promotion.id).await.expect(200);
    assert_eq!(progress["challenge_deadline"], extended);
    assert_eq!(progress["settling"], false);
    let landing = client(8).api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["participation"]["challenge_deadline"], extended);
    // A ride after the old deadline. Its batch extends, judges the late ride again, and then counts this one.
    world.publish_ride(&ride(9)).await;
    world.rides_are_applied().await;
    assert_eq!(challenge_of_9().await, json!([2, 4]));
    // The progress is reported; none was left out or extended twice.
    let list = admin.api.get("/admin/v1/extensions").await.expect(200);
    assert_eq!(
        (&list["items"][0]["done"], &list["items"][1]["done"]),
        (&json!(3), &json!(7))
    );
    let sweeper = world.service().roles("sweep").start().await;
    for item in list["items"].as_array().expect("a list") {
        let extension = done(&service, item).await;
        assert_eq!(extension["done"], item["matched"], "{extension}");
        assert_eq!(extension["skipped"], 0);
    }
    drop(sweeper);
    let _relay = world.service().roles("relay").start().await;
    world.events_are_published().await;
    let events = world.status_of(9, promotion.id).await;
    let told: Vec<(&str, i64, &Value)> = events
        .iter()
        .map(|record| {
            (
                record.kind(),
                record.version(),
                &record.event["rides_completed"],
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("promotion.started", 1, &json!(0)),
            ("promotion.extended", 2, &json!(0)),
            ("promotion.progressed", 3, &json!(1)),
            ("promotion.progressed", 4, &json!(2)),
        ]
    );
}
