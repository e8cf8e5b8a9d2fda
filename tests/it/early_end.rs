//! A participation that ends before its deadline: the client quits, or an operator cancels it (contract 2, Deadlines
//! and exceptions). Also: a loan's product terms are those of the start.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;
use crate::races::{HeldLock, done, post, waiting};

const LIMIT: Duration = Duration::from_secs(60);

/// The answer without what is of its own moment.
fn steady(mut participation: Value) -> Value {
    let fields = participation.as_object_mut().expect("an object");
    assert!(fields.remove("server_time").is_some());
    participation
}

/// What every end of this kind leaves: no reward, no split, the way free for another promotion.
async fn is_over(
    world: &World,
    service: &Service,
    promotion: &Promotion,
    user_id: i64,
    reason: &str,
) {
    let client = service.client(user_id);
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["status"], "EXPIRED", "{progress}");
    assert_eq!(progress["expired_reason"], reason);
    for answer in [
        client.reward(promotion.id).await,
        client.accept(promotion.id).await,
    ] {
        let problem = answer.problem(410, "challenge-over");
        assert_eq!(problem["expired_reason"], reason);
    }
    let again = client.start(promotion.id).await;
    again.problem(409, "already-participated");
    let user = service.admin().user(user_id).await;
    let [participation] = &user["participations"].as_array().expect("a list")[..] else {
        panic!("not one participation: {user}")
    };
    assert_eq!(participation["acknowledged_at"], progress["expired_at"]);
    for split in user["splits"].as_array().expect("a list") {
        assert_eq!(split["status"], "EXPIRED");
    }
    // Acknowledged at once, so that the landing has moved on already.
    assert_eq!(client.land().await["screen"], "NO_OFFER");
    world.events_are_published().await;
    let events = world.status_of(user_id, promotion.id).await;
    let last = &events.last().expect("events").event;
    assert_eq!(last["type"], "promotion.expired");
    for field in ["status", "expired_reason", "expired_at", "version"] {
        assert_eq!(last[field], progress[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_quits_once_and_an_operator_cancels_what_is_live() {
    let world = World::new().await;
    let service = world.service().lateness("PT1H").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    for user_id in [1, 4, 5, 6, 7, 8] {
        service.started_client(user_id, &promotion).await;
    }

    // Quit with a ride counted: the state stays, and a repeat says the same.
    world.publish_ride(&ride(1)).await;
    let client = service.client(1);
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await;
        equal(progress.expect(200)["rides_completed"].clone(), json!(1))
    })
    .await;
    let tag = client.progress(promotion.id).await.etag();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let path = format!("/v1/promotions/{}/quit", promotion.id);
    let request = client.api.request(reqwest::Method::POST, &path);
    let answer = client
        .api
        .send(request.header("traceparent", traceparent))
        .await;
    let quit = answer.expect(200);
    assert_eq!(answer.etag(), "W/\"3\"");
    assert_eq!(quit["rides_completed"], 1);
    assert_eq!(
        (&quit["completed_at"], &quit["settling"]),
        (&Value::Null, &json!(false))
    );
    // A conditional read does not go back.
    let seen = client.progress_since(promotion.id, &tag).await.expect(200);
    assert_eq!(steady(seen), steady(quit.clone()));
    let again = client.quit(promotion.id).await.expect(200);
    assert_eq!(steady(again), steady(quit));
    is_over(&world, &service, &promotion, 1, "QUIT").await;
    let last = world
        .status_of(1, promotion.id)
        .await
        .pop()
        .expect("events");
    assert_eq!(last.record.headers["traceparent"], traceparent);

    // A ride afterwards leaves nothing.
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    let receipts = "select count(*) from ride_receipt where user_id = 1";
    assert_eq!(world.count(receipts).await, 1);

    // Settling can be quit and cancelled too; what is over or completed cannot be quit.
    let mut short = conditions(3);
    short["challenge_period"] = json!("PT1S");
    let short = admin.create_promotion(&short).await;
    for user_id in [2, 3] {
        service.started_client(user_id, &short).await;
        let client = service.client(user_id);
        eventually(LIMIT, || async {
            let progress = client.progress(short.id).await.expect(200);
            equal(progress["settling"].clone(), json!(true))
        })
        .await;
    }
    service.client(2).quit(short.id).await.expect(200);
    is_over(&world, &service, &short, 2, "QUIT").await;
    admin.cancel(3, short.id).await.expect(200);
    is_over(&world, &service, &short, 3, "CANCELLED").await;
    for (user_id, end) in [
        (5, End::Completed),
        (6, End::TooLate),
        (7, End::NotCompleted),
        (8, End::Rewarded),
    ] {
        end_by_force(&world, user_id, promotion.id, end).await;
        let refused = service.client(user_id).quit(promotion.id).await;
        refused.problem(409, "challenge-not-in-progress");
    }

    // Cancelled while in progress, and with the reward in reach; not what is over, also unwritten.
    let cancelled = admin.cancel(4, promotion.id).await.expect(200);
    assert_eq!(cancelled["status"], "EXPIRED");
    let progress = service.client(4).progress(promotion.id).await.expect(200);
    assert_eq!(steady(cancelled), steady(progress));
    is_over(&world, &service, &promotion, 4, "CANCELLED").await;
    let cancelled = admin.cancel(5, promotion.id).await.expect(200);
    assert!(cancelled["completed_at"].is_string() && cancelled["reward_deadline"].is_string());
    is_over(&world, &service, &promotion, 5, "CANCELLED").await;
    for user_id in [1, 4, 6, 7, 8] {
        admin
            .cancel(user_id, promotion.id)
            .await
            .problem(409, "not-live");
    }
    admin
        .cancel(99, promotion.id)
        .await
        .problem(404, "not-participating");
    service
        .client(99)
        .quit(promotion.id)
        .await
        .problem(404, "not-participating");
    let refused = service.client(4).quit(promotion.id).await;
    refused.problem(409, "challenge-not-in-progress");

    let path = format!("/admin/v1/users/8/participations/{}:cancel", promotion.id);
    for body in [
        json!({}),
        json!({ "reason": "" }),
        json!({ "reason": "r".repeat(501) }),
    ] {
        let problem = admin.api.post_json(&path, &body).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], "reason");
    }
    for path in ["1", "x:cancel", "1:accept"] {
        let path = format!("/admin/v1/users/8/participations/{path}");
        let reason = json!({ "reason": "r" });
        admin
            .api
            .post_json(&path, &reason)
            .await
            .problem(404, "not-found");
    }

    // The audit has who, when and why; the stats have both under `expired`.
    let audit = admin.api.get("/admin/v1/audit?limit=1").await.expect(200);
    let entry = &audit["items"][0];
    assert_eq!(entry["actor"], "admin@example.com");
    assert_eq!(
        entry["call"],
        format!(
            "POST /users/{{user_id}}/participations/{}:cancel",
            promotion.id
        )
    );
    assert_eq!(entry["before"]["status"], "COMPLETED");
    assert_eq!(entry["after"]["expired_reason"], "CANCELLED");
    assert_eq!(entry["after"]["reason"], "The client asked for it");
    assert_eq!(entry["after"]["user_id"], 5);
    let stats = admin.stats().await;
    let ends = |index: usize| {
        let expired = &stats["promotions"][index]["expired"];
        json!([expired["QUIT"], expired["CANCELLED"]])
    };
    assert_eq!([ends(0), ends(1)], [json!([1, 2]), json!([1, 1])]);
    let metrics = service.metrics().await;
    for (reason, count) in [("QUIT", 2.0), ("CANCELLED", 3.0)] {
        assert_eq!(
            metrics.sum("ride_promo_expired_total", &[("reason", reason)]),
            count
        );
    }

    // Another promotion may follow.
    let other = admin.create_promotion(&conditions(1)).await;
    service.started_client(1, &other).await;
    world.events_are_published().await;
    assert_contiguous(world.status_of(1, promotion.id).await);
}

