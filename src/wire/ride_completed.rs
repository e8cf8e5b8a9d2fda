//! The ride-completed event (contract 4.1): a fast reader for valid records, and a thorough one that names
//! the faults of the others.

use std::borrow::Cow;
use std::fmt::Display;

use chrono::{Datelike, TimeDelta};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{AnyOf, Schema, SchemaType};
use utoipa::openapi::{Object, Type};
use uuid::Uuid;

use crate::domain::fields::shown;
use crate::domain::promotion::is_service_type;
use crate::domain::ride::{Reversal, Ride, RideRecord};
use crate::domain::words::words;
use crate::domain::{Instant, UserId, parse_instant};
use crate::wire::format_instant;

/// The largest value that is parsed.
pub const MAX_BYTES: usize = 64 * 1024;

/// How far `completed_at` may be ahead of the database's clock.
pub const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);

words! {
    /// Why a record is not a valid ride; the first of several faults.
    pub enum QuarantineReason {
        /// Over 64 KiB; not parsed.
        TooLarge = "TOO_LARGE",
        /// Empty, not UTF-8, not JSON, not an object, or a known field twice.
        NotJson = "NOT_JSON",
        /// A required field is absent or null.
        MissingField = "MISSING_FIELD",
        /// A field has another JSON type; `6500.0` is not an integer.
        WrongType = "WRONG_TYPE",
        /// A value has a bad form or is out of range, also beyond 64 bits.
        InvalidValue = "INVALID_VALUE",
        /// A fare below zero.
        NegativeAmount = "NEGATIVE_AMOUNT",
        /// Completed more than five minutes ahead.
        InFuture = "IN_FUTURE",
    }
}

/// A completed ride: a value of the topic, JSON in UTF-8, at most 64 KiB. A record that breaks these rules is
/// quarantined. `null` counts as missing, unknown fields are ignored, and no known field may appear twice.
///
/// This is the only shape of a ride: its schema, what [`encode`] writes, and what the fast reader of
/// [`decode`] reads. The thorough reader names every fault.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(
    description = "A completed ride: JSON in UTF-8, at most 64 KiB. A record that breaks these rules is quarantined. `null` counts as missing, unknown fields are ignored, and no known field may appear twice."
)]
pub struct RideCompleted<'a> {
    /// The ride's id, the same at every delivery; the same id under two clients is two rides.
    #[schema(value_type = Uuid, example = "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11")]
    ride_id: &'a str,
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    user_id: i64,
    /// When the ride ended, with any offset, cut to milliseconds. From the year 2000, and at most 5 minutes
    /// ahead of the clock.
    #[schema(value_type = DateTime<Utc>, example = "2026-11-22T18:04:05.123Z")]
    completed_at: &'a str,
    /// The fare in hundredths of the currency's unit.
    #[schema(minimum = 0, example = 6_500)]
    amount_cents: i64,
    /// ISO 4217, three capital letters.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "MXN")]
    currency_code: &'a str,
    /// ISO 3166-1, two capital letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[A-Z]{2}$", example = "MX")]
    country_code: Option<&'a str>,
    /// The city, by the platform's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, example = 4_198)]
    city_id: Option<i64>,
    /// The service type: printable characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 64, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", example = "city")]
    service_type: Option<&'a str>,
    /// The distance in metres. Any value except an integer from 0 counts as missing.
    #[serde(
        default,
        deserialize_with = "optional_distance",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(schema_with = distance_schema)]
    distance_m: Option<i64>,
    /// Whether the record also has the id of a reversal; then it is not a ride.
    #[serde(
        rename = "reversed_ride_id",
        default,
        deserialize_with = "is_there",
        skip_serializing
    )]
    #[schema(ignore)]
    is_reversal: bool,
}

/// A ride that the platform took back: cancelled afterwards, refunded, or fraud. It has `reversed_ride_id`
/// instead of `ride_id`; besides `user_id`, no other field is read.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
pub struct RideReversed<'a> {
    /// The id of the ride that was taken back.
    #[schema(value_type = Uuid, example = "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11")]
    reversed_ride_id: &'a str,
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    user_id: i64,
}

