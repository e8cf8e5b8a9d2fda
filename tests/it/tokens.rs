//! Which tokens are accepted: key sets with and without `kid`s, keys that change, an unavailable issuer, clocks that differ
//! (contract 5).

use std::fs;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::*;

const CLIENT: i64 = 48_151;

/// A service that checks clients' tokens with the keys at `jwks`, and operators' with the secret.
fn with_keys(world: &World, algorithm: &str, jwks: &str) -> ServiceBuilder {
    world
        .service()
        .roles("api")
        .env("RIDE_PROMO__AUTH__ALGORITHM", algorithm)
        .env("RIDE_PROMO__AUTH__JWKS", jwks)
        .env("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "HS256")
}

async fn call(service: &Service, token: &str) -> Answer {
    service.api().with_token(token).post("/v1/landing").await
}

#[track_caller]
fn refused(answer: &Answer) {
    answer.problem(401, "unauthorized");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer error=\"invalid_token\"")
    );
}

#[track_caller]
fn unavailable(answer: &Answer) {
    answer.problem(503, "temporarily-unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kids_are_optional_in_tokens_and_in_key_sets() {
    let world = World::new().await;
    let claims = client_claims(CLIENT);
    let [a, b, foreign] = [(); 3].map(|()| SigningKey::rs256());
    let dir = world.new_dir("keys");

    let named = dir.join("named.json");
    let set = key_set(&[a.jwk(Some("a")), b.jwk(Some("b"))]);
    fs::write(&named, set).expect("written");
    let service = with_keys(&world, "RS256", &named.display().to_string());
    let service = service.start().await;
    for key in [&a, &b] {
        call(&service, &key.token(None, &claims)).await.expect(200);
    }
    call(&service, &b.token(Some("b"), &claims))
        .await
        .expect(200);
    refused(&call(&service, &b.token(Some("a"), &claims)).await);
    refused(&call(&service, &foreign.token(None, &claims)).await);
    refused(&call(&service, &foreign.token(Some("a"), &claims)).await);
    refused(&call(&service, &foreign.token(Some("c"), &claims)).await);
    drop(service);

    let [a, b, foreign] = [(); 3].map(|()| SigningKey::es256());
    let nameless = dir.join("nameless.json");
    fs::write(&nameless, key_set(&[a.jwk(None), b.jwk(None)])).expect("written");
    let service = with_keys(&world, "ES256", &nameless.display().to_string());
    let service = service.start().await;
    for kid in [None, Some("any")] {
        for key in [&a, &b] {
            call(&service, &key.token(kid, &claims)).await.expect(200);
        }
        refused(&call(&service, &foreign.token(kid, &claims)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_changed_are_seen_and_the_old_ones_are_not_taken_any_more() {
    let world = World::new().await;
    let claims = client_claims(CLIENT);
    let (old, new) = (SigningKey::es256(), SigningKey::es256());
    let file = world.new_dir("keys").join("keys.json");
    fs::write(&file, key_set(&[old.jwk(Some("a"))])).expect("written");
    let service = with_keys(&world, "ES256", &file.display().to_string());
    let service = service.start().await;
    let (old_token, new_token) = (old.token(Some("a"), &claims), new.token(Some("a"), &claims));
    // Twice: the second time it is known.
    for _ in 0..2 {
        call(&service, &old_token).await.expect(200);
    }
    fs::write(&file, key_set(&[new.jwk(Some("a"))])).expect("written");
    // The new key's signature is bad by the old one: the file is read again for it.
    eventually(Duration::from_secs(5), || async {
        equal(call(&service, &new_token).await.status.as_u16(), 200)
    })
    .await;
    refused(&call(&service, &old_token).await);

    // Without a token that asks for it, a file is read again by itself.
    fs::write(&file, key_set(&[old.jwk(Some("a"))])).expect("written");
    eventually(Duration::from_secs(15), || async {
        equal(call(&service, &new_token).await.status.as_u16(), 401)
    })
    .await;
    call(&service, &old_token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_kid_is_never_refused_because_the_set_was_fetched_just_before() {
    let world = World::new().await;
    let claims = client_claims(CLIENT);
    let (a, c, foreign) = (
        SigningKey::es256(),
        SigningKey::es256(),
        SigningKey::es256(),
    );
    let issuer = Issuer::start(Some(key_set(&[a.jwk(Some("a"))]))).await;
    let service = with_keys(&world, "ES256", &issuer.url()).start().await;
    call(&service, &a.token(Some("a"), &claims))
        .await
        .expect(200);
    // A stranger's kid has the set fetched.
    refused(&call(&service, &foreign.token(Some("x"), &claims)).await);
    let fetches = issuer.fetches();
    assert!(fetches >= 2, "{fetches}");
    issuer.serve(Some(key_set(&[a.jwk(Some("a")), c.jwk(Some("c"))])));
    call(&service, &c.token(Some("c"), &claims))
        .await
        .expect(200);
    // However many kids strangers make up, the issuer is asked once for all who wait.
    let before = issuer.fetches();
    let strangers = (0..20).map(|kid| {
        let token = foreign.token(Some(&format!("x{kid}")), &claims);
        let service = &service;
        async move { call(service, &token).await }
    });
    for answer in futures::future::join_all(strangers).await {
        refused(&answer);
    }
    let fetches = issuer.fetches() - before;
    assert!((1..=2).contains(&fetches), "{fetches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_costs_no_token_its_keys_until_they_are_too_old() {
    let world = World::new().await;
    let claims = client_claims(CLIENT);
    let (a, b) = (SigningKey::es256(), SigningKey::es256());
    let set = key_set(&[a.jwk(Some("a"))]);
    let issuer = Issuer::start(None).await;
    let token = a.token(Some("a"), &claims);
    let service = with_keys(&world, "ES256", &issuer.url())
        .env("RIDE_PROMO__AUTH__JWKS_MAX_AGE", "PT12S")
        .spawn();
    // The keys are not known yet: no token is rejected, and the process is not ready.
    let says = |answer: Option<Answer>, word: &str| match answer {
        Some(answer) if answer.status == 503 && answer.text.contains(word) => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    eventually(Duration::from_secs(30), || async {
        says(service.readiness().await, "key set of tokens")
    })
    .await;
    unavailable(&call(&service, &token).await);
    issuer.serve(Some(set.clone()));
    service.wait_ready().await;
    call(&service, &token).await.expect(200);

    issuer.serve(None);
    // The fetch fails: it is unknown whether the kid is new.
    unavailable(&call(&service, &b.token(Some("b"), &claims)).await);
    call(&service, &token).await.expect(200);
    assert_eq!(service.readiness().await.expect("it answers").status, 200);
    eventually(Duration::from_secs(30), || async {
        equal(call(&service, &token).await.status.as_u16(), 503)
    })
    .await;
    eventually(Duration::from_secs(5), || async {
        says(service.readiness().await, "key set of tokens")
    })
    .await;
    let age = [("api", "client")];
    let metrics = service.metrics().await;
    let age = metrics.sum("ride_promo_key_set_age_seconds", &age);
    assert!((10.0..60.0).contains(&age), "{age}");
    // Operators' tokens are checked with a secret.
    service.admin().stats().await;
    issuer.serve(Some(set));
    service.wait_ready().await;
    call(&service, &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_verified_once_and_forgotten_at_its_end() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let mut claims = client_claims(CLIENT);
    claims["exp"] = json!(unix_seconds() + 3);
    let short = token(&claims);
    for _ in 0..3 {
        call(&service, &short).await.expect(200);
    }
    let counted = async |result: &str| {
        let metrics = service.metrics().await;
        metrics.sum("ride_promo_tokens_total", &[("result", result)])
    };
    assert_eq!(
        (counted("verified").await, counted("cached").await),
        (1.0, 2.0)
    );
    // The same claims under another signature are another token.
    let forged = format!("{}A", &short[..short.len() - 1]);
    let other = format!("{}B", &short[..short.len() - 1]);
    for token in [forged, other].iter().filter(|token| **token != short) {
        refused(&call(&service, token).await);
    }
    eventually(Duration::from_secs(10), || async {
        equal(call(&service, &short).await.status.as_u16(), 401)
    })
    .await;
    assert!(unix_seconds() >= claims["exp"].as_u64().expect("seconds"));
    assert_eq!(counted("verified").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_clock_is_ahead_is_given_some_leeway_and_the_end_none() {
    let world = World::new().await;
    let service = world.service().roles("api");
    let service = service
        .env("RIDE_PROMO__AUTH__LEEWAY", "PT30S")
        .start()
        .await;
    let with = |name: &str, seconds: i64| {
        let mut claims = client_claims(CLIENT);
        let now = i64::try_from(unix_seconds()).expect("seconds");
        claims[name] = json!(now + seconds);
        token(&claims)
    };
    for good in [with("nbf", 25), with("iat", 25), with("iat", -86_400)] {
        call(&service, &good).await.expect(200);
    }
    for bad in [with("nbf", 60), with("iat", 60), with("exp", -1)] {
        refused(&call(&service, &bad).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_what_is_missing() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let nobody = service.api().post("/v1/landing").await;
    nobody.problem(401, "unauthorized");
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
    refused(&call(&service, "a.b.c").await);
    let client = service.admin_listener().with_token(client_token(CLIENT));
    let answer = client.get("/admin/v1/stats").await;
    let problem: Value = answer.problem(403, "forbidden");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("ride-promo:view"), "{problem}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer error=\"insufficient_scope\", scope=\"ride-promo:view\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_makes_tokens_for_a_part_of_the_desk() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let made = async |arguments: &[&str]| {
        let arguments = [&["token"], arguments].concat();
        world.command(&arguments).run().await
    };
    let me = async |arguments: &[&str]| {
        let token = made(arguments).await.expect_success();
        let caller = service.admin_listener().with_token(token.trim());
        caller.get("/admin/v1/me").await.expect(200)
    };
    let ana = me(&[
        "--operator",
        "ana@example.com",
        "--scope",
        "ride-promo:support,ride-promo:view",
    ])
    .await;
    assert_eq!(ana["subject"], "ana@example.com");
    assert_eq!(
        ana["scopes"],
        json!(["ride-promo:view", "ride-promo:support"])
    );
    let ends = ana["expires_at"].as_str().expect("an instant").to_owned();
    let in_two_hours = instant(now() + TimeDelta::hours(2));
    assert!(instant(now()) < ends && ends < in_two_hours, "{ana}");
    let admin = me(&["--admin"]).await;
    assert_eq!(admin["subject"], "admin");
    assert_eq!(
        admin["scopes"],
        json!([
            "ride-promo:view",
            "ride-promo:edit",
            "ride-promo:import",
            "ride-promo:support",
            "ride-promo:audit"
        ])
    );
    for wrong in [
        &["--admin", "--scope", "ride-promo:all"][..],
        &["--user", "1", "--scope", "ride-promo:view"],
        &["--operator", " "],
        &["--operator", "ana", "--admin"],
    ] {
        let output = made(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
    // A client's token is of no use at the desk.
    let client = service.admin_listener().with_token(client_token(CLIENT));
    let refused = client.get("/admin/v1/me").await;
    refused.problem(403, "forbidden");
}
