//! The client's pages: how they are served, and whole journeys through them in a real browser.

use crate::harness::*;

async fn get(service: &Service, path: &str) -> Answer {
    service.api().get(path).await
}

/// The addresses of the page's own files, as the page names them.
fn addresses(page: &str) -> Vec<String> {
    page.split('"')
        .filter(|text| text.starts_with("/app/"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_served_whole_guarded_and_to_be_kept_for_as_long_as_they_are_true() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let page = get(&service, "/app").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(get(&service, "/app/").await.text, page.text);

    let files = addresses(&page.text);
    assert!(files.len() > 10, "{files:?}");
    for (address, caching) in files
        .iter()
        .map(|address| (address.as_str(), "public, max-age=31536000, immutable"))
        .chain([
            ("/app", "no-cache"),
            ("/app/another-version/css/base.css", "no-cache"),
        ])
    {
        let file = get(&service, address).await;
        assert_eq!(file.status, 200, "{address}");
        assert!(!file.text.is_empty(), "{address}");
        assert_eq!(file.header("cache-control"), Some(caching), "{address}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("referrer-policy"), Some("no-referrer"));
        let kind = match address.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(file.header("content-type"), Some(kind), "{address}");
        let policy = file.header("content-security-policy").unwrap_or_default();
        for rule in [
            "default-src 'none'",
            "script-src 'self';",
            "style-src 'self';",
            "connect-src 'self';",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(rule), "{address}: {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");

        let request = service.api().request(reqwest::Method::GET, address);
        let again = request.header("if-none-match", format!("W/{}, \"other\"", file.etag()));
        let again = service.api().send(again).await;
        assert_eq!(
            (again.status.as_u16(), again.text.as_str()),
            (304, ""),
            "{address}"
        );
        assert_eq!(again.etag(), file.etag());
        let request = service.api().request(reqwest::Method::GET, address);
        let other = service
            .api()
            .send(request.header("if-none-match", "\"other\""))
            .await;
        assert_eq!(other.text, file.text, "{address}");

        let head = service.api().request(reqwest::Method::HEAD, address);
        let head = service.api().send(head).await;
        assert_eq!(
            (head.status.as_u16(), head.text.as_str()),
            (200, ""),
            "{address}"
        );
        let length = file.text.len().to_string();
        assert_eq!(
            head.header("content-length"),
            Some(length.as_str()),
            "{address}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_page_is_a_problem() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let page = get(&service, "/app").await.text;
    let script = addresses(&page).pop().expect("a script");
    for path in [
        "/app/nothing",
        "/app/nothing.js",
        "/app/x/index.html",
        "/app/x/package.json",
        "/app/x/../../Cargo.toml",
        "/app/x/%2e%2e/Cargo.toml",
        &format!("{script}x"),
        "/apps",
    ] {
        get(&service, path).await.problem(404, "not-found");
    }
    for path in ["/app", script.as_str()] {
        let refused = service.api().post(path).await;
        refused.problem(405, "method-not-allowed");
    }
    // The admin listener has none.
    let admin = service.admin_listener().get("/app").await;
    admin.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modules_hold_in_node() {
    let dir = new_dir("modules");
    let log = dir.join("modules.log");
    let mut command = node(&dir);
    command.args(["--test", "modules.test.mjs", "console.test.mjs"]);
    let mut process = Process::spawn("node", command, &log, Signal::Kill);
    let status = process.wait(std::time::Duration::from_secs(120)).await;
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}:\n{}",
        tail(&log, 16_000)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_in_a_browser() {
    let world = World::new().await;
    let service = world.service().start().await;
    let proxy = FaultProxy::start(service.api().address().to_owned());
    let journey = Journey::new("whole-way.mjs", &world, &service);
    journey.through(&proxy).run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_end_in_a_browser() {
    let world = World::new().await;
    let service = world
        .service()
        .lateness("PT8S")
        .env("RIDE_PROMO__API__REPAYMENT_RATE", "once-of-amount")
        .start()
        .await;
    Journey::new("other-ends.mjs", &world, &service).run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_network_in_a_browser() {
    let world = World::new().await;
    let service = world.service().start().await;
    let proxy = FaultProxy::start(service.api().address().to_owned());
    let journey = Journey::new("lost-network.mjs", &world, &service);
    journey.through(&proxy).run().await;
}
