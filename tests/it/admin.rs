//! The admin API: every call, every error response, and the audit.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use crate::harness::{
    Admin, Answer, Kafka, Service, World, client_token, conditions, equal, eventually, instant,
    now, ride,
};

const SOON: Duration = Duration::from_secs(20);

async fn service() -> (World, Service) {
    let world = World::new().await;
    let service = world.service().start().await;
    (world, service)
}

fn promotion(key: &str) -> Value {
    json!({ "promotion_key": key, "title": "A loan for your rides", "conditions": conditions(3) })
}

/// The fields that an invalid request names, in order.
#[track_caller]
fn named(answer: &Answer) -> Vec<String> {
    let problem = answer.problem(422, "invalid-request");
    let errors = problem["errors"].as_array().expect("errors");
    errors
        .iter()
        .map(|error| {
            assert!(error["reason"].is_string(), "{error}");
            error["field"].as_str().expect("a field").to_owned()
        })
        .collect()
}

impl Admin {
    /// The changes recorded so far, newest first.
    async fn audit(&self) -> Vec<Value> {
        let page = self.api.get("/admin/v1/audit?limit=200").await.expect(200);
        page["items"].as_array().expect("items").clone()
    }

    /// Every item of a list, page by page.
    async fn pages(&self, path: &str, limit: usize) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{mark}limit={limit}&cursor={cursor}");
            let page = self.api.get(&path).await.expect(200);
            let found = page["items"].as_array().expect("items");
            assert!(found.len() <= limit, "{path}");
            items.extend(found.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return items,
            }
        }
    }
}

#[tokio::test]
async fn only_operators_get_in() {
    let (_world, service) = service().await;
    let calls = [
        (Method::GET, "/admin/v1/promotions"),
        (Method::POST, "/admin/v1/promotions"),
        (Method::GET, "/admin/v1/promotions/1"),
        (Method::PATCH, "/admin/v1/promotions/1"),
        (Method::GET, "/admin/v1/products"),
        (Method::PUT, "/admin/v1/products/1"),
        (Method::GET, "/admin/v1/geo-config"),
        (Method::PUT, "/admin/v1/geo-config/MX"),
        (Method::POST, "/admin/v1/pre-offers:import"),
        (Method::GET, "/admin/v1/users/1"),
        (Method::GET, "/admin/v1/quarantine"),
        (Method::POST, "/admin/v1/quarantine:replay"),
        (Method::POST, "/admin/v1/quarantine:dismiss"),
        (Method::GET, "/admin/v1/stats"),
        (Method::GET, "/admin/v1/system"),
        (Method::GET, "/admin/v1/audit"),
    ];
    let stranger = service.admin_listener();
    let client = stranger.with_token(client_token(1));
    for (method, path) in calls {
        let request = || stranger.request(method.clone(), path);
        let answer = stranger.send(request()).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
        let request = client.request(method.clone(), path);
        client.send(request).await.problem(403, "forbidden");
    }
    let admin = service.admin().api;
    let deleted = admin.request(Method::DELETE, "/admin/v1/promotions/1");
    admin.send(deleted).await.problem(405, "method-not-allowed");
    let nothing = admin.get("/admin/v1/nothing").await;
    nothing.problem(404, "not-found");
}

#[tokio::test]
async fn a_promotion_is_created_read_and_changed() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let created = api
        .post_json("/admin/v1/promotions", &promotion("mx-newbie"))
        .await
        .expect(201);
    let id = created["promotion_id"].as_i64().expect("an integer");
    let path = format!("/admin/v1/promotions/{id}");
    assert_eq!(
        created,
        json!({
            "promotion_id": id, "promotion_key": "mx-newbie", "title": "A loan for your rides",
            "conditions": conditions(3), "missing_split": "create", "active": true,
            "opens_at": null, "closes_at": null, "budget": null, "created_at": created["created_at"], "updated_at": created["updated_at"],
        })
    );
    assert_eq!(api.get(&path).await.expect(200), created);
    let again = api
        .post_json("/admin/v1/promotions", &promotion("mx-newbie"))
        .await;
    again.problem(409, "promotion-key-taken");

    // A merge patch of the top level: the rest stays, conditions are replaced whole.
    let mut narrowed = conditions(3);
    narrowed["city_ids"] = json!([4_198]);
    let patch = json!({ "conditions": narrowed });
    let patched = api.patch_json(&path, &patch).await.expect(200);
    assert_eq!(patched["conditions"], narrowed);
    assert_eq!(patched["title"], created["title"]);
    assert_eq!(patched["created_at"], created["created_at"]);
    let patch = json!({ "title": "Other", "conditions": conditions(5), "missing_split": "reject", "active": false });
    let patched = api.patch_json(&path, &patch).await.expect(200);
    assert_eq!(patched["conditions"], conditions(5));
    assert_eq!(patched["missing_split"], "reject");
    assert_eq!(patched["active"], false);
    assert_eq!(api.patch_json(&path, &json!({})).await.expect(200), patched);
    assert_eq!(api.get(&path).await.expect(200), patched);

    let audit = admin.audit().await;
    let calls: Vec<&str> = audit
        .iter()
        .map(|entry| entry["call"].as_str().expect("a call"))
        .collect();
    let patch_call = format!("PATCH /promotions/{id}");
    assert_eq!(calls, [&patch_call, &patch_call, "POST /promotions"]);
    assert_eq!(audit[0]["after"], patched);
    assert_eq!(audit[0]["actor"], "admin@example.com");
    assert_eq!(audit[0]["before"], audit[1]["after"]);
    assert_eq!(audit[2]["before"], Value::Null);
    assert_eq!(audit[2]["after"], created);

    for unknown in ["999999", "abc", "-1"] {
        let path = format!("/admin/v1/promotions/{unknown}");
        api.get(&path).await.problem(404, "not-found");
        let patched = api.patch_json(&path, &json!({ "active": false })).await;
        patched.problem(404, "not-found");
    }
}

