//! HTTP as clients and proxies speak it: rejected heads, connections that are kept, half-closed or too many, and the
//! headers for caches and browsers.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::CONTENT_ENCODING;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::*;

const CLIENT: i64 = 48_151;

async fn connect(api: &Api) -> TcpStream {
    let connection = TcpStream::connect(api.address()).await;
    connection.expect("a listener")
}

async fn send(connection: &mut TcpStream, text: impl AsRef<[u8]>) {
    let written = connection.write_all(text.as_ref()).await;
    written.expect("written");
}

/// Everything until the other side closes; a reset is what was read before it.
async fn rest(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = connection.read_to_end(&mut text);
    let read = tokio::time::timeout(Duration::from_secs(40), read).await;
    let _ = read.expect("it is closed");
    String::from_utf8_lossy(&text).into_owned()
}

/// One response with a `Content-Length`.
async fn response(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head.to_lowercase().lines().find_map(|line| {
                let value = line.strip_prefix("content-length:")?;
                value.trim().parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or_default() {
                return so_far;
            }
        }
        let read = connection.read_buf(&mut text);
        let read = tokio::time::timeout(Duration::from_secs(40), read).await;
        let read = read.expect("a response").expect("a response");
        assert_ne!(read, 0, "closed after {so_far:?}");
    }
}

