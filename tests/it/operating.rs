//! Changes by operators: each records what was before and after, and does not affect clients who have started. The view
//! of a client contains the facts that decided (contract 6).

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

async fn audit(service: &Service) -> Vec<Value> {
    let api = service.admin().api;
    let page = api.get("/admin/v1/audit?limit=200").await.expect(200);
    page["items"].as_array().expect("items").clone()
}

/// A record of the topic that is not a ride, as ingest stores it.
async fn quarantined(world: &World, user_id: i64) -> String {
    let id = Uuid::now_v7();
    sqlx::query(
        r#"insert into quarantined_ride (quarantine_id, topic, partition, "offset", topic_id, value, user_id, reason,
                                         detail, received_at)
           select $1, 'rides', 0, count(*), 'id', '{}', $2, 'MISSING_FIELD', 'ride_id is required', clock_ms()
             from quarantined_ride"#,
    )
    .bind(id)
    .bind(user_id)
    .execute(world.pool())
    .await
    .expect("a possible record");
    id.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_recorded_with_what_was_and_what_became() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let api = service.admin().api;
    let new = json!({ "promotion_key": "k", "title": "T", "conditions": conditions(1) });
    let created = api
        .post_json("/admin/v1/promotions", &new)
        .await
        .expect(201);
    let id = &created["promotion_id"];
    let one = quarantined(&world, 1).await;
    let two = quarantined(&world, 2).await;
    quarantined(&world, 3).await;
    let mut corrected = ride(1);
    corrected["ride_id"] = json!(Uuid::new_v4());
    let product = json!({ "name": "Loan", "currency_code": "MXN", "term_days": 30 });
    let changes = [
        (
            Method::PATCH,
            format!("/promotions/{id}"),
            json!({ "title": "Other" }),
        ),
        (Method::PUT, "/products/80".to_owned(), product.clone()),
        (Method::PUT, "/products/80".to_owned(), product),
        (
            Method::PUT,
            "/geo-config/MX".to_owned(),
            json!({ "promotions_enabled": true }),
        ),
        (
            Method::PUT,
            "/geo-config/MX".to_owned(),
            json!({ "promotions_enabled": false }),
        ),
        (
            Method::POST,
            format!("/quarantine/{one}/replay"),
            json!({ "ride": corrected }),
        ),
        (
            Method::POST,
            format!("/quarantine/{two}/dismiss"),
            json!({ "reason": "a test" }),
        ),
        (
            Method::POST,
            "/quarantine:dismiss".to_owned(),
            json!({ "note": "all of it" }),
        ),
    ];
    for (number, (method, path, body)) in changes.iter().enumerate() {
        let request = api.request(method.clone(), &format!("/admin/v1{path}"));
        let answer = api.send(request.json(body)).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        let audit = audit(&service).await;
        assert_eq!(audit.len(), number + 2, "{path}");
        let entry = &audit[0];
        assert_eq!(entry["call"], format!("{method} {path}"));
        assert_eq!(entry["actor"], "admin@example.com");
        assert!(entry["at"].is_string() && entry["audit_id"].is_i64());
        assert!(entry["after"].is_object(), "{entry}");
        let text = entry.to_string();
        match path.as_str() {
            path if path.starts_with("/promotions") => {
                assert_eq!(entry["before"], created);
                assert_eq!(entry["after"], answer.json());
                assert_eq!(entry["after"]["title"], "Other");
            }
            path if path.starts_with("/products") || path.starts_with("/geo-config") => {
                assert_eq!(entry["after"], answer.json());
                // Of each pair the first was new.
                let was = &audit[1]["after"];
                let is_new = number % 2 == 1;
                assert_eq!(&entry["before"], if is_new { &Value::Null } else { was });
            }
            path if path.ends_with("replay") => {
                assert_eq!(entry["before"]["status"], "OPEN", "{entry}");
                assert_eq!(entry["after"]["status"], "REPLAYED", "{entry}");
                assert!(
                    text.contains(corrected["ride_id"].as_str().expect("an id")),
                    "{entry}"
                );
            }
            path if path.starts_with("/quarantine/") => {
                assert_eq!(entry["before"]["status"], "OPEN", "{entry}");
                assert_eq!(entry["after"]["status"], "DISMISSED", "{entry}");
                assert!(text.contains("a test"), "{entry}");
            }
            _ => {
                assert_eq!(answer.json(), json!({ "resolved": 1, "left_open": 0 }));
                assert_eq!(entry["after"]["status"], "DISMISSED", "{entry}");
                assert!(text.contains("all of it"), "{entry}");
            }
        }
    }
    let nothing = json!({});
    let path = format!("/admin/v1/promotions/{id}");
    api.patch_json(&path, &nothing).await.expect(200);
    for cannot_be in ["title", "conditions", "missing_split", "active"] {
        let patch = json!({ cannot_be: null });
        let problem = api.patch_json(&path, &patch).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], cannot_be);
    }
    let recorded = audit(&service).await.len();
    assert_eq!(recorded, changes.len() + 1, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_edited_while_many_are_inside_changes_nothing_for_them() {
    const INSIDE: std::ops::RangeInclusive<i64> = 1..=300;
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let offers: Vec<Value> = INSIDE.map(|user| promotion.pre_offer(user)).collect();
    admin.import_pre_offers(&offers).await;
    let starts = INSIDE.map(|user_id| {
        let client = service.client(user_id);
        async move { client.start(promotion.id).await.expect(201) }
    });
    futures::future::join_all(starts).await;
    let inside = async || -> Value {
        sqlx::query_scalar(
            "select jsonb_agg(jsonb_build_array(to_jsonb(p) - 'live_xid', t.conditions) order by user_id)
               from promotion_user p join promotion_terms t using (terms_id) where user_id <= 300",
        )
        .fetch_one(world.pool())
        .await
        .expect("the database answers")
    };
    let before = inside().await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    for target in [1, 3, 50] {
        let mut other = conditions(target);
        other["min_amount_cents"] = json!(1_000_000);
        other["currency_code"] = json!("USD");
        other["challenge_period"] = json!("PT1S");
        other["claim_period"] = json!("PT1S");
        other["city_ids"] = json!([1]);
        let patch = json!({ "conditions": other, "title": "Another", "active": target == 3 });
        admin.api.patch_json(&path, &patch).await.expect(200);
    }
    assert_eq!(inside().await, before);
    let rides = INSIDE.map(|user_id| Outgoing::ride(&ride(user_id)));
    world.publish_all(rides.collect::<Vec<_>>()).await;
    world.rides_are_applied().await;
    let counted: i64 = sqlx::query_scalar(
        "select count(*) from promotion_user where status = 'IN_PROGRESS' and rides_completed = 1",
    )
    .fetch_one(world.pool())
    .await
    .expect("the database answers");
    assert_eq!(counted, *INSIDE.end());
    // The landing shows the frozen ones too. A product cannot be deleted.
    let landing = service.client(1).api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["promotion"]["conditions"], conditions(2));
    let deleted = admin.api.request(Method::DELETE, &path);
    let refused = admin.api.send(deleted).await;
    refused.problem(405, "method-not-allowed");
    admin.api.get(&path).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_condition_is_named_and_every_right_one_taken() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let api = service.admin().api;
    let with = |field: &str, value: &Value| {
        let mut conditions = conditions(3);
        conditions[field] = value.clone();
        if field == "max_rides_per_day" {
            conditions["day_boundary_timezone"] = json!("America/Mexico_City");
        }
        json!({ "promotion_key": Uuid::new_v4().to_string(), "title": "T", "conditions": conditions })
    };
    let invalid = [
        (
            "target_rides",
            vec![json!(0), json!(-1), json!(10_001), json!(null)],
        ),
        ("min_amount_cents", vec![json!(-1), json!(null)]),
        (
            "currency_code",
            vec![
                json!(""),
                json!("mxn"),
                json!("MX"),
                json!("MXNN"),
                json!("M1N"),
                json!(null),
            ],
        ),
        (
            "challenge_period",
            vec![
                json!(""),
                json!("P"),
                json!("PT"),
                json!("PT0S"),
                json!("P0D"),
                json!("P1M"),
                json!("P1Y"),
                json!("P367D"),
                json!("-P1D"),
                json!("P1.5D"),
                json!("14"),
                json!("p14d"),
                json!("PT1D"),
                json!(null),
            ],
        ),
        (
            "claim_period",
            vec![json!("P0W"), json!("P53W"), json!("P1Y2M"), json!(null)],
        ),
        (
            "country_codes",
            vec![json!([]), json!(["mx"]), json!(["MX", ""])],
        ),
        ("city_ids", vec![json!([]), json!([-1])]),
        (
            "service_types",
            vec![
                json!([]),
                json!([""]),
                json!(["a".repeat(65)]),
                json!(["a\u{7}"]),
            ],
        ),
        ("max_rides_per_day", vec![json!(0), json!(-1)]),
        (
            "day_boundary_timezone",
            vec![json!(""), json!("Mars/Olympus"), json!("+06:00")],
        ),
        ("target", vec![json!(3)]),
        ("Target_rides", vec![json!(3)]),
    ];
    for (field, values) in invalid {
        for value in values {
            let body = with(field, &value);
            let answer = api.post_json("/admin/v1/promotions", &body).await;
            assert_eq!(answer.status, 422, "{field} {value}: {}", answer.text);
            let problem = answer.problem(422, "invalid-request");
            let named: Vec<&Value> = problem["errors"]
                .as_array()
                .expect("errors")
                .iter()
                .map(|error| &error["field"])
                .collect();
            assert_eq!(named, [&json!(format!("conditions.{field}"))], "{value}");
        }
    }
    let mistyped = [
        (
            "target_rides",
            vec![json!("3"), json!(3.0), json!([3]), json!(true)],
        ),
        ("min_amount_cents", vec![json!("5000"), json!(0.5)]),
        ("currency_code", vec![json!(484), json!(["MXN"])]),
        ("challenge_period", vec![json!(14), json!({ "days": 14 })]),
        ("claim_period", vec![json!(7)]),
        ("country_codes", vec![json!("MX"), json!([1])]),
        (
            "city_ids",
            vec![json!(4_198), json!(["4198"]), json!([1.5])],
        ),
        ("service_types", vec![json!("city"), json!([1])]),
        ("max_rides_per_day", vec![json!("5"), json!(5.0)]),
        ("day_boundary_timezone", vec![json!(-6)]),
    ];
    for (field, values) in mistyped {
        for value in values {
            let answer = api
                .post_json("/admin/v1/promotions", &with(field, &value))
                .await;
            assert_eq!(answer.status, 400, "{field} {value}: {}", answer.text);
            let problem = answer.problem(400, "malformed-request");
            let detail = problem["detail"].as_str().expect("a detail");
            assert!(detail.contains(&format!("conditions.{field}")), "{detail}");
        }
    }
    for lacking in [
        "target_rides",
        "min_amount_cents",
        "currency_code",
        "challenge_period",
        "claim_period",
    ] {
        let mut body = with("target_rides", &json!(3));
        body["conditions"]
            .as_object_mut()
            .expect("an object")
            .remove(lacking);
        let problem = api.post_json("/admin/v1/promotions", &body).await;
        let problem = problem.problem(422, "invalid-request");
        let named = &problem["errors"][0]["field"];
        assert_eq!(*named, format!("conditions.{lacking}"));
    }
    let daily = json!({ "promotion_key": "d", "title": "T", "conditions": {
        "target_rides": 3, "min_amount_cents": 0, "currency_code": "MXN", "challenge_period": "P1D", "claim_period": "P1D",
        "max_rides_per_day": 5 } });
    let problem = api.post_json("/admin/v1/promotions", &daily).await;
    let problem = problem.problem(422, "invalid-request");
    let named = &problem["errors"][0]["field"];
    assert_eq!(*named, "conditions.day_boundary_timezone");
    let right = [
        ("target_rides", vec![json!(1), json!(10_000)]),
        ("min_amount_cents", vec![json!(0), json!(i64::MAX)]),
        (
            "challenge_period",
            vec![
                json!("PT1S"),
                json!("P366D"),
                json!("P2W"),
                json!("P1DT12H30M5S"),
                json!("PT36H"),
            ],
        ),
        ("country_codes", vec![json!(["MX", "CO"])]),
        ("city_ids", vec![json!([0]), json!([i64::MAX])]),
        (
            "service_types",
            vec![json!(["a".repeat(64)]), json!(["Ciudad de México"])],
        ),
        ("max_rides_per_day", vec![json!(1)]),
        (
            "day_boundary_timezone",
            vec![json!("UTC"), json!("Asia/Kathmandu")],
        ),
    ];
    for (field, values) in right {
        for value in values {
            let body = with(field, &value);
            let answer = api.post_json("/admin/v1/promotions", &body).await;
            assert_eq!(answer.status, 201, "{field} {value}: {}", answer.text);
            assert_eq!(answer.json()["conditions"], body["conditions"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_answered_for_with_the_facts_that_decided() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let mut narrow = conditions(2);
    narrow["country_codes"] = json!(["MX"]);
    narrow["city_ids"] = json!([4_198]);
    narrow["service_types"] = json!(["city"]);
    narrow["max_rides_per_day"] = json!(1);
    narrow["day_boundary_timezone"] = json!("UTC");
    let promotion = admin.open_promotion(&narrow).await;
    let (client, started) = service.started_client(1, &promotion).await;

    // Why a ride did not count, each with what was compared.
    let with = |field: &str, value: Value| {
        let mut ride = ride(1);
        ride[field] = value;
        ride
    };
    let early = instant(now() - chrono::TimeDelta::hours(1));
    let rides = [
        (
            with("completed_at", json!(early)),
            "BEFORE_START",
            json!({ "required": started["started_at"], "actual": early }),
        ),
        (
            with("currency_code", json!("USD")),
            "WRONG_CURRENCY",
            json!({ "required": "MXN", "actual": "USD" }),
        ),
        (
            with("amount_cents", json!(4_200)),
            "BELOW_MIN_AMOUNT",
            json!({ "required": 5_000, "actual": 4_200 }),
        ),
        (
            with("country_code", json!("CO")),
            "OUTSIDE_AREA",
            json!({ "required": ["MX"], "actual": "CO" }),
        ),
        (
            with("city_id", Value::Null),
            "OUTSIDE_AREA",
            json!({ "required": [4_198], "actual": null }),
        ),
        (
            with("service_type", json!("courier")),
            "WRONG_SERVICE_TYPE",
            json!({ "required": ["city"], "actual": "courier" }),
        ),
        (ride(1), "COUNTED", Value::Null),
    ];
    for (ride, _, _) in &rides {
        world.publish_ride(ride).await;
    }
    world.rides_are_applied().await;
    let user = admin.user(1).await;
    let receipts = user["participations"][0]["receipts"]
        .as_array()
        .expect("receipts");
    for (ride, verdict, details) in &rides {
        let receipt = receipts
            .iter()
            .find(|receipt| receipt["ride_id"] == ride["ride_id"]);
        let receipt = receipt.expect("it was judged");
        assert_eq!(receipt["verdict"], *verdict, "{receipt}");
        assert_eq!(receipt["details"], *details, "{receipt}");
        assert_eq!(receipt["counted"], *verdict == "COUNTED");
    }

    // The whole way, and everything that hangs together.
    end_by_force(&world, 1, promotion.id, End::Completed).await;
    let accepted = client
        .api
        .post(&format!("/v1/promotions/{}/accept_reward", promotion.id))
        .await
        .expect(200);
    let user = admin.user(1).await;
    let only = |list: &str| {
        let items = user[list].as_array().expect("a list");
        assert_eq!(items.len(), 1, "{list}: {user}");
        items[0].clone()
    };
    let (active, application) = (only("active_pre_offers"), only("applications"));
    let (session, split) = (only("sessions"), only("splits"));
    let pre_offer = only("pre_offers");
    assert_eq!(application["application_id"], accepted["application_id"]);
    assert_eq!(session["session_id"], accepted["session_id"]);
    assert_eq!(session["sequence_id"], 8);
    assert_eq!(session["application_id"], application["application_id"]);
    assert_eq!(session["split_id"], split["split_id"]);
    assert_eq!(
        application["active_pre_offer_id"],
        active["active_pre_offer_id"]
    );
    assert_eq!(
        active["active_pre_offer_id"],
        accepted["active_pre_offer_id"]
    );
    assert_eq!(split["status"], "USED");
    for of in [&active, &split] {
        for field in [
            "pre_offer_id",
            "product_id",
            "amount_cents",
            "currency_code",
            "repayment_rate",
        ] {
            assert_eq!(of[field], pre_offer[field], "{field}: {of}");
        }
    }
    assert_eq!(split["country_code"], "MX");
    assert!(application["status"].is_string());
    for of in [&active, &application, &session, &split] {
        assert!(of["created_at"].is_string(), "{of}");
    }
    let eligibility = &user["eligibility"];
    assert_eq!(eligibility["screen"], "NO_OFFER");
    let rewarded = &eligibility["checks"][0];
    assert_eq!(rewarded["rule"], "ALREADY_REWARDED");
    assert_eq!(rewarded["ok"], false);
    assert_eq!(rewarded["facts"]["status"], "REWARDED");
    assert_eq!(rewarded["facts"]["latest_promotion_id"], promotion.id);

    // Why this screen: the figures of the funnel say the same.
    eventually(LIMIT, || async {
        let stats = admin.stats().await;
        let promotion = &stats["promotions"][0];
        let figures = ["started", "in_progress", "completed", "rewarded"];
        equal(
            figures.map(|figure| promotion[figure].clone()),
            [1, 0, 0, 1].map(Value::from),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_not_held_up_by_ever_new_landings() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let read = [
        format!(
            "select from promotion where promotion_id = {} for share",
            promotion.id
        ),
        "select from geo_config where country_code = 'MX' for share".to_owned(),
    ];
    let switches = [
        (
            Method::PATCH,
            format!("/admin/v1/promotions/{}", promotion.id),
            json!({ "active": false }),
        ),
        (
            Method::PUT,
            "/admin/v1/geo-config/MX".to_owned(),
            json!({ "promotions_enabled": false }),
        ),
    ];
    for (read, (method, path, body)) in read.into_iter().zip(switches) {
        // A landing that has read the switch and not yet ended.
        let mut landing = world.pool().begin().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(read.clone()))
            .execute(&mut *landing)
            .await
            .unwrap();
        let api = service.admin().api;
        let switched = tokio::spawn(async move {
            let request = api.request(method, &path).json(&body);
            api.send(request).await
        });
        waiting_for_a_lock(&world, 1).await;
        // The next one comes after the switch, however many there are.
        let mut next = world.pool().begin().await.unwrap();
        sqlx::raw_sql("set local lock_timeout = '500ms'")
            .execute(&mut *next)
            .await
            .unwrap();
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(read))
            .execute(&mut *next)
            .await
            .expect_err("it waits");
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("55P03"), "{refused}");
        next.rollback().await.unwrap();
        landing.rollback().await.unwrap();
        switched.await.unwrap().expect(200);
    }
}
