//! A promotion's conditions and the judgement of one ride against them (contract 2).

use chrono::NaiveDate;
use serde::Serialize;
use serde_json::{Value, json};

use super::Instant;
use super::fields::{FieldError, Fields, Refusal, integer, parsed, shown, string};
use super::period::Period;
use super::reminder::Reminders;
use super::reward::{CountryCode, CurrencyCode};
use super::ride::Ride;
use super::time_zone::TimeZone;
use super::words::words;

/// The most rides a promotion may ask for.
pub const MAX_TARGET_RIDES: u32 = 10_000;

/// The rules of a promotion. Only [`Conditions::from_json`] makes them, so they are always valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(
    description = "The rules of a promotion. The optional ones narrow it: left out or `null`, they restrict nothing, and a ride that does not say what a narrowing asks for does not match it."
)]
pub struct Conditions {
    /// How many rides complete the challenge, 1 to 10,000.
    #[schema(value_type = i32, minimum = 1, maximum = 10_000, example = 20)]
    pub target_rides: u32,
    /// The least fare that counts, in cents.
    #[schema(minimum = 0, example = 5_000)]
    pub min_amount_cents: i64,
    /// The only currency that counts.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: CurrencyCode,
    /// How long the challenge runs from its start: ISO 8601 of weeks, days, hours, minutes and
    /// seconds, from `PT1S` to `P366D`; a day is 24 hours.
    #[schema(value_type = String, format = "duration", example = "P14D")]
    pub challenge_period: Period,
    /// How long the reward may be claimed from completion, in the same form.
    #[schema(value_type = String, format = "duration", example = "P7D")]
    pub claim_period: Period,
    /// Where given, the ride's country must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, min_items = 1, example = json!(["MX"]))]
    pub country_codes: Option<Vec<CountryCode>>,
    /// Where given, the ride's city must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, example = json!([4_198]))]
    pub city_ids: Option<Vec<i64>>,
    /// Where given, the ride's kind must be one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, example = json!(["city"]))]
    pub service_types: Option<Vec<String>>,
    /// Where given, the most rides that count per local day; goes with the time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 10_000, example = 5)]
    pub max_rides_per_day: Option<u32>,
    /// Where a day begins and ends: a time zone of the IANA database.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "time-zone", example = "America/Mexico_City")]
    pub day_boundary_timezone: Option<TimeZone>,
    /// When to remind the client of the deadlines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminders: Option<Reminders>,
}

impl Conditions {
    /// Reads and checks conditions, reporting everything that is wrong, each with its path under
    /// `conditions`. Unknown fields are errors, so that no rule is silently ignored.
    pub fn from_json(value: &Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Self::fields(value)?;
        let read = Self::read(&mut fields);
        fields.finish(read)
    }

    /// Reads the frozen conditions of a participation, and the paths of the fields that this release
    /// does not know, which it ignores.
    ///
    /// Such a field is of a later release. An upgrade writes none before every process of the
    /// release before has gone, so this covers a forced mixture only: one row must not stop the
    /// rides of all other clients. What is ignored can only be in the client's favour: a ride counts
    /// that the later release would refuse.
    pub fn from_frozen(value: &Value) -> Result<(Self, Vec<String>), Vec<FieldError>> {
        let mut fields = Self::fields(value)?;
        let read = Self::read(&mut fields);
        let unknown = fields.unknown();
        Ok((fields.finish_known(read)?, unknown))
    }

    /// Whether a ride must say where it was or what kind it is to count.
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

    /// Every field; `None` where one is wrong, which the fields then know.
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let target_rides = fields.required("target_rides", integer(1..=MAX_TARGET_RIDES.into()));
        let min_amount_cents = fields.required("min_amount_cents", integer(0..=i64::MAX));
        let currency_code = fields.required("currency_code", parsed);
        let challenge_period = fields.required("challenge_period", period);
        let claim_period = fields.required("claim_period", period);
        let country_codes = fields.optional("country_codes", list(parsed));
        let city_ids = fields.optional("city_ids", list(integer(0..=i64::MAX)));
        let service_types = fields.optional("service_types", list(service_type));
        let max_rides_per_day =
            fields.optional("max_rides_per_day", integer(1..=MAX_TARGET_RIDES.into()));
        let day_boundary_timezone = fields.optional("day_boundary_timezone", parsed);
        if fields.has("max_rides_per_day") && !fields.has("day_boundary_timezone") {
            fields.refuse(
                "day_boundary_timezone",
                "is required with max_rides_per_day",
            );
        }
        let reminders = fields.within("reminders", "conditions.reminders.", |fields| {
            Reminders::read(fields, challenge_period, claim_period)
        });
        Some(Self {
            target_rides: small(target_rides?),
            min_amount_cents: min_amount_cents?,
            currency_code: currency_code?,
            challenge_period: challenge_period?,
            claim_period: claim_period?,
            country_codes,
            city_ids,
            service_types,
            max_rides_per_day: max_rides_per_day.map(small),
            day_boundary_timezone,
            reminders,
        })
    }

    /// Whether the release before 0.2.0 would misjudge them, so that they may be written only once
    /// the upgrade is finished.
    pub fn need_finished_upgrade(&self) -> bool {
        self.reminders.is_some()
    }

    /// The document as it is stored and shown.
    pub fn to_json(&self) -> Value {
        // A struct of texts, numbers and lists always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The local day of a ride where rides per day are capped, else `None`.
    pub fn day_of(&self, ride: &Ride) -> Option<NaiveDate> {
        self.max_rides_per_day?;
        let zone = self.day_boundary_timezone.as_ref()?;
        Some(zone.local(ride.completed_at).date())
    }
}

