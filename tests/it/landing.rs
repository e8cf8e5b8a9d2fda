//! The landing: every screen, the split that it writes, and what has no influence on it.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::*;

async fn land(client: &Client) -> Value {
    client.api.post("/v1/landing").await.expect(200)
}

async fn splits(world: &World, user_id: i64) -> Vec<String> {
    sqlx::query_scalar(
        "select status from cash_loan_account where user_id = $1 order by created_at, split_id",
    )
    .bind(user_id)
    .fetch_all(world.pool())
    .await
    .expect("the database answers")
}

async fn run(world: &World, sql: &'static str, user_id: i64) {
    sqlx::query(sql)
        .bind(user_id)
        .execute(world.pool())
        .await
        .expect("it is allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_makes_one_split_however_often_it_is_shown() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = service.eligible_client(1, &promotion).await;
    let landings = futures::future::join_all((0..20).map(|_| land(&client))).await;
    for landing in landings {
        assert_eq!(landing["screen"], "PROMO_OFFER", "{landing}");
        assert_eq!(landing["participation"], Value::Null);
        assert_eq!(landing.get("application"), Some(&Value::Null));
        assert_eq!(landing["promotion"]["promotion_id"], promotion.id);
        assert_eq!(landing["promotion"]["conditions"], conditions(1));
        assert_eq!(landing["offer"]["amount_cents"], 100_000);
        assert_eq!(landing["offer"]["promotion_id"], promotion.id);
        assert!(landing["server_time"].is_string());
    }
    assert_eq!(splits(&world, 1).await, ["ACTIVE"]);

    client.start(promotion.id).await.expect(201);
    assert_eq!(splits(&world, 1).await, ["ACTIVE"]);
    service.admin().set_country("MX", false).await;
    run(
        &world,
        "update promotion set active = false where $1 > 0",
        1,
    )
    .await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "PROMO_PROGRESS", "{landing}");
    assert_eq!(landing["offer"], Value::Null);
    assert_eq!(landing["participation"]["status"], "IN_PROGRESS");
    assert_eq!(landing["promotion"]["conditions"], conditions(1));

    // Run out: renewed while a valid pre-offer is there, and not without one.
    let run_out = "update cash_loan_account set valid_until = clock_ms() where user_id = $1 and status = 'ACTIVE'";
    run(&world, run_out, 1).await;
    land(&client).await;
    assert_eq!(splits(&world, 1).await, ["EXPIRED", "ACTIVE"]);
    run(&world, run_out, 1).await;
    run(&world, "delete from pre_offer where user_id = $1", 1).await;
    land(&client).await;
    let renewed = splits(&world, 1).await;
    assert_eq!(renewed.len(), 2, "{renewed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_promotion_goes_the_regular_way() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = service.client(1);
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
    for member in ["promotion", "participation", "offer", "application"] {
        assert_eq!(landing.get(member), Some(&Value::Null), "{member}");
    }
    let mut regular = promotion.pre_offer(1);
    regular["segment"] = json!("regular");
    service.admin().import_pre_offers(&[regular]).await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "REGULAR_OFFER", "{landing}");
    assert_eq!(landing["offer"]["product_id"], 80);

    service.eligible_client(1, &promotion).await;
    service.admin().set_country("MX", false).await;
    assert_eq!(land(&client).await["screen"], "REGULAR_OFFER");
    assert_eq!(splits(&world, 1).await, [""; 0]);
    service.admin().set_country("MX", true).await;
    assert_eq!(land(&client).await["screen"], "PROMO_OFFER");
    service
        .api()
        .post("/v1/landing")
        .await
        .problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewarded_client_sees_the_application_on_whichever_screen() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "PROMO_PROGRESS", "{landing}");
    assert_eq!(landing.get("application"), Some(&Value::Null));
    world.publish_ride(&ride(1)).await;
    eventually(TimeDelta::seconds(20).to_std().unwrap(), || async {
        let landing = land(&client).await;
        assert_eq!(landing.get("application"), Some(&Value::Null));
        equal(landing["screen"].clone(), json!("REWARD_READY"))
    })
    .await;
    let accept = format!("/v1/promotions/{}/accept_reward", promotion.id);
    let accepted = client.api.post(&accept).await.expect(200);

    let mut expected = json!({
        "status": "CREATED",
        "created_at": accepted["participation"]["rewarded_at"],
        "reward": accepted["participation"]["reward"],
    });
    for id in [
        "application_id",
        "session_id",
        "sequence_id",
        "active_pre_offer_id",
    ] {
        expected[id] = accepted[id].clone();
    }
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
    assert_eq!(landing["application"], expected);
    for member in ["promotion", "participation", "offer"] {
        assert_eq!(landing.get(member), Some(&Value::Null), "{member}");
    }

    // A newbie pre-offer for another promotion changes nothing. Neither do later changes of the
    // pre-offer and of the product: the application says what was accepted.
    let second = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &second).await;
    world
        .execute("update pre_offer set amount_cents = 1, repayment_rate = '99'; update product set name = 'Renamed'")
        .await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "NO_OFFER", "{landing}");
    assert_eq!(landing["application"], expected);

    // One of another segment decides the screen as before, beside the application.
    let mut regular = promotion.pre_offer(1);
    regular["segment"] = json!("regular");
    service.admin().import_pre_offers(&[regular]).await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "REGULAR_OFFER", "{landing}");
    assert_eq!(landing["application"], expected);
    assert!(landing["offer"].is_object(), "{landing}");

    // Another client sees nothing of it.
    let other = service.eligible_client(2, &second).await;
    let landing = land(&other).await;
    assert_eq!(landing["screen"], "PROMO_OFFER", "{landing}");
    assert_eq!(landing.get("application"), Some(&Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_shown_until_acknowledged_and_another_promotion_may_follow() {
    let world = World::new().await;
    let service = world
        .service()
        .roles("api,sweep,ingest,relay")
        .lateness("PT0S")
        .start()
        .await;
    let mut short = conditions(1);
    short["challenge_period"] = json!("PT5S");
    let first = service.admin().open_promotion(&short).await;
    let (client, _) = service.started_client(1, &first).await;
    let acknowledge = format!("/v1/promotions/{}/acknowledge", first.id);
    client
        .api
        .post(&acknowledge)
        .await
        .problem(409, "not-expired");
    service
        .client(2)
        .api
        .post(&acknowledge)
        .await
        .problem(404, "not-participating");
    eventually(TimeDelta::seconds(20).to_std().unwrap(), || async {
        equal(
            land(&client).await["screen"].clone(),
            json!("CHALLENGE_OVER"),
        )
    })
    .await;
    assert_eq!(splits(&world, 1).await, ["EXPIRED"]);
    client
        .api
        .get(&format!("/v1/promotions/{}/get_reward", first.id))
        .await
        .problem(410, "challenge-over");
    client
        .api
        .post(&format!("/v1/promotions/{}/accept_reward", first.id))
        .await
        .problem(410, "challenge-over");
    let second = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &second).await;
    assert_eq!(land(&client).await["screen"], "CHALLENGE_OVER");
    for _ in 0..2 {
        assert_eq!(client.api.post(&acknowledge).await.status, 204);
    }
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "PROMO_OFFER", "{landing}");
    assert_eq!(landing["promotion"]["promotion_id"], second.id);
    client
        .start(first.id)
        .await
        .problem(409, "already-participated");
    client.start(second.id).await.expect(201);
}