#[tokio::test]
async fn patches_at_the_same_time_lose_nothing() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let promotion = admin.create_promotion(&conditions(3)).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let patches = (0..20).map(|n| {
        let patch = if n % 2 == 0 {
            json!({ "title": format!("Title {n}") })
        } else {
            json!({ "conditions": conditions(n + 1) })
        };
        let (admin, path) = (admin.clone(), path.clone());
        async move { admin.api.patch_json(&path, &patch).await.expect(200) }
    });
    futures::future::join_all(patches).await;
    // Each change begins where the one before it ended.
    let audit = admin.audit().await;
    assert_eq!(audit.len(), 21);
    for pair in audit.windows(2) {
        assert_eq!(pair[0]["before"], pair[1]["after"]);
    }
    let current = admin.api.get(&path).await.expect(200);
    assert_eq!(current, audit[0]["after"]);
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let id = admin.create_promotion(&conditions(3)).await.id;
    let at = format!("/admin/v1/promotions/{id}");

    let bad = [
        ("promotion_key", json!("has a space")),
        ("promotion_key", json!("")),
        ("title", json!("")),
        ("title", json!("t".repeat(201))),
        ("title", json!("\u{0}")),
        ("missing_split", json!("maybe")),
        ("conditions", Value::Null),
        ("colour", json!("red")),
    ];
    for (field, value) in bad {
        let mut body = promotion("another");
        body[field] = value;
        let answer = api.post_json("/admin/v1/promotions", &body).await;
        assert_eq!(named(&answer), [field], "{body}");
    }
    let bad = [
        ("target_rides", json!(0)),
        ("target_rides", json!(10_001)),
        ("min_amount_cents", json!(-1)),
        ("currency_code", json!("mxn")),
        ("challenge_period", json!("P1M")),
        ("claim_period", json!("PT0S")),
        ("claim_period", Value::Null),
        ("country_codes", json!([])),
        ("service_types", json!([""])),
        ("day_boundary_timezone", json!("Mexico")),
        ("unknown", json!(1)),
    ];
    for (field, value) in bad {
        let mut conditions = conditions(3);
        conditions[field] = value;
        let body = json!({ "conditions": conditions });
        let answer = api.patch_json(&at, &body).await;
        assert_eq!(named(&answer), [format!("conditions.{field}")], "{body}");
    }
    let many = json!({ "title": "", "missing_split": "x", "promotion_key": "other" });
    let mut fields = named(&api.patch_json(&at, &many).await);
    fields.sort();
    assert_eq!(fields, ["missing_split", "promotion_key", "title"]);
    let lone = json!({ "conditions": { "target_rides": 3, "max_rides_per_day": 2 } });
    assert_eq!(named(&api.patch_json(&at, &lone).await).len(), 5);

    let product =
        json!({ "name": "Loan", "currency_code": "MXN", "term_days": 30, "terms_url": null });
    let bad = [
        ("name", json!("")),
        ("currency_code", json!("MX")),
        ("term_days", json!(0)),
        ("term_days", json!(3_651)),
        ("terms_url", json!("http://example.com")),
        ("terms_url", json!("nonsense")),
        ("product_id", json!(80)),
    ];
    for (field, value) in bad {
        let mut body = product.clone();
        body[field] = value;
        let answer = api.put_json("/admin/v1/products/80", &body).await;
        assert_eq!(named(&answer), [field], "{body}");
    }
    let answer = api.put_json("/admin/v1/products/0", &product).await;
    assert_eq!(named(&answer), ["product_id"]);

    let on = json!({ "promotions_enabled": true });
    for country in ["mx", "MEX", "M1"] {
        let path = format!("/admin/v1/geo-config/{country}");
        assert_eq!(named(&api.put_json(&path, &on).await), ["country_code"]);
    }
    let answer = api.put_json("/admin/v1/geo-config/MX", &json!({})).await;
    assert_eq!(named(&answer), ["promotions_enabled"]);

    for query in ["limit=0", "limit=201", "limit=x", "cursor=%21"] {
        for list in [
            "promotions",
            "products",
            "geo-config",
            "quarantine",
            "audit",
        ] {
            let answer = api.get(&format!("/admin/v1/{list}?{query}")).await;
            assert_eq!(
                named(&answer),
                [query.split('=').next().unwrap()],
                "{list}?{query}"
            );
        }
    }
    let answer = api.get("/admin/v1/quarantine?status=open").await;
    assert_eq!(named(&answer), ["status"]);
    assert_eq!(
        admin.audit().await.len(),
        1,
        "what was refused left no trace"
    );
}

