//! The ride-completed event (contract 4.1): a fast reader for valid records, and a thorough one that names
//! the faults of the others.

mod thorough;

use chrono::{Datelike, TimeDelta};
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{AnyOf, Schema, SchemaType};
use utoipa::openapi::{Object, Type};
use uuid::Uuid;

use self::thorough::{decode_thoroughly, fault, rejected};
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

#[cfg(test)]
mod tests;
