//! Following a participation: conditional reads, long polls, the stream, the list of rides, and access rights
//! (contract 5).

use std::time::{Duration, Instant};

use chrono::{SubsecRound as _, TimeDelta};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

/// What an answer to something that has happened may take on a busy machine; far from the end of
/// any wait here.
const PROMPTLY: Duration = Duration::from_secs(10);

const CLIENT: i64 = 48_151;

/// The longest wait, so that an answer before its end can only be one to a change.
const LONG: u32 = 30;

/// The answer without what is of its own moment.
fn steady(mut participation: Value) -> Value {
    let fields = participation.as_object_mut().expect("an object");
    assert!(fields.remove("server_time").is_some());
    participation
}

/// The number in a tag such as `W/"7s"`.
fn version(etag: &str) -> i64 {
    let digits = etag.trim_start_matches("W/\"").trim_end_matches('"');
    let digits = digits.trim_end_matches('s');
    digits.parse().unwrap_or_else(|_| panic!("no tag: {etag}"))
}

/// A service, and a client who has started a promotion of `target` rides.
async fn started(service: &Service, target: u32) -> (Client, Promotion) {
    let promotion = service.admin().open_promotion(&conditions(target)).await;
    let (client, _) = service.started_client(CLIENT, &promotion).await;
    (client, promotion)
}

/// Waits until the client sees this many rides.
async fn told_of(client: &Client, promotion_id: i64, rides: i64) -> Answer {
    eventually(LIMIT, || async {
        let answer = client.progress(promotion_id).await;
        equal(answer.expect(200)["rides_completed"].clone(), json!(rides)).map(|_| answer)
    })
    .await
}

/// How many long polls and streams a process holds.
async fn waiting(service: &Service) -> f64 {
    service
        .metrics()
        .await
        .sum("ride_promo_waits_in_flight", &[])
}