#[tokio::test]
async fn wrong_json_types_are_malformed() {
    let (_world, service) = service().await;
    let api = service.admin().api;
    for (field, value) in [
        ("promotion_key", json!(1)),
        ("title", json!(["a"])),
        ("active", json!("true")),
        ("conditions", json!("{}")),
    ] {
        let mut body = promotion("key");
        body[field] = value;
        let answer = api.post_json("/admin/v1/promotions", &body).await;
        let problem = answer.problem(400, "malformed-request");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(field), "{problem}");
    }
    let mut body = promotion("key");
    body["conditions"]["target_rides"] = json!("3");
    let answer = api.post_json("/admin/v1/promotions", &body).await;
    answer.problem(400, "malformed-request");
    let body = json!({ "name": "Loan", "currency_code": "MXN", "term_days": 30.0 });
    let answer = api.put_json("/admin/v1/products/80", &body).await;
    answer.problem(400, "malformed-request");
    for text in ["", "{", "[]", "null"] {
        let request = api.request(Method::POST, "/admin/v1/promotions");
        let answer = api.send(request.body(text)).await;
        answer.problem(400, "malformed-request");
    }
    let mut body = promotion("key");
    body["title"] = json!("t".repeat(70_000));
    let answer = api.post_json("/admin/v1/promotions", &body).await;
    answer.problem(413, "too-large");
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused_and_not_silently_ignored() {
    let (_world, service) = service().await;
    let api = service.admin().api;
    let good = promotion("key").to_string();
    for (name, again) in [
        ("title", r#""title":"Another","#),
        ("target_rides", r#""target_rides":1,"#),
        // Also as the same name may be written otherwise.
        ("active", r#""active":false,"\u0061ctive":true,"#),
    ] {
        let member = format!("\"{name}\":");
        let twice = match good.find(&member) {
            Some(at) => format!("{}{again}{}", &good[..at], &good[at..]),
            None => format!("{{{again}{}", &good[1..]),
        };
        let request = api.request(Method::POST, "/admin/v1/promotions");
        let answer = api.send(request.body(twice)).await;
        let problem = answer.problem(400, "malformed-request");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(name), "{problem}");
    }
    let list = api.get("/admin/v1/promotions").await.expect(200);
    assert_eq!(list["items"], json!([]));
    // The same name in two objects is not a repetition.
    let mut body = promotion("key");
    body["conditions"]["title"] = json!("Title");
    assert_eq!(
        named(&api.post_json("/admin/v1/promotions", &body).await),
        ["conditions.title"]
    );
}

#[tokio::test]
async fn products_and_countries_are_written_and_listed() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let body = json!({ "name": "First loan", "currency_code": "MXN", "term_days": 30 });
    let first = api
        .put_json("/admin/v1/products/80", &body)
        .await
        .expect(200);
    assert_eq!(
        first,
        json!({ "product_id": 80, "name": "First loan", "currency_code": "MXN", "term_days": 30, "terms_url": null })
    );
    let body = json!({ "name": "Second", "currency_code": "MXN", "term_days": 60, "terms_url": "https://example.com/t" });
    let second = api
        .put_json("/admin/v1/products/80", &body)
        .await
        .expect(200);
    assert_eq!(second["terms_url"], "https://example.com/t");
    admin.put_product(9).await;
    let listed = admin.pages("/admin/v1/products", 1).await;
    let ids: Vec<&Value> = listed
        .iter()
        .map(|product| &product["product_id"])
        .collect();
    assert_eq!(ids, [9, 80]);

    for (country, enabled) in [("PE", true), ("MX", true), ("MX", false), ("AR", false)] {
        let path = format!("/admin/v1/geo-config/{country}");
        let body = json!({ "promotions_enabled": enabled });
        let written = api.put_json(&path, &body).await.expect(200);
        assert_eq!(written["country_code"], country);
        assert_eq!(written["promotions_enabled"], enabled);
        assert!(written["updated_at"].is_string());
    }
    let listed = admin.pages("/admin/v1/geo-config", 2).await;
    let listed: Vec<(&str, bool)> = listed
        .iter()
        .map(|row| {
            let enabled = row["promotions_enabled"].as_bool().expect("a boolean");
            (row["country_code"].as_str().expect("a code"), enabled)
        })
        .collect();
    assert_eq!(listed, [("AR", false), ("MX", false), ("PE", true)]);

    // Newest first, page by page, each with what it replaced.
    let audit = admin.pages("/admin/v1/audit", 2).await;
    let calls: Vec<&str> = audit
        .iter()
        .map(|entry| entry["call"].as_str().expect("a call"))
        .collect();
    assert_eq!(
        calls,
        [
            "PUT /geo-config/AR",
            "PUT /geo-config/MX",
            "PUT /geo-config/MX",
            "PUT /geo-config/PE",
            "PUT /products/9",
            "PUT /products/80",
            "PUT /products/80",
        ]
    );
    assert_eq!(audit[1]["before"], audit[2]["after"]);
    assert_eq!(audit[2]["before"], Value::Null);
    assert_eq!(audit[5]["before"], first);
    assert_eq!(audit[5]["after"], second);
}

#[tokio::test]
async fn pages_hold_every_promotion_once() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let mut created = Vec::new();
    for _ in 0..7 {
        created.push(admin.create_promotion(&conditions(1)).await.id);
    }
    for limit in [1, 3, 7, 200] {
        let listed = admin.pages("/admin/v1/promotions", limit).await;
        let ids: Vec<i64> = listed
            .iter()
            .map(|promotion| promotion["promotion_id"].as_i64().expect("an integer"))
            .collect();
        assert_eq!(ids, created, "{limit} a page");
    }
}

