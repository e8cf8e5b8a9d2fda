//! Every error response of the two APIs, call by call: its status, slug, body and headers, and that such a call had no
//! effect (contract 5 and 6).

use std::collections::BTreeSet;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

const CLIENT: i64 = 48_151;

/// Every call of the client API.
const CLIENT_CALLS: [(Method, &str); 9] = [
    (Method::POST, "/v1/landing"),
    (Method::POST, "/v1/promotions/{id}/start"),
    (Method::GET, "/v1/promotions/{id}/progress"),
    (Method::GET, "/v1/promotions/{id}/progress/stream"),
    (Method::GET, "/v1/promotions/{id}/rides"),
    (Method::POST, "/v1/promotions/{id}/acknowledge"),
    (Method::POST, "/v1/promotions/{id}/quit"),
    (Method::GET, "/v1/promotions/{id}/get_reward"),
    (Method::POST, "/v1/promotions/{id}/accept_reward"),
];

/// Every call of the admin API, with the scopes of which any one opens it.
const ADMIN_CALLS: [(Method, &str, &[&str]); 28] = [
    (Method::GET, "/admin/v1/me", &SCOPES),
    (Method::GET, "/admin/v1/promotions", &["view"]),
    (Method::POST, "/admin/v1/promotions", &["edit"]),
    (Method::GET, "/admin/v1/promotions/{id}", &["view"]),
    (Method::PATCH, "/admin/v1/promotions/{id}", &["edit"]),
    (Method::GET, "/admin/v1/promotions/{id}/funnel", &["view"]),
    (Method::GET, "/admin/v1/promotions/{id}/outcomes", &["view"]),
    (Method::GET, "/admin/v1/participations", &["support"]),
    (Method::GET, "/admin/v1/participations:export", &["support"]),
    (
        Method::GET,
        "/admin/v1/promotions/{id}/budget-use",
        &["view"],
    ),
    (Method::GET, "/admin/v1/products", &["view"]),
    (Method::GET, "/admin/v1/products/{id}", &["view"]),
    (Method::PUT, "/admin/v1/products/{id}", &["edit"]),
    (Method::GET, "/admin/v1/geo-config", &["view"]),
    (Method::GET, "/admin/v1/geo-config/MX", &["view"]),
    (Method::PUT, "/admin/v1/geo-config/MX", &["edit"]),
    (Method::POST, "/admin/v1/pre-offers:import", &["import"]),
    (Method::GET, "/admin/v1/users/{id}", &["support"]),
    (
        Method::POST,
        "/admin/v1/users/48151/participations/{id}:cancel",
        &["support"],
    ),
    (
        Method::GET,
        "/admin/v1/rides/0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11?user_id=1",
        &["support"],
    ),
    (Method::GET, "/admin/v1/quarantine", &["support"]),
    (
        Method::POST,
        "/admin/v1/quarantine/0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11/replay",
        &["support"],
    ),
    (
        Method::POST,
        "/admin/v1/quarantine/0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11/dismiss",
        &["support"],
    ),
    (Method::POST, "/admin/v1/quarantine:replay", &["support"]),
    (Method::POST, "/admin/v1/quarantine:dismiss", &["support"]),
    (Method::GET, "/admin/v1/stats", &["view"]),
    (Method::GET, "/admin/v1/system", &["view"]),
    (Method::GET, "/admin/v1/audit", &["audit"]),
];

/// Every scope but that of an administrator, who has them all, without `ride-promo:`.
const SCOPES: [&str; 5] = ["view", "edit", "import", "support", "audit"];

/// The path with a query parameter that no call has.
fn with_colour(path: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("{path}{mark}colour=red")
}

/// An operator's token with these scopes.
fn scoped(scopes: &[&str]) -> String {
    let mut claims = client_claims(CLIENT);
    let words = scopes.iter().map(|scope| format!("ride-promo:{scope}"));
    claims["scope"] = json!(words.collect::<Vec<_>>().join(" "));
    token(&claims)
}