/// The one of `ends` that quits, cancels: both are decided by the participation's row lock.
#[tokio::test(flavor = "multi_thread")]
async fn quitting_and_cancelling_beside_the_completing_ride_and_an_accept() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let cancel = |user_id: i64| {
        let path = format!(
            "/admin/v1/users/{user_id}/participations/{}:cancel",
            promotion.id
        );
        crate::races::call(
            &admin.api,
            reqwest::Method::POST,
            &path,
            Some(json!({ "reason": "r" })),
        )
    };
    let statuses = async |user_id: i64| -> (String, i64) {
        sqlx::query_as(
            "select status, (select count(*) from ride_receipt r where r.user_id = p.user_id) from promotion_user p where user_id = $1",
        )
        .bind(user_id)
        .fetch_one(world.pool())
        .await
        .expect("it has started")
    };
    // What a batch, a quit and a cancel all come to at their ends, with the participation locked.
    let outbox = "lock table event_outbox in share mode";
    for (user_id, quits) in [(1, true), (2, false)] {
        service.started_client(user_id, &promotion).await;
        world.events_are_published().await;
        let end = |user_id: i64| {
            if quits {
                post(&service.client(user_id), &promotion, "quit")
            } else {
                cancel(user_id)
            }
        };
        // The ride first: it is completed, which a cancel still ends and a quit does not.
        let held = HeldLock::by(&world, outbox).await;
        world.publish_ride(&ride(user_id)).await;
        waiting(&world, 1).await;
        let ended = end(user_id);
        waiting(&world, 2).await;
        held.let_go().await;
        let answer = done(ended).await;
        if quits {
            answer.problem(409, "challenge-not-in-progress");
            assert_eq!(statuses(user_id).await, ("COMPLETED".to_owned(), 1));
        } else {
            assert!(answer.expect(200)["completed_at"].is_string());
            assert_eq!(statuses(user_id).await, ("EXPIRED".to_owned(), 1));
        }

        // The end first: the ride finds nothing in progress, and is applied all the same.
        let user_id = user_id + 10;
        service.started_client(user_id, &promotion).await;
        world.events_are_published().await;
        let held = HeldLock::by(&world, outbox).await;
        let ended = end(user_id);
        waiting(&world, 1).await;
        world.publish_ride(&ride(user_id)).await;
        waiting(&world, 2).await;
        held.let_go().await;
        done(ended).await.expect(200);
        world.rides_are_applied().await;
        assert_eq!(statuses(user_id).await, ("EXPIRED".to_owned(), 0));
    }

    // An accept first, and a cancel first.
    for (user_id, accepts_first) in [(21, true), (22, false)] {
        let (client, _) = service.started_client(user_id, &promotion).await;
        end_by_force(&world, user_id, promotion.id, End::Completed).await;
        let held = HeldLock::split_of(&world, user_id).await;
        let accept = || post(&client, &promotion, "accept_reward");
        if accepts_first {
            let accept = accept();
            waiting(&world, 1).await;
            let cancelled = cancel(user_id);
            waiting(&world, 2).await;
            held.let_go().await;
            done(accept).await.expect(200);
            done(cancelled).await.problem(409, "not-live");
        } else {
            let cancelled = cancel(user_id);
            waiting(&world, 1).await;
            let accept = accept();
            waiting(&world, 2).await;
            held.let_go().await;
            done(cancelled).await.expect(200);
            let problem = done(accept).await.problem(410, "challenge-over");
            assert_eq!(problem["expired_reason"], "CANCELLED");
        }
    }
    let loans = "select count(*) from application";
    assert_eq!(world.count(loans).await, 1);
    world.events_are_published().await;
    for user_id in [1, 2, 11, 12] {
        assert_contiguous(world.status_of(user_id, promotion.id).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_products_terms_are_those_of_the_start() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let first = json!({
        "product_id": 80, "name": "First loan", "currency_code": "MXN", "term_days": 30,
        "terms_url": "https://example.com/terms",
    });
    let second = json!({
        "product_id": 80, "name": "Dearer loan", "currency_code": "COP", "term_days": 60, "terms_url": null,
    });
    let put = async |product: &Value| {
        let mut body = product.clone();
        body.as_object_mut()
            .expect("an object")
            .remove("product_id");
        admin
            .api
            .put_json("/admin/v1/products/80", &body)
            .await
            .expect(200)
    };
    let start = async |user_id| {
        let (client, _) = service.started_client(user_id, &promotion).await;
        end_by_force(&world, user_id, promotion.id, End::Completed).await;
        client
    };
    let one = start(1).await;
    let other = start(2).await;
    let before_this_edition = start(3).await;
    world
        .execute("update promotion_user set product_terms_id = null where user_id = 3")
        .await;
    put(&second).await;
    let later = start(4).await;
    // Back again, and with the row that there is.
    put(&first).await;
    let again = start(5).await;
    put(&second).await;
    for (client, product) in [
        (one, &first),
        (other, &first),
        (before_this_edition, &second),
        (later, &second),
        (again, &first),
    ] {
        let shown = client.reward(promotion.id).await.expect(200);
        assert_eq!(&shown["product"], product, "client {}", client.user_id);
        client.accept(promotion.id).await.expect(200);
        let user = admin.user(client.user_id).await;
        let active = &user["active_pre_offers"][0];
        assert_eq!(active["product_name"], product["name"]);
        for field in ["product_id", "term_days", "terms_url"] {
            assert_eq!(active[field], product[field], "{field}");
        }
    }
    assert_eq!(world.count("select count(*) from product_terms").await, 2);
}