#[tokio::test]
async fn pre_offers_are_imported_as_they_stream_in() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let promotion = admin.open_promotion(&conditions(3)).await;
    let import = async |content_type: &str, encoding: &str, body: Vec<u8>| {
        let request = api
            .request(Method::POST, "/admin/v1/pre-offers:import")
            .header("content-type", content_type)
            .header("content-encoding", encoding);
        api.send(request.body(body)).await
    };
    let header = "external_id,user_id,segment,product_id,amount_cents,currency_code,repayment_rate,country_code,valid_until,promotion_key\n";
    let line = |n: i64| {
        format!(
            "e{n},{n},newbie,80,100000,MXN,15,MX,2099-01-01 00:00:00 UTC,{}\n",
            promotion.key
        )
    };
    let csv = format!(
        "{header}{}{}bad,0,newbie,80,1,MXN,15,MX,2099-01-01T00:00:00Z,\n",
        line(1),
        line(2)
    );
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(csv.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let report = import("text/csv", "gzip", gzip.clone()).await.expect(200);
    let mut counts = report.clone();
    counts["rejections"] = Value::Null;
    assert_eq!(
        counts,
        json!({ "read": 3, "imported": 2, "updated": 0, "unchanged": 0, "without_promotion": 0,
            "rejected": 1, "rejections": null })
    );
    assert_eq!(report["rejections"][0]["line"], 4);
    assert_eq!(report["rejections"][0]["field"], "user_id");
    let repeated = import("text/csv; charset=utf-8", "identity", csv.into_bytes()).await;
    assert_eq!(repeated.expect(200)["unchanged"], 2);

    let torn = import("text/csv", "gzip", gzip[..gzip.len() - 10].to_vec()).await;
    torn.problem(400, "malformed-request");
    let packed = import("text/csv", "br", b"x".to_vec()).await;
    packed.problem(415, "unsupported-encoding");
    let headless = import("text/csv", "identity", b"a,b\n1,2\n".to_vec()).await;
    assert_eq!(named(&headless), ["header"]);
    let nothing = import("application/x-ndjson", "identity", Vec::new()).await;
    assert_eq!(nothing.expect(200)["read"], 0);
    let audit = admin.audit().await;
    assert!(audit.iter().any(|entry| {
        entry["call"]
            .as_str()
            .is_some_and(|call| call.contains("import"))
    }));
}

/// An import whose body is sent by hand, a chunk now and then.
struct SlowImport {
    connection: TcpStream,
}