/// Any value is allowed; one that is not a distance counts as missing.
#[expect(deprecated, reason = "the derived schemas write `example` too")]
fn distance_schema() -> Schema {
    let metres = Object::builder()
        .schema_type(Type::Integer)
        .minimum(Some(0));
    let other = Object::builder().schema_type(SchemaType::AnyValue);
    let schema = AnyOf::builder()
        .description(Some(
            "The distance in metres. Any value except an integer from 0 counts as missing.",
        ))
        .example(Some(serde_json::json!(8_400)))
        .item(metres)
        .item(other)
        .build();
    Schema::AnyOf(schema)
}

/// The value that publishes a ride. Fields that the ride does not have are left out.
pub fn encode(ride: &Ride) -> Vec<u8> {
    let ride_id = ride.ride_id.to_string();
    let completed_at = format_instant(ride.completed_at);
    let event = RideCompleted {
        ride_id: &ride_id,
        user_id: ride.user_id,
        completed_at: &completed_at,
        amount_cents: ride.amount_cents,
        currency_code: ride.currency_code.as_str(),
        country_code: ride.country_code.as_ref().map(|code| code.as_str()),
        city_id: ride.city_id,
        service_type: ride.service_type.as_deref(),
        distance_m: ride.distance_m,
        is_reversal: false,
    };
    // It has no maps and no foreign types, so this cannot fail.
    serde_json::to_vec(&event).unwrap_or_default()
}

/// The value that publishes a reversal.
pub fn encode_reversal(reversal: &Reversal) -> Vec<u8> {
    let ride_id = reversal.ride_id.to_string();
    let event = RideReversed {
        reversed_ride_id: &ride_id,
        user_id: reversal.user_id,
    };
    // It has no maps and no foreign types, so this cannot fail.
    serde_json::to_vec(&event).unwrap_or_default()
}

/// A record that is not a valid ride.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The first fault's reason.
    pub reason: QuarantineReason,
    /// All faults in words; without NUL, so that Postgres can store it.
    pub detail: String,
    /// The faults.
    pub faults: Vec<Fault>,
    /// The body's `user_id`, if it has exactly one and that is valid.
    pub user_id: Option<UserId>,
}

/// One fault of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field; empty for the record as a whole.
    pub field: &'static str,
    /// The kind of fault.
    pub reason: QuarantineReason,
    /// What was expected, and what it was.
    pub detail: String,
}

/// Reads a ride where only a ride is valid. `now` is the database's clock. A reversal is rejected.
pub fn decode_ride(value: &[u8], now: Instant) -> Result<Ride, Box<RejectedRecord>> {
    match decode(value, now)? {
        RideRecord::Completed(ride) => Ok(ride),
        RideRecord::Reversed(reversal) => Err(rejected(
            vec![fault(
                "reversed_ride_id",
                QuarantineReason::InvalidValue,
                "a reversal is not possible here",
            )],
            Some(reversal.user_id),
        )),
    }
}

/// Reads a record of the ride topic: a ride or a reversal. `now` is the database's clock.
pub fn decode(value: &[u8], now: Instant) -> Result<RideRecord, Box<RejectedRecord>> {
    if value.len() > MAX_BYTES {
        return Err(rejected(
            vec![fault(
                "",
                QuarantineReason::TooLarge,
                format!("{} bytes, at most {MAX_BYTES}", value.len()),
            )],
            None,
        ));
    }
    // serde_json does not check the bytes of skipped values, so the text is checked first.
    let text = match std::str::from_utf8(value) {
        Ok(text) => text,
        Err(error) => {
            return Err(rejected(
                vec![fault(
                    "",
                    QuarantineReason::NotJson,
                    format!("not UTF-8: {error}"),
                )],
                None,
            ));
        }
    };
    match decode_fast(text) {
        Some(ride) if ride.completed_at - now <= MAX_AHEAD => Ok(RideRecord::Completed(ride)),
        _ => decode_thoroughly(text, now),
    }
}

/// The client that a record's key names: a decimal number of at least 1.
pub fn user_id_of_key(key: Option<&[u8]>) -> Option<UserId> {
    let text = std::str::from_utf8(key?).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|user_id| *user_id >= 1)
}

/// The ride, if it is valid and in the usual form. Everything else goes to [`decode_thoroughly`], which
/// names the faults.
fn decode_fast(text: &str) -> Option<Ride> {
    // A derived reader would also accept an array of the fields in order.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    let fields: RideCompleted<'_> = serde_json::from_str(text).ok()?;
    if fields.is_reversal {
        return None;
    }
    Some(Ride {
        ride_id: ride_id(fields.ride_id).ok()?,
        user_id: user_id(fields.user_id).ok()?,
        completed_at: completed_at(fields.completed_at).ok()?,
        amount_cents: (fields.amount_cents >= 0).then_some(fields.amount_cents)?,
        currency_code: fields.currency_code.parse().ok()?,
        country_code: fields.country_code.map(str::parse).transpose().ok()?,
        city_id: fields.city_id.map(city_id).transpose().ok()?,
        service_type: fields.service_type.map(service_type).transpose().ok()?,
        distance_m: fields.distance_m,
    })
}