fn at(path: &str, id: impl std::fmt::Display) -> String {
    path.replace("{id}", &id.to_string())
}

/// A body that the call takes.
fn good_body(path: &str) -> Value {
    match path {
        "/admin/v1/promotions" => {
            json!({ "promotion_key": "another", "title": "Another", "conditions": conditions(1) })
        }
        "/admin/v1/promotions/{id}" => json!({ "title": "Other" }),
        "/admin/v1/products/{id}" => {
            json!({ "name": "Loan", "currency_code": "MXN", "term_days": 30 })
        }
        "/admin/v1/geo-config/MX" => json!({ "promotions_enabled": false }),
        path if path.ends_with(":cancel") => json!({ "reason": "r" }),
        path if path.ends_with("dismiss") => json!({ "reason": "r", "note": "n" }),
        path if path.ends_with(":replay") => json!({ "note": "n" }),
        _ => json!({}),
    }
}

/// The problem with every member that all have, and these besides.
#[track_caller]
fn whole(answer: &Answer, status: u16, slug: &str, members: &[&str], what: &str) -> Value {
    assert_eq!(
        answer.status.as_u16(),
        status,
        "{what}: not {slug}: {}",
        answer.text
    );
    let problem = answer.problem(status, slug);
    let found: BTreeSet<&str> = problem
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = ["type", "title", "status", "detail"]
        .into_iter()
        .chain(members.iter().copied())
        .collect();
    assert_eq!(found, expected, "{what}: {problem}");
    for member in ["title", "detail"] {
        let text = problem[member].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{what}: {problem}");
    }
    problem
}

#[track_caller]
fn retry_after(answer: &Answer, what: &str) {
    let seconds = answer.header("retry-after").unwrap_or_default();
    let seconds: u64 = seconds.parse().unwrap_or_default();
    assert!((1..=60).contains(&seconds), "{what}: {:?}", answer.headers);
}

/// Everything that a call could have changed.
async fn everything(world: &World) -> Value {
    sqlx::query_scalar(
        "select jsonb_build_array(
            (select jsonb_agg(p order by p.user_id) from promotion_user p),
            (select jsonb_agg(c order by c.split_id) from cash_loan_account c),
            (select jsonb_agg(a) from active_pre_offer a), (select jsonb_agg(a) from application a),
            (select jsonb_agg(s) from session s), (select jsonb_agg(m order by m.promotion_id) from promotion m),
            (select jsonb_agg(p order by p.product_id) from product p),
            (select jsonb_agg(g order by g.country_code) from geo_config g), (select jsonb_agg(u) from budget_use u),
            (select jsonb_agg(o order by o.pre_offer_id) from pre_offer o),
            (select count(*) from admin_audit), (select count(*) from event_outbox))",
    )
    .fetch_one(world.pool())
    .await
    .expect("the database answers")
}

