//! The thorough reader of a record: it names every fault.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Fault, MAX_AHEAD, QuarantineReason, RejectedRecord, city_id, completed_at, distance_m, ride_id,
    service_type, user_id,
};
use crate::domain::fields::shown;
use crate::domain::ride::{Reversal, Ride, RideRecord};
use crate::domain::{Instant, UserId};

/// Reads field by field from the raw JSON, so that every fault can be named.
pub(super) fn decode_thoroughly(
    text: &str,
    now: Instant,
) -> Result<RideRecord, Box<RejectedRecord>> {
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

/// Reads a record that has `reversed_ride_id`. If it has `ride_id` too, it is unclear whether it is a
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

pub(super) fn fault(field: &'static str, reason: QuarantineReason, detail: impl Display) -> Fault {
    Fault {
        field,
        reason,
        detail: detail.to_string().replace('\0', "\u{fffd}"),
    }
}

pub(super) fn rejected(faults: Vec<Fault>, user_id: Option<UserId>) -> Box<RejectedRecord> {
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