async fn waiting_becomes(service: &Service, expected: f64) {
    eventually(LIMIT, || async { equal(waiting(service).await, expected) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_answered_304_as_long_as_its_tag_is_the_newest() {
    let world = World::new().await;
    let service = world.service().start().await;
    let (client, promotion) = started(&service, 5).await;
    let conditional = async |tags: &str| client.progress_since(promotion.id, tags).await;

    let first = client.progress(promotion.id).await;
    assert_eq!(first.etag(), "W/\"1\"");
    assert_eq!(first.header("cache-control"), Some("private, no-cache"));
    let body = first.expect(200);
    assert_eq!(
        (&body["version"], &body["settling"]),
        (&json!(1), &json!(false))
    );
    for tags in [
        "W/\"1\"",
        "\"1\"",
        "*",
        "\"x\", W/\"1\"",
        "W/\"0\",W/\"1\",W/\"2\"",
    ] {
        let answer = conditional(tags).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.as_str()),
            (304, ""),
            "{tags}"
        );
        assert_eq!(answer.etag(), "W/\"1\"");
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    }
    for tags in ["W/\"2\"", "W/\"1s\"", "W/\"0\"", "1", "", "\"11\""] {
        let answer = conditional(tags).await;
        assert_eq!(steady(answer.expect(200)), steady(body.clone()), "{tags}");
    }

    // What does not count changes no version.
    let mut cheap = ride(CLIENT);
    cheap["amount_cents"] = json!(1);
    world.publish_ride(&cheap).await;
    world.rides_are_applied().await;
    assert_eq!(conditional("W/\"1\"").await.status, 304);
    world.publish_ride(&ride(CLIENT)).await;
    let second = told_of(&client, promotion.id, 1).await;
    assert_eq!(second.etag(), "W/\"2\"");
    assert_eq!(conditional("W/\"2\"").await.status, 304);
    assert_eq!(conditional("W/\"1\"").await.expect(200)["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_at_the_change_and_304_at_the_end_of_its_wait() {
    let world = World::new().await;
    let service = world.service().start().await;
    let elsewhere = world.service().roles("api").start().await;
    let (client, promotion) = started(&service, 10).await;

    // Nothing to wait for: no tag, or an old one.
    let asked = Instant::now();
    let without_tag = format!("/v1/promotions/{}/progress?wait={LONG}", promotion.id);
    client.api.get(&without_tag).await.expect(200);
    client
        .long_poll(promotion.id, "W/\"0\"", LONG)
        .await
        .expect(200);
    assert!(asked.elapsed() < PROMPTLY);

    let asked = Instant::now();
    let unchanged = client.long_poll(promotion.id, "W/\"1\"", 1).await;
    assert_eq!(
        (unchanged.status.as_u16(), unchanged.etag().as_str()),
        (304, "W/\"1\"")
    );
    let waited = asked.elapsed();
    assert!(
        waited >= Duration::from_secs(1) && waited < PROMPTLY,
        "{waited:?}"
    );

    // Also where another process counts and publishes.
    let there = elsewhere.client(CLIENT);
    let mut quickest = LIMIT;
    for number in 1..=5 {
        let tag = format!("W/\"{number}\"");
        let polls = async {
            let answers = tokio::join!(
                client.long_poll(promotion.id, &tag, LONG),
                client.long_poll(promotion.id, &tag, LONG),
                there.long_poll(promotion.id, &tag, LONG),
            );
            (answers, Instant::now())
        };
        let publishing = async {
            waiting_becomes(&service, 2.0).await;
            waiting_becomes(&elsewhere, 1.0).await;
            if number == 1 {
                // A ride that does not count changes nothing.
                let mut cheap = ride(CLIENT);
                cheap["amount_cents"] = json!(1);
                world.publish_ride(&cheap).await;
                world.rides_are_applied().await;
                assert_eq!(waiting(&service).await, 2.0);
            }
            world.publish_ride(&ride(CLIENT)).await;
            Instant::now()
        };
        let (((one, two, three), answered), published) = tokio::join!(polls, publishing);
        quickest = quickest.min(answered - published);
        for answer in [one, two, three] {
            assert_eq!(answer.expect(200)["rides_completed"], number);
            assert_eq!(version(&answer.etag()), number + 1);
        }
    }
    // At the moment of the change, not at the next poll.
    assert!(quickest < Duration::from_millis(500), "{quickest:?}");
    waiting_becomes(&service, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_before_its_event_is_published() {
    /// A fresh model without word of the change looks at Postgres after two seconds at the earliest.
    const AT_ONCE: Duration = Duration::from_millis(1_500);
    const SESSION: &str = "ride-promo/0.2.0 progress";
    let world = World::new().await;
    let proxy = FaultProxy::start(world.postgres().address());
    let whole = world.service().start().await;
    let (_, promotion) = started(&whole, 1_000).await;
    world.events_are_published().await;
    whole.sigterm_and_wait().await;

    // Nothing is published from here on.
    let _ingest = world.service().roles("ingest").start().await;
    let api = world
        .service()
        .roles("api")
        .through(&proxy, &world)
        .start()
        .await;
    let client = api.client(CLIENT);
    let session = async || -> Option<i32> {
        sqlx::query_scalar("select max(pid) from pg_stat_activity where application_name = $1 and datname = current_database()")
            .bind(SESSION)
            .fetch_one(world.pool())
            .await
            .expect("the database answers")
    };
    let mut cut = None;
    for rides in 1..=2 {
        let listening = eventually(LIMIT, || async {
            let session = session().await.filter(|pid| cut != Some(*pid));
            session.ok_or("no session that listens")
        })
        .await;
        let tag = client.progress(promotion.id).await.etag();
        let waiting = tokio::spawn({
            let (client, id) = (client.clone(), promotion.id);
            async move { client.long_poll(id, &tag, LONG).await }
        });
        waiting_becomes(&api, 1.0).await;
        world.publish_ride(&ride(CLIENT)).await;
        eventually(LIMIT, || async {
            let sql =
                format!("select count(*) from promotion_user where rides_completed = {rides}");
            equal(world.count(&sql).await, 1)
        })
        .await;
        let committed = Instant::now();
        let told = waiting.await.expect("no panic").expect(200);
        assert_eq!(told["rides_completed"], rides);
        let elapsed = committed.elapsed();
        assert!(elapsed < AT_ONCE, "ride {rides} was told after {elapsed:?}");
        // A session that was lost is replaced.
        assert_eq!(proxy.cut_where(SESSION), 1);
        cut = Some(listening);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_changes_the_tag_and_is_told_to_those_who_wait() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let challenges = Challenges::new(&world, &conditions(5)).await;
    let deadline = (now() + TimeDelta::seconds(8)).trunc_subsecs(3);
    challenges
        .start(&[CLIENT], now() - TimeDelta::hours(1), deadline)
        .await;
    // A record that cannot be read holds the expiry until an operator resolves it.
    let client_id = CLIENT.to_string();
    world.publish_raw(Some(&client_id), Some(b"?"), &[]).await;
    let client = service.client(CLIENT);
    let promotion_id = challenges.promotion_id;
    let mut stream = client.stream(promotion_id).await;
    let mut streamed = async || {
        let event = stream.next_event(LIMIT).await;
        event.map(|event| (event.id.clone(), event.json()["settling"] == json!(true)))
    };
    assert_eq!(streamed().await, Some(("1".to_owned(), false)));
    let unsettled = client.progress(promotion_id).await;
    assert_eq!(unsettled.etag(), "W/\"1\"");

    let settling = client.long_poll(promotion_id, "W/\"1\"", LONG).await;
    assert!(now() >= deadline);
    assert_eq!(settling.etag(), "W/\"1s\"");
    let body = settling.expect(200);
    assert_eq!(
        (&body["settling"], &body["status"]),
        (&json!(true), &json!("IN_PROGRESS"))
    );
    assert_eq!(streamed().await, Some(("1".to_owned(), true)));
    assert_eq!(
        client.progress_since(promotion_id, "W/\"1s\"").await.status,
        304
    );

    // A ride from before the deadline still counts.
    world
        .publish_ride(&ride_at(CLIENT, deadline - TimeDelta::milliseconds(1)))
        .await;
    let counted = client.long_poll(promotion_id, "W/\"1s\"", LONG).await;
    assert_eq!(counted.etag(), "W/\"2s\"");
    assert_eq!(streamed().await, Some(("2".to_owned(), true)));

    let dismissal = json!({ "note": "a test" });
    let dismissed = service
        .admin()
        .api
        .post_json("/admin/v1/quarantine:dismiss", &dismissal)
        .await;
    assert_eq!(dismissed.expect(200)["resolved"], 1);
    let expired = client.long_poll(promotion_id, "W/\"2s\"", LONG).await;
    assert_eq!(expired.etag(), "W/\"3\"");
    let body = expired.expect(200);
    assert_eq!(
        (&body["settling"], &body["status"]),
        (&json!(false), &json!("EXPIRED"))
    );
    assert_eq!(streamed().await, Some(("3".to_owned(), false)));
    assert_eq!(streamed().await, None, "nothing follows a final status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_present_follows_every_change_and_ends_after_the_final_one() {
    let world = World::new().await;
    let service = world
        .service()
        .env("RIDE_PROMO__SWEEP__INTERVAL", "PT0.1S")
        .start()
        .await;
    let elsewhere = world.service().roles("api").start().await;
    let mut terms = conditions(2);
    terms["claim_period"] = json!("PT2S");
    let promotion = service.admin().open_promotion(&terms).await;
    let (client, _) = service.started_client(CLIENT, &promotion).await;
    let mut streams = [
        client.stream(promotion.id).await,
        elsewhere.client(CLIENT).stream(promotion.id).await,
    ];
    let steps = [
        (1, "IN_PROGRESS"),
        (2, "IN_PROGRESS"),
        (3, "COMPLETED"),
        (4, "EXPIRED"),
    ];
    for (version, status) in steps {
        if (2..=3).contains(&version) {
            world.publish_ride(&ride(CLIENT)).await;
        }
        for stream in &mut streams {
            let event = stream.next_event(PROMPTLY).await.expect("not over yet");
            assert_eq!(event.event, "participation");
            assert_eq!(event.id, version.to_string());
            let body = event.json();
            assert_eq!(
                (&body["version"], &body["status"]),
                (&json!(version), &json!(status))
            );
            let read = client.progress(promotion.id).await.expect(200);
            if read["version"] == version {
                assert_eq!(steady(body), steady(read), "the same as progress answers");
            }
        }
    }
    for stream in &mut streams {
        assert_eq!(stream.next_event(PROMPTLY).await, None);
    }
    // A final state is returned again to each caller.
    let mut late = client.stream(promotion.id).await;
    let last = late.next_event(PROMPTLY).await.expect("the present state");
    assert_eq!(
        (last.id.as_str(), &last.json()["status"]),
        ("4", &json!("EXPIRED"))
    );
    assert_eq!(late.next_event(PROMPTLY).await, None);
    waiting_becomes(&service, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_that_it_lives_and_ends_with_the_token_and_with_the_service() {
    let world = World::new().await;
    let service = world.service().start().await;
    let (client, promotion) = started(&service, 5).await;
    let path = format!("/v1/promotions/{}/progress/stream", promotion.id);
    let mut claims = client_claims(CLIENT);
    claims["exp"] = json!(unix_seconds() + 8);
    let expiring = service.api().with_token(token(&claims));
    let mut short = SseStream::open(expiring.request(Method::GET, &path)).await;
    let mut long = client.stream(promotion.id).await;
    for stream in [&mut short, &mut long] {
        assert_eq!(stream.next_event(PROMPTLY).await.expect("a state").id, "1");
    }
    assert_eq!(short.next_event(LIMIT).await, None, "the token has expired");
    assert!(unix_seconds() >= claims["exp"].as_u64().expect("a number"));

    let comment = tokio::time::timeout(Duration::from_secs(15), long.read()).await;
    let comment = comment.expect("at least every 15 s");
    assert!(matches!(comment, Some(SseItem::Comment(_))), "{comment:?}");

    let poll = client.long_poll(promotion.id, "W/\"1\"", LONG);
    let ending = async {
        waiting_becomes(&service, 2.0).await;
        service.sigterm();
        let asked = Instant::now();
        // Of itself, and not only when what is still open is cut.
        let end = long.next_event(Duration::from_secs(5)).await;
        assert_eq!(end, None);
        asked
    };
    let (answer, asked) = tokio::join!(poll, ending);
    assert_eq!(answer.status, 304, "a wait ends with the service too");
    assert!(service.wait().await.success());
    assert!(asked.elapsed() < PROMPTLY, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_take_nothing_or_vanish_harm_nobody_and_lose_nothing_but_old_news() {
    const RIDES: i64 = 40;
    let world = World::new().await;
    let service = world
        .service()
        .env("RIDE_PROMO__API__MAX_WAITS_PER_CLIENT", 20)
        .start()
        .await;
    let (client, promotion) = started(&service, 1_000).await;
    let mut slow = client.stream(promotion.id).await;
    let path = format!("/v1/promotions/{}/progress/stream", promotion.id);
    let address = service.api().address().to_owned();
    // They ask, and read not even the head of the answer.
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let mut connection = TcpStream::connect(&address).await.expect("a listener");
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n",
            client_token(CLIENT)
        );
        connection
            .write_all(request.as_bytes())
            .await
            .expect("written");
        deaf.push(connection);
    }
    waiting_becomes(&service, 11.0).await;

    let mut followed = client.stream(promotion.id).await;
    assert_eq!(
        followed.next_event(PROMPTLY).await.expect("a state").id,
        "1"
    );
    let mut seen = 1;
    for rides in 1..=RIDES {
        world.publish_ride(&ride(CLIENT)).await;
        while seen < rides + 1 {
            let event = followed.next_event(PROMPTLY).await.expect("not over");
            let next: i64 = event.id.parse().expect("a version");
            assert!(next > seen, "{next} after {seen}");
            seen = next;
        }
        if rides == RIDES / 2 {
            // Half of them hang up.
            deaf.truncate(5);
        }
    }
    drop(deaf);
    waiting_becomes(&service, 2.0).await;
    // A late reader gets the present state, and no event out of order.
    let mut last = 0;
    while last < RIDES + 1 {
        let event = slow.next_event(PROMPTLY).await.expect("not over");
        let next: i64 = event.id.parse().expect("a version");
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    drop((slow, followed));
    waiting_becomes(&service, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_bounded_per_client_and_in_all_and_reads_are_not_refused_for_them() {
    let world = World::new().await;
    let service = world
        .service()
        .env("RIDE_PROMO__API__MAX_WAITS_PER_CLIENT", 2)
        .env("RIDE_PROMO__API__MAX_WAITS", 3)
        .start()
        .await;
    let challenges = Challenges::new(&world, &conditions(5)).await;
    challenges.start_an_hour_ago(&[1, 2, 3]).await;
    let promotion_id = challenges.promotion_id;
    let [one, two, three] = [1, 2, 3].map(|user_id| service.client(user_id));
    let retry_after = |answer: &Answer| -> u64 {
        let seconds = answer.header("retry-after").expect("Retry-After");
        seconds.parse().expect("seconds")
    };
    let stream_of = |client: &Client| {
        let path = format!("/v1/promotions/{promotion_id}/progress/stream");
        SseStream::try_open(client.api.request(Method::GET, &path))
    };

    let mut first = one.stream(promotion_id).await;
    assert!(first.next_event(PROMPTLY).await.is_some());
    let second = tokio::spawn({
        let one = one.clone();
        async move { one.long_poll(promotion_id, "W/\"1\"", LONG).await }
    });
    waiting_becomes(&service, 2.0).await;
    let refused = one.long_poll(promotion_id, "W/\"1\"", LONG).await;
    refused.problem(429, "too-many-requests");
    assert!(retry_after(&refused) >= 1);
    let refused = stream_of(&one).await.expect_err("the third wait");
    refused.problem(429, "too-many-requests");
    let third = two.stream(promotion_id).await;
    waiting_becomes(&service, 3.0).await;
    let refused = stream_of(&three).await.expect_err("the fourth of all");
    refused.problem(503, "temporarily-unavailable");
    assert!(retry_after(&refused) >= 1);
    for client in [&one, &three] {
        client.progress(promotion_id).await.expect(200);
        let unchanged = client.progress_since(promotion_id, "W/\"1\"").await;
        assert_eq!(unchanged.status, 304, "what does not wait needs no place");
    }

    // A place is free again when a wait is answered and when a stream is left.
    world.publish_ride(&ride(1)).await;
    assert_eq!(second.await.expect("no panic").expect(200)["version"], 2);
    waiting_becomes(&service, 2.0).await;
    let fourth = three.stream(promotion_id).await;
    drop((first, third, fourth));
    waiting_becomes(&service, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_out_of_range_are_named() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (client, promotion) = started(&service, 5).await;
    let refused = async |call: &str, field: &str, value: &str| {
        let path = format!("/v1/promotions/{}/{call}?{field}={value}", promotion.id);
        let answer = client.api.get(&path).await;
        let problem = answer.problem(422, "invalid-request");
        let errors = problem["errors"].as_array().expect("a list");
        assert_eq!(errors.len(), 1, "{problem}");
        assert_eq!(errors[0]["field"], field, "{problem}");
        assert!(errors[0]["reason"].is_string(), "{problem}");
    };
    for wait in ["31", "-1", "1.5", "x", "99999999999999999999"] {
        refused("progress", "wait", wait).await;
    }
    for limit in ["0", "-1", "201", "ten"] {
        refused("rides", "limit", limit).await;
    }
    for cursor in ["x", "%00", "bnVsbA", "WzEsMl0", "!!!!"] {
        refused("rides", "cursor", cursor).await;
    }
    for wait in ["0", "30"] {
        let path = format!("/v1/promotions/{}/progress?wait={wait}", promotion.id);
        client.api.get(&path).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_their_own_and_nothing_of_others() {
    let world = World::new().await;
    let service = world.service().start().await;
    let (client, promotion) = started(&service, 5).await;
    world.publish_ride(&ride(CLIENT)).await;
    told_of(&client, promotion.id, 1).await;
    let other = service.client(CLIENT + 1);
    let not_participating = |answer: Answer| {
        let problem = answer.problem(404, "not-participating");
        assert!(
            !problem.to_string().contains(&CLIENT.to_string()),
            "{problem}"
        );
    };
    not_participating(other.progress(promotion.id).await);
    for tag in ["W/\"1\"", "W/\"2\"", "*"] {
        not_participating(other.progress_since(promotion.id, tag).await);
    }
    not_participating(other.long_poll(promotion.id, "W/\"2\"", LONG).await);
    not_participating(other.rides(promotion.id).await);
    let path = format!("/v1/promotions/{}/progress/stream", promotion.id);
    let refused = SseStream::try_open(other.api.request(Method::GET, &path)).await;
    not_participating(refused.expect_err("no stream of others"));
    other.start(promotion.id).await.problem(409, "not-eligible");
    // The client themselves takes part in this promotion, not in others.
    not_participating(client.progress(promotion.id + 1).await);
    not_participating(client.rides(promotion.id + 1).await);
    assert_eq!(waiting(&service).await, 0.0);

    // Both in the same promotion: each their own, also where one says what the other has seen.
    let (other, _) = service.started_client(CLIENT + 1, &promotion).await;
    let own = other
        .progress_since(promotion.id, "W/\"2\"")
        .await
        .expect(200);
    assert_eq!(
        (&own["user_id"], &own["rides_completed"]),
        (&json!(CLIENT + 1), &json!(0))
    );
    assert_eq!(
        other.rides(promotion.id).await.expect(200)["items"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_goes_back_through_two_processes_and_with_kafka_away() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    let services = [
        world.service().start().await,
        world.service().roles("api").start().await,
    ];
    let (client, promotion) = started(&services[0], 1_000).await;
    let readers = [client.clone(), services[1].client(CLIENT)];
    let mut tag = client.progress(promotion.id).await.etag();
    // Reads through one process after the other, always with the tag of the last answer.
    let read_on = async |tag: &mut String, reads: usize| {
        for number in 0..reads {
            let answer = readers[number % 2].progress_since(promotion.id, tag).await;
            assert!([200, 304].contains(&answer.status.as_u16()), "{answer:?}");
            let next = answer.etag();
            assert!(version(&next) >= version(tag), "{next} after {tag}");
            if answer.status == 304 {
                assert_eq!(&next, tag);
            }
            *tag = next;
        }
    };
    for _ in 0..20 {
        world.publish_ride(&ride(CLIENT)).await;
        read_on(&mut tag, 10).await;
    }
    for _ in 0..2 {
        let mut unreadable = ride(CLIENT);
        unreadable["amount_cents"] = json!("6500");
        world.publish_ride(&unreadable).await;
    }
    world.rides_are_applied().await;
    tag = told_of(&client, promotion.id, 20).await.etag();
    let admin = services[0].admin();
    let quarantine = admin.api.get("/admin/v1/quarantine?status=OPEN").await;
    let quarantine = quarantine.expect(200);
    // An operator puts a ride right; with Kafka away, no event of it can be published.
    let put_right = async |number: usize| {
        let id = quarantine["items"][number]["quarantine_id"].as_str();
        let replay = format!("/admin/v1/quarantine/{}/replay", id.expect("an id"));
        let corrected = json!({ "ride": ride(CLIENT) });
        let replayed = admin.api.post_json(&replay, &corrected).await;
        assert_eq!(replayed.expect(200)["outcome"], "APPLIED");
    };
    let poll = tokio::spawn({
        let (reader, tag) = (readers[1].clone(), tag.clone());
        async move { reader.long_poll(promotion.id, &tag, LONG).await }
    });
    waiting_becomes(&services[1], 1.0).await;

    kafka.kill().await;
    put_right(0).await;
    // A read without a tag is told of it at once; whoever then asks the other process with that tag
    // hears nothing older.
    let told = client.progress(promotion.id).await;
    assert_eq!(told.expect(200)["rides_completed"], 21);
    let old = std::mem::replace(&mut tag, told.etag());
    assert_eq!(version(&tag), version(&old) + 1);
    read_on(&mut tag, 20).await;
    let polled = poll.await.expect("no panic").expect(200);
    assert_eq!(polled["rides_completed"], 21);
    // What neither process has heard of it does not take for granted for long.
    put_right(1).await;
    let asked = Instant::now();
    for reader in &readers {
        eventually(PROMPTLY, || async {
            let answer = reader.progress_since(promotion.id, &tag).await;
            equal(version(&answer.etag()), version(&tag) + 1)
        })
        .await;
    }
    assert!(asked.elapsed() < PROMPTLY, "{:?}", asked.elapsed());
    read_on(&mut tag, 20).await;
    // Commands work, and are seen through the other process at once.
    let (other, _) = services[0].started_client(CLIENT + 1, &promotion).await;
    let there = services[1].client(CLIENT + 1);
    assert_eq!(there.progress(promotion.id).await.expect(200)["version"], 1);
    assert_eq!(
        other.progress_since(promotion.id, "W/\"1\"").await.status,
        304
    );
    for service in &services {
        let ready = service.admin_listener().get("/readyz?role=api").await;
        assert_eq!(ready.status, 200, "{}", ready.text);
    }

    kafka.start().await;
    for _ in 0..10 {
        world.publish_ride(&ride(CLIENT)).await;
        read_on(&mut tag, 10).await;
    }
    world.rides_are_applied().await;
    for reader in &readers {
        told_of(reader, promotion.id, 32).await;
    }
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_is_seen_at_once_through_every_process_whatever_tag_is_sent() {
    let world = World::new().await;
    let here = world.service().roles("ingest,sweep,api").start().await;
    let elsewhere = world.service().roles("api").start().await;
    let relay = world.service().roles("relay").start().await;
    let promotion = here.admin().open_promotion(&conditions(1)).await;
    let mut clients = Vec::new();
    for user in CLIENT..CLIENT + 10 {
        clients.push(here.started_client(user, &promotion).await.0);
    }
    world.events_are_published().await;
    eventually(LIMIT, || async {
        let metrics = elsewhere.metrics().await;
        equal(metrics.sum("ride_promo_model_fresh", &[]), 1.0)
    })
    .await;
    for client in &clients {
        let there = elsewhere.client(client.user_id);
        let unchanged = there.progress_since(promotion.id, "W/\"1\"").await;
        assert_eq!(unchanged.status, 304);
    }

    // From here on the other process hears nothing by the topic, and does not know yet.
    relay.sigstop();
    world
        .publish_all(
            clients
                .iter()
                .map(|client| Outgoing::ride(&ride(client.user_id))),
        )
        .await;
    world.rides_are_applied().await;
    // A release that knows nothing of this ends one in its own way.
    let of_another_release = clients.pop().expect("there are ten").user_id;
    world
        .execute(&format!(
            "update promotion_user set status = 'EXPIRED', version = version + 1, expired_at = reward_deadline,
                    expired_reason = 'REWARD_NOT_CLAIMED' where user_id = {of_another_release}"
        ))
        .await;
    let there = elsewhere.client(of_another_release);
    let read = there.progress_since(promotion.id, "W/\"1\"").await;
    assert_eq!(read.expect(200)["status"], "EXPIRED");
    for client in &clients {
        let accept = format!("/v1/promotions/{}/accept_reward", promotion.id);
        let accepted = client.api.post(&accept).await.expect(200);
        let told = &accepted["participation"];
        let there = elsewhere.client(client.user_id);
        for tag in ["W/\"1\"", "W/\"2\""] {
            let read = there.progress_since(promotion.id, tag).await.expect(200);
            assert_eq!(steady(read), steady(told.clone()), "{tag}");
        }
    }
    relay.sigcont();
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_are_listed_by_their_completion_newest_first_and_paged_without_loss() {
    let world = World::new().await;
    let service = world.service().start().await;
    let challenges = Challenges::new(&world, &conditions(1_000)).await;
    challenges.start_an_hour_ago(&[1, 2]).await;
    let promotion_id = challenges.promotion_id;
    let client = service.client(1);
    assert_eq!(
        client.rides(promotion_id).await.expect(200),
        json!({ "items": [], "next_cursor": null })
    );
    // In no order, and several at the same instant.
    let from = now() - TimeDelta::minutes(30);
    let rides: Vec<Value> = (0..230_i64)
        .map(|number| ride_at(1, from + TimeDelta::seconds(number * 97 % 230 / 4)))
        .collect();
    world.publish_all(rides.iter().map(Outgoing::ride)).await;
    world.publish_ride(&ride(2)).await;
    world.rides_are_applied().await;

    let page = async |query: String| {
        let path = format!("/v1/promotions/{promotion_id}/rides{query}");
        let page = client.api.get(&path).await.expect(200);
        let items = page["items"].as_array().expect("a list").clone();
        (items, page["next_cursor"].as_str().map(str::to_owned))
    };
    let pages_of = async |limit: usize| {
        let (mut all, mut sizes) = (Vec::new(), Vec::new());
        let mut query = format!("?limit={limit}");
        loop {
            let (items, next) = page(query).await;
            sizes.push(items.len());
            all.extend(items);
            let Some(cursor) = next else {
                return (all, sizes);
            };
            query = format!("?limit={limit}&cursor={cursor}");
        }
    };
    let (all, sizes) = pages_of(200).await;
    assert_eq!(sizes, [200, 30]);
    let place = |receipt: &Value| {
        let text = |field: &str| receipt[field].as_str().expect("a text").to_owned();
        (text("completed_at"), text("ride_id"))
    };
    assert!(
        all.windows(2)
            .all(|pair| pair[0]["completed_at"].as_str() >= pair[1]["completed_at"].as_str()),
        "the newest first"
    );
    let mut listed: Vec<_> = all.iter().map(place).collect();
    let mut published: Vec<_> = rides.iter().map(place).collect();
    listed.sort();
    published.sort();
    assert_eq!(listed, published);
    for (limit, sizes) in [(115, vec![115, 115]), (7, [vec![7; 32], vec![6]].concat())] {
        assert_eq!(
            pages_of(limit).await,
            (all.clone(), sizes),
            "pages of {limit}"
        );
    }
    let (first, next) = page(String::new()).await;
    assert_eq!((first.len(), &first[..]), (50, &all[..50]));
    // The first page has no cursor, or an empty one.
    assert_eq!(page("?cursor=".to_owned()).await.0, first);
    // A ride that comes in between moves nothing on the pages after.
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    let (second, _) = page(format!("?cursor={}", next.expect("more"))).await;
    assert_eq!(second, all[50..100]);
    assert_eq!(page("?limit=1".to_owned()).await.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_that_is_whole_valid_and_ours_opens_anything() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (client, promotion) = started(&service, 5).await;
    let progress = format!("/v1/promotions/{}/progress", promotion.id);
    let with = |name: &str, value: Value| {
        let mut claims = client_claims(CLIENT);
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value;
        }
        token(&claims)
    };
    let signed = |algorithm, secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::new(algorithm), &client_claims(CLIENT), &key).expect("a token")
    };
    let good = client_token(CLIENT);
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let another = client_token(CLIENT + 1);
    let stolen = another.split('.').nth(1).expect("a payload");
    let bad = [
        ("garbage", "garbage".to_owned()),
        ("cut off", good[..good.len() - 2].to_owned()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("no algorithm", format!("{none}.{}.", parts[1])),
        (
            "no algorithm, signed",
            format!("{none}.{}.{}", parts[1], parts[2]),
        ),
        (
            "another's claims",
            format!("{}.{stolen}.{}", parts[0], parts[2]),
        ),
        (
            "another secret",
            signed(Algorithm::HS256, "another secret, also long enough"),
        ),
        ("HS384", signed(Algorithm::HS384, SECRET)),
        ("HS512", signed(Algorithm::HS512, SECRET)),
        ("expired", with("exp", json!(unix_seconds() - 1))),
        (
            "expired within a usual leeway",
            with("exp", json!(unix_seconds() - 30)),
        ),
        ("no exp", with("exp", Value::Null)),
        (
            "exp is text",
            with("exp", json!((unix_seconds() + 100).to_string())),
        ),
        ("another issuer", with("iss", json!("somebody"))),
        ("no issuer", with("iss", Value::Null)),
        ("another audience", with("aud", json!("somebody"))),
        ("no audience", with("aud", Value::Null)),
        ("no sub", with("sub", Value::Null)),
        ("not yet", with("nbf", json!(unix_seconds() + 600))),
        ("sub 0", with("sub", json!("0"))),
        ("negative sub", with("sub", json!("-48151"))),
        ("sub with a plus", with("sub", json!("+48151"))),
        ("sub with a zero", with("sub", json!("048151"))),
        ("sub with a blank", with("sub", json!(" 48151"))),
        (
            "sub beyond 64 bits",
            with("sub", json!("9223372036854775808")),
        ),
        ("sub is no number", with("sub", json!("admin@example.com"))),
        ("empty", String::new()),
    ];
    let unauthorized = async |what: &str, request: RequestBuilder| {
        let answer = service.api().send(request).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text);
        let problem = answer.problem(401, "unauthorized");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
        for member in ["title", "detail"] {
            assert!(problem[member].is_string(), "{what}: {problem}");
        }
    };
    let get = || service.api().request(Method::GET, &progress);
    for (what, token) in &bad {
        unauthorized(what, get().bearer_auth(token)).await;
    }
    unauthorized("no header", get()).await;
    for (what, header) in [
        ("another scheme", format!("Basic {good}")),
        ("no scheme", good.clone()),
        ("only a scheme", "Bearer".to_owned()),
    ] {
        unauthorized(what, get().header(AUTHORIZATION, header)).await;
    }
    // None in the address either, and none of the calls does without.
    let in_the_url = format!("{progress}?access_token={good}");
    unauthorized(
        "in the URL",
        service.api().request(Method::GET, &in_the_url),
    )
    .await;
    for (method, call) in [
        (Method::POST, "start"),
        (Method::GET, "progress/stream"),
        (Method::GET, "rides"),
    ] {
        let path = format!("/v1/promotions/{}/{call}", promotion.id);
        unauthorized(call, service.api().request(method, &path)).await;
    }
    for good in [
        good.clone(),
        with("aud", json!(["somebody", "ride-promo"])),
        with("nbf", json!(unix_seconds() - 1)),
    ] {
        let request = get().header(AUTHORIZATION, format!("bearer {good}"));
        service.api().send(request).await.expect(200);
    }
    client.progress(promotion.id).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_not_allowed_too_large_or_not_json_is_refused_as_a_problem() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(5)).await;
    let api = service.eligible_client(CLIENT, &promotion).await.api;
    let start = format!("/v1/promotions/{}/start", promotion.id);
    for path in [
        "/nothing",
        "/v1",
        "/v1/promotions",
        "/v1/promotions/x/progress",
        "/v1/promotions/1.5/progress",
        "/v1/promotions/9223372036854775808/progress",
        "/v1/promotions/1/progress/",
        "/admin/v1/promotions",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    for path in ["/v1/promotions/-1/progress", "/v1/promotions/0/progress"] {
        assert_eq!(api.get(path).await.status, 404);
    }
    for (method, call, allowed) in [
        (Method::GET, "start", "POST"),
        (Method::POST, "progress", "GET"),
        (Method::DELETE, "rides", "GET"),
        (Method::PUT, "progress/stream", "GET"),
    ] {
        let path = format!("/v1/promotions/{}/{call}", promotion.id);
        let answer = api.send(api.request(method, &path)).await;
        answer.problem(405, "method-not-allowed");
        let allow = answer.header("allow").unwrap_or_default();
        assert!(allow.contains(allowed), "{call}: {allow}");
    }
    let post = |body: Vec<u8>| api.send(api.request(Method::POST, &start).body(body));
    for body in ["{", "[]", "1", "\"\"", "null", "{\"a\":}", "\u{0}"] {
        post(body.into()).await.problem(400, "malformed-request");
    }
    post(vec![0xff]).await.problem(400, "malformed-request");
    let large = format!("{{\"a\":\"{}\"}}", "a".repeat(70_000));
    post(large.clone().into()).await.problem(413, "too-large");
    // The same without saying how large it is.
    let head = format!(
        "POST {start} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        client_token(CLIENT)
    );
    let chunk = format!("{:x}\r\n{large}\r\n", large.len());
    let mut connection = TcpStream::connect(api.address()).await.expect("a listener");
    connection
        .write_all((head + &chunk).as_bytes())
        .await
        .expect("written");
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    let standing: i64 = sqlx::query_scalar("select count(*) from promotion_user")
        .fetch_one(world.pool())
        .await
        .expect("a count");
    assert_eq!(standing, 0, "what was refused had no effect");
    post(Vec::new()).await.expect(201);
    post(b" {} ".to_vec()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_who_asks_too_often_is_told_when_to_go_on_and_others_are_not() {
    let world = World::new().await;
    let service = world
        .service()
        .roles("api")
        .env("RIDE_PROMO__API__RATE_LIMIT_PER_SECOND", 2)
        .env("RIDE_PROMO__API__RATE_LIMIT_BURST", 10)
        .start()
        .await;
    let client = service.client(CLIENT);
    let asked = Instant::now();
    let mut granted = 0_u32;
    let refused = loop {
        let answer = client.progress(1).await;
        if answer.status == 429 {
            break answer;
        }
        answer.problem(404, "not-participating");
        granted += 1;
        assert!(granted < 100, "no limit");
    };
    let refilled = 2 * u32::try_from(asked.elapsed().as_secs()).expect("short") + 2;
    assert!((10..=10 + refilled).contains(&granted), "{granted}");
    refused.problem(429, "too-many-requests");
    let seconds = refused.header("retry-after").expect("Retry-After");
    let seconds: u64 = seconds.parse().expect("seconds");
    let other = service.client(CLIENT + 1).progress(1).await;
    other.problem(404, "not-participating");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    client.progress(1).await.problem(404, "not-participating");
}
