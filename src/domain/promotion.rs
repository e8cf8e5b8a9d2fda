//! A promotion's conditions (contract 2).

use chrono::NaiveDate;
use serde::Serialize;
use serde_json::Value;

use super::fields::{BadValue, FieldError, Fields, integer, parsed, shown, string};
use super::hours::{self, Window};
use super::period::Period;
use super::reminder::Reminders;
use super::reward::{CountryCode, CurrencyCode};
use super::ride::Ride;
use super::time_zone::TimeZone;

pub use super::verdict::{Judgement, Verdict, judge};

/// The largest `target_rides`.
pub const MAX_TARGET_RIDES: u32 = 10_000;

/// The largest `target_days`.
const MAX_TARGET_DAYS: u32 = 366;

/// The largest `min_distance_m`, in metres.
const MAX_MIN_DISTANCE: i64 = 10_000_000;

const SECONDS_OF_DAY: u64 = 24 * 60 * 60;

/// The rules of a promotion. Only its readers construct it, so it is always valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(
    description = "The rules of a promotion. The optional ones narrow it: if one is left out or `null`, it restricts nothing. A ride that lacks the value which a narrowing compares does not match it."
)]
pub struct Conditions {
    /// How many rides complete the challenge, 1 to 10,000.
    #[schema(value_type = i32, minimum = 1, maximum = 10_000, example = 20)]
    pub target_rides: u32,
    /// If given, rides must also count on this many local days; requires the time zone. At most the days of
    /// `challenge_period`, rounded up, plus one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 366, example = 5)]
    pub target_days: Option<u32>,
    /// If given, the fares of the counted rides must also reach this sum, in cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, example = 200_000)]
    pub target_amount_cents: Option<i64>,
    /// The lowest fare that counts, in cents.
    #[schema(minimum = 0, example = 5_000)]
    pub min_amount_cents: i64,
    /// If given, the shortest ride that counts, in metres.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000_000, example = 1_000)]
    pub min_distance_m: Option<i64>,
    /// The only currency that counts.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: CurrencyCode,
    /// How long the challenge runs from its start: ISO 8601 of weeks, days, hours, minutes and
    /// seconds, from `PT1S` to `P366D`; a day is 24 hours.
    #[schema(value_type = String, format = "duration", example = "P14D")]
    pub challenge_period: Period,
    /// How long the reward can be claimed after completion, in the same form.
    #[schema(value_type = String, format = "duration", example = "P7D")]
    pub claim_period: Period,
    /// If given, the ride's country must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, min_items = 1, example = json!(["MX"]))]
    pub country_codes: Option<Vec<CountryCode>>,
    /// If given, the ride's city must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, example = json!([4_198]))]
    pub city_ids: Option<Vec<i64>>,
    /// If given, the ride's service type must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, example = json!(["city"]))]
    pub service_types: Option<Vec<String>>,
    /// If given, the ride must have ended in one of these windows of the week, by local time; requires the
    /// time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 28)]
    pub hours: Option<Vec<Window>>,
    /// If given, the most rides that count per local day; requires the time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 10_000, example = 5)]
    pub max_rides_per_day: Option<u32>,
    /// The time zone that decides where a local day begins and ends; a name of the IANA database.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "time-zone", example = "America/Mexico_City")]
    pub day_boundary_timezone: Option<TimeZone>,
    /// When to remind the client of the deadlines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminders: Option<Reminders>,
}

impl Conditions {
    /// Reads and checks conditions. Reports all errors, each with its path under `conditions`. Unknown
    /// fields are errors, so that no rule is silently ignored.
    pub fn from_json(value: &Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Self::fields(value)?;
        let read = Self::read(&mut fields, Age::Written);
        if let Some(read) = &read {
            read.check_as_written(&mut fields);
        }
        fields.finish(read)
    }

    /// Checks that apply only to conditions that are written now. Frozen conditions were written under the
    /// rules of their time.
    fn check_as_written(&self, fields: &mut Fields<'_>) {
        let days = self.challenge_period.seconds().div_ceil(SECONDS_OF_DAY);
        let most = days + 1;
        if let Some(target) = self.target_days
            && u64::from(target) > most
        {
            fields.reject(
                "target_days",
                format!("must be at most {most}, the local days that challenge_period can touch, got {target}"),
            );
        }
    }

    /// Whether a release before 0.2.0 would misjudge participations under these conditions, because it does
    /// not know a further goal, narrowing or reminder that they have.
    pub fn need_finished_upgrade(&self) -> bool {
        self.has_further_goals()
            || self.min_distance_m.is_some()
            || self.hours.is_some()
            || self.reminders.is_some()
    }

    /// Reads the frozen conditions of a participation. Returns also the paths of the fields that this
    /// release does not know, which it ignores.
    ///
    /// Such a field comes from a later release. An upgrade writes none before every process of the release
    /// before is gone, so this covers only a forced mixture: one row must not stop the rides of all other
    /// clients. Ignoring a field can only help the client: a ride may count that the later release would not
    /// count.
    pub fn from_frozen(value: &Value) -> Result<(Self, Vec<String>), Vec<FieldError>> {
        let mut fields = Self::fields(value)?;
        let read = Self::read(&mut fields, Age::Frozen);
        let unknown = fields.unknown();
        Ok((fields.finish_known(read)?, unknown))
    }