/// A problem as it stands on the connection.
#[track_caller]
fn problem(text: &str, status: u16, slug: &str, what: &str) -> Value {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let line = format!("HTTP/1.1 {status} ");
    assert!(head.starts_with(&line), "{what}: {text}");
    for header in [
        "content-type: application/problem+json",
        "cache-control: no-store",
        "x-request-id: ",
        "connection: close",
    ] {
        assert!(head.contains(header), "{what}: no {header} in {head}");
    }
    let problem: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(problem["type"], format!("/problems/{slug}"), "{what}");
    assert_eq!(problem["status"], status, "{what}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_refused_gets_a_problem_too() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let fields = "x: y\r\n".repeat(100);
    let long = "a".repeat(70_000);
    let heads = [
        (400, "malformed-request", "GET /livez HTTP/1.1\r\n\r\n".to_owned()),
        (
            400,
            "malformed-request",
            "GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        ),
        (
            400,
            "malformed-request",
            "GET /livez HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n".to_owned(),
        ),
        (
            400,
            "malformed-request",
            "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned(),
        ),
        (400, "malformed-request", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned()),
        (
            414,
            "uri-too-long",
            format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
        ),
        (
            431,
            "header-fields-too-large",
            format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        ),
        (
            431,
            "header-fields-too-large",
            format!("GET /livez HTTP/1.1\r\nhost: a\r\n{fields}\r\n"),
        ),
    ];
    for listener in [service.api(), service.admin_listener()] {
        for (status, slug, head) in &heads {
            let what = &head[..head.len().min(60)];
            let mut connection = connect(listener).await;
            send(&mut connection, head).await;
            problem(&rest(&mut connection).await, *status, slug, what);
            // After others, and in its turn.
            let mut connection = connect(listener).await;
            let good = "GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n";
            send(&mut connection, format!("{good}{good}{head}")).await;
            let text = rest(&mut connection).await;
            let third = text.rfind("HTTP/1.1 ").expect("responses");
            assert_eq!(text.matches("HTTP/1.1 404").count(), 2, "{what}: {text}");
            problem(&text[third..], *status, slug, what);
        }
        // Byte by byte, as some senders write.
        let mut connection = connect(listener).await;
        connection.set_nodelay(true).expect("a socket");
        for byte in "GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n".bytes() {
            send(&mut connection, [byte]).await;
            tokio::task::yield_now().await;
        }
        assert!(response(&mut connection).await.starts_with("HTTP/1.1 404"));
        // HTTP/1.0 has no Host.
        let mut connection = connect(listener).await;
        send(&mut connection, "GET /nothing HTTP/1.0\r\n\r\n").await;
        assert!(rest(&mut connection).await.contains(" 404 "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let world = World::new().await;
    let service = world
        .service()
        .roles("api")
        .env("RIDE_PROMO__API__HEADER_TIMEOUT", "PT1S")
        .env("RIDE_PROMO__API__IDLE_TIMEOUT", "PT4S")
        .start()
        .await;
    let get = "GET /app HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut idle = connect(service.api()).await;
    send(&mut idle, get).await;
    assert!(response(&mut idle).await.starts_with("HTTP/1.1 200"));
    // A head that does not end is answered, before the idle time is up.
    let mut slow = connect(service.api()).await;
    send(&mut slow, get).await;
    response(&mut slow).await;
    send(&mut slow, &get[..20]).await;
    let began = Instant::now();
    problem(
        &rest(&mut slow).await,
        408,
        "request-timeout",
        "a slow head",
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    // Twice as long as a head may take.
    tokio::time::sleep(Duration::from_millis(2_000).saturating_sub(began.elapsed())).await;
    send(&mut idle, get).await;
    assert!(response(&mut idle).await.starts_with("HTTP/1.1 200"));
    let began = Instant::now();
    assert_eq!(rest(&mut idle).await, "");
    let idled = began.elapsed().as_secs_f64();
    assert!((3.5..8.0).contains(&idled), "{idled}");
    // Who never sends a request does not hold a connection as long.
    let mut silent = connect(service.api()).await;
    let began = Instant::now();
    assert_eq!(rest(&mut silent).await, "");
    assert!(began.elapsed() < Duration::from_secs(3));
}

fn request(method: &str, path: &str, more: &str) -> String {
    let token = client_token(CLIENT);
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_the_sending_side_gets_the_response_and_waits_for_nothing() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    service.started_client(CLIENT, &promotion).await;
    end_by_force(&world, CLIENT, promotion.id, End::Completed).await;
    let at = |call: &str| format!("/v1/promotions/{}/{call}", promotion.id);
    let half_closed = async |text: String| {
        let mut connection = connect(service.api()).await;
        send(&mut connection, text).await;
        connection.shutdown().await.expect("half closed");
        connection
    };
    for (method, path) in [
        ("POST", at("accept_reward")),
        ("GET", at("progress")),
        ("POST", "/v1/landing".to_owned()),
    ] {
        let mut connection = half_closed(request(method, &path, "")).await;
        let text = rest(&mut connection).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    }

    // The client may be gone later: the response has the present state, and the place is free.
    let promotion = service.admin().open_promotion(&conditions(9)).await;
    let other = CLIENT + 1;
    let (client, _) = service.started_client(other, &promotion).await;
    let tag = client.progress(promotion.id).await.etag();
    let path = format!("/v1/promotions/{}/progress", promotion.id);
    let began = Instant::now();
    for (path, more, status) in [
        (
            format!("{path}?wait=30"),
            format!("if-none-match: {tag}\r\n"),
            304,
        ),
        (format!("{path}/stream"), String::new(), 200),
    ] {
        let text = request("GET", &path, &more);
        let text = text.replace(&client_token(CLIENT), &client_token(other));
        let mut connection = half_closed(text).await;
        let text = rest(&mut connection).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    eventually(Duration::from_secs(5), || async {
        let metrics = service.metrics().await;
        equal(metrics.sum("ride_promo_waits_in_flight", &[]), 0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_gives_a_response_to_another_client() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, started) = service.started_client(CLIENT, &promotion).await;
    let at = |call: &str| format!("/v1/promotions/{}/{call}", promotion.id);
    let admin = service.admin().api;
    let get = async |api: &Api, path: &str| api.get(path).await;
    let landing = client.api.post("/v1/landing").await;
    let answers = [
        ("landing", landing, "no-store"),
        (
            "progress",
            get(&client.api, &at("progress")).await,
            "private, no-cache",
        ),
        (
            "unchanged",
            client
                .progress_since(promotion.id, &format!("W/\"{}\"", started["version"]))
                .await,
            "private, no-cache",
        ),
        ("rides", get(&client.api, &at("rides")).await, "no-store"),
        (
            "no reward yet",
            get(&client.api, &at("get_reward")).await,
            "no-store",
        ),
        (
            "no route",
            get(&client.api, "/v1/nothing").await,
            "no-store",
        ),
        (
            "no token",
            get(service.api(), &at("progress")).await,
            "no-store",
        ),
        (
            "no method",
            client.api.post(&at("progress")).await,
            "no-store",
        ),
        ("stats", get(&admin, "/admin/v1/stats").await, "no-store"),
        (
            "user",
            get(&admin, "/admin/v1/users/48151").await,
            "no-store",
        ),
        ("audit", get(&admin, "/admin/v1/audit").await, "no-store"),
    ];
    for (what, answer, caching) in answers {
        assert_eq!(answer.header("cache-control"), Some(caching), "{what}");
        let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["Authorization"], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_call_where_they_are_configured() {
    const ORIGIN: &str = "https://app.example.org";
    let world = World::new().await;
    let preflight = async |service: &Service, origin: &str| {
        let api = service.api();
        let request = api
            .request(Method::OPTIONS, "/v1/landing")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization");
        api.send(request).await
    };
    let landing = async |service: &Service, origin: &str| {
        let api = service.client(CLIENT).api;
        let request = api.request(Method::POST, "/v1/landing");
        api.send(request.header("origin", origin)).await
    };
    let allowed = |answer: &Answer| {
        let origin = answer.header("access-control-allow-origin");
        origin.map(str::to_owned)
    };

    let off = world.service().roles("api").start().await;
    preflight(&off, ORIGIN)
        .await
        .problem(405, "method-not-allowed");
    assert_eq!(allowed(&landing(&off, ORIGIN).await), None);
    drop(off);

    let some = world
        .service()
        .roles("api")
        .env(
            "RIDE_PROMO__API__CORS_ORIGINS",
            format!("https://other.example, {ORIGIN}"),
        )
        .start()
        .await;
    let asked = preflight(&some, ORIGIN).await;
    assert_eq!(asked.status, 204);
    assert_eq!(allowed(&asked).as_deref(), Some(ORIGIN));
    for (header, word) in [
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "If-None-Match"),
        ("vary", "Origin"),
    ] {
        let values: Vec<_> = asked.headers.get_all(header).iter().collect();
        let found = values
            .iter()
            .any(|value| value.to_str().unwrap().contains(word));
        assert!(found, "{header}: {values:?}");
    }
    let answer = landing(&some, ORIGIN).await;
    answer.expect(200);
    assert_eq!(allowed(&answer).as_deref(), Some(ORIGIN));
    let exposed = answer.header("access-control-expose-headers");
    assert!(
        exposed.is_some_and(|names| names.contains("ETag")),
        "{exposed:?}"
    );
    for stranger in ["https://evil.example", "null", "http://app.example.org"] {
        assert_eq!(allowed(&preflight(&some, stranger).await), None);
        assert_eq!(allowed(&landing(&some, stranger).await), None);
    }
    // A refusal can be read as well, or the page could not tell what is wrong.
    let api = some.api();
    let request = api.request(Method::POST, "/v1/landing");
    let answer = api.send(request.header("origin", ORIGIN)).await;
    answer.problem(401, "unauthorized");
    assert_eq!(allowed(&answer).as_deref(), Some(ORIGIN));
    drop(some);

    let all = world.service().roles("api");
    let all = all.env("RIDE_PROMO__API__CORS_ORIGINS", "*").start().await;
    let answer = landing(&all, "https://any.example").await;
    assert_eq!(allowed(&answer).as_deref(), Some("*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_a_bounded_number_of_connections() {
    let world = World::new().await;
    let service = world
        .service()
        .roles("api")
        .env("RIDE_PROMO__API__MAX_CONNECTIONS_PER_ADDRESS", 3)
        .start()
        .await;
    let get = "GET /app HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = connect(service.api()).await;
        send(&mut connection, get).await;
        response(&mut connection).await;
        held.push(connection);
    }
    let mut fourth = connect(service.api()).await;
    assert_eq!(rest(&mut fourth).await, "");
    let listener = [("listener", "api")];
    let metrics = service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_http_connections", &listener), 3.0);
    let refused = "ride_promo_http_connections_refused_total";
    assert_eq!(metrics.sum(refused, &listener), 1.0);
    held.pop();
    eventually(Duration::from_secs(5), || async {
        let mut next = connect(service.api()).await;
        let _ = next.write_all(get.as_bytes()).await;
        let mut text = [0; 12];
        let read = next.read_exact(&mut text).await;
        equal(read.is_ok(), true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_never_read_gives_its_place_back() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(9)).await;
    let (client, _) = service.started_client(CLIENT, &promotion).await;
    let path = format!("/v1/promotions/{}/progress/stream", promotion.id);
    let mut held = Vec::new();
    for _ in 0..16 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(2_048).expect("a socket");
        let address = service.api().address().parse().expect("an address");
        let mut connection = socket.connect(address).await.expect("a listener");
        send(&mut connection, request("GET", &path, "")).await;
        held.push(connection);
    }
    eventually(Duration::from_secs(10), || async {
        let metrics = service.metrics().await;
        equal(metrics.sum("ride_promo_waits_in_flight", &[]), 16.0)
    })
    .await;
    // A client that calls at once finds every place taken.
    client
        .api
        .get(&path)
        .await
        .problem(429, "too-many-requests");
    let began = Instant::now();
    let next = loop {
        let request = client.api.request(Method::GET, &path);
        match SseStream::try_open(request).await {
            Ok(stream) => break stream,
            Err(refused) => drop(refused.problem(429, "too-many-requests")),
        }
        assert!(began.elapsed() < Duration::from_secs(45), "no place");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(began.elapsed() > Duration::from_secs(20), "too early");
    drop((next, held));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_another_way_means_the_same() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin().api;

    // A colon percent-encoded, in upper or lower case.
    for path in [
        "/admin/v1/pre-offers%3Aimport",
        "/admin/v1/pre-offers%3aimport",
    ] {
        admin.post(path).await.expect(200);
    }

    // -0 is 0.
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let patch = async |body: String| {
        let request = admin.request(Method::PATCH, &path).body(body);
        admin.send(request).await
    };
    let mut zero = conditions(1);
    zero["min_amount_cents"] = json!(0);
    let with = |number: &str| {
        let body = json!({ "title": "-0, \\\"-0", "conditions": zero }).to_string();
        body.replace(
            "\"min_amount_cents\":0",
            &format!("\"min_amount_cents\":{number}"),
        )
    };
    let patched = patch(with("-0")).await.expect(200);
    assert_eq!(patched["conditions"]["min_amount_cents"], 0);
    assert_eq!(patched["title"], "-0, \\\"-0");
    for (number, status) in [("-0.0", 400), ("-0e1", 400), ("-01", 400), ("-1", 422)] {
        let answer = patch(with(number)).await;
        assert_eq!(answer.status, status, "{number}: {}", answer.text);
    }
    let client = service.client(CLIENT);
    let rides = format!("/v1/promotions/{}/rides?limit=-0", promotion.id);
    client.api.get(&rides).await.problem(422, "invalid-request");

    // Tags of the pages.
    let page = async |header: &str, value: &str| {
        let request = service.api().request(Method::GET, "/app");
        service.api().send(request.header(header, value)).await
    };
    let tag = page("x", "y").await.etag();
    let opaque = tag.trim_matches('"');
    for known in [
        "*".to_owned(),
        tag.clone(),
        format!("W/{tag}"),
        format!("\"x\", W/\"{opaque}-gzip\""),
    ] {
        let answer = page("if-none-match", &known).await;
        assert_eq!(answer.status, 304, "{known}");
    }
    assert_eq!(page("if-none-match", "\"x\"").await.status, 200);

    // A file that is kept packed goes out so only to who takes it.
    let listener = service.admin_listener();
    for (taken, packed) in [
        ("gzip", true),
        ("deflate, gzip;q=0.5", true),
        ("x-gzip", true),
        ("*", true),
        ("GZIP", true),
        ("gzip;q=0, identity", false),
        ("gzip; q=0.000", false),
        ("*, gzip;q=0", false),
        ("*;q=0", false),
        ("identity", false),
        ("gzipped", false),
    ] {
        let request = listener.request(Method::GET, "/docs/swagger-ui.css");
        let request = request.header("accept-encoding", taken);
        let answer = request.send().await.expect("a response");
        let encoding = answer.headers().get(CONTENT_ENCODING);
        assert_eq!(encoding.is_some(), packed, "{taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_as_proxies_rewrite_it_is_known() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    let (client, _) = service.started_client(CLIENT, &promotion).await;
    for tag in [
        "W/\"1\"",
        "\"1\"",
        "W/\"1-gzip\"",
        "\"1--gzip\"",
        "\"1;gzip\"",
        "W/\"1-br\"",
        "*",
    ] {
        let answer = client.progress_since(promotion.id, tag).await;
        assert_eq!(answer.status, 304, "{tag}");
        assert_eq!(answer.etag(), "W/\"1\"", "{tag}");
    }
    let began = Instant::now();
    let held = client.long_poll(promotion.id, "W/\"1-gzip\"", 2).await;
    assert_eq!(held.status, 304);
    assert!(began.elapsed() >= Duration::from_secs(2));
    for tag in ["\"1-\"", "\"1-gz\"", "\"-gzip\"", "\"2-gzip\""] {
        client.progress_since(promotion.id, tag).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_an_encoding_that_is_not_understood_is_said_to_be_that() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let admin = service.admin().api;
    let client = service.client(CLIENT);
    let patch = format!("/admin/v1/promotions/{}", promotion.id);
    for (api, method, path, encoding, accepted) in [
        (&admin, Method::PATCH, patch.as_str(), "gzip", "identity"),
        (&admin, Method::PATCH, &patch, "identity, br", "identity"),
        (&client.api, Method::POST, "/v1/landing", "gzip", "identity"),
        (
            &admin,
            Method::POST,
            "/admin/v1/pre-offers:import",
            "br",
            "gzip, identity",
        ),
        (
            &admin,
            Method::POST,
            "/admin/v1/pre-offers:import",
            "gzip, gzip",
            "gzip, identity",
        ),
    ] {
        let request = api.request(method, path).body(&b"\x1f\x8b\x08"[..]);
        let answer = api.send(request.header(CONTENT_ENCODING, encoding)).await;
        answer.problem(415, "unsupported-encoding");
        assert_eq!(answer.header("accept-encoding"), Some(accepted), "{path}");
    }
    let request = admin.request(Method::PATCH, &patch);
    let request = request.header(CONTENT_ENCODING, "Identity");
    let answer = admin.send(request.body("{\"title\":\"Same\"}")).await;
    answer.expect(200);
}
