//! The access log: a line for every admin call, and for every rejected token.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// The lines that say who called what.
fn access_lines(service: &Service) -> Vec<Value> {
    let log = service.log();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| line["target"] == "ride_promo::api::access")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_admin_call_and_every_refused_token_leaves_one_line() {
    let world = World::new().await;
    let service = world.service().roles("api");
    let service = service.env("RIDE_PROMO__SHUTDOWN_TIMEOUT", "PT3S");
    let service = service.start().await;
    let admin = service.admin().api;
    let id = service.admin().create_promotion(&conditions(2)).await.id;
    let before = access_lines(&service).len();
    let request = admin.request(Method::GET, "/admin/v1/users/48151");
    let request = request.header("x-request-id", "read-of-a-client");
    admin.send(request).await.expect(200);
    let patch = json!({ "title": "marker-title" });
    let path = format!("/admin/v1/promotions/{id}");
    admin.patch_json(&path, &patch).await.expect(200);
    let query = admin.get("/admin/v1/audit?cursor=marker-query").await;
    query.problem(422, "invalid-request");
    let client = service.admin_listener().with_token(client_token(7));
    client
        .get("/admin/v1/stats")
        .await
        .problem(403, "forbidden");
    for listener in [service.admin_listener(), service.api()] {
        let forged = listener.with_token("marker-token");
        let path = if std::ptr::eq(listener, service.api()) {
            "/v1/promotions/1/progress"
        } else {
            "/admin/v1/stats"
        };
        forged.get(path).await.problem(401, "unauthorized");
    }
    // Neither is an admin call, and no token was refused.
    service.client(7).api.post("/v1/landing").await.expect(200);
    service.admin_listener().get("/livez").await;
    let lines = &access_lines(&service)[before..];
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                &line["actor"],
                &line["call"],
                &line["outcome"],
                &line["status"],
            )
        })
        .map(|(actor, call, outcome, status)| json!([actor, call, outcome, status]))
        .collect();
    let operator = "admin@example.com";
    assert_eq!(
        seen,
        [
            json!([operator, "GET /users/48151", "ok", 200]),
            json!([operator, format!("PATCH /promotions/{id}"), "ok", 200]),
            json!([operator, "GET /audit", "invalid-request", 422]),
            json!(["7", "GET /stats", "forbidden", 403]),
            json!([null, "GET /stats", "unauthorized", 401]),
            json!([null, "GET /v1/promotions/1/progress", "unauthorized", 401]),
        ]
    );
    assert_eq!(lines[0]["request_id"], "read-of-a-client");
    for line in lines {
        assert!(
            line["request_id"].is_string() && line["level"] == "INFO",
            "{line}"
        );
        assert!(!line.to_string().contains("marker-"), "{line}");
    }
    // A request that is cut off at the stop leaves a line too: nothing answers while the table is locked.
    let mut lock = world.pool().begin().await.expect("a transaction");
    sqlx::query("lock table promotion in access exclusive mode")
        .execute(&mut *lock)
        .await
        .expect("a lock");
    let waiting = admin.clone();
    let waits = tokio::spawn(async move {
        let request = waiting.request(Method::GET, "/admin/v1/promotions");
        waiting.try_send(request).await
    });
    eventually(LIMIT, || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(world.pool())
        .await
        .expect("a number");
        equal(waiting, 1)
    })
    .await;
    service.sigterm();
    waits.await.expect("no panic").expect_err("it was cut off");
    lock.rollback().await.expect("the lock is given back");
    service.wait().await;
    let lines = access_lines(&service);
    let line = lines.last().expect("a line");
    assert_eq!(
        json!([line["actor"], line["call"], line["outcome"]]),
        json!([operator, "GET /promotions", "unanswered"])
    );
}
