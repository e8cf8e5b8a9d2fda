//! From the completed challenge to the loan: one transaction, however often it is asked for.

use std::time::Duration;

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

async fn count(world: &World, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .fetch_one(world.pool())
        .await
        .expect("the database answers")
}

async fn run(world: &World, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(world.pool())
        .await
        .expect("it is allowed");
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
    run(
        &world,
        "update promotion set active = false; delete from pre_offer",
    )
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
        assert_eq!(count(&world, sql).await, 1, "{sql}");
    }
    eventually(LIMIT, || async {
        let kinds: Vec<String> = world
            .status_of(1, promotion.id)
            .await
            .iter()
            .map(|record| record.kind().to_owned())
            .collect();
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
    // Nobody sweeps.
    let service = world.service().roles("api,ingest,relay").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = completed(&world, &service, &promotion, 1).await;
    run(&world, "update promotion_user set completed_at = clock_ms() - interval '2 seconds', reward_deadline = clock_ms()").await;
    terms(&client, &promotion)
        .await
        .problem(410, "reward-expired");
    accept(&client, &promotion)
        .await
        .problem(410, "reward-expired");
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "REWARD_EXPIRED", "{landing}");
    assert_eq!(count(&world, "select count(*) from application").await, 0);
    let acknowledged = client.api.post(&path(&promotion, "acknowledge")).await;
    assert_eq!(acknowledged.status, 204);
    let landing = client.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_that_has_gone_is_made_again_or_the_accept_refused() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = completed(&world, &service, &promotion, 1).await;
    run(&world, "update cash_loan_account set valid_until = clock_ms(); delete from pre_offer; update promotion set missing_split = 'reject'").await;
    accept(&client, &promotion)
        .await
        .problem(409, "split-missing");
    assert_eq!(count(&world, "select count(*) from application").await, 0);
    run(&world, "update promotion set missing_split = 'create'").await;
    accept(&client, &promotion).await.expect(200);
    let splits = "select count(*) from cash_loan_account where status in ('USED', 'EXPIRED')";
    assert_eq!(count(&world, splits).await, 2);
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
    assert_eq!(count(&world, "select count(*) from application").await, 1);
}