impl SlowImport {
    async fn begin(admin: &Admin) -> Self {
        let request = admin
            .api
            .request(Method::POST, "/admin/v1/pre-offers:import");
        let request = request.build().unwrap();
        let url = request.url();
        let address = (url.host_str().unwrap(), url.port().unwrap());
        let connection = TcpStream::connect(address).await.unwrap();
        let token = request.headers()["authorization"].to_str().unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: test\r\nauthorization: {token}\r\ncontent-type: application/x-ndjson\r\n\
             connection: close\r\ntransfer-encoding: chunked\r\n\r\n",
            url.path()
        );
        let mut import = Self { connection };
        import.write(&head).await;
        import
    }

    async fn write(&mut self, text: &str) {
        self.connection.write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self, line: &Value) {
        let line = format!("{line}\n");
        self.write(&format!("{:x}\r\n{line}\r\n", line.len())).await;
    }

    /// The whole answer, head and all.
    async fn answer(mut self) -> String {
        let mut answer = String::new();
        self.connection.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_body_that_falls_silent_is_given_up() {
    let world = World::new().await;
    let service = world
        .service()
        .env("RIDE_PROMO__ADMIN__IMPORT_BODY_TIMEOUT", "PT3S")
        .start()
        .await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    // It may take longer than the timeout, as long as something comes.
    let mut steady = SlowImport::begin(&admin).await;
    for user_id in 1..=5 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        steady.line(&promotion.pre_offer(user_id)).await;
    }
    steady.write("0\r\n\r\n").await;
    let answer = steady.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"imported\":5"), "{answer}");

    let mut silent = SlowImport::begin(&admin).await;
    silent.line(&promotion.pre_offer(6)).await;
    let answer = silent.answer().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("/problems/request-timeout"), "{answer}");
}

