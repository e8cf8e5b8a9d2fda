//! Trying a change without making it: the same checks, the same response, nothing changed.

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::harness::*;

/// Everything that a change could leave behind, as one text.
async fn everything(world: &World) -> String {
    sqlx::query_scalar(
        "select (select json_agg(p order by promotion_id) from promotion p)::text
             || (select json_agg(o order by pre_offer_id) from pre_offer o)::text
             || (select json_agg(a order by audit_id) from admin_audit a)::text
             || coalesce((select json_agg(i order by audit_id) from import_progress i)::text, '')
             || (select last_value from pre_offer_import_seq)::text",
    )
    .fetch_one(world.pool())
    .await
    .expect("the database answers")
}

async fn import(api: &Api, query: &str, body: &str) -> Answer {
    let path = format!("/admin/v1/pre-offers:import{query}");
    let request = api.request(Method::POST, &path);
    let request = request.header(CONTENT_TYPE, "application/x-ndjson");
    api.send(request.body(body.to_owned())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_tried_changes_nothing_and_answers_the_same() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let known = promotion.pre_offer(1);
    admin.import_pre_offers(std::slice::from_ref(&known)).await;
    let before = everything(&world).await;
    let api = &admin.api;

    let promotions = "/admin/v1/promotions";
    let new = json!({ "promotion_key": "tried", "title": "Tried", "conditions": conditions(5) });
    let created = api
        .post_json(&format!("{promotions}?dry_run=true"), &new)
        .await;
    assert_eq!(created.header("location"), None, "there is nothing there");
    let created = created.expect(201);
    assert_eq!(created["dry_run"], true);
    for field in ["promotion_key", "title", "conditions"] {
        assert_eq!(created[field], new[field]);
    }
    // Its checks are those of the call.
    let mut taken = new.clone();
    taken["promotion_key"] = json!(promotion.key);
    let taken = api
        .post_json(&format!("{promotions}?dry_run=true"), &taken)
        .await;
    taken.problem(409, "promotion-key-taken");
    let mut wrong = new.clone();
    wrong["conditions"]["target_rides"] = json!(0);
    let wrong = api
        .post_json(&format!("{promotions}?dry_run=true"), &wrong)
        .await;
    wrong.problem(422, "invalid-request");
    let unclear = api
        .post_json(&format!("{promotions}?dry_run=yes"), &new)
        .await;
    let problem = unclear.problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["field"], "dry_run");

    let patch = json!({ "title": "Another", "active": false });
    let path = format!("{promotions}/{}", promotion.id);
    let patched = api
        .patch_json(&format!("{path}?dry_run=true"), &patch)
        .await
        .expect(200);
    assert_eq!(
        (&patched["dry_run"], &patched["title"], &patched["active"]),
        (&json!(true), &json!("Another"), &json!(false))
    );
    let missing = api
        .patch_json(&format!("{promotions}/999?dry_run=true"), &patch)
        .await;
    missing.problem(404, "not-found");

    // An import of more than one batch, where a line may repeat one of a batch before.
    let mut lines: Vec<Value> = (2..1_600)
        .map(|user_id| promotion.pre_offer(user_id))
        .collect();
    let mut changed = lines[0].clone();
    changed["amount_cents"] = json!(1);
    let mut elsewhere = promotion.pre_offer(3);
    elsewhere["product_id"] = json!(81);
    let mut unmapped = promotion.pre_offer(4);
    unmapped["promotion_key"] = json!("no-such");
    lines.extend([
        known,
        lines[1].clone(),
        changed,
        elsewhere,
        unmapped,
        json!({ "user_id": 1 }),
    ]);
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = world.new_dir("import").join("pre-offers.ndjson");
    std::fs::write(&file, &body).expect("the directory is ours");
    let file = file.to_str().expect("UTF-8");

    let tried = import(api, "?dry_run=true", &body).await.expect(200);
    let dry_run = [
        "import",
        "pre-offers",
        file,
        "--dry-run",
        "--output",
        "json",
    ];
    let by_command = world.command(&dry_run).run().await.expect_success();
    assert_eq!(
        serde_json::from_str::<Value>(&by_command).ok(),
        Some(tried.clone())
    );
    assert_eq!(everything(&world).await, before);
    let counts = [
        ("read", 1_604),
        ("imported", 1_599),
        ("updated", 1),
        ("unchanged", 2),
        ("rejected", 2),
    ];
    for (name, count) in counts {
        assert_eq!(tried[name], count, "{name}: {tried}");
    }

    let mut done = import(api, "", &body).await.expect(200);
    assert_eq!(done.get("dry_run"), None);
    done["dry_run"] = json!(true);
    assert_eq!(tried, done, "an import comes to what was tried");

    // Extensions: the covered participations are counted, and none is extended.
    let challenges = Challenges::new(&world, &conditions(3)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    let mut order = json!({ "promotion_id": challenges.promotion_id, "of": "CHALLENGE", "by": "PT6H", "reason": "tried" });
    let extend = async |order: &Value| {
        let request = api.request(Method::POST, "/admin/v1/extensions?dry_run=true");
        let request = request.header("Idempotency-Key", "tried").json(order);
        api.send(request).await
    };
    let tried = extend(&order).await;
    assert_eq!(tried.header("location"), None);
    let tried = tried.expect(202);
    assert_eq!(
        (
            &tried["dry_run"],
            &tried["matched"],
            &tried["done"],
            &tried["by"]
        ),
        (&json!(true), &json!(2), &json!(0), &json!("PT6H"))
    );
    order["promotion_id"] = json!(999);
    extend(&order).await.problem(422, "invalid-request");
    assert_eq!(world.count("select count(*) from extension").await, 0);
}
