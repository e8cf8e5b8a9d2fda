//! A ride that the platform lost, credited by an operator.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_credited_ride_is_judged_like_one_of_the_topic() {
    let world = World::new().await;
    let service = world.service().roles("api,ingest,relay").start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let credit = async |user_id: i64, ride: &Value| {
        let path = format!("/admin/v1/users/{user_id}/rides");
        let body = json!({ "ride": ride, "reason": "ticket 4711" });
        service.admin().api.post_json(&path, &body).await
    };
    let wrong_field = |answer: &Answer| {
        let problem = answer.problem(422, "invalid-request");
        problem["errors"][0]["field"]
            .as_str()
            .expect("named")
            .to_owned()
    };

    let lost = ride(1);
    let mut without_amount = lost.clone();
    without_amount["amount_cents"] = json!(-1);
    assert_eq!(
        wrong_field(&credit(1, &without_amount).await),
        "ride.amount_cents"
    );
    assert_eq!(wrong_field(&credit(2, &lost).await), "ride.user_id");
    let mut reversal = lost.clone();
    reversal["reversed_ride_id"] = reversal["ride_id"].take();
    assert_eq!(wrong_field(&credit(1, &reversal).await), "ride");
    credit(1, &json!([]))
        .await
        .problem(400, "malformed-request");
    credit(0, &lost).await.problem(404, "not-found");
    // Tried first: the same verdict, and nothing is recorded.
    let body = json!({ "ride": lost, "reason": "ticket 4711" });
    let path = "/admin/v1/users/1/rides?dry_run=true";
    let tried = service.admin().api.post_json(path, &body).await.expect(200);
    assert_eq!(
        (
            &tried["dry_run"],
            &tried["outcome"],
            &tried["receipt"]["verdict"]
        ),
        (&json!(true), &json!("APPLIED"), &json!("COUNTED"))
    );
    assert_eq!(world.count("select count(*) from ride_receipt").await, 0);
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["version"], 1);

    let applied = credit(1, &lost).await.expect(200);
    assert_eq!(applied["outcome"], "APPLIED");
    let receipt = &applied["receipt"];
    assert_eq!(
        (&receipt["verdict"], &receipt["source"]),
        (&json!("COUNTED"), &json!("OPERATOR"))
    );
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["rides_completed"], 1);
    // Its record comes after all.
    world.publish_ride(&lost).await;
    // And one that came is credited.
    let came = ride_at(1, now() - TimeDelta::days(1));
    world.publish_ride(&came).await;
    world.rides_are_applied().await;
    let duplicate = credit(1, &came).await.expect(200);
    assert_eq!(duplicate["outcome"], "DUPLICATE");
    let receipt = &duplicate["receipt"];
    assert_eq!(
        (&receipt["verdict"], &receipt["source"]),
        (&json!("BEFORE_START"), &json!("TOPIC"))
    );
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(
        (&progress["rides_completed"], &progress["version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(world.count("select count(*) from ride_receipt").await, 2);
    let stranger = credit(2, &ride(2)).await.expect(200);
    assert_eq!(
        stranger,
        json!({ "outcome": "NO_PARTICIPATION", "receipt": null })
    );

    // The last one completes it.
    credit(1, &ride(1)).await.expect(200);
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["status"], "COMPLETED");
    world.events_are_published().await;
    let kinds = world.kinds_of(1, promotion.id).await;
    assert_eq!(
        kinds,
        [
            "promotion.started",
            "promotion.progressed",
            "promotion.completed"
        ]
    );
    let outcomes = format!("/admin/v1/promotions/{}/outcomes", promotion.id);
    let outcomes = service.admin().api.get(&outcomes).await.expect(200);
    assert_eq!(
        outcomes["verdicts"],
        json!({ "COUNTED": 2, "BEFORE_START": 1 })
    );
    let audit = service
        .admin()
        .api
        .get("/admin/v1/audit?limit=4")
        .await
        .expect(200);
    let entry = &audit["items"][3];
    assert_eq!(entry["call"], "POST /users/{user_id}/rides");
    let after = &entry["after"];
    assert_eq!(
        (&after["reason"], &after["outcome"]),
        (&json!("ticket 4711"), &json!("APPLIED"))
    );
    assert_eq!(after["ride"]["ride_id"], lost["ride_id"]);
}
