//! Records that are not valid rides, of every kind (contract 4.1): each is quarantined once with its bytes, and a
//! correction of each counts once.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Whom the body names, and whom the key names. Both take part.
const OF_BODY: i64 = 48_151;
const OF_KEY: i64 = 48_152;

/// The largest value that is looked into.
const LARGEST: usize = 64 * 1024;

/// A record and what becomes of it.
struct Poison {
    key: Option<&'static str>,
    value: Vec<u8>,
    reason: &'static str,
    user_id: Option<i64>,
}

/// Keyed by [`OF_KEY`]: a body that names a client decides against the key.
fn poison(reason: &'static str, value: impl Into<Vec<u8>>, user_id: i64) -> Poison {
    Poison {
        key: Some("48152"),
        value: value.into(),
        reason,
        user_id: Some(user_id),
    }
}

/// A good ride of [`OF_BODY`] but for one field.
fn but(field: &str, value: Value) -> String {
    let mut ride = ride(OF_BODY);
    ride[field] = value;
    ride.to_string()
}

/// The same with more at its end.
fn and(more: &str) -> String {
    let ride = ride(OF_BODY).to_string();
    format!("{},{more}}}", ride.strip_suffix('}').expect("an object"))
}

/// A valid ride that an unknown field makes this long.
fn of_length(bytes: usize) -> String {
    let note = |text: &str| and(&format!(r#""note":"{text}""#));
    note(&"x".repeat(bytes - note("").len()))
}

fn every_kind() -> Vec<Poison> {
    let mut kinds = Vec::new();

    let mut not_utf8 = and(r#""note":"?""#).into_bytes();
    let mark = not_utf8.iter().position(|byte| *byte == b'?');
    not_utf8[mark.expect("it is there")] = 0xff;
    for value in [
        Vec::new(),
        b"not json".to_vec(),
        b"{".to_vec(),
        not_utf8,
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"a text\"".to_vec(),
        format!("[{}]", ride(OF_BODY)).into_bytes(),
        // Of two clients neither.
        and(r#""user_id":48153"#).into_bytes(),
    ] {
        kinds.push(poison("NOT_JSON", value, OF_KEY));
    }
    for again in [
        r#""amount_cents":6500"#,
        r#""city_id":4198"#,
        r#""city_id":null"#,
    ] {
        kinds.push(poison("NOT_JSON", and(again), OF_BODY));
    }

    for field in [
        "ride_id",
        "user_id",
        "completed_at",
        "amount_cents",
        "currency_code",
    ] {
        let client = if field == "user_id" { OF_KEY } else { OF_BODY };
        kinds.push(poison("MISSING_FIELD", but(field, Value::Null), client));
        let mut without = ride(OF_BODY);
        without.as_object_mut().expect("an object").remove(field);
        kinds.push(poison("MISSING_FIELD", without.to_string(), client));
    }
    kinds.push(poison("MISSING_FIELD", "{}", OF_KEY));

    for (field, value, client) in [
        ("ride_id", json!(7), OF_BODY),
        ("user_id", json!("48151"), OF_KEY),
        ("user_id", json!(48151.0), OF_KEY),
        ("completed_at", json!(1_700_000_000), OF_BODY),
        ("amount_cents", json!(6500.0), OF_BODY),
        ("amount_cents", json!("6500"), OF_BODY),
        ("currency_code", json!(484), OF_BODY),
        ("country_code", json!(["MX"]), OF_BODY),
        ("city_id", json!("4198"), OF_BODY),
        ("service_type", json!(true), OF_BODY),
    ] {
        kinds.push(poison("WRONG_TYPE", but(field, value), client));
    }

    let beyond = json!(1_u64 << 63);
    for (field, value, client) in [
        ("ride_id", json!("ride 7"), OF_BODY),
        (
            "ride_id",
            json!("0192f8c47a1e7c5b9a532f6d1c0e4b11"),
            OF_BODY,
        ),
        ("user_id", json!(0), OF_KEY),
        ("user_id", json!(-48_151), OF_KEY),
        ("user_id", beyond.clone(), OF_KEY),
        ("completed_at", json!("yesterday"), OF_BODY),
        ("completed_at", json!("2026-11-22"), OF_BODY),
        ("completed_at", json!("1999-12-31T23:59:59.999Z"), OF_BODY),
        // A minus as typographers have it, and a second that no minute but a day's last may have.
        (
            "completed_at",
            json!("2026-11-22T18:04:05\u{2212}06:00"),
            OF_BODY,
        ),
        ("completed_at", json!("2026-11-22T18:04:60Z"), OF_BODY),
        ("amount_cents", beyond.clone(), OF_BODY),
        ("currency_code", json!("mxn"), OF_BODY),
        ("currency_code", json!("MX"), OF_BODY),
        ("country_code", json!("mex"), OF_BODY),
        ("city_id", json!(-1), OF_BODY),
        ("city_id", beyond, OF_BODY),
        ("service_type", json!(""), OF_BODY),
        ("service_type", json!("x".repeat(65)), OF_BODY),
        ("service_type", json!("a\nb"), OF_BODY),
    ] {
        kinds.push(poison("INVALID_VALUE", but(field, value), client));
    }

    for amount in [-1, i64::MIN] {
        let value = but("amount_cents", json!(amount));
        kinds.push(poison("NEGATIVE_AMOUNT", value, OF_BODY));
    }

    // By an hour, so that none is there already once it is corrected.
    let ahead = but("completed_at", json!(instant(now() + TimeDelta::hours(1))));
    kinds.push(poison("IN_FUTURE", ahead, OF_BODY));

    for bytes in [LARGEST + 1, 700_000] {
        kinds.push(poison("TOO_LARGE", of_length(bytes), OF_KEY));
    }

    // With another key, or none: the client is the body's, or unknown.
    for key in [
        None,
        Some(""),
        Some("0"),
        Some("-48152"),
        Some("the client"),
        Some("9223372036854775808"),
    ] {
        for (reason, value, user_id) in [
            (
                "NEGATIVE_AMOUNT",
                but("amount_cents", json!(-1)),
                Some(OF_BODY),
            ),
            ("WRONG_TYPE", but("user_id", json!("48151")), None),
            ("NOT_JSON", "?".to_owned(), None),
            ("TOO_LARGE", of_length(LARGEST + 1), None),
        ] {
            kinds.push(Poison {
                key,
                value: value.into(),
                reason,
                user_id,
            });
        }
    }
    kinds
}

/// Everything in quarantine, by partition and offset.
async fn quarantined(service: &Service) -> BTreeMap<(i64, i64), Value> {
    let api = service.admin().api;
    let page = api.get("/admin/v1/quarantine?limit=200").await.expect(200);
    assert_eq!(page["next_cursor"], Value::Null, "one page holds them all");
    let items = page["items"].as_array().expect("a list");
    let place = |item: &Value, name: &str| item[name].as_i64().expect("an integer");
    let by_place: BTreeMap<_, _> = items
        .iter()
        .map(|item| {
            let at = (place(item, "partition"), place(item, "offset"));
            (at, item.clone())
        })
        .collect();
    assert_eq!(by_place.len(), items.len(), "a record is there twice");
    by_place
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_lies_in_quarantine_as_it_was_published_and_its_correction_counts_once() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    for user_id in [OF_BODY, OF_KEY] {
        service.started_client(user_id, &promotion).await;
    }
    let counted = async |service: &Service, user_id: i64| {
        let progress = service.client(user_id).progress(promotion.id).await;
        progress.expect(200)["rides_completed"].clone()
    };

    let kinds = every_kind();
    let outgoing = kinds.iter().map(|poison| Outgoing {
        key: poison.key.map(|key| key.as_bytes().to_vec()),
        value: Some(poison.value.clone()),
        ..Outgoing::default()
    });
    let places = world.publish_all(outgoing.collect::<Vec<_>>()).await;
    // The consumer goes on; and this one is as large as a ride may be.
    world
        .publish_raw(None, Some(of_length(LARGEST).as_bytes()), &[])
        .await;
    world.rides_are_applied().await;
    assert_eq!(counted(&service, OF_BODY).await, 1);

    let items = quarantined(&service).await;
    assert_eq!(items.len(), kinds.len());
    let mut of_each_reason = BTreeMap::<_, usize>::new();
    for (poison, (partition, offset)) in kinds.iter().zip(&places) {
        *of_each_reason.entry(poison.reason).or_default() += 1;
        let text = String::from_utf8_lossy(&poison.value);
        let item = &items[&((*partition).into(), *offset)];
        let expected = json!({
            "topic": world.ride_topic(), "partition": partition, "offset": offset, "key": poison.key,
            "user_id": poison.user_id, "reason": poison.reason, "status": "OPEN",
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(
                &item[name], value,
                "{name} of {text:.200}: {}",
                item["detail"]
            );
        }
        let bytes = STANDARD.decode(item["value_base64"].as_str().expect("a text"));
        assert!(
            bytes.expect("base64") == poison.value,
            "the bytes of {text:.200}"
        );
        assert_ne!(item["detail"], "", "the detail is empty");
    }
    assert_eq!(of_each_reason.len(), 7, "{of_each_reason:?}");

    // Read again from the start, each is there once, and what was counted is.
    assert!(service.sigterm_and_wait().await.success());
    let again = [
        "positions",
        "set",
        "--all",
        "--to",
        "beginning",
        "--reason",
        "a test",
    ];
    eventually(LIMIT, || async {
        // Who has ended may be in the group for a moment longer.
        let set = world.command(&again).run().await;
        if set.status.success() {
            Ok(())
        } else {
            Err(format!("{set:?}"))
        }
    })
    .await;
    let service = world.service().start().await;
    world.rides_are_applied().await;
    assert_eq!(quarantined(&service).await, items);
    assert_eq!(counted(&service, OF_BODY).await, 1);
    assert_eq!(counted(&service, OF_KEY).await, 0);

    // Each is corrected; a record that names no client may be any client's.
    let api = service.admin().api;
    let mut corrected = Vec::new();
    for (poison, (partition, offset)) in kinds.iter().zip(&places) {
        let id = &items[&((*partition).into(), *offset)]["quarantine_id"];
        let replay = format!(
            "/admin/v1/quarantine/{}/replay",
            id.as_str().expect("an id")
        );
        let ride = ride(poison.user_id.unwrap_or(OF_KEY));
        let correction = json!({ "ride": ride });
        let answer = api.post_json(&replay, &correction).await.expect(200);
        assert_eq!(answer["outcome"], "APPLIED", "{answer}");
        assert_eq!(answer["receipt"]["verdict"], "COUNTED", "{answer}");
        assert_eq!(answer["receipt"]["ride_id"], ride["ride_id"], "{answer}");
        let answer = api.post_json(&replay, &correction).await;
        answer.problem(409, "already-resolved");
        corrected.push(ride);
    }
    let of_body = kinds
        .iter()
        .filter(|poison| poison.user_id == Some(OF_BODY))
        .count();
    let standing = [(OF_BODY, 1 + of_body), (OF_KEY, kinds.len() - of_body)];
    for (user_id, rides) in standing {
        assert_eq!(counted(&service, user_id).await, rides, "{user_id}");
    }

    // The platform publishes the same rides itself, as they should have been.
    world
        .publish_all(corrected.iter().map(Outgoing::ride).collect::<Vec<_>>())
        .await;
    world.rides_are_applied().await;
    for (user_id, rides) in standing {
        assert_eq!(counted(&service, user_id).await, rides, "{user_id}");
    }
    for (at, item) in quarantined(&service).await {
        assert_eq!(item["status"], "REPLAYED", "{}", item["detail"]);
        assert_eq!(item["value_base64"], items[&at]["value_base64"]);
    }
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}