/// Tokens that open nothing, each wrong in one way.
fn bad_tokens() -> Vec<(&'static str, String)> {
    let with = |name: &str, value: Value| {
        let mut claims = client_claims(CLIENT);
        claims["scope"] = json!("ride-promo:admin");
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value;
        }
        token(&claims)
    };
    let good = with("scope", json!("ride-promo:admin"));
    let parts: Vec<&str> = good.split('.').collect();
    let another = EncodingKey::from_secret(SECRET.as_bytes());
    let another = encode(
        &Header::new(Algorithm::HS512),
        &client_claims(CLIENT),
        &another,
    );
    vec![
        ("no exp", with("exp", Value::Null)),
        ("expired", with("exp", json!(unix_seconds() - 1))),
        ("no iss", with("iss", Value::Null)),
        ("another iss", with("iss", json!("somebody"))),
        ("no aud", with("aud", Value::Null)),
        ("another aud", with("aud", json!("somebody"))),
        ("no sub", with("sub", Value::Null)),
        ("blank sub", with("sub", json!(" "))),
        (
            "alg none",
            // {"alg":"none","typ":"JWT"}
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]),
        ),
        ("another alg", another.expect("a token")),
        ("garbage", "a.b.c".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_client_refuses_what_it_must() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(CLIENT, &promotion).await;
    let api = service.api();
    let before = everything(&world).await;
    let mut bad_tokens = bad_tokens();
    for (what, sub) in [
        ("sub 0", "0"),
        ("negative sub", "-1"),
        ("sub with a plus", "+48151"),
        ("sub with a zero", "048151"),
        ("sub beyond 64 bits", "9223372036854775808"),
        ("sub with a fraction", "48151.0"),
        ("sub of an operator", "admin@example.com"),
    ] {
        let mut claims = client_claims(CLIENT);
        claims["sub"] = json!(sub);
        bad_tokens.push((what, token(&claims)));
    }
    for (method, path) in &CLIENT_CALLS {
        let here = at(path, promotion.id);
        let what = format!("{method} {here}");
        let unauthorized = |answer: &Answer, why: &str| {
            whole(answer, 401, "unauthorized", &[], &format!("{what}, {why}"));
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
        };
        let nobody = api.send(api.request(method.clone(), &here)).await;
        unauthorized(&nobody, "no token");
        for (why, token) in &bad_tokens {
            let caller = api.with_token(token.as_str());
            let request = caller.request(method.clone(), &here);
            unauthorized(&caller.send(request).await, why);
        }

        let caller = &client.api;
        for wrong in [Method::DELETE, Method::PUT, Method::PATCH] {
            let answer = caller.send(caller.request(wrong, &here)).await;
            whole(&answer, 405, "method-not-allowed", &[], &what);
            let allow = answer.header("allow").unwrap_or_default();
            assert!(
                allow.split(',').any(|name| name.trim() == method.as_str()),
                "{what}: {allow}"
            );
        }
        if path.contains("{id}") {
            for id in ["x", "1.5", "+1", "9223372036854775808", "%20"] {
                let answer = caller
                    .send(caller.request(method.clone(), &at(path, id)))
                    .await;
                whole(&answer, 404, "not-found", &[], &format!("{what} of {id}"));
            }
        }
        let colour = format!("{here}?colour=red");
        let answer = caller.send(caller.request(method.clone(), &colour)).await;
        let problem = whole(&answer, 422, "invalid-request", &["errors"], &what);
        assert_eq!(problem["errors"][0]["field"], "colour", "{what}: {problem}");
        if method == Method::POST {
            for body in ["{", "[]", "1", "null", "\u{1}"] {
                let request = caller.request(method.clone(), &here).body(body);
                let answer = caller.send(request).await;
                whole(&answer, 400, "malformed-request", &[], &what);
            }
            let large = format!("{{\"a\":\"{}\"}}", "a".repeat(70_000));
            let request = caller.request(method.clone(), &here).body(large);
            let answer = caller.send(request).await;
            whole(&answer, 413, "too-large", &[], &what);
        }
    }
    for (call, query) in [
        ("rides", "limit=0"),
        ("rides", "limit=201"),
        ("rides", "limit="),
        ("rides", "cursor=x"),
        ("rides", "limit=1&limit=2"),
        ("progress", "wait=31"),
        ("progress", "wait="),
    ] {
        let path = format!("/v1/promotions/{}/{call}?{query}", promotion.id);
        let answer = client.api.get(&path).await;
        let problem = whole(&answer, 422, "invalid-request", &["errors"], query);
        let errors = problem["errors"].as_array().expect("a list");
        assert_eq!(errors.len(), 1, "{problem}");
        assert_eq!(
            errors[0]["field"],
            query.split('=').next().unwrap_or_default()
        );
        assert!(errors[0]["reason"].is_string(), "{problem}");
    }
    assert_eq!(everything(&world).await, before, "no refusal had an effect");
}