    /// Whether a ride can count only if it has a place or a service type.
    pub const fn narrows_by_place_or_service(&self) -> bool {
        self.country_codes.is_some() || self.city_ids.is_some() || self.service_types.is_some()
    }

    fn fields(value: &Value) -> Result<Fields<'_>, Vec<FieldError>> {
        let Value::Object(object) = value else {
            return Err(vec![FieldError::wrong_type(
                "conditions",
                format!("must be an object, got {}", shown(&value.to_string())),
            )]);
        };
        Ok(Fields::under("conditions.", object))
    }

    /// Reads every field. `None` if one is wrong; `fields` then has the error.
    fn read(fields: &mut Fields<'_>, age: Age) -> Option<Self> {
        let target_rides = fields.required("target_rides", integer(1..=MAX_TARGET_RIDES.into()));
        let target_days = fields.optional("target_days", integer(1..=MAX_TARGET_DAYS.into()));
        let target_amount_cents = fields.optional("target_amount_cents", integer(1..=i64::MAX));
        let min_amount_cents = fields.required("min_amount_cents", integer(0..=i64::MAX));
        let min_distance_m = fields.optional("min_distance_m", integer(1..=MAX_MIN_DISTANCE));
        let currency_code = fields.required("currency_code", parsed);
        let challenge_period = fields.required("challenge_period", period);
        let claim_period = fields.required("claim_period", period);
        let country_codes = fields.optional("country_codes", list(parsed));
        let city_ids = fields.optional("city_ids", list(integer(0..=i64::MAX)));
        let service_types = fields.optional("service_types", list(service_type));
        let hours = fields.optional("hours", hours::windows);
        let max_rides_per_day =
            fields.optional("max_rides_per_day", integer(1..=MAX_TARGET_RIDES.into()));
        let day_boundary_timezone = fields.optional("day_boundary_timezone", parsed);
        let zoned = ["target_days", "hours", "max_rides_per_day"];
        if let Some(name) = zoned.into_iter().find(|name| fields.has(name))
            && !fields.has("day_boundary_timezone")
        {
            fields.reject("day_boundary_timezone", format!("is required with {name}"));
        }
        let bound = |period: Option<Period>| period.filter(|_| age == Age::Written);
        let reminders = fields.within("reminders", "conditions.reminders.", |fields| {
            Reminders::read(fields, bound(challenge_period), bound(claim_period))
        });
        Some(Self {
            target_rides: small(target_rides?),
            target_days: target_days.map(small),
            target_amount_cents,
            min_amount_cents: min_amount_cents?,
            min_distance_m,
            currency_code: currency_code?,
            challenge_period: challenge_period?,
            claim_period: claim_period?,
            country_codes,
            city_ids,
            service_types,
            hours,
            max_rides_per_day: max_rides_per_day.map(small),
            day_boundary_timezone,
            reminders,
        })
    }

    /// The JSON as it is stored and shown.
    pub fn to_json(&self) -> Value {
        // A struct of strings, numbers and lists always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Whether a condition depends on the rides that counted on a local day.
    pub fn counts_days(&self) -> bool {
        self.max_rides_per_day.is_some() || self.target_days.is_some()
    }

    /// The local day of a ride if [days are counted](Self::counts_days), else `None`. Compute it once and
    /// store it: the rules of the time zone may change.
    pub fn day_of(&self, ride: &Ride) -> Option<NaiveDate> {
        if !self.counts_days() {
            return None;
        }
        let zone = self.day_boundary_timezone.as_ref()?;
        Some(zone.local(ride.completed_at).date())
    }
}

/// Whether conditions are being written, or were frozen under the rules of their time: some rules hold
/// only of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Written,
    Frozen,
}

/// For numbers of at most 10,000, see the bounds given to [`integer`].
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(MAX_TARGET_RIDES)
}

fn period(value: &Value) -> Result<Period, BadValue> {
    let period: Period = parsed(value)?;
    if period.seconds() == 0 {
        return Err(BadValue::Invalid("must be at least PT1S".to_owned()));
    }
    Ok(period)
}

fn service_type(value: &Value) -> Result<String, BadValue> {
    let text = string(value)?;
    if is_service_type(text) {
        Ok(text.to_owned())
    } else {
        Err(BadValue::Invalid(
            "must be 1 to 64 printable characters".to_owned(),
        ))
    }
}

/// The items of a narrowing. With an empty list no ride could count.
fn list<T>(
    item: impl Fn(&Value) -> Result<T, BadValue>,
) -> impl Fn(&Value) -> Result<Vec<T>, BadValue> {
    move |value| {
        let items = value
            .as_array()
            .ok_or_else(|| BadValue::WrongType("must be a list".to_owned()))?;
        if items.is_empty() {
            return Err(BadValue::Invalid(
                "must not be empty; leave it out for no restriction".to_owned(),
            ));
        }
        items.iter().map(&item).collect()
    }
}

