//! From the completed challenge to the loan: one transaction, however often the call is repeated.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(20);

fn path(promotion: &Promotion, call: &str) -> String {
    format!("/v1/promotions/{}/{call}", promotion.id)
}

async fn accept(client: &Client, promotion: &Promotion) -> Answer {
    client.api.post(&path(promotion, "accept_reward")).await
}

async fn terms(client: &Client, promotion: &Promotion) -> Answer {
    client.api.get(&path(promotion, "get_reward")).await
}

/// Without what differs between two answers.
fn same(mut answer: Value) -> Value {
    answer["participation"]["server_time"] = Value::Null;
    answer
}

/// A client who has completed the challenge of one ride.
async fn completed(world: &World, service: &Service, promotion: &Promotion, user: i64) -> Client {
    let (client, _) = service.started_client(user, promotion).await;
    world.publish_ride(&ride(user)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_journey_and_thirty_accepts_at_once() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    terms(&client, &promotion)
        .await
        .problem(409, "challenge-not-completed");
    accept(&client, &promotion)
        .await
        .problem(409, "challenge-not-completed");
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        let landing = client.api.post("/v1/landing").await.expect(200);
        equal(landing["screen"].clone(), json!("REWARD_READY"))
    })
    .await;
    let other = service.client(2);
    terms(&other, &promotion)
        .await
        .problem(404, "not-participating");
    accept(&other, &promotion)
        .await
        .problem(404, "not-participating");
    let shown = terms(&client, &promotion).await.expect(200);
    assert_eq!(shown["reward"]["repayment_rate"], "15");
    assert_eq!(shown["product"]["term_days"], 30);

    // Neither has any influence on who has started, nor has a pre-offer that is gone.
    service.admin().set_country("MX", false).await;
    world
        .execute("update promotion set active = false; delete from pre_offer")
        .await;
    let answers = futures::future::join_all((0..30).map(|_| accept(&client, &promotion))).await;
    let first = same(answers[0].expect(200));
    assert_eq!(first["sequence_id"], 8, "{first}");
    assert_eq!(first["participation"]["status"], "REWARDED");
    for answer in answers {
        assert_eq!(same(answer.expect(200)), first);
    }
    let known = terms(&client, &promotion)
        .await
        .problem(409, "already-rewarded");
    for member in [
        "application_id",
        "session_id",
        "sequence_id",
        "active_pre_offer_id",
    ] {
        assert_eq!(known["application"][member], first[member], "{member}");
    }
    for sql in [
        "select count(*) from active_pre_offer where amount_cents = 100000",
        "select count(*) from application",
        "select count(*) from session where sequence_id = 8",
        "select count(*) from cash_loan_account where status = 'USED'",
    ] {
        assert_eq!(world.count(sql).await, 1, "{sql}");
    }
    eventually(LIMIT, || async {
        let kinds = world.kinds_of(1, promotion.id).await;
        equal(
            kinds,
            [
                "promotion.started",
                "promotion.completed",
                "promotion.rewarded",
            ]
            .map(str::to_owned)
            .to_vec(),
        )
    })
    .await;
    let metrics = service.metrics().await;
    let accepts = |result| metrics.sum("ride_promo_accepts_total", &[("result", result)]);
    assert_eq!((accepts("rewarded"), accepts("repeated")), (1.0, 29.0));

    // Never a newbie again.
    service.admin().set_country("MX", true).await;
    let second = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &second).await;
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
    let refused = client.start(second.id).await.problem(409, "not-eligible");
    assert_eq!(refused["reason"], "ALREADY_REWARDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reward_is_gone_at_its_deadline_before_anybody_has_written_so() {
    let world = World::new().await;
    // No sweeper runs.
    let service = world.service().roles("api,ingest,relay").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = completed(&world, &service, &promotion, 1).await;
    world.execute("update promotion_user set completed_at = clock_ms() - interval '2 seconds', reward_deadline = clock_ms()").await;
    terms(&client, &promotion)
        .await
        .problem(410, "reward-expired");
    accept(&client, &promotion)
        .await
        .problem(410, "reward-expired");
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "REWARD_EXPIRED", "{landing}");
    assert_eq!(world.count("select count(*) from application").await, 0);
    let acknowledged = client.api.post(&path(&promotion, "acknowledge")).await;
    assert_eq!(acknowledged.status, 204);
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["status"], "COMPLETED", "{progress}");

    // Nor does another promotion wait for that.
    let other = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &other).await;
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "PROMO_OFFER", "{landing}");
    assert_eq!(landing["promotion"]["promotion_id"], other.id);
    client.start(other.id).await.expect(201);
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["status"], "EXPIRED", "{progress}");
    assert_eq!(progress["expired_reason"], "REWARD_NOT_CLAIMED");
    let user = service.admin().user(1).await;
    let splits = user["splits"].as_array().expect("splits").iter();
    let splits: Vec<&str> = splits
        .filter_map(|split| split["status"].as_str())
        .collect();
    assert_eq!(splits, ["ACTIVE", "EXPIRED"], "{user}");
    let expired = [("reason", "REWARD_NOT_CLAIMED")];
    let metrics = service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_expired_total", &expired), 1.0);
    world.events_are_published().await;
    let kinds = world.kinds_of(1, promotion.id).await;
    let last = kinds.last().map(String::as_str);
    assert_eq!(last, Some("promotion.expired"), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_that_has_gone_is_made_again_or_the_accept_refused() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = completed(&world, &service, &promotion, 1).await;
    world.execute("update cash_loan_account set valid_until = clock_ms(); delete from pre_offer; update promotion set missing_split = 'reject'").await;
    accept(&client, &promotion)
        .await
        .problem(409, "split-missing");
    assert_eq!(world.count("select count(*) from application").await, 0);
    world
        .execute("update promotion set missing_split = 'create'")
        .await;
    accept(&client, &promotion).await.expect(200);
    let splits = "select count(*) from cash_loan_account where status in ('USED', 'EXPIRED')";
    assert_eq!(world.count(splits).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_found_by_the_retry() {
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world.service().through(&proxy, &world).start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = completed(&world, &service, &promotion, 1).await;
    let lost = proxy.lose_commit_answers(Some("insert into session"), 1);
    accept(&client, &promotion)
        .await
        .problem(503, "temporarily-unavailable");
    assert_eq!(lost.fired(), 1);
    let first = same(accept(&client, &promotion).await.expect(200));
    assert_eq!(same(accept(&client, &promotion).await.expect(200)), first);
    assert_eq!(world.count("select count(*) from application").await, 1);
}

/// Clients who have started the promotion, through one service and another.
async fn all_started(services: &[Service], promotion: &Promotion, users: Range<i64>) {
    let offers: Vec<Value> = users
        .clone()
        .map(|user_id| promotion.pre_offer(user_id))
        .collect();
    services[0].admin().import_pre_offers(&offers).await;
    stream::iter(users.zip(services.iter().cycle()))
        .for_each_concurrent(8, async |(user_id, service)| {
            let client = service.client(user_id);
            client.start(promotion.id).await.expect(201);
        })
        .await;
}

/// Clients who have completed the promotion, without the rides.
async fn all_completed(world: &World, service: &Service, promotion: &Promotion, users: Range<i64>) {
    all_started(std::slice::from_ref(service), promotion, users.clone()).await;
    stream::iter(users)
        .for_each_concurrent(8, |user_id| {
            end_by_force(world, user_id, promotion.id, End::Completed)
        })
        .await;
}

/// What an accept leaves: active pre-offers, applications, sessions, used splits, participations
/// `REWARDED`, events of that waiting to be published.
async fn traces(world: &World, user_id: i64) -> [i64; 6] {
    let (a, b, c, d, e, f) = sqlx::query_as(
        "select (select count(*) from active_pre_offer where user_id = $1),
                (select count(*) from application where user_id = $1),
                (select count(*) from session where user_id = $1),
                (select count(*) from cash_loan_account where user_id = $1 and status = 'USED'),
                (select count(*) from promotion_user where user_id = $1 and status = 'REWARDED'),
                (select count(*) from event_outbox where user_id = $1 and type = 'promotion.rewarded')",
    )
    .bind(user_id)
    .fetch_one(world.pool())
    .await
    .expect("the database answers");
    [a, b, c, d, e, f]
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_accepts_at_once_of_each_of_two_hundred_clients_make_one_loan_each() {
    const CLIENTS: i64 = 200;
    const CALLS: i64 = 50;
    let world = World::new().await;
    let services = [
        world.service().start().await,
        world.service().roles("api").start().await,
    ];
    let promotion = services[0].admin().open_promotion(&conditions(1)).await;
    let users: Vec<i64> = (1..=CLIENTS).collect();
    all_started(&services, &promotion, 1..CLIENTS + 1).await;
    let rides = users.iter().map(|user_id| Outgoing::ride(&ride(*user_id)));
    world.publish_all(rides.collect::<Vec<_>>()).await;
    world.rides_are_applied().await;

    let first: BTreeMap<i64, Value> = stream::iter(&users)
        .map(async |user_id| {
            let calls = (0..CALLS).map(|call| {
                let client = services[(call % 2) as usize].client(*user_id);
                let promotion = &promotion;
                async move {
                    let request = client
                        .api
                        .request(Method::POST, &path(promotion, "accept_reward"));
                    // Some with a key of their own, some with a common one, some with none.
                    let request = match call % 3 {
                        0 => request.header("idempotency-key", format!("\"{call}\"")),
                        1 => request.header("idempotency-key", "\"the same\""),
                        _ => request,
                    };
                    same(client.api.send(request).await.expect(200))
                }
            });
            let answers = futures::future::join_all(calls).await;
            for answer in &answers {
                assert_eq!(answer, &answers[0]);
            }
            (*user_id, answers.into_iter().next().expect("an answer"))
        })
        .buffer_unordered(8)
        .collect()
        .await;

    for sql in [
        "select count(distinct user_id) from active_pre_offer where amount_cents = 100000 and repayment_rate = '15'",
        "select count(*) from active_pre_offer",
        "select count(*) from application",
        "select count(*) from session where sequence_id = 8",
        "select count(*) from cash_loan_account where status = 'USED'",
        "select count(*) from cash_loan_account",
        "select count(*) from promotion_user where status = 'REWARDED' and rewarded_at < reward_deadline",
        "select count(*) from application a join session s using (application_id) join cash_loan_account c using (split_id)
           join active_pre_offer o using (active_pre_offer_id) join promotion_user p on p.user_id = o.user_id
          where a.user_id = s.user_id and c.user_id = s.user_id and o.user_id = s.user_id and c.status = 'USED'",
    ] {
        assert_eq!(world.count(sql).await, CLIENTS, "{sql}");
    }
    // However late, and through any process.
    for (user_id, answer) in first.iter().step_by(20) {
        for service in &services {
            let late = accept(&service.client(*user_id), &promotion).await;
            assert_eq!(same(late.expect(200)), *answer);
        }
    }
    world.events_are_published().await;
    let published = world.read_status_topic().await;
    let rewarded = published
        .iter()
        .filter(|record| record.kind() == "promotion.rewarded");
    assert_eq!(rewarded.count() as i64, CLIENTS);
    assert_contiguous(published);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_at_any_step_leaves_all_or_nothing_and_the_retry_answers() {
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    // Nothing but the calls runs transactions.
    let service = world
        .service()
        .roles("api")
        .through(&proxy, &world)
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    const MAX_STEPS: i64 = 100;
    all_completed(&world, &service, &promotion, 1..2 * MAX_STEPS).await;
    let mut users = 1..2 * MAX_STEPS;
    for cut in [Cut::Request, Cut::Answer] {
        let (mut number, mut commits) = (1, 0);
        loop {
            let user_id = users.next().expect("more clients than steps");
            let client = service.client(user_id);
            // On a session that knows no statement yet, so that each step has its place.
            proxy.cut_all();
            let fault = proxy.cut_at_step(number, cut);
            let answer = accept(&client, &promotion).await;
            if !fault.fired() {
                answer.expect(200);
                if commits > 0 {
                    break;
                }
                // A session that prepared a statement before the transaction needs a step less.
                number -= 1;
                continue;
            }
            let step = format!("{cut:?} {number}");
            let problem = answer.problem(503, "temporarily-unavailable");
            assert!(answer.header("retry-after").is_some(), "{step}: {problem}");
            let traces = eventually(LIMIT, || async {
                // The server may not know yet that it is alone.
                let held: i64 = world
                    .count(
                        "select count(*) from pg_stat_activity where datname = current_database()
                        and xact_start is not null and pid <> pg_backend_pid()",
                    )
                    .await;
                equal(held, 0)?;
                Ok::<_, String>(self::traces(&world, user_id).await)
            })
            .await;
            // Only the commit's lost answer leaves something.
            let is_kept = fault.struck_commit() && cut == Cut::Answer;
            assert_eq!(traces, [i64::from(is_kept); 6], "{step}");
            let retried = same(accept(&client, &promotion).await.expect(200));
            assert_eq!(retried["participation"]["status"], "REWARDED", "{step}");
            assert_eq!(self::traces(&world, user_id).await, [1; 6], "{step}");
            assert_eq!(
                same(accept(&client, &promotion).await.expect(200)),
                retried,
                "{step}"
            );
            commits += usize::from(fault.struck_commit());
            number += 1;
        }
        assert!(number > 12, "{number} steps");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_commit_and_answer_loses_and_repeats_nothing() {
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world
        .service()
        .roles("api")
        .through(&proxy, &world)
        .start()
        .await;
    let other = world.service().start().await;
    let promotion = other.admin().open_promotion(&conditions(1)).await;
    all_completed(&world, &other, &promotion, 1..2).await;
    let committed = proxy.arm(Cut::Silence, "COMMIT\0", Some("insert into session"), 1);
    let client = service.client(1);
    let unanswered = tokio::spawn({
        let (api, path) = (client.api.clone(), path(&promotion, "accept_reward"));
        async move { api.try_send(api.request(Method::POST, &path)).await }
    });
    eventually(LIMIT, || async {
        equal(committed.fired(), 1)?;
        equal(
            world
                .count("select count(*) from promotion_user where status = 'REWARDED'")
                .await,
            1,
        )
    })
    .await;
    service.sigkill().await;
    unanswered
        .await
        .expect("no panic")
        .expect_err("nobody is there to answer");

    let application: String = sqlx::query_scalar("select application_id::text from application")
        .fetch_one(world.pool())
        .await
        .expect("one");
    let restarted = world.service().roles("api").start().await;
    let first = same(accept(&restarted.client(1), &promotion).await.expect(200));
    assert_eq!(first["application_id"], application);
    assert_eq!(
        same(accept(&other.client(1), &promotion).await.expect(200)),
        first
    );
    assert_eq!(traces(&world, 1).await[..5], [1; 5]);
    world.events_are_published().await;
    let kinds = world.kinds_of(1, promotion.id).await;
    assert_eq!(kinds, ["promotion.started", "promotion.rewarded"]);
}