/// What each call answers about a participation in each state, as the contract has it.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_answers_by_the_state_of_the_participation() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    // In the order of the calls below: a status where it is answered, a problem where not.
    type Row = (
        &'static str,
        Option<Option<End>>,
        [(u16, &'static str, &'static [&'static str]); 6],
    );
    const OK: (u16, &str, &[&str]) = (200, "", &[]);
    const NOT_PARTICIPATING: (u16, &str, &[&str]) = (404, "not-participating", &[]);
    const ALREADY: (u16, &str, &[&str]) = (409, "already-participated", &["participation"]);
    const NOT_COMPLETED: (u16, &str, &[&str]) = (409, "challenge-not-completed", &[]);
    const NOT_EXPIRED: (u16, &str, &[&str]) = (409, "not-expired", &[]);
    const OVER: (u16, &str, &[&str]) = (410, "challenge-over", &["expired_reason"]);
    const TOO_LATE: (u16, &str, &[&str]) = (410, "reward-expired", &[]);
    const SEEN: (u16, &str, &[&str]) = (204, "", &[]);
    let calls = [
        (Method::POST, "start"),
        (Method::GET, "progress"),
        (Method::GET, "rides"),
        (Method::POST, "acknowledge"),
        (Method::GET, "get_reward"),
        (Method::POST, "accept_reward"),
    ];
    let rows: [Row; 6] = [
        (
            "not taking part",
            None,
            [
                (409, "not-eligible", &["reason", "reasons"]),
                NOT_PARTICIPATING,
                NOT_PARTICIPATING,
                NOT_PARTICIPATING,
                NOT_PARTICIPATING,
                NOT_PARTICIPATING,
            ],
        ),
        (
            "IN_PROGRESS",
            Some(None),
            [OK, OK, OK, NOT_EXPIRED, NOT_COMPLETED, NOT_COMPLETED],
        ),
        (
            "COMPLETED",
            Some(Some(End::Completed)),
            [ALREADY, OK, OK, NOT_EXPIRED, OK, OK],
        ),
        (
            "COMPLETED, past its deadline",
            Some(Some(End::TooLate)),
            [ALREADY, OK, OK, SEEN, TOO_LATE, TOO_LATE],
        ),
        (
            "CHALLENGE_NOT_COMPLETED",
            Some(Some(End::NotCompleted)),
            [ALREADY, OK, OK, SEEN, OVER, OVER],
        ),
        (
            "REWARD_NOT_CLAIMED",
            Some(Some(End::NotClaimed)),
            [ALREADY, OK, OK, SEEN, TOO_LATE, TOO_LATE],
        ),
    ];
    for (user_id, (state, taken, answers)) in (1..).zip(rows) {
        let client = service.client(user_id);
        if let Some(end) = taken {
            service.started_client(user_id, &promotion).await;
            if let Some(end) = end {
                end_by_force(&world, user_id, promotion.id, end).await;
            }
        }
        for ((method, call), (status, slug, members)) in calls.iter().zip(answers) {
            let path = format!("/v1/promotions/{}/{call}", promotion.id);
            let what = format!("{call}, {state}");
            let before = everything(&world).await;
            let answer = client
                .api
                .send(client.api.request(method.clone(), &path))
                .await;
            if slug.is_empty() {
                assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text);
                continue;
            }
            let problem = whole(&answer, status, slug, members, &what);
            if slug == "already-participated" {
                assert_eq!(problem["participation"]["user_id"], user_id);
            }
            assert_eq!(everything(&world).await, before, "{what} had an effect");
        }
    }

    // The third has accepted above.
    let client = service.client(3);
    let path = |call: &str| format!("/v1/promotions/{}/{call}", promotion.id);
    let answer = client.api.get(&path("get_reward")).await;
    let problem = whole(
        &answer,
        409,
        "already-rewarded",
        &["application"],
        "get_reward",
    );
    let application = problem["application"].as_object().expect("an object");
    let members: BTreeSet<&str> = application.keys().map(String::as_str).collect();
    assert_eq!(
        members,
        BTreeSet::from([
            "application_id",
            "session_id",
            "sequence_id",
            "active_pre_offer_id"
        ])
    );
    let answer = client.api.post(&path("acknowledge")).await;
    whole(&answer, 409, "not-expired", &[], "acknowledge, REWARDED");
    let answer = client.start(promotion.id).await;
    whole(
        &answer,
        409,
        "already-participated",
        &["participation"],
        "start, REWARDED",
    );
    let unknown = client.start(promotion.id + 1_000).await;
    whole(
        &unknown,
        404,
        "promotion-not-found",
        &[],
        "start of nothing",
    );

    // A split that has gone, where the promotion makes no other.
    let strict = service.admin().create_promotion(&conditions(1)).await;
    let reject = json!({ "missing_split": "reject" });
    let address = format!("/admin/v1/promotions/{}", strict.id);
    let admin = service.admin().api;
    admin.patch_json(&address, &reject).await.expect(200);
    let (client, _) = service.started_client(100, &strict).await;
    end_by_force(&world, 100, strict.id, End::Completed).await;
    sqlx::query("update cash_loan_account set valid_until = clock_ms() where user_id = 100")
        .execute(world.pool())
        .await
        .expect("it may run out");
    let before = everything(&world).await;
    let accept = format!("/v1/promotions/{}/accept_reward", strict.id);
    let answer = client.api.post(&accept).await;
    whole(&answer, 409, "split-missing", &[], "accept_reward");
    assert_eq!(everything(&world).await, before);
    let create = json!({ "missing_split": "create" });
    admin.patch_json(&address, &create).await.expect(200);
    client.api.post(&accept).await.expect(200);

    // Another's token gets nothing of all this, and changes nothing.
    let stranger = service.client(7_000);
    for (_, call) in &calls[1..] {
        let method = match *call {
            "acknowledge" | "accept_reward" => Method::POST,
            _ => Method::GET,
        };
        let before = everything(&world).await;
        let request = stranger.api.request(method, &path(call));
        let answer = stranger.api.send(request).await;
        whole(&answer, 404, "not-participating", &[], call);
        assert_eq!(everything(&world).await, before, "{call}");
    }
    let landing = stranger.api.post("/v1/landing").await.expect(200);
    assert_eq!(landing["screen"], "NO_OFFER");
    let stream = stranger.api.get(&path("progress/stream")).await;
    whole(&stream, 404, "not-participating", &[], "progress/stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_says_when_to_come_again() {
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    let service = world
        .service()
        .roles("api")
        .env("RIDE_PROMO__API__RATE_LIMIT_PER_SECOND", 1)
        .env("RIDE_PROMO__API__RATE_LIMIT_BURST", 1)
        .through(&proxy, &world)
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    for (user_id, (method, path)) in (1..).zip(&CLIENT_CALLS) {
        let client = service.client(user_id);
        let path = at(path, promotion.id);
        let mut asked = 0;
        let refused = loop {
            let request = client.api.request(method.clone(), &path);
            let answer = client.api.send(request).await;
            if answer.status == 429 {
                break answer;
            }
            asked += 1;
            assert!(asked < 50, "{path}: no limit");
        };
        whole(&refused, 429, "too-many-requests", &[], &path);
        retry_after(&refused, &path);
    }

    let before = everything(&world).await;
    proxy.refuse(true);
    let away = async |api: Api, method: Method, path: &str, body: Value| {
        let request = api.request(method.clone(), &at(path, promotion.id));
        let request = if method == Method::GET {
            request
        } else {
            request.json(&body)
        };
        let answer = api.send(request).await;
        let what = format!("{method} {path}");
        whole(&answer, 503, "temporarily-unavailable", &[], &what);
        retry_after(&answer, &what);
    };
    let clients = CLIENT_CALLS
        .iter()
        .zip(1_000..)
        .map(|((method, path), user_id)| {
            away(service.client(user_id).api, method.clone(), path, json!({}))
        });
    let admins = ADMIN_CALLS
        .iter()
        // Nothing to import needs no database, and neither does who is calling or who answers.
        .filter(|(_, path, _)| {
            let needs_none = [":import", "/me", "/system"];
            !needs_none.iter().any(|end| path.ends_with(end))
        })
        .map(|(method, path, _)| {
            away(
                service.admin().api,
                method.clone(),
                path,
                good_body_of(path),
            )
        });
    tokio::join!(
        futures::future::join_all(clients),
        futures::future::join_all(admins)
    );
    let line = json!([promotion.pre_offer(1)])[0].to_string();
    let admin = service.admin().api;
    let request = admin
        .request(Method::POST, "/admin/v1/pre-offers:import")
        .header("content-type", "application/x-ndjson")
        .body(line);
    let answer = admin.send(request).await;
    whole(&answer, 503, "temporarily-unavailable", &["line"], "import");
    retry_after(&answer, "import");
    proxy.refuse(false);
    assert_eq!(everything(&world).await, before);
    // Another client each time, because one client may not call twice in a second.
    let mut user_ids = 2_000..;
    eventually(Duration::from_secs(30), || {
        let client = service.client(user_ids.next().expect("there are more"));
        async move {
            let answer = client.api.post("/v1/landing").await;
            equal(answer.status.as_u16(), 200)
        }
    })
    .await;
}

/// [`good_body`] with only what the call itself knows.
fn good_body_of(path: &str) -> Value {
    let mut body = good_body(path);
    let unknown = match path {
        path if path.ends_with(":dismiss") => "reason",
        path if path.ends_with("/dismiss") => "note",
        _ => return body,
    };
    body.as_object_mut().expect("an object").remove(unknown);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_an_operator_refuses_what_it_must() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    service.started_client(CLIENT, &promotion).await;
    let listener = service.admin_listener();
    let operator = service.admin().api;
    let before = everything(&world).await;
    for (method, path, scopes) in &ADMIN_CALLS {
        let here = at(path, promotion.id);
        let what = format!("{method} {here}");
        let body = good_body_of(path).to_string();
        let ask = async |api: &Api, method: Method, body: String| {
            let request = api.request(method, &here);
            api.send(request.body(body)).await
        };
        let unauthorized = ask(listener, method.clone(), body.clone()).await;
        whole(&unauthorized, 401, "unauthorized", &[], &what);
        assert_eq!(unauthorized.header("www-authenticate"), Some("Bearer"));
        for (why, token) in bad_tokens() {
            let answer = ask(&listener.with_token(token), method.clone(), body.clone()).await;
            whole(&answer, 401, "unauthorized", &[], &format!("{what}, {why}"));
        }
        for scope in [
            json!(null),
            json!(""),
            json!("ride-promo"),
            json!("ride-promo:administrator"),
            json!("ride-promo:ADMIN"),
            json!(["ride-promo:admin"]),
        ] {
            let mut claims = client_claims(CLIENT);
            claims["scope"] = scope.clone();
            let caller = listener.with_token(token(&claims));
            let answer = ask(&caller, method.clone(), body.clone()).await;
            whole(&answer, 403, "forbidden", &[], &format!("{what}, {scope}"));
        }
        // Every scope but the right ones is not enough, and the one that is missing is named.
        let others: Vec<&str> = SCOPES
            .into_iter()
            .filter(|scope| !scopes.contains(scope))
            .collect();
        if !others.is_empty() {
            let caller = listener.with_token(scoped(&others));
            let answer = ask(&caller, method.clone(), body.clone()).await;
            let problem = whole(&answer, 403, "forbidden", &[], &what);
            let missing = format!("ride-promo:{}", scopes[0]);
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(&missing), "{what}: {problem}");
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{missing}\"");
            assert_eq!(answer.header("www-authenticate"), Some(&*challenge));
        }
        // Any one of the right ones opens it: what is refused then is the query.
        for scope in *scopes {
            let caller = listener.with_token(scoped(&[scope]));
            let request = caller.request(method.clone(), &with_colour(&here));
            let answer = caller.send(request.body(body.clone())).await;
            whole(&answer, 422, "invalid-request", &["errors"], &what);
        }
        // No promotion is deleted, and nothing else.
        let deleted = ask(&operator, Method::DELETE, String::new()).await;
        whole(&deleted, 405, "method-not-allowed", &[], &what);
        let allow = deleted.header("allow").unwrap_or_default();
        assert!(
            allow.split(',').any(|name| name.trim() == method.as_str()),
            "{what}: {allow}"
        );
        let request = operator.request(method.clone(), &with_colour(&here));
        let answer = operator.send(request.body(body.clone())).await;
        let problem = whole(&answer, 422, "invalid-request", &["errors"], &what);
        assert_eq!(problem["errors"][0]["field"], "colour", "{what}: {problem}");
        if *method == Method::GET || path.ends_with(":import") {
            continue;
        }
        for malformed in ["{", "[]", "1", "\u{1}"] {
            let answer = ask(&operator, method.clone(), malformed.to_owned()).await;
            whole(&answer, 400, "malformed-request", &[], &what);
        }
        let large = format!("{{\"title\":\"{}\"}}", "a".repeat(70_000));
        let answer = ask(&operator, method.clone(), large).await;
        whole(&answer, 413, "too-large", &[], &what);
        let mut unknown = good_body_of(path);
        unknown["colour"] = json!("red");
        let answer = ask(&operator, method.clone(), unknown.to_string()).await;
        let problem = whole(&answer, 422, "invalid-request", &["errors"], &what);
        assert_eq!(problem["errors"][0]["field"], "colour", "{what}: {problem}");
    }
    for path in [
        "/admin/v1",
        "/admin/v1/promotions/x",
        "/admin/v1/promotions/+1",
        "/admin/v1/users/x",
        "/admin/v1/users/0",
        "/admin/v1/promotions/1000000/budget-use",
        "/v1/landing",
    ] {
        let answer = operator.get(path).await;
        whole(&answer, 404, "not-found", &[], path);
    }
    assert_eq!(everything(&world).await, before, "no refusal had an effect");
}

