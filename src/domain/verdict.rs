//! The judgement of one ride against a promotion's conditions (contract 2).

use serde_json::{Value, json};

use super::Instant;
use super::promotion::Conditions;
use super::ride::Ride;
use super::words::words;

words! {
    /// The result of judging one ride: the first of these that applies. A ride is judged once; only
    /// `REVERSED` replaces another verdict.
    pub enum Verdict {
        /// Completed before the challenge started.
        BeforeStart = "BEFORE_START",
        /// Completed at or after the challenge's deadline.
        AfterDeadline = "AFTER_DEADLINE",
        /// The fare is in another currency.
        WrongCurrency = "WRONG_CURRENCY",
        /// The fare is lower than the lowest that counts.
        BelowMinAmount = "BELOW_MIN_AMOUNT",
        /// The ride is shorter than the shortest that counts, or has no distance.
        BelowMinDistance = "BELOW_MIN_DISTANCE",
        /// The ride was in another country or city, or does not say where.
        OutsideArea = "OUTSIDE_AREA",
        /// The ride has another service type, or none.
        WrongServiceType = "WRONG_SERVICE_TYPE",
        /// The ride ended at a time of the week at which rides do not count.
        OutsideHours = "OUTSIDE_HOURS",
        /// The most rides that may count on that day have counted.
        DailyLimitReached = "DAILY_LIMIT_REACHED",
        /// The ride counts.
        Counted = "COUNTED",
        /// The ride was recorded, and then the platform took it back.
        Reversed = "REVERSED",
    }
}

/// A verdict with the values compared, in the units of the rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
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

/// Judges a ride that was not recorded before. The window is `[started_at, challenge_deadline)`;
/// `counted_that_day` is how many rides of [`Conditions::day_of`] have counted.
pub fn judge(
    conditions: &Conditions,
    started_at: Instant,
    challenge_deadline: Instant,
    ride: &Ride,
    counted_that_day: u32,
) -> Judgement {
    // All fields are named, so that a later narrowing is not forgotten here.
    let Conditions {
        target_rides: _,
        target_days: _,
        target_amount_cents: _,
        min_amount_cents,
        min_distance_m,
        currency_code,
        challenge_period: _,
        claim_period: _,
        country_codes,
        city_ids,
        service_types,
        hours,
        max_rides_per_day,
        day_boundary_timezone,
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
    if let Some(least) = min_distance_m
        && ride.distance_m.is_none_or(|metres| metres < *least)
    {
        return refused(
            Verdict::BelowMinDistance,
            json!(least),
            json!(ride.distance_m),
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
    // Conditions with hours always have a zone: their reader demands it.
    if let (Some(windows), Some(zone)) = (hours, day_boundary_timezone) {
        let local = zone.local(ride.completed_at);
        if !windows.iter().any(|window| window.covers(local)) {
            return refused(
                Verdict::OutsideHours,
                json!(windows),
                json!(local.format("%Y-%m-%dT%H:%M:%S").to_string()),
            );
        }
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