fn ride_id(text: &str) -> Result<Uuid, &'static str> {
    // The crate also reads other forms; the contract allows only the hyphenated one.
    if text.len() == 36 {
        Uuid::parse_str(text).map_err(|_| "must be a UUID")
    } else {
        Err("must be a UUID")
    }
}

fn user_id(number: i64) -> Result<UserId, &'static str> {
    if number >= 1 {
        Ok(number)
    } else {
        Err("must be at least 1")
    }
}

fn completed_at(text: &str) -> Result<Instant, &'static str> {
    let instant = parse_instant(text).ok_or("must be an RFC 3339 instant")?;
    if instant.year() < 2000 {
        return Err("must be in the year 2000 or later");
    }
    Ok(instant)
}

fn city_id(number: i64) -> Result<i64, &'static str> {
    if number >= 0 {
        Ok(number)
    } else {
        Err("must be at least 0")
    }
}

fn service_type(text: &str) -> Result<Box<str>, &'static str> {
    if is_service_type(text) {
        Ok(text.into())
    } else {
        Err("must be 1 to 64 printable characters")
    }
}

/// Metres, from the JSON of the field. No value makes the ride invalid.
fn distance_m(raw: &str) -> Option<i64> {
    raw.parse().ok().filter(|metres| *metres >= 0)
}

fn optional_distance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(distance_m(raw.get()))
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(deserializer)?.is_some())
}

/// Reads field by field from the raw JSON, so that every fault can be named.
fn decode_thoroughly(text: &str, now: Instant) -> Result<RideRecord, Box<RejectedRecord>> {
    let members = match serde_json::from_str::<Members<'_>>(text) {
        Ok(members) => members,
        Err(error) => {
            return Err(rejected(
                vec![fault("", QuarantineReason::NotJson, error)],
                None,
            ));
        }
    };
    let mut reader = RecordReader {
        members: members.0,
        faults: Vec::new(),
    };
    if reader.has("reversed_ride_id") {
        return decode_reversal(reader).map(RideRecord::Reversed);
    }
    let user_id = reader.required("user_id", |raw| integer(raw, user_id));
    let ride_id = reader.required("ride_id", |raw| string(raw, ride_id));
    let completed_at = reader.required("completed_at", |raw| {
        let instant = string(raw, completed_at)?;
        if instant - now > MAX_AHEAD {
            return Err((
                QuarantineReason::InFuture,
                format!("must be at most 5 minutes ahead, got {}", shown(raw)),
            ));
        }
        Ok(instant)
    });
    let amount_cents = reader.required("amount_cents", |raw| {
        let amount = integer(raw, Ok::<_, &str>)?;
        if amount < 0 {
            return Err((
                QuarantineReason::NegativeAmount,
                format!("must be at least 0, got {amount}"),
            ));
        }
        Ok(amount)
    });
    let currency_code = reader.required("currency_code", |raw| string(raw, str::parse));
    let country_code = reader.optional("country_code", |raw| string(raw, str::parse));
    let city_id = reader.optional("city_id", |raw| integer(raw, city_id));
    let service_type = reader.optional("service_type", |raw| string(raw, service_type));
    let distance_m = reader.optional("distance_m", |raw| Ok(distance_m(raw)));
    let faults = reader.faults;
    match (ride_id, user_id, completed_at, amount_cents, currency_code) {
        (
            Some(ride_id),
            Some(user_id),
            Some(completed_at),
            Some(amount_cents),
            Some(currency_code),
        ) if faults.is_empty() => Ok(RideRecord::Completed(Ride {
            ride_id,
            user_id,
            completed_at,
            amount_cents,
            currency_code,
            country_code,
            city_id,
            service_type,
            distance_m: distance_m.flatten(),
        })),
        _ => Err(rejected(faults, user_id)),
    }
}