/// A body that comes after its head finds the refusal made already; whoever shares the connection, as
/// behind a proxy, goes on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_does_not_cost_the_next_request_its_connection() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let good = client_token(CLIENT);
    for (path, token, status) in [
        ("/v1/landing", "a.b.c", "401"),
        ("/v1/nothing", good.as_str(), "404"),
        ("/v1/promotions/1/progress", good.as_str(), "405"),
    ] {
        let connect = async || {
            let connection = TcpStream::connect(service.api().address()).await;
            connection.expect("a listener")
        };
        let head = |method: &str, path: &str, token: &str, length: usize| {
            format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
                 content-length: {length}\r\n\r\n"
            )
        };
        let refused = head("POST", path, token, 2);
        let mut connection = connect().await;
        connection
            .write_all(refused.as_bytes())
            .await
            .expect("written");
        // So that a refusal that waits for nothing is out already.
        tokio::time::sleep(Duration::from_millis(20)).await;
        connection.write_all(b"{}").await.expect("written");
        let answer = answer_on(&mut connection).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let next = head("POST", "/v1/landing", &good, 0);
        connection
            .write_all(next.as_bytes())
            .await
            .expect("written");
        let answer = answer_on(&mut connection).await;
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "after {status}: {answer}"
        );

        // One that does not come at all leaves no room for another request, and that is said.
        let mut connection = connect().await;
        connection
            .write_all(refused.as_bytes())
            .await
            .expect("written");
        let answer = answer_on(&mut connection).await.to_lowercase();
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

/// The next answer of a connection that stays open; what there is when it is closed.
async fn answer_on(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.to_lowercase().lines().find_map(|line| {
            let value = line.strip_prefix("content-length:")?;
            value.trim().parse::<usize>().ok()
        })?;
        (body.len() >= length).then_some(())
    };
    while whole(&answer).is_none() {
        if connection.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
