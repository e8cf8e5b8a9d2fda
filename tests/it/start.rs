//! Get started: one participation under any concurrency, every rule of eligibility,
//! what is frozen, and that no ride after a start is missed (contract 3 and 5).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::harness::*;
use crate::races::HeldLock;

const LIMIT: Duration = Duration::from_secs(30);

const CLIENT: i64 = 48_151;

/// The answer without what is of its own moment.
fn steady(mut participation: Value) -> Value {
    let fields = participation.as_object_mut().expect("an object");
    assert!(fields.remove("server_time").is_some());
    participation
}

/// Sets the status of all a client's participations, as rides, clock and accepts would.
async fn set_status(pool: &PgPool, user_id: i64, status: &str) {
    let dates = match status {
        "COMPLETED" => {
            "completed_at = clock_ms(), reward_deadline = clock_ms() + interval '7 days'"
        }
        "REWARDED" => {
            "completed_at = clock_ms(), reward_deadline = clock_ms() + interval '7 days', rewarded_at = clock_ms()"
        }
        "EXPIRED" => "expired_at = challenge_deadline, expired_reason = 'CHALLENGE_NOT_COMPLETED'",
        other => panic!("no move to {other}"),
    };
    let reached = if status == "EXPIRED" {
        "0"
    } else {
        "rides_target"
    };
    let statement = format!(
        "update promotion_user set status = $2, version = version + 1, rides_completed = {reached}, {dates} where user_id = $1"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(user_id)
        .bind(status)
        .execute(pool)
        .await
        .expect("a possible state");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_answers_the_whole_participation_publishes_it_and_makes_a_split() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(20)).await;
    let client = service.eligible_client(CLIENT, &promotion).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let path = format!("/v1/promotions/{}/start", promotion.id);
    let request = client.api.request(reqwest::Method::POST, &path);
    let before = now() - TimeDelta::seconds(1);
    let answer = client
        .api
        .send(request.header("traceparent", traceparent))
        .await;

    let participation = answer.expect(201);
    assert_eq!(answer.etag(), "W/\"1\"");
    let text = |field: &str| participation[field].as_str().expect("a text").to_owned();
    let started_at: DateTime<Utc> = text("started_at").parse().expect("an instant");
    assert!((before..now() + TimeDelta::seconds(1)).contains(&started_at));
    let reward = json!({ "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN", "repayment_rate": "15" });
    let state = json!({
        "user_id": CLIENT, "promotion_id": promotion.id, "promotion_key": promotion.key, "status": "IN_PROGRESS",
        "version": 1, "rides_completed": 0, "rides_target": 20,
        "goals": [{ "goal": "RIDES", "completed": 0, "target": 20 }], "started_at": instant(started_at),
        "challenge_deadline": instant(started_at + TimeDelta::days(14)), "completed_at": null, "reward_deadline": null,
        "rewarded_at": null, "expired_at": null, "expired_reason": null, "reward": reward,
    });
    let mut expected = state.clone();
    expected["conditions"] = conditions(20);
    expected["settling"] = json!(false);
    expected["server_time"] = participation["server_time"].clone();
    assert_eq!(participation, expected);

    world.events_are_published().await;
    let [started] = &world.status_of(CLIENT, promotion.id).await[..] else {
        panic!("not one event")
    };
    let mut expected = state;
    expected["event_id"] = started.event["event_id"].clone();
    expected["type"] = json!("promotion.started");
    expected["extension"] = json!(null);
    expected["previous_status"] = Value::Null;
    expected["occurred_at"] = json!(instant(started_at));
    assert_eq!(started.event, expected);
    assert_eq!(started.record.headers["ce_type"], "promotion.started");
    assert_eq!(started.record.headers["traceparent"], traceparent);

    let user = service.admin().user(CLIENT).await;
    let [split] = &user["splits"].as_array().expect("a list")[..] else {
        panic!("not one split: {user}")
    };
    let pre_offer = &user["pre_offers"][0];
    assert_eq!(split["status"], "ACTIVE");
    for field in [
        "pre_offer_id",
        "promotion_id",
        "product_id",
        "amount_cents",
        "currency_code",
        "repayment_rate",
        "country_code",
        "valid_until",
    ] {
        assert_eq!(split[field], pre_offer[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_at_the_same_time_through_two_processes_make_one_participation() {
    let world = World::new().await;
    let services = [
        world.service().start().await,
        world.service().roles("api").start().await,
    ];
    let promotion = services[0].admin().open_promotion(&conditions(3)).await;
    let other = services[0].admin().create_promotion(&conditions(3)).await;
    for user_id in 1..=5 {
        let offers = [promotion.pre_offer(user_id), other.pre_offer(user_id)];
        services[0].admin().import_pre_offers(&offers).await;
        let starts = (0..12).map(|number| {
            let client = services[number % 2].client(user_id);
            async move { client.start(promotion.id).await }
        });
        let answers = join_all(starts).await;
        let mut created = answers.iter().filter(|answer| answer.status == 201);
        let first = steady(created.next().expect("one begins it").json());
        assert_eq!(created.next().map(Answer::json), None, "two began it");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            assert_eq!(steady(answer.expect(200)), first);
            assert_eq!(answer.etag(), "W/\"1\"");
        }
    }
    // Two promotions at once: one of them.
    for user_id in 11..=15 {
        let offers = [promotion.pre_offer(user_id), other.pre_offer(user_id)];
        services[0].admin().import_pre_offers(&offers).await;
        let starts = (0..8).map(|number| {
            let client = services[number / 4].client(user_id);
            let promotion_id = [promotion.id, other.id][number % 2];
            async move { client.start(promotion_id).await }
        });
        let mut statuses = BTreeMap::<u16, usize>::new();
        for answer in join_all(starts).await {
            *statuses.entry(answer.status.as_u16()).or_default() += 1;
            if answer.status == 409 {
                let problem = answer.problem(409, "not-eligible");
                assert_eq!(problem["reasons"], json!(["ANOTHER_CHALLENGE_LIVE"]));
            }
        }
        assert_eq!(statuses, BTreeMap::from([(200, 3), (201, 1), (409, 4)]));
    }
    assert_eq!(world.count("select count(*) from promotion_user").await, 10);
    assert_eq!(
        world
            .count("select count(*) from cash_loan_account where status = 'ACTIVE'")
            .await,
        10
    );
    world.events_are_published().await;
    let published = world.read_status_topic().await;
    assert_eq!(published.len(), 10);
    assert!(
        published
            .iter()
            .all(|record| record.kind() == "promotion.started")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_started_once_whatever_became_of_it() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    for (user_id, status) in [(1, "COMPLETED"), (2, "REWARDED"), (3, "EXPIRED")] {
        let (client, _) = service.started_client(user_id, &promotion).await;
        assert_eq!(client.start(promotion.id).await.status, 200);
        set_status(world.pool(), user_id, status).await;
        let problem = client
            .start(promotion.id)
            .await
            .problem(409, "already-participated");
        let mut shown = problem["participation"].clone();
        assert_eq!(shown["status"], status);
        assert_eq!(shown["version"], 2);
        let current = client.progress(promotion.id).await.expect(200);
        shown["server_time"] = current["server_time"].clone();
        assert_eq!(shown, current, "the whole participation");
    }
    // It is over also for what would stand against a start.
    service.admin().set_country("MX", false).await;
    service
        .client(3)
        .start(promotion.id)
        .await
        .problem(409, "already-participated");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_against_a_start_is_told_in_order() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let other = admin.create_promotion(&conditions(3)).await;
    let inactive = admin.create_promotion(&conditions(3)).await;
    admin
        .api
        .patch_json(
            &format!("/admin/v1/promotions/{}", inactive.id),
            &json!({ "active": false }),
        )
        .await
        .expect(200);
    admin.set_country("CO", false).await;
    let of_country = |promotion: &Promotion, user_id, country: &str| {
        let mut offer = promotion.pre_offer(user_id);
        offer["country_code"] = json!(country);
        offer
    };
    let refused = async |user_id, promotion: &Promotion, reasons: &[&str]| {
        let problem = service
            .client(user_id)
            .start(promotion.id)
            .await
            .problem(409, "not-eligible");
        assert_eq!(problem["reasons"], json!(reasons));
        assert_eq!(problem["reason"], reasons[0]);
    };

    // What is no pre-offer for this start: none, one that is not for newbies, one for another
    // promotion, one for none. One that has run out says so.
    let no_offer = &["NO_PRE_OFFER"];
    refused(1, &promotion, no_offer).await;
    let mut expired = promotion.pre_offer(2);
    expired["valid_until"] = json!(instant(now() - TimeDelta::seconds(1)));
    let mut regular = promotion.pre_offer(3);
    regular["segment"] = json!("regular");
    let mut unmapped = promotion.pre_offer(5);
    unmapped["promotion_key"] = Value::Null;
    admin
        .import_pre_offers(&[expired, regular, other.pre_offer(4), unmapped])
        .await;
    refused(2, &promotion, &["PRE_OFFER_EXPIRED"]).await;
    for user_id in 3..=5 {
        refused(user_id, &promotion, no_offer).await;
    }

    admin
        .import_pre_offers(&[
            inactive.pre_offer(11),
            of_country(&promotion, 12, "CO"),
            // A country whose flag was never set.
            of_country(&promotion, 13, "PE"),
            of_country(&inactive, 14, "CO"),
        ])
        .await;
    refused(11, &inactive, &["PROMOTION_INACTIVE"]).await;
    refused(12, &promotion, &["PROMOTIONS_DISABLED"]).await;
    refused(13, &promotion, &["PROMOTIONS_DISABLED"]).await;
    refused(
        14,
        &inactive,
        &["PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"],
    )
    .await;
    // Without a pre-offer the country is unknown.
    refused(15, &inactive, &["NO_PRE_OFFER", "PROMOTION_INACTIVE"]).await;

    for (user_id, status, reason) in [
        (21, None, "ANOTHER_CHALLENGE_LIVE"),
        (22, Some("COMPLETED"), "ANOTHER_CHALLENGE_LIVE"),
        (23, Some("REWARDED"), "ALREADY_REWARDED"),
    ] {
        service.started_client(user_id, &other).await;
        if let Some(status) = status {
            set_status(world.pool(), user_id, status).await;
        }
        refused(user_id, &promotion, &[reason, "NO_PRE_OFFER"]).await;
        admin
            .import_pre_offers(&[promotion.pre_offer(user_id)])
            .await;
        refused(user_id, &promotion, &[reason]).await;
        admin
            .import_pre_offers(&[of_country(&inactive, user_id, "CO")])
            .await;
        let all = &[reason, "PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"];
        refused(user_id, &inactive, all).await;
    }
    let participations = world.count("select count(*) from promotion_user").await;
    assert_eq!(participations, 3, "a refused start leaves nothing");

    // After one that expired, another promotion may be started.
    service.started_client(31, &other).await;
    set_status(world.pool(), 31, "EXPIRED").await;
    service.started_client(31, &promotion).await;

    let unknown = service.client(1).start(i64::MAX).await;
    unknown.problem(404, "promotion-not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_country_is_that_of_the_pre_offer_imported_last_for_this_promotion() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let client = service.client(CLIENT);
    let offer = |country: &str, amount: i64| {
        let mut offer = promotion.pre_offer(CLIENT);
        offer["country_code"] = json!(country);
        offer["amount_cents"] = json!(amount);
        offer
    };
    let (mexican, mut colombian) = (offer("MX", 1), offer("CO", 2));
    admin
        .import_pre_offers(&[mexican.clone(), colombian.clone()])
        .await;
    client
        .start(promotion.id)
        .await
        .problem(409, "not-eligible");
    // A line that changes nothing stays where it is.
    admin
        .import_pre_offers(std::slice::from_ref(&mexican))
        .await;
    client
        .start(promotion.id)
        .await
        .problem(409, "not-eligible");
    let mut changed = mexican;
    changed["amount_cents"] = json!(3);
    admin.import_pre_offers(&[changed]).await;
    // Later ones that are not considered: run out, for others than newbies.
    colombian["valid_until"] = json!("2020-01-01T00:00:00Z");
    let mut regular = offer("CO", 4);
    regular["segment"] = json!("regular");
    admin.import_pre_offers(&[colombian, regular]).await;
    let participation = client.start(promotion.id).await.expect(201);
    assert_eq!(participation["reward"]["amount_cents"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_challenge_keeps_its_conditions_and_its_reward() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let mut offer = promotion.pre_offer(1);
    admin.import_pre_offers(&[offer.clone()]).await;
    let client = service.client(1);
    let started = steady(client.start(promotion.id).await.expect(201));

    let mut harder = conditions(5);
    harder["min_amount_cents"] = json!(9_000);
    harder["currency_code"] = json!("COP");
    harder["challenge_period"] = json!("P1D");
    harder["claim_period"] = json!("PT1H");
    let address = format!("/admin/v1/promotions/{}", promotion.id);
    let change = json!({ "conditions": harder, "active": false });
    admin.api.patch_json(&address, &change).await.expect(200);
    admin.set_country("MX", false).await;
    offer["amount_cents"] = json!(1);
    offer["repayment_rate"] = json!("99");
    admin.import_pre_offers(&[offer]).await;
    assert_eq!(
        steady(client.progress(promotion.id).await.expect(200)),
        started
    );
    assert_eq!(
        steady(client.start(promotion.id).await.expect(200)),
        started
    );

    for _ in 0..2 {
        world.publish_ride(&ride(1)).await;
    }
    let completed = eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED")).map(|_| progress)
    })
    .await;
    assert_eq!(completed["conditions"], conditions(2));
    assert_eq!(completed["reward"], started["reward"]);
    let at = |field: &str| -> DateTime<Utc> {
        let text = completed[field].as_str().expect("a text");
        text.parse().expect("an instant")
    };
    assert_eq!(
        at("reward_deadline"),
        at("completed_at") + TimeDelta::days(7)
    );

    // Who starts after the change has the new ones.
    admin
        .api
        .patch_json(&address, &json!({ "active": true }))
        .await
        .expect(200);
    admin.set_country("MX", true).await;
    let (_, later) = service.started_client(2, &promotion).await;
    assert_eq!(
        (&later["conditions"], &later["rides_target"]),
        (&harder, &json!(5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ride_published_after_its_clients_start_was_answered_counts_in_a_storm_of_starts() {
    const STARTED_BY_CALL: std::ops::Range<i64> = 1..401;
    const STARTED_IN_LONG_TRANSACTIONS: std::ops::Range<i64> = 401..1_001;
    const RIDES: i32 = 2;
    let everybody: Vec<i64> = (STARTED_BY_CALL.start..STARTED_IN_LONG_TRANSACTIONS.end).collect();

    let world = World::new().await;
    let setup = world.service().roles("api").start().await;
    let promotion = setup.admin().open_promotion(&conditions(10_000)).await;
    let offers: Vec<Value> = STARTED_BY_CALL
        .map(|user_id| promotion.pre_offer(user_id))
        .collect();
    setup.admin().import_pre_offers(&offers).await;
    // Two of three have been in an earlier challenge, which ends just before they start this one:
    // ingest knows them as participants, forgets them, and has to learn of them again.
    let earlier = Challenges::new(&world, &conditions(10_000)).await;
    let returning: Vec<i64> = everybody
        .iter()
        .copied()
        .filter(|user| user % 3 > 0)
        .collect();
    let hour = TimeDelta::hours(1);
    earlier
        .start(&returning, now() - hour, now() - TimeDelta::minutes(1))
        .await;
    let end_earlier =
        "update promotion_user set status = 'EXPIRED', expired_reason = 'CHALLENGE_NOT_COMPLETED', expired_at = clock_ms()
          where user_id = any($1) and promotion_id = $2";
    let by_sql = Challenges::new(&world, &conditions(10_000)).await;
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(LIMIT)
        .connect_lazy(&world.database_url())
        .expect("a valid URL");
    let small_batches = || {
        world
            .service()
            .env("RIDE_PROMO__INGEST__BATCH_MAX_RECORDS", 200)
    };
    let service = small_batches().start().await;

    let rides_of = async |users: &[i64]| {
        let rides = users
            .iter()
            .flat_map(|user| (0..RIDES).map(|_| Outgoing::ride(&ride(*user))));
        world.publish_all(rides.collect::<Vec<_>>()).await;
    };
    let calls = stream::iter(STARTED_BY_CALL).for_each_concurrent(8, async |user_id| {
        if user_id % 3 > 0 {
            let ended = sqlx::query(end_earlier).bind([user_id].as_slice());
            let ended = ended.bind(earlier.promotion_id).execute(&pool).await;
            ended.expect("it is in progress");
        }
        let client = service.client(user_id);
        client.start(promotion.id).await.expect(201);
        rides_of(&[user_id]).await;
    });
    let groups: Vec<Vec<i64>> = STARTED_IN_LONG_TRANSACTIONS
        .collect::<Vec<_>>()
        .chunks(15)
        .map(<[i64]>::to_vec)
        .collect();
    let transactions =
        stream::iter(groups.iter().enumerate()).for_each_concurrent(6, async |(number, users)| {
            let mut transaction = pool.begin().await.expect("a connection");
            let ended = sqlx::query(end_earlier)
                .bind(users)
                .bind(earlier.promotion_id);
            ended.execute(&mut *transaction).await.expect("in progress");
            by_sql
                .start_on(&mut *transaction, users, now(), now() + hour)
                .await;
            // While it stays open, others begin and commit.
            tokio::time::sleep(Duration::from_millis(20 + 90 * (number as u64 % 4))).await;
            transaction.commit().await.expect("no start yet");
            rides_of(users).await;
        });
    let done = AtomicBool::new(false);
    let storm = async {
        tokio::join!(calls, transactions);
        done.store(true, Ordering::Relaxed);
    };
    // Rides that never count, of everybody all the time, so that no client is ever unheard of.
    let noise = async {
        let mut published = 0_usize;
        while !done.load(Ordering::Relaxed) {
            let cheap = everybody.iter().skip(published % 7).step_by(7).map(|user| {
                let mut cheap = ride(*user);
                cheap["amount_cents"] = json!(1);
                Outgoing::ride(&cheap)
            });
            world.publish_all(cheap.collect::<Vec<_>>()).await;
            published += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        published
    };
    // A worker that joins in the middle learns of those it has not seen start.
    let joining = async {
        let started = "select count(*) from promotion_user where promotion_id = any($1)";
        eventually(Duration::from_secs(120), || async {
            let started: i64 = sqlx::query_scalar(started)
                .bind([promotion.id, by_sql.promotion_id])
                .fetch_one(world.pool())
                .await
                .map_err(|error| error.to_string())?;
            if usize::try_from(started).expect("a count") < everybody.len() / 3 {
                return Err(format!("{started} have started"));
            }
            Ok(())
        })
        .await;
        small_batches().roles("ingest,relay").start().await
    };
    let ((), rounds, _worker) = tokio::join!(storm, noise, joining);
    assert!(rounds > 10, "no storm: {rounds} rounds of noise");
    world.rides_are_applied().await;

    let mut missed = Vec::new();
    let by_call: Vec<(i64, i32)> = sqlx::query_as(
        "select user_id, rides_completed from promotion_user where promotion_id = any($1) order by user_id",
    )
    .bind([promotion.id, by_sql.promotion_id])
    .fetch_all(world.pool())
    .await
    .expect("the database answers");
    assert_eq!(by_call.len(), everybody.len());
    for (user_id, rides_completed) in by_call {
        if rides_completed != RIDES {
            missed.push((user_id, rides_completed));
        }
    }
    assert_eq!(missed, [], "clients whose rides were missed");
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

/// The status of a start, with its reasons where it was not eligible.
fn outcome(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    if status != 409 {
        return status.to_string();
    }
    let problem: Value = serde_json::from_str(&answer.text).expect("a problem");
    format!("409 {}", problem["reasons"])
}

/// Everything a client has of starts: participations, `ACTIVE` splits, lines of history.
async fn traces(world: &World, user_id: i64) -> (i64, i64, i64) {
    sqlx::query_as(
        "select (select count(*) from promotion_user where user_id = $1),
                (select count(*) from cash_loan_account where user_id = $1 and status = 'ACTIVE'),
                (select count(*) from participation_history where user_id = $1)",
    )
    .bind(user_id)
    .fetch_one(world.pool())
    .await
    .expect("the database answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_share_transactions_each_get_what_they_would_get_alone() {
    const PLACES: i64 = 10;
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    let services = [
        world.service().start().await,
        world
            .service()
            .roles("api")
            .through(&proxy, &world)
            .start()
            .await,
    ];
    let admin = services[0].admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let [inactive, other, limited] = [
        admin.create_promotion(&conditions(3)).await,
        admin.create_promotion(&conditions(3)).await,
        admin.create_promotion(&conditions(3)).await,
    ];
    let off = json!({ "active": false });
    admin.patch_promotion(&inactive, &off).await.expect(200);
    let budget = json!({ "budget": { "max_participations": PLACES + 1 } });
    admin.patch_promotion(&limited, &budget).await.expect(200);
    admin.set_country("CO", false).await;
    // The terms are frozen, so that a start writes no more than its own rows.
    services[0].started_client(1, &promotion).await;
    services[0].started_client(2, &limited).await;

    // Who starts what, how often, and what comes of it.
    let newcomers = 101..=250;
    let tapping_twice = 301..=310;
    let at_the_limit = 801..=830;
    let mut offers = Vec::new();
    let mut starts: Vec<(i64, i64)> = Vec::new();
    let mut expected: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for user_id in newcomers.clone() {
        offers.push(promotion.pre_offer(user_id));
        starts.push((user_id, promotion.id));
        expected.insert(user_id, vec!["201".to_owned()]);
    }
    for user_id in tapping_twice.clone() {
        offers.push(promotion.pre_offer(user_id));
        starts.extend([(user_id, promotion.id); 4]);
        let statuses = ["200", "200", "200", "201"].map(str::to_owned);
        expected.insert(user_id, statuses.to_vec());
    }
    let refused = |reason: &str| vec![format!("409 [\"{reason}\"]")];
    for user_id in 401..=410 {
        starts.push((user_id, promotion.id));
        expected.insert(user_id, refused("NO_PRE_OFFER"));
    }
    for user_id in 501..=510 {
        let mut expired = promotion.pre_offer(user_id);
        expired["valid_until"] = json!("2020-01-01T00:00:00Z");
        offers.push(expired);
        starts.push((user_id, promotion.id));
        expected.insert(user_id, refused("PRE_OFFER_EXPIRED"));
    }
    for user_id in 601..=610 {
        offers.push(inactive.pre_offer(user_id));
        starts.push((user_id, inactive.id));
        expected.insert(user_id, refused("PROMOTION_INACTIVE"));
    }
    for user_id in 651..=660 {
        let mut abroad = promotion.pre_offer(user_id);
        abroad["country_code"] = json!("CO");
        offers.push(abroad);
        starts.push((user_id, promotion.id));
        expected.insert(user_id, refused("PROMOTIONS_DISABLED"));
    }
    for user_id in 701..=710 {
        starts.push((user_id, 9_999));
        expected.insert(user_id, vec!["404".to_owned()]);
    }
    for user_id in at_the_limit.clone() {
        offers.push(limited.pre_offer(user_id));
    }
    for user_id in 901..=910 {
        offers.extend([other.pre_offer(user_id), promotion.pre_offer(user_id)]);
        starts.push((user_id, promotion.id));
        expected.insert(user_id, refused("ANOTHER_CHALLENGE_LIVE"));
    }
    admin.import_pre_offers(&offers).await;
    for user_id in 901..=910 {
        let client = services[0].client(user_id);
        client.start(other.id).await.expect(201);
    }

    // The first transactions of both processes wait for this lock, and the other starts for them.
    let guard = HeldLock::by(&world, "lock table geo_config in exclusive mode").await;
    let calls = stream::iter(starts.iter().enumerate())
        .map(async |(number, (user_id, promotion_id))| {
            let client = services[number % 2].client(*user_id);
            (*user_id, outcome(&client.start(*promotion_id).await))
        })
        .buffer_unordered(starts.len())
        .collect::<Vec<_>>();
    let release = async {
        let waiting = "select count(*) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'";
        eventually(LIMIT, || async {
            let sessions = world.count(waiting).await;
            if sessions < 4 {
                return Err(format!("{sessions} sessions wait"));
            }
            Ok(())
        })
        .await;
        // Nothing shows how many requests have arrived; it is enough that many have.
        tokio::time::sleep(Duration::from_millis(500)).await;
        guard.let_go().await;
    };
    let (outcomes, ()) = tokio::join!(calls, release);
    let mut found: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for (user_id, outcome) in outcomes {
        found.entry(user_id).or_default().push(outcome);
    }
    found.values_mut().for_each(|outcomes| outcomes.sort());
    assert_eq!(found, expected);
    for user_id in newcomers.clone().chain(tapping_twice) {
        assert_eq!(traces(&world, user_id).await, (1, 1, 1), "client {user_id}");
    }
    let transactions =
        "select count(distinct live_xid) from promotion_user where user_id between 101 and 250";
    let transactions = world.count(transactions).await;
    assert!(transactions <= 75, "{transactions} transactions for 150");

    // More starts at once than the budget has room for.
    let calls = at_the_limit.clone().map(|user_id| {
        let client = services[0].client(user_id);
        async move { outcome(&client.start(limited.id).await) }
    });
    let mut limits = BTreeMap::<String, i64>::new();
    for outcome in join_all(calls).await {
        *limits.entry(outcome).or_default() += 1;
    }
    let exhausted = "409 [\"BUDGET_EXHAUSTED\"]".to_owned();
    let started_of = BTreeMap::from([("201".to_owned(), PLACES), (exhausted, 30 - PLACES)]);
    assert_eq!(limits, started_of);
    assert_eq!(budget_in_use(&world, limited.id).await, (PLACES + 1, 0));

    // A connection breaks at each step of a shared transaction. BEGIN is 1, and whatever is prepared first
    // only adds steps.
    let mut unavailable = 0;
    for step in 2..=7 {
        let users = step * 1_000 + 1..=step * 1_000 + 20;
        let offers: Vec<Value> = users.clone().map(|id| promotion.pre_offer(id)).collect();
        admin.import_pre_offers(&offers).await;
        let cut = [Cut::Request, Cut::Answer][step as usize % 2];
        let fault = proxy.cut_at_step(usize::try_from(step).expect("small"), cut);
        let calls = users.clone().map(|user_id| {
            let client = services[1].client(user_id);
            async move { client.start(promotion.id).await.status.as_u16() }
        });
        let statuses = join_all(calls).await;
        assert!(fault.fired(), "step {step}");
        unavailable += statuses.iter().filter(|status| **status == 503).count();
        for (user_id, status) in users.zip(statuses) {
            assert!([201, 503].contains(&status), "step {step}: {status}");
            let client = services[1].client(user_id);
            let again = client.start(promotion.id).await.status.as_u16();
            // The answer to a commit may have been lost.
            assert!(
                again == 200 || status == 503 && again == 201,
                "step {step}: {again}"
            );
            assert_eq!(traces(&world, user_id).await, (1, 1, 1), "client {user_id}");
        }
    }
    assert!(unavailable >= 6, "no start was cut");

    world.events_are_published().await;
    let events = by_key(world.read_status_topic().await);
    let participations = world.count("select count(*) from promotion_user").await;
    assert_eq!(
        events.len(),
        usize::try_from(participations).expect("a count")
    );
    for (key, events) in events {
        let kinds: Vec<&str> = events.iter().map(StatusRecord::kind).collect();
        assert_eq!(kinds, ["promotion.started"], "{key}");
    }
}