/// At most 10,000, see the bounds given to [`integer`].
fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(MAX_TARGET_RIDES)
}

fn period(value: &Value) -> Result<Period, Refusal> {
    let period: Period = parsed(value)?;
    if period.seconds() == 0 {
        return Err(Refusal::Invalid("must be at least PT1S".to_owned()));
    }
    Ok(period)
}

fn service_type(value: &Value) -> Result<String, Refusal> {
    let text = string(value)?;
    if is_service_type(text) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::Invalid(
            "must be 1 to 64 printable characters".to_owned(),
        ))
    }
}

/// Items of a narrowing; none at all would let no ride count.
fn list<T>(
    item: impl Fn(&Value) -> Result<T, Refusal>,
) -> impl Fn(&Value) -> Result<Vec<T>, Refusal> {
    move |value| {
        let items = value
            .as_array()
            .ok_or_else(|| Refusal::WrongType("must be a list".to_owned()))?;
        if items.is_empty() {
            return Err(Refusal::Invalid(
                "must not be empty; leave it out for no restriction".to_owned(),
            ));
        }
        items.iter().map(&item).collect()
    }
}

/// 1 to 64 printable characters (contract 4.1).
pub fn is_service_type(text: &str) -> bool {
    // Every character is at least a byte, so the byte length bounds the count early.
    !text.is_empty()
        && text.len() <= 64 * 4
        && text.chars().count() <= 64
        && !text.chars().any(char::is_control)
}

words! {
    /// What was decided about one ride: the first of these that applies.
    pub enum Verdict {
        /// Completed before the challenge started.
        BeforeStart = "BEFORE_START",
        /// Completed at or after the challenge's deadline.
        AfterDeadline = "AFTER_DEADLINE",
        /// Paid in another currency.
        WrongCurrency = "WRONG_CURRENCY",
        /// Cheaper than the least fare that counts.
        BelowMinAmount = "BELOW_MIN_AMOUNT",
        /// In another country or city, or it does not say where.
        OutsideArea = "OUTSIDE_AREA",
        /// Of another kind, or it does not say which.
        WrongServiceType = "WRONG_SERVICE_TYPE",
        /// As many rides of that day as may count have counted.
        DailyLimitReached = "DAILY_LIMIT_REACHED",
        /// It counts.
        Counted = "COUNTED",
    }
}

/// A verdict with the values compared, in the units of the rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What was decided.
    pub verdict: Verdict,
    /// `{"required", "actual"}`; `None` for a counted ride.
    pub details: Option<Value>,
}

impl Judgement {
    fn refused(verdict: Verdict, required: Value, actual: Value) -> Self {
        Self {
            verdict,
            details: Some(json!({ "required": required, "actual": actual })),
        }
    }
}

/// Judges a ride that was not recorded before: `[started_at, challenge_deadline)` is the window,
/// `counted_that_day` how many rides of [`Conditions::day_of`] already counted.
pub fn judge(
    conditions: &Conditions,
    started_at: Instant,
    challenge_deadline: Instant,
    ride: &Ride,
    counted_that_day: u32,
) -> Judgement {
    // All of them by name, so that a narrowing to come is not forgotten here.
    let Conditions {
        target_rides: _,
        min_amount_cents,
        currency_code,
        challenge_period: _,
        claim_period: _,
        country_codes,
        city_ids,
        service_types,
        max_rides_per_day,
        day_boundary_timezone: _,
        reminders: _,
    } = conditions;
    let refused = Judgement::refused;
    if ride.completed_at < started_at {
        return refused(
            Verdict::BeforeStart,
            instant(started_at),
            instant(ride.completed_at),
        );
    }
    if ride.completed_at >= challenge_deadline {
        return refused(
            Verdict::AfterDeadline,
            instant(challenge_deadline),
            instant(ride.completed_at),
        );
    }
    if ride.currency_code != *currency_code {
        return refused(
            Verdict::WrongCurrency,
            json!(currency_code),
            json!(ride.currency_code),
        );
    }
    if ride.amount_cents < *min_amount_cents {
        return refused(
            Verdict::BelowMinAmount,
            json!(min_amount_cents),
            json!(ride.amount_cents),
        );
    }
    if let Some(countries) = country_codes
        && !ride
            .country_code
            .is_some_and(|country| countries.contains(&country))
    {
        return refused(
            Verdict::OutsideArea,
            json!(countries),
            json!(ride.country_code),
        );
    }
    if let Some(cities) = city_ids
        && !ride.city_id.is_some_and(|city| cities.contains(&city))
    {
        return refused(Verdict::OutsideArea, json!(cities), json!(ride.city_id));
    }
    if let Some(services) = service_types
        && !ride
            .service_type
            .as_deref()
            .is_some_and(|service| services.iter().any(|known| known == service))
    {
        return refused(
            Verdict::WrongServiceType,
            json!(services),
            json!(ride.service_type),
        );
    }
    if let Some(most) = max_rides_per_day
        && counted_that_day >= *most
    {
        return refused(
            Verdict::DailyLimitReached,
            json!(most),
            json!(counted_that_day),
        );
    }
    Judgement {
        verdict: Verdict::Counted,
        details: None,
    }
}

fn instant(instant: Instant) -> Value {
    json!(instant.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
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