/// Whether a text has 1 to 64 printable characters (contract 4.1).
pub fn is_service_type(text: &str) -> bool {
    // Every character has at least one byte, so the byte length bounds the count early.
    !text.is_empty()
        && text.len() <= 64 * 4
        && text.chars().count() <= 64
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn full() -> Value {
        json!({ "target_rides": 20, "min_amount_cents": 5000, "currency_code": "MXN",
            "challenge_period": "P14D", "claim_period": "P7D", "country_codes": ["MX"], "city_ids": [4198],
            "service_types": ["city"], "max_rides_per_day": 5, "day_boundary_timezone": "America/Mexico_City",
            "reminders": { "challenge": ["P3D", "PT24H"], "reward": ["PT6H"] } })
    }

    fn fields_of(value: &Value) -> Vec<(String, bool)> {
        Conditions::from_json(value)
            .expect_err("bad")
            .into_iter()
            .map(|e| (e.field, e.wrong_type))
            .collect()
    }

    fn with(name: &str, value: Value) -> Value {
        let mut conditions = full();
        conditions[name] = value;
        conditions
    }

    #[test]
    fn reads_what_it_writes() {
        let conditions = Conditions::from_json(&full()).expect("valid");
        assert_eq!(conditions.to_json(), full());
    }

    #[test]
    fn frozen_conditions_of_a_later_release_are_read_without_its_field() {
        let later = with("max_passengers", json!(4));
        let (read, unknown) = Conditions::from_frozen(&later).expect("readable");
        assert_eq!(read.to_json(), full());
        assert_eq!(unknown, ["conditions.max_passengers"]);
        let within = with(
            "reminders",
            json!({ "reward": ["PT6H"], "start": ["PT1H"] }),
        );
        let (read, unknown) = Conditions::from_frozen(&within).expect("readable");
        assert_eq!(unknown, ["conditions.reminders.start"]);
        assert_eq!(read.to_json()["reminders"], json!({ "reward": ["PT6H"] }));
        assert!(Conditions::from_json(&within).is_err());
        let broken = with("target_rides", json!("20"));
        assert!(Conditions::from_frozen(&broken).is_err());
    }

    #[test]
    fn names_every_bad_field_at_once() {
        let bad = |field: &str, wrong_type| (format!("conditions.{field}"), wrong_type);
        assert_eq!(
            fields_of(
                &json!({ "target_rides": 0, "min_amount_cents": "5", "currency_code": "mxn", "challenge_period": "P1M",
            "city_ids": [], "max_rides_per_day": 1, "colour": "red" })
            ),
            [
                bad("target_rides", false),
                bad("min_amount_cents", true),
                bad("currency_code", false),
                bad("challenge_period", false),
                bad("claim_period", false),
                bad("city_ids", false),
                bad("day_boundary_timezone", false),
                bad("colour", false),
            ]
        );
    }

    #[test]
    fn frozen_conditions_are_not_held_to_what_is_checked_when_they_are_written() {
        let mut conditions = with("target_days", json!(16));
        assert_eq!(
            fields_of(&conditions),
            [("conditions.target_days".to_owned(), false)]
        );
        assert!(Conditions::from_frozen(&conditions).is_ok());
        conditions["target_days"] = json!(15);
        assert!(Conditions::from_json(&conditions).is_ok());

        let mut conditions = with(
            "reminders",
            json!({ "challenge": ["P15D"], "reward": ["P7D"] }),
        );
        // The other fields' errors are told beside these.
        conditions["target_rides"] = json!(0);
        let named = ["target_rides", "reminders.challenge", "reminders.reward"];
        assert_eq!(
            fields_of(&conditions),
            named.map(|name| (format!("conditions.{name}"), false))
        );
        conditions["target_rides"] = json!(1);
        let (read, _) = Conditions::from_frozen(&conditions).expect("readable");
        assert_eq!(read.to_json(), conditions);
    }

    #[test]
    fn bounds_each_field() {
        for (name, value) in [
            ("target_rides", json!(10_001)),
            ("target_rides", json!(9_223_372_036_854_775_808_u64)),
            ("min_amount_cents", json!(-1)),
            ("challenge_period", json!("PT0S")),
            ("claim_period", json!("P367D")),
            ("country_codes", json!(["mx"])),
            ("city_ids", json!([-1])),
            ("service_types", json!([""])),
            ("service_types", json!(["a\u{7}"])),
            ("max_rides_per_day", json!(0)),
            ("day_boundary_timezone", json!("Mars/Olympus")),
        ] {
            assert_eq!(
                fields_of(&with(name, value)),
                [(format!("conditions.{name}"), false)]
            );
        }
        for (name, value) in [
            ("target_rides", json!(20.0)),
            ("city_ids", json!(["4198"])),
            ("country_codes", json!("MX")),
        ] {
            assert_eq!(
                fields_of(&with(name, value)),
                [(format!("conditions.{name}"), true)]
            );
        }
    }
}