#[tokio::test]
async fn a_stranger_has_nothing() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let mut user = admin.user(424_242).await;
    assert!(user["server_time"].is_string());
    user["server_time"] = Value::Null;
    assert_eq!(
        user,
        json!({
            "user_id": 424_242, "known": false, "erased_at": null, "pre_offers": [], "splits": [], "participations": [],
            "active_pre_offers": [], "applications": [], "sessions": [], "quarantine": [],
            "eligibility": {
                "screen": "NO_OFFER", "latest": null, "regular_pre_offer_id": null,
                "checks": [
                    { "rule": "ALREADY_REWARDED", "ok": true, "facts": { "latest_promotion_id": null, "status": null } },
                    { "rule": "ANOTHER_CHALLENGE_LIVE", "ok": true, "facts": { "latest_promotion_id": null, "status": null } },
                    { "rule": "NO_PRE_OFFER", "ok": false, "facts": { "pre_offer_id": null } },
                ],
            },
            "server_time": null,
        })
    );
    for nobody in ["0", "-1", "x", "9223372036854775808"] {
        let path = format!("/admin/v1/users/{nobody}");
        admin.api.get(&path).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_client_is_shown_whole_with_every_rule_compared() {
    let (world, service) = service().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let client = service.eligible_client(48_151, &promotion).await;

    let user = admin.user(48_151).await;
    assert_eq!(user["eligibility"]["screen"], "PROMO_OFFER");
    let checks = user["eligibility"]["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 9);
    assert!(checks.iter().all(|check| check["ok"] == true), "{user}");
    assert_eq!(user["pre_offers"][0]["promotion_id"], promotion.id);

    admin.set_country("MX", false).await;
    let user = admin.user(48_151).await;
    assert_eq!(user["eligibility"]["screen"], "NO_OFFER");
    let failed: Vec<&Value> = user["eligibility"]["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| check["ok"] == false)
        .collect();
    assert_eq!(
        failed,
        [&json!({ "rule": "PROMOTIONS_DISABLED", "ok": false,
            "facts": { "country_code": "MX", "promotions_enabled": false } })]
    );
    let refused = client.start(promotion.id).await;
    let refused = refused.problem(409, "not-eligible");
    assert_eq!(refused["reasons"], json!(["PROMOTIONS_DISABLED"]));
    admin.set_country("MX", true).await;

    client.start(promotion.id).await.expect(201);
    let mut cheap = ride(48_151);
    cheap["amount_cents"] = json!(4_200);
    world.publish_ride(&cheap).await;
    world.publish_ride(&ride(48_151)).await;
    let user = eventually(SOON, || async {
        let user = admin.user(48_151).await;
        equal(
            user["participations"][0]["rides_completed"].clone(),
            json!(1),
        )
        .map(|_| user)
    })
    .await;
    let participation = &user["participations"][0];
    assert_eq!(participation["status"], "IN_PROGRESS");
    assert_eq!(participation["conditions"], conditions(3));
    let receipts = participation["receipts"].as_array().expect("receipts");
    assert_eq!(receipts.len(), 2);
    let refused = receipts
        .iter()
        .find(|receipt| receipt["counted"] == false)
        .expect("the cheap one");
    assert_eq!(refused["ride_id"], cheap["ride_id"]);
    assert_eq!(refused["verdict"], "BELOW_MIN_AMOUNT");
    assert_eq!(
        refused["details"],
        json!({ "required": 5_000, "actual": 4_200 })
    );
    assert_eq!(user["splits"][0]["status"], "ACTIVE");
    assert_eq!(user["splits"][0]["amount_cents"], 100_000);
    assert_eq!(user["eligibility"]["screen"], "PROMO_PROGRESS");
    assert_eq!(user["eligibility"]["latest"]["promotion_id"], promotion.id);
}

#[tokio::test]
async fn the_right_pre_offer_is_considered() {
    let (_world, service) = service().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    let other = admin.create_promotion(&conditions(3)).await;
    let import = async |user_id: i64, name: &str, changes: Value| {
        let mut line = promotion.pre_offer(user_id);
        line["external_id"] = json!(format!("{user_id}-{name}"));
        for (field, value) in changes.as_object().expect("an object") {
            line[field] = value.clone();
        }
        admin.import_pre_offers(&[line]).await
    };
    // The screen, the rules that fail, and the promotion of the pre-offer considered.
    let sees = async |user_id: i64| {
        let user = admin.user(user_id).await;
        let checks = user["eligibility"]["checks"].as_array().expect("checks");
        let failed: Vec<&Value> = checks.iter().filter(|check| check["ok"] == false).collect();
        let failed: Vec<&Value> = failed.iter().map(|check| &check["rule"]).collect();
        let mapped = checks
            .iter()
            .find(|check| check["rule"] == "NO_PROMOTION_MAPPED");
        let considered = mapped.map(|check| check["facts"]["promotion_id"].clone());
        (
            user["eligibility"]["screen"].clone(),
            json!(failed),
            considered,
        )
    };
    let expired = json!({ "valid_until": "2020-01-01T00:00:00Z" });
    let unmapped = json!({ "promotion_key": "nobody-knows" });
    let regular = json!({ "segment": "regular" });
    let to_other = json!({ "promotion_key": other.key });

    import(1, "mapped", json!({})).await;
    import(1, "unmapped", unmapped.clone()).await;
    import(1, "expired", expired.clone()).await;
    let offered = |id: i64| (json!("PROMO_OFFER"), json!([]), Some(json!(id)));
    assert_eq!(sees(1).await, offered(promotion.id), "mapped comes first");
    import(1, "other", to_other).await;
    assert_eq!(sees(1).await, offered(other.id), "the most recent");
    import(1, "mapped", json!({})).await;
    assert_eq!(sees(1).await, offered(other.id), "unchanged stays");
    import(1, "mapped", json!({ "amount_cents": 5 })).await;
    assert_eq!(sees(1).await, offered(promotion.id), "changed goes first");
    service.client(1).start(promotion.id).await.expect(201);
    let (screen, failed, considered) = sees(1).await;
    assert_eq!(screen, "PROMO_PROGRESS");
    assert_eq!(failed, json!(["ANOTHER_CHALLENGE_LIVE"]));
    assert_eq!(considered, Some(json!(other.id)), "not what was taken");

    import(2, "expired", expired).await;
    let none = |screen: &str, rule: &str| (json!(screen), json!([rule]), None);
    assert_eq!(sees(2).await, none("NO_OFFER", "PRE_OFFER_EXPIRED"));
    import(2, "regular", regular.clone()).await;
    assert_eq!(sees(2).await, none("REGULAR_OFFER", "PRE_OFFER_EXPIRED"));
    import(2, "unmapped", unmapped).await;
    let (screen, failed, considered) = sees(2).await;
    assert_eq!(screen, "REGULAR_OFFER");
    assert_eq!(failed, json!(["NO_PROMOTION_MAPPED"]));
    assert_eq!(considered, Some(Value::Null));
    import(3, "regular", regular).await;
    assert_eq!(sees(3).await, none("REGULAR_OFFER", "NO_PRE_OFFER"));
}

#[tokio::test]
async fn a_started_challenge_keeps_its_conditions() {
    let (world, service) = service().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let (client, started) = service.started_client(7, &promotion).await;

    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let mut harder = conditions(9);
    harder["min_amount_cents"] = json!(1_000_000);
    let patch = json!({ "conditions": harder, "active": false });
    admin.api.patch_json(&path, &patch).await.expect(200);
    admin.set_country("MX", false).await;

    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["conditions"], conditions(2));
    assert_eq!(
        progress["challenge_deadline"],
        started["challenge_deadline"]
    );
    world.publish_ride(&ride(7)).await;
    world.publish_ride(&ride(7)).await;
    eventually(SOON, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    let mut other = promotion.pre_offer(8);
    other["external_id"] = json!("other");
    admin.import_pre_offers(&[other]).await;
    let refused = service.client(8).start(promotion.id).await;
    let refused = refused.problem(409, "not-eligible");
    assert_eq!(
        refused["reasons"],
        json!(["PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"])
    );
}

/// Publishes rides that are none and waits until they are in quarantine; newest first.
async fn quarantine(world: &World, admin: &Admin, rides: &[Value]) -> Vec<Value> {
    for ride in rides {
        world.publish_ride(ride).await;
    }
    eventually(SOON, || async {
        let items = admin.pages("/admin/v1/quarantine?status=OPEN", 2).await;
        equal(items.len(), rides.len()).map(|_| items)
    })
    .await
}

#[tokio::test]
async fn a_quarantined_ride_is_replayed_corrected_or_dismissed() {
    let (world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let promotion = admin.open_promotion(&conditions(3)).await;
    service.started_client(7, &promotion).await;
    let mut negative = ride(7);
    negative["amount_cents"] = json!(-1);
    let mut mistyped = ride(9);
    mistyped["amount_cents"] = json!("6500");
    let items = quarantine(&world, &admin, &[negative.clone(), mistyped]).await;
    let of = |user_id: i64| {
        let found = items.iter().find(|item| item["user_id"] == user_id);
        found.expect("it is in quarantine").clone()
    };
    let item = of(7);
    assert_eq!(item["reason"], "NEGATIVE_AMOUNT");
    assert_eq!(item["key"], "7");
    assert_eq!(item["status"], "OPEN");
    assert_eq!(item["topic"], world.ride_topic());
    assert_eq!(admin.stats().await["quarantine_open"], 2);
    assert_eq!(admin.user(7).await["quarantine"][0], item);

    let path = |item: &Value, call: &str| {
        let id = item["quarantine_id"].as_str().expect("an id");
        format!("/admin/v1/quarantine/{id}/{call}")
    };
    let replay = path(&item, "replay");
    assert_eq!(named(&api.post(&replay).await), ["value.amount_cents"]);
    let mut of_another = ride(8);
    of_another["ride_id"] = negative["ride_id"].clone();
    let answer = api.post_json(&replay, &json!({ "ride": of_another })).await;
    assert_eq!(named(&answer), ["ride.user_id"]);
    let mut still_bad = ride(7);
    still_bad["currency_code"] = json!("pesos");
    let answer = api.post_json(&replay, &json!({ "ride": still_bad })).await;
    assert_eq!(named(&answer), ["ride.currency_code"]);
    let answer = api.post_json(&replay, &json!({ "ride": [] })).await;
    answer.problem(400, "malformed-request");
    let answer = api.post_json(&replay, &json!({ "rides": {} })).await;
    assert_eq!(named(&answer), ["rides"]);
    let twice = json!({ "ride": ride(7) }).to_string();
    let twice = twice.replacen(
        "\"amount_cents\":",
        "\"amount_cents\":1,\"amount_cents\":",
        1,
    );
    let request = api.request(Method::POST, &replay).body(twice);
    api.send(request).await.problem(400, "malformed-request");

    let mut corrected = ride(7);
    corrected["ride_id"] = negative["ride_id"].clone();
    let correction = json!({ "ride": corrected });
    let replayed = api.post_json(&replay, &correction).await.expect(200);
    assert_eq!(replayed["outcome"], "APPLIED");
    assert_eq!(replayed["receipt"]["counted"], true);
    assert_eq!(replayed["receipt"]["ride_id"], negative["ride_id"]);
    // A resolved record stays resolved, with any correction.
    for correction in [&correction, &json!({ "ride": still_bad })] {
        let answer = api.post_json(&replay, correction).await;
        answer.problem(409, "already-resolved");
    }
    let unknown = json!({ "quarantine_id": Uuid::nil() });
    let answer = api
        .post_json(&path(&unknown, "replay"), &json!({ "ride": still_bad }))
        .await;
    answer.problem(404, "not-found");
    let answer = api
        .post_json(&path(&item, "dismiss"), &json!({ "reason": "x" }))
        .await;
    answer.problem(409, "already-resolved");
    assert_eq!(
        admin.user(7).await["participations"][0]["rides_completed"],
        1
    );

    let other = of(9);
    let dismiss = path(&other, "dismiss");
    assert_eq!(
        named(&api.post_json(&dismiss, &json!({})).await),
        ["reason"]
    );
    let reason = json!({ "reason": "a test" });
    api.post_json(&dismiss, &reason).await.expect(204);
    let unknown = json!({ "quarantine_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11" });
    for (call, body) in [("replay", json!({})), ("dismiss", reason)] {
        let answer = api.post_json(&path(&unknown, call), &body).await;
        answer.problem(404, "not-found");
    }
    for (status, user_id) in [("REPLAYED", 7), ("DISMISSED", 9)] {
        let list = format!("/admin/v1/quarantine?status={status}");
        let items = admin.pages(&list, 50).await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0]["user_id"], user_id);
        assert_eq!(items[0]["status"], status);
    }
    assert_eq!(admin.pages("/admin/v1/quarantine", 1).await.len(), 2);
    let audit = admin.audit().await;
    assert!(
        audit[0]["call"]
            .as_str()
            .expect("a call")
            .contains("dismiss")
    );
    assert!(
        audit[1]["call"]
            .as_str()
            .expect("a call")
            .contains("replay")
    );
}

#[tokio::test]
async fn many_quarantined_rides_are_resolved_at_once() {
    let (world, service) = service().await;
    let admin = service.admin();
    let api = &admin.api;
    let promotion = admin.open_promotion(&conditions(3)).await;
    service.started_client(7, &promotion).await;
    let bad = |field: &str, value: Value| {
        let mut ride = ride(7);
        ride[field] = value;
        ride
    };
    // One of them is only from the future, and will have happened soon.
    let soon = now() + chrono::TimeDelta::minutes(5) + chrono::TimeDelta::seconds(3);
    let rides = [
        bad("completed_at", json!(instant(soon))),
        bad("amount_cents", json!(-1)),
        bad("amount_cents", json!("1")),
    ];
    quarantine(&world, &admin, &rides).await;
    for (field, value) in [
        ("note", Value::Null),
        ("reason", json!("BORING")),
        ("from", json!("yesterday")),
        ("until", json!("2026-11-22T18:04:05Z")),
    ] {
        let mut body = json!({ "note": "n" });
        body[field] = value;
        for call in ["replay", "dismiss"] {
            let path = format!("/admin/v1/quarantine:{call}");
            assert_eq!(named(&api.post_json(&path, &body).await), [field], "{body}");
        }
    }
    let replay = json!({ "note": "fixed upstream" });
    let done = eventually(SOON, || async {
        let done = api.post_json("/admin/v1/quarantine:replay", &replay).await;
        let done = done.expect(200);
        equal(done["resolved"].clone(), json!(1)).map(|_| done)
    })
    .await;
    assert_eq!(done, json!({ "resolved": 1, "left_open": 2 }));
    let dismiss = json!({ "note": "hopeless", "reason": "NEGATIVE_AMOUNT", "to": instant(now()) });
    let done = api
        .post_json("/admin/v1/quarantine:dismiss", &dismiss)
        .await;
    assert_eq!(done.expect(200), json!({ "resolved": 1, "left_open": 0 }));
    let none = json!({ "note": "n", "from": instant(now() + chrono::TimeDelta::hours(1)) });
    let done = api.post_json("/admin/v1/quarantine:dismiss", &none).await;
    assert_eq!(done.expect(200), json!({ "resolved": 0, "left_open": 0 }));
    assert_eq!(admin.stats().await["quarantine_open"], 1);
}

#[tokio::test]
async fn the_figures_add_up() {
    let (world, service) = service().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    service.started_client(1, &promotion).await;
    service.started_client(2, &promotion).await;
    world.publish_ride(&ride(2)).await;
    world.publish_ride(&ride(3)).await;
    let stats = eventually(SOON, || async {
        let stats = admin.stats().await;
        let seen = (
            stats["promotions"][0]["completed"].clone(),
            stats["ingest"]["lag"].clone(),
            stats["outbox"]["depth"].clone(),
        );
        equal(seen, (json!(1), json!(0), json!(0))).map(|_| stats)
    })
    .await;
    assert_eq!(
        stats["promotions"],
        json!([{ "promotion_id": promotion.id, "promotion_key": promotion.key, "started": 2,
            "in_progress": 1, "completed": 1, "rewarded": 0,
            "expired": { "CHALLENGE_NOT_COMPLETED": 0, "REWARD_NOT_CLAIMED": 0, "QUIT": 0, "CANCELLED": 0 } }])
    );
    let partitions = stats["ingest"]["partitions"].as_array().expect("a list");
    assert_eq!(partitions.len(), 4);
    let read: i64 = partitions
        .iter()
        .map(|partition| {
            assert_eq!(partition["position"], partition["end"]);
            partition["position"].as_i64().expect("an offset")
        })
        .sum();
    assert_eq!(read, 2);
    assert_eq!(
        stats["outbox"],
        json!({ "depth": 0, "oldest_age_seconds": 0.0 })
    );
    assert_eq!(stats["quarantine_open"], 0);
    assert_eq!(stats["sweep"]["held_back"], 0);
}

#[tokio::test]
async fn the_figures_come_without_kafka_too() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    let service = world.service().start().await;
    let admin = service.admin();
    world.publish_ride(&ride(1)).await;
    eventually(SOON, || async {
        equal(admin.stats().await["ingest"]["lag"].clone(), json!(0))
    })
    .await;
    kafka.freeze();
    // Kafka's own calls give up after five seconds at the earliest; the quickest of a few answers
    // shows that no call waits for them, also on a busy machine.
    let mut quickest = Duration::MAX;
    let mut stats = Value::Null;
    for _ in 0..3 {
        let asked = std::time::Instant::now();
        stats = admin.stats().await;
        quickest = quickest.min(asked.elapsed());
    }
    kafka.thaw();
    assert!(quickest < Duration::from_secs(4), "{quickest:?}");
    assert_eq!(stats["ingest"]["lag"], Value::Null);
    let partitions = stats["ingest"]["partitions"].as_array().expect("a list");
    assert_eq!(partitions.len(), 4);
    for partition in partitions {
        assert!(partition["position"].is_i64(), "{partition}");
        assert_eq!(partition["end"], Value::Null);
    }
}
