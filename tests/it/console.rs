//! The operators' console: how it is served, and whole days in it in a real browser.

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_served_whole_and_guarded_on_the_admin_listener_only() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin_listener();
    let page = admin.get("/console").await;
    assert_eq!(page.status, 200);
    assert_eq!(admin.get("/console/").await.text, page.text);
    let files: Vec<&str> = page
        .text
        .split('"')
        .filter(|text| text.starts_with("/console/"))
        .collect();
    assert!(files.len() > 20, "{files:?}");
    for address in files.iter().copied().chain(["/console"]) {
        let file = admin.get(address).await;
        assert_eq!(file.status, 200, "{address}");
        let policy = file.header("content-security-policy").unwrap_or_default();
        for rule in ["default-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{address}: {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("referrer-policy"), Some("no-referrer"));
    }
    // The licence of what is not ours goes with it.
    let version = files[0].split('/').nth(2).expect("a version");
    let licence = admin
        .get(&format!("/console/{version}/vendor/uplot/LICENSE"))
        .await;
    assert!(licence.text.contains("The MIT License"), "{}", licence.text);
    admin
        .get(&format!("/console/{version}/index.html"))
        .await
        .problem(404, "not-found");
    let client = service.api().get("/console").await;
    client.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotions_managers_day_in_the_console() {
    let world = World::new().await;
    let service = world.service().start().await;
    Journey::new("console.mjs", &world, &service).run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_from_its_form_to_the_audit() {
    let world = World::new().await;
    let service = world.service().start().await;
    Journey::new("console-day.mjs", &world, &service)
        .run()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn supports_day_in_the_console() {
    let world = World::new().await;
    let service = world.service().start().await;
    let journey = Journey::new("console-support.mjs", &world, &service);
    journey.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_at_a_provider_of_openid_connect() {
    let world = World::new().await;
    let port = Port::reserve();
    let provider = format!("127.0.0.1:{}", port.number());
    let issuer = format!("http://{provider}");
    let service = world
        .service()
        .roles("api")
        .env("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "RS256")
        .env("RIDE_PROMO__ADMIN_AUTH__JWKS", format!("{issuer}/jwks"))
        .env("RIDE_PROMO__ADMIN_AUTH__ISSUER", &issuer)
        .env("RIDE_PROMO__ADMIN_AUTH__AUDIENCE", "ride-promo-admin")
        .env("RIDE_PROMO__CONSOLE__OIDC_ISSUER", &issuer)
        .env("RIDE_PROMO__CONSOLE__OIDC_CLIENT_ID", "console")
        .start()
        .await;
    let journey = Journey::new("console-oidc.mjs", &world, &service);
    journey.with_provider(&provider).run().await;
}
