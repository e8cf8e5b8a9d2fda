use chrono::DateTime;
use serde_json::{Value, json};

use super::*;

fn now() -> Instant {
    DateTime::parse_from_rfc3339("2026-11-22T18:05:00Z")
        .expect("valid")
        .to_utc()
}

fn full() -> Value {
    json!({ "ride_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "user_id": 48151, "completed_at": "2026-11-22T18:04:05.123Z",
        "amount_cents": 6500, "currency_code": "MXN", "country_code": "MX", "city_id": 4198, "service_type": "city",
        "distance_m": 8400 })
}

fn with(name: &str, value: Value) -> String {
    let mut ride = full();
    ride[name] = value;
    ride.to_string()
}

fn reason_of(text: &[u8]) -> (QuarantineReason, Option<UserId>) {
    let rejected = decode(text, now()).expect_err("not a ride");
    (rejected.reason, rejected.user_id)
}

#[test]
fn both_ways_read_the_same_ride() {
    let text = full().to_string();
    let fast = decode_fast(&text).expect("written plainly");
    assert_eq!(
        decode_thoroughly(&text, now()),
        Ok(RideRecord::Completed(fast.clone()))
    );
    assert_eq!(fast.service_type.as_deref(), Some("city"));
}

#[test]
fn a_ride_that_was_written_is_read_as_it_was() {
    let mut bare = full();
    for optional in ["country_code", "city_id", "service_type", "distance_m"] {
        bare.as_object_mut().expect("an object").remove(optional);
    }
    for json in [full(), bare] {
        let ride = decode_ride(json.to_string().as_bytes(), now()).expect("valid");
        let written: Value = serde_json::from_slice(&encode(&ride)).expect("JSON");
        assert_eq!(written, json);
    }
}

#[test]
fn reads_what_the_contract_allows() {
    let escaped = r#"{"ride_id":"0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11","user\u005fid":48151,"completed_at":"2026-11-22T19:04:05.123999+01:00",
        "amount_cents":-0,"currency_code":"MX\u004e","city_id":null,"note":{"deep":[1.5]}}"#;
    let ride = decode_ride(escaped.as_bytes(), now()).expect("valid");
    assert_eq!(
        (ride.user_id, ride.amount_cents, ride.city_id),
        (48151, 0, None)
    );
    assert_eq!(
        crate::wire::format_instant(ride.completed_at),
        "2026-11-22T18:04:05.123Z"
    );
}

#[test]
fn a_distance_that_is_none_counts_as_missing() {
    let largest = i64::MAX.to_string();
    for (raw, read) in [
        ("0", Some(0)),
        ("8400", Some(8_400)),
        (largest.as_str(), Some(i64::MAX)),
        ("null", None),
        ("-1", None),
        ("8400.0", None),
        ("84e2", None),
        ("9223372036854775808", None),
        ("\"8400\"", None),
        ("true", None),
        ("{\"m\":[8400]}", None),
    ] {
        let text = full().to_string().replace("8400", raw);
        let fast = decode_fast(&text).expect("written plainly");
        assert_eq!(fast.distance_m, read, "{raw}");
        assert_eq!(
            decode_thoroughly(&text, now()),
            Ok(RideRecord::Completed(fast)),
            "{raw}"
        );
    }
}

