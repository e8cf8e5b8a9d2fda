//! Tools of operators: the caller's scopes, probes on their own listener, an unknown client told from one without
//! data, a ride by its id, imports that name their file.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// The addresses that a page links to.
fn links(page: &str) -> Vec<String> {
    let links = page.split("<a href=\"").skip(1);
    links
        .map(|rest| rest.split('"').next().expect("a quote").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_has_a_listener_without_data_and_each_listener_a_page_of_links() {
    let world = World::new().await;
    let port = Port::reserve();
    let service = world.service().roles("api");
    let service = service.env("RIDE_PROMO__METRICS__LISTEN", port.address());
    let service = service.start().await;
    let metrics = Api::new(&port.address());
    for path in ["/livez", "/readyz", "/readyz?role=api", "/metrics"] {
        for listener in [&metrics, service.admin_listener()] {
            assert_eq!(listener.get(path).await.status, 200, "{path}");
        }
    }
    let operator = metrics.with_token(admin_token());
    let client = metrics.with_token(client_token(1));
    for path in [
        "/admin/v1/me",
        "/admin/v1/users/1",
        "/console",
        "/docs/admin",
        "/openapi/admin.json",
        "/app",
    ] {
        operator.get(path).await.problem(404, "not-found");
    }
    client.post("/v1/landing").await.problem(404, "not-found");

    for (listener, expected) in [
        (service.api(), &["/app"][..]),
        (
            service.admin_listener(),
            &[
                "/console",
                "/docs/admin",
                "/openapi/client.json",
                "/readyz",
                "/metrics",
            ],
        ),
        (&metrics, &["/livez", "/readyz", "/metrics"]),
    ] {
        let home = listener.get("/").await;
        assert_eq!(home.status, 200);
        let policy = home.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let links = links(&home.text);
        for link in expected {
            assert!(links.iter().any(|found| found == link), "{link}: {links:?}");
        }
        for link in links {
            assert_eq!(listener.get(&link).await.status, 200, "{link}");
        }
    }

    // The health check asks there too, and a process without the API has only probes everywhere.
    let health = world.command(&["healthcheck", "--ready"]);
    let health = health.env("RIDE_PROMO__METRICS__LISTEN", port.address());
    health.run().await.expect_success();
    let nowhere = Port::reserve();
    let health = world.command(&["healthcheck"]);
    let health = health.env("RIDE_PROMO__METRICS__LISTEN", nowhere.address());
    let said = health.run().await;
    assert!(said.stderr.contains("metrics.listen"), "{said:?}");
    let sweep = world.service().roles("sweep").start().await;
    let home = links(&sweep.admin_listener().get("/").await.text);
    assert_eq!(home, ["/livez", "/readyz", "/metrics"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_ride_are_found_or_it_is_said_what_cannot_be_known() {
    let world = World::new().await;
    let service = world.service().start().await;
    let (admin, api) = (service.admin(), service.admin().api);
    let promotion = admin.open_promotion(&conditions(2)).await;
    let found = async |user_id: i64, ride_id: &Value| {
        let ride_id = ride_id.as_str().expect("an id");
        let path = format!("/admin/v1/rides/{ride_id}?user_id={user_id}");
        api.get(&path).await.expect(200)
    };
    let says = |found: &Value, words: &str| {
        let explanation = found["explanation"].as_str().expect("words");
        assert!(explanation.contains(words), "{words}: {found}");
    };

    // A stranger, one with a pre-offer only, and one who was erased.
    assert_eq!(admin.user(1).await["known"], false);
    admin.import_pre_offers(&[promotion.pre_offer(1)]).await;
    let known = admin.user(1).await;
    assert_eq!(
        (&known["known"], &known["erased_at"]),
        (&json!(true), &Value::Null)
    );
    let erase = world.command(&["erase", "--user", "1", "--reason", "asked"]);
    erase.run().await.expect_success();
    let erased = admin.user(1).await;
    assert_eq!(
        (&erased["known"], &erased["pre_offers"]),
        (&json!(true), &json!([]))
    );
    assert!(erased["erased_at"].is_string(), "{erased}");

    // Before a challenge a ride leaves nothing; in one, its receipt; and a record that is not a ride, itself.
    let early = ride(2);
    world.publish_ride(&early).await;
    world.rides_are_applied().await;
    says(
        &found(2, &early["ride_id"]).await,
        "never started a challenge",
    );
    service.started_client(2, &promotion).await;
    let (counted, mut cheap) = (ride(2), ride(2));
    cheap["amount_cents"] = json!(1);
    let mut broken = ride(2);
    broken["amount_cents"] = json!("1");
    for ride in [&counted, &cheap, &broken] {
        world.publish_ride(ride).await;
    }
    world.rides_are_applied().await;
    let judged = found(2, &counted["ride_id"]).await;
    says(
        &judged,
        &format!("Promotion {} judged it: COUNTED.", promotion.id),
    );
    assert_eq!(judged["receipts"][0]["promotion_id"], promotion.id);
    assert_eq!(judged["receipts"][0]["ride_id"], counted["ride_id"]);
    says(
        &found(2, &cheap["ride_id"]).await,
        "judged it: BELOW_MIN_AMOUNT.",
    );
    let in_quarantine = found(2, &broken["ride_id"]).await;
    says(&in_quarantine, "(OPEN) names it");
    assert_eq!(
        in_quarantine["quarantine"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(in_quarantine["receipts"], json!([]));
    for ride in [&early, &ride(2)] {
        says(&found(2, &ride["ride_id"]).await, "cannot be known");
    }
    // The same id under another client is another ride.
    says(
        &found(3, &counted["ride_id"]).await,
        "never started a challenge",
    );
    let id = counted["ride_id"].as_str().expect("an id");
    let problem = api.get(&format!("/admin/v1/rides/{id}")).await;
    let problem = problem.problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["field"], "user_id", "{problem}");
    let nothing = api.get("/admin/v1/rides/x?user_id=2").await;
    nothing.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_one_entry_of_the_audit_and_names_its_file() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (admin, api) = (service.admin(), service.admin().api);
    let promotion = admin.open_promotion(&conditions(2)).await;
    let lines: String = (1..=2_500)
        .map(|user_id| format!("{}\n", promotion.pre_offer(user_id)))
        .collect();
    let import = async |path: &str, body: String| {
        let request = api.request(Method::POST, path).body(body);
        api.send(request).await
    };
    let path = "/admin/v1/pre-offers:import";
    let named = import(
        &format!("{path}?file=offers%20of%20May.ndjson"),
        lines.clone(),
    )
    .await;
    named.expect(200);
    import(path, lines.clone()).await.expect(200);
    let file = world.new_dir("import").join("june.ndjson");
    std::fs::write(&file, &lines).expect("written");
    let command = world.command(&["import", "pre-offers", &file.display().to_string()]);
    command.limit(LIMIT).run().await.expect_success();
    let audit = api
        .get("/admin/v1/audit?call=pre-offers:import")
        .await
        .expect(200);
    let entries = audit["items"].as_array().expect("items");
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| (&entry["after"]["file"], &entry["after"]["read"]))
        .collect();
    assert_eq!(
        shown,
        [
            (&json!("june.ndjson"), &json!(2_500)),
            (&Value::Null, &json!(2_500)),
            (&json!("offers of May.ndjson"), &json!(2_500)),
        ]
    );
    for name in ["a%0Ab".to_owned(), "n".repeat(201)] {
        let problem = import(&format!("{path}?file={name}"), String::new()).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], "file", "{problem}");
    }
}