/// Reads a record that has `reversed_ride_id`. If it has `ride_id` too, it cannot be told whether it is a
/// ride or a reversal, and its other faults do not matter.
fn decode_reversal(mut reader: RecordReader<'_>) -> Result<Reversal, Box<RejectedRecord>> {
    let user_id = reader.required("user_id", |raw| integer(raw, user_id));
    if reader.has("ride_id") {
        let both = fault(
            "reversed_ride_id",
            QuarantineReason::InvalidValue,
            "must not be there beside ride_id",
        );
        return Err(rejected(vec![both], user_id));
    }
    let ride_id = reader.required("reversed_ride_id", |raw| string(raw, ride_id));
    match (ride_id, user_id) {
        (Some(ride_id), Some(user_id)) => Ok(Reversal { ride_id, user_id }),
        _ => Err(rejected(reader.faults, user_id)),
    }
}

fn fault(field: &'static str, reason: QuarantineReason, detail: impl Display) -> Fault {
    Fault {
        field,
        reason,
        detail: detail.to_string().replace('\0', "\u{fffd}"),
    }
}

fn rejected(faults: Vec<Fault>, user_id: Option<UserId>) -> Box<RejectedRecord> {
    let reason = faults
        .iter()
        .map(|fault| fault.reason)
        .min()
        .unwrap_or(QuarantineReason::NotJson);
    let mut detail = String::new();
    for fault in &faults {
        if !detail.is_empty() {
            detail.push_str("; ");
        }
        if !fault.field.is_empty() {
            detail.push_str(fault.field);
            detail.push(' ');
        }
        detail.push_str(&fault.detail);
    }
    Box::new(RejectedRecord {
        reason,
        detail,
        faults,
        user_id,
    })
}

/// The members of a JSON object in order, including repeated ones, with raw values.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

struct RecordReader<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    faults: Vec<Fault>,
}

impl RecordReader<'_> {
    /// Whether the field is present and not `null`.
    fn has(&self, field: &str) -> bool {
        self.members
            .iter()
            .any(|(name, raw)| name == field && raw.get() != "null")
    }

    fn required<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&str) -> Result<T, (QuarantineReason, String)>,
    ) -> Option<T> {
        let before = self.faults.len();
        let value = self.optional(field, read);
        if value.is_none() && self.faults.len() == before {
            self.faults
                .push(fault(field, QuarantineReason::MissingField, "is required"));
        }
        value
    }

    fn optional<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&str) -> Result<T, (QuarantineReason, String)>,
    ) -> Option<T> {
        let mut found = self
            .members
            .iter()
            .filter(|(name, _)| name == field)
            .map(|(_, raw)| raw.get());
        let raw = found.next()?;
        if found.next().is_some() {
            self.faults.push(fault(
                field,
                QuarantineReason::NotJson,
                "is there more than once",
            ));
            return None;
        }
        if raw == "null" {
            return None;
        }
        match read(raw) {
            Ok(value) => Some(value),
            Err((reason, detail)) => {
                self.faults.push(fault(field, reason, detail));
                None
            }
        }
    }
}

fn integer<T, E: Display>(
    raw: &str,
    read: impl FnOnce(i64) -> Result<T, E>,
) -> Result<T, (QuarantineReason, String)> {
    let is_integer = raw.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && !raw.contains(['.', 'e', 'E']);
    if !is_integer {
        return Err((
            QuarantineReason::WrongType,
            format!("must be an integer, got {}", shown(raw)),
        ));
    }
    let number = raw.parse().map_err(|_| {
        (
            QuarantineReason::InvalidValue,
            format!("must fit 64 bits, got {}", shown(raw)),
        )
    })?;
    read(number).map_err(|error| {
        (
            QuarantineReason::InvalidValue,
            format!("{error}, got {}", shown(raw)),
        )
    })
}

fn string<T, E: Display>(
    raw: &str,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, (QuarantineReason, String)> {
    if !raw.starts_with('"') {
        return Err((
            QuarantineReason::WrongType,
            format!("must be a string, got {}", shown(raw)),
        ));
    }
    // A skipped string can still contain an invalid escape.
    let text: Cow<'_, str> = serde_json::from_str(raw).map_err(|error| {
        (
            QuarantineReason::InvalidValue,
            format!("{error}, got {}", shown(raw)),
        )
    })?;
    read(&text).map_err(|error| {
        (
            QuarantineReason::InvalidValue,
            format!("{error}, got {}", shown(raw)),
        )
    })
}

#[cfg(test)]
mod tests {
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
}