#[test]
fn a_reversal_is_the_other_id_and_the_client() {
    let reversal = Reversal {
        ride_id: "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11"
            .parse()
            .expect("a UUID"),
        user_id: 48_151,
    };
    let written = encode_reversal(&reversal);
    assert_eq!(decode(&written, now()), Ok(RideRecord::Reversed(reversal)));
    let me = Some(48_151);
    let plain: Value = serde_json::from_slice(&written).expect("JSON");
    let with = |name: &str, value: Value| {
        let mut record = plain.clone();
        record[name] = value;
        record.to_string()
    };
    // Its other fields are not read.
    for (name, value) in [
        ("ride_id", json!(null)),
        ("completed_at", json!(7)),
        ("amount_cents", json!(-1)),
    ] {
        let text = with(name, value);
        assert_eq!(
            decode(text.as_bytes(), now()),
            Ok(RideRecord::Reversed(reversal)),
            "{text}"
        );
        assert!(decode_ride(text.as_bytes(), now()).is_err(), "{text}");
    }
    let other = "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b12";
    let mut both = full();
    both["reversed_ride_id"] = json!(other);
    for (text, expected) in [
        (both.to_string(), (QuarantineReason::InvalidValue, me)),
        (
            with("ride_id", json!(7)),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("reversed_ride_id", json!("7")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("reversed_ride_id", json!(7)),
            (QuarantineReason::WrongType, me),
        ),
        (
            with("reversed_ride_id", json!(null)),
            (QuarantineReason::MissingField, me),
        ),
        (
            with("user_id", json!(null)),
            (QuarantineReason::MissingField, None),
        ),
        (
            with("user_id", json!(0)),
            (QuarantineReason::InvalidValue, None),
        ),
        (
            plain
                .to_string()
                .replace('}', ",\"reversed_ride_id\":null}"),
            (QuarantineReason::NotJson, me),
        ),
    ] {
        assert_eq!(reason_of(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn names_each_fault() {
    let me = Some(48151);
    for (text, expected) in [
        (String::new(), (QuarantineReason::NotJson, None)),
        ("[1]".to_owned(), (QuarantineReason::NotJson, None)),
        (
            r#"["0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11",48151,"2026-11-22T18:04:05Z",6500,"MXN","MX",4198,"city"]"#.to_owned(),
            (QuarantineReason::NotJson, None),
        ),
        (full().to_string().replace('}', ""), (QuarantineReason::NotJson, None)),
        (
            full().to_string().replace('}', ",\"amount_cents\":1}"),
            (QuarantineReason::NotJson, me),
        ),
        (
            full().to_string().replace('}', ",\"user_id\":1}"),
            (QuarantineReason::NotJson, None),
        ),
        (
            with("currency_code", Value::Null),
            (QuarantineReason::MissingField, me),
        ),
        (with("user_id", Value::Null), (QuarantineReason::MissingField, None)),
        (with("user_id", json!("48151")), (QuarantineReason::WrongType, None)),
        (with("amount_cents", json!(6500.0)), (QuarantineReason::WrongType, me)),
        (with("city_id", json!("4198")), (QuarantineReason::WrongType, me)),
        (with("service_type", json!(7)), (QuarantineReason::WrongType, me)),
        (with("user_id", json!(0)), (QuarantineReason::InvalidValue, None)),
        (
            with("ride_id", json!("0192f8c47a1e7c5b9a532f6d1c0e4b11")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("completed_at", json!("yesterday")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("completed_at", json!("1999-12-31T23:59:59Z")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("currency_code", json!("mxn")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("country_code", json!("MEX")),
            (QuarantineReason::InvalidValue, me),
        ),
        (with("city_id", json!(-1)), (QuarantineReason::InvalidValue, me)),
        (with("service_type", json!("")), (QuarantineReason::InvalidValue, me)),
        (
            with("service_type", json!("a\0b")),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            full().to_string().replace("6500", "99999999999999999999"),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            full().to_string().replace("\"city\"", "\"\\ud800\""),
            (QuarantineReason::InvalidValue, me),
        ),
        (
            with("amount_cents", json!(-1)),
            (QuarantineReason::NegativeAmount, me),
        ),
        (
            with("completed_at", json!("2026-11-22T18:10:00.001Z")),
            (QuarantineReason::InFuture, me),
        ),
    ] {
        assert_eq!(reason_of(text.as_bytes()), expected, "{text}");
    }
    assert_eq!(
        reason_of(b"{\"note\":\"\xff\"}"),
        (QuarantineReason::NotJson, None)
    );
    assert_eq!(
        reason_of(&vec![b' '; MAX_BYTES + 1]),
        (QuarantineReason::TooLarge, None)
    );
    assert!(
        decode(
            with("completed_at", json!("2026-11-22T18:10:00.000Z")).as_bytes(),
            now()
        )
        .is_ok()
    );
}

#[test]
fn several_faults_give_the_most_basic_reason_and_all_details() {
    let mut ride = full();
    ride["amount_cents"] = json!(-1);
    ride["currency_code"] = Value::Null;
    let rejected = decode(ride.to_string().as_bytes(), now()).expect_err("bad");
    assert_eq!(rejected.reason, QuarantineReason::MissingField);
    assert_eq!(
        rejected.detail,
        "amount_cents must be at least 0, got -1; currency_code is required"
    );
}

#[test]
fn a_key_is_a_plain_decimal() {
    assert_eq!(user_id_of_key(Some(b"48151")), Some(48151));
    for key in [
        &b""[..],
        b"0",
        b"+1",
        b"-1",
        b" 1",
        b"9223372036854775808",
        b"x",
    ] {
        assert_eq!(user_id_of_key(Some(key)), None);
    }
    assert_eq!(user_id_of_key(None), None);
}
