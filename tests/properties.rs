//! Properties of the pure rules (contract 2 and 3), over inputs that nobody would think of: what
//! counts, in which order verdicts apply, that neither order nor repetition changes a count, and
//! which moves between statuses there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use ride_promo::domain::Instant;
use ride_promo::domain::goals::Tally;
use ride_promo::domain::participation::{
    Challenge, Completion, ExpiredReason, MoveError, RecordedRide, RideOutcome, Status, StatusName,
};
use ride_promo::domain::promotion::{Conditions, Verdict, judge};
use ride_promo::domain::ride::{Reversal, Ride, RideRecord};
use serde_json::{Value, json};
use uuid::Uuid;

/// A window of ten days across the end of daylight saving time in New York (3 November 2024).
fn window() -> (Instant, Instant) {
    (
        instant("2024-10-30T12:34:56.789Z"),
        instant("2024-11-09T12:34:56.789Z"),
    )
}

fn instant(text: &str) -> Instant {
    text.parse().expect("an instant")
}

fn conditions(document: &Value) -> Conditions {
    Conditions::from_json(document).unwrap_or_else(|errors| panic!("{errors:?} in {document}"))
}

/// A challenge that has just begun.
fn begun(conditions: &Conditions) -> Challenge<'_> {
    let (started_at, challenge_deadline) = window();
    Challenge {
        conditions,
        started_at,
        challenge_deadline,
        tally: Tally::default(),
        recorded: HashMap::new(),
        counted_per_day: HashMap::new(),
    }
}

/// Windows of the week of which some rides around the window lie within and some outside.
fn windows() -> Vec<Value> {
    vec![
        json!({ "days": ["WE", "SA", "SU"], "from": "00:00", "to": "12:00" }),
        json!({ "days": ["TH", "SA"], "from": "08:34", "to": "24:00" }),
    ]
}

/// Conditions without a daily cap, narrowed or not, that ask for `target` rides.
fn uncapped(target: impl Strategy<Value = u32>) -> impl Strategy<Value = Conditions> {
    let narrowing = |values: Vec<Value>| proptest::option::of(subsequence(values, 1..=2));
    (
        target,
        0_i64..3,
        narrowing(vec![json!("MX"), json!("US")]),
        narrowing(vec![json!(1), json!(2)]),
        narrowing(vec![json!("city"), json!("moto")]),
        narrowing(windows()),
        proptest::option::of(1_i64..3),
    )
        .prop_map(
            |(target, min_amount, countries, cities, services, hours, distance)| {
                let mut document = json!({
                    "target_rides": target, "min_amount_cents": min_amount, "currency_code": "MXN",
                    "challenge_period": "P10D", "claim_period": "P7D", "min_distance_m": distance,
                    "day_boundary_timezone": "America/New_York",
                });
                for (field, list) in [
                    ("country_codes", countries),
                    ("city_ids", cities),
                    ("service_types", services),
                    ("hours", hours),
                ] {
                    if let Some(list) = list {
                        document[field] = json!(list);
                    }
                }
                conditions(&document)
            },
        )
}

/// The same conditions with a daily cap, by New York's days.
fn capped(target: impl Strategy<Value = u32>) -> impl Strategy<Value = Conditions> {
    (uncapped(target), 1_u32..4).prop_map(|(conditions, most)| Conditions {
        max_rides_per_day: Some(most),
        day_boundary_timezone: Some("America/New_York".parse().expect("a zone")),
        ..conditions
    })
}

/// Conditions of any kind.
fn any_conditions(target: std::ops::Range<u32>) -> impl Strategy<Value = Conditions> {
    prop_oneof![uncapped(target.clone()), capped(target)]
}

/// The same conditions with further goals, of which each may be missing.
fn with_goals(conditions: impl Strategy<Value = Conditions>) -> impl Strategy<Value = Conditions> {
    let days = proptest::option::of(1_u32..6);
    let amount = proptest::option::of(1_i64..20);
    (conditions, days, amount).prop_map(|(conditions, target_days, target_amount_cents)| {
        Conditions {
            target_days,
            target_amount_cents,
            ..conditions
        }
    })
}

/// Instants in and around the window, every edge and many midnights among them.
fn around_the_window() -> impl Strategy<Value = Instant> {
    let (from, to) = window();
    let midnight_in_new_york = (0_i64..11).prop_map(|days| {
        let offset = if days < 4 { 4 } else { 5 };
        instant("2024-10-31T00:00:00Z") + TimeDelta::days(days) + TimeDelta::hours(offset)
    });
    let centre = prop_oneof![
        1 => Just(from),
        1 => Just(to),
        2 => midnight_in_new_york,
        6 => (0..(to - from).num_milliseconds()).prop_map(move |ms| from + TimeDelta::milliseconds(ms)),
    ];
    (centre, -2_i64..=2).prop_map(|(centre, ms)| centre + TimeDelta::milliseconds(ms))
}

prop_compose! {
    /// Rides of few different values, so that every rule is met and missed often.
    fn any_ride()(
        completed_at in around_the_window(),
        amount_cents in 0_i64..4,
        currency in select(vec!["MXN", "MXN", "MXN", "USD"]),
        country in select(vec![Some("MX"), Some("US"), Some("BR"), None]),
        city_id in select(vec![Some(1), Some(2), Some(3), None]),
        service in select(vec![Some("city"), Some("moto"), Some("City"), None]),
        distance_m in select(vec![Some(0), Some(1), Some(2), None]),
    ) -> Ride {
        Ride {
            ride_id: Uuid::nil(),
            user_id: 48_151,
            completed_at,
            amount_cents,
            currency_code: currency.parse().expect("a currency"),
            country_code: country.map(|code| code.parse().expect("a country")),
            city_id,
            service_type: service.map(Into::into),
            distance_m,
        }
    }
}

/// Up to `most` rides, each with an id of its own.
fn rides(most: usize) -> impl Strategy<Value = Vec<Ride>> {
    prop::collection::vec(any_ride(), 1..=most).prop_map(|rides| {
        let numbered = (1_u128..).zip(rides);
        numbered
            .map(|(number, ride)| Ride {
                ride_id: Uuid::from_u128(number),
                ..ride
            })
            .collect()
    })
}

/// Rides, and in which order and how often they arrive: each at least once.
fn deliveries(most: usize) -> impl Strategy<Value = (Vec<Ride>, Vec<Ride>)> {
    rides(most).prop_flat_map(|rides| {
        let arriving = prop::collection::vec(any::<Index>(), 0..=rides.len()).prop_map({
            let rides = rides.clone();
            move |again| {
                let again = again.iter().map(|index| index.get(&rides).clone());
                rides.iter().cloned().chain(again).collect::<Vec<_>>()
            }
        });
        (Just(rides), arriving.prop_shuffle())
    })
}

/// The judgements of the rides that were judged, by ride.
fn verdicts(challenge: &mut Challenge<'_>, rides: &[Ride]) -> BTreeMap<Uuid, Verdict> {
    let mut verdicts = BTreeMap::new();
    for ride in rides {
        if let RideOutcome::Judged { judgement, .. } = challenge.take(ride) {
            let before = verdicts.insert(ride.ride_id, judgement.verdict);
            assert_eq!(before, None, "judged twice");
        }
    }
    verdicts
}

fn counted(verdicts: &BTreeMap<Uuid, Verdict>) -> usize {
    verdicts
        .values()
        .filter(|verdict| **verdict == Verdict::Counted)
        .count()
}

/// The contract's rules, written down a second time: every one that a ride breaks, in order.
fn broken_rules(
    conditions: &Conditions,
    ride: &Ride,
    counted_that_day: u32,
) -> Vec<(Verdict, Value, Value)> {
    let (from, to) = window();
    let text = |at: DateTime<Utc>| json!(at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    let completed_at = text(ride.completed_at);
    let document = conditions.to_json();
    let outside = |field: &str, actual: &Value| {
        let allowed = document[field].as_array();
        allowed.is_some_and(|allowed| !allowed.contains(actual))
    };
    let (country, city) = (json!(ride.country_code), json!(ride.city_id));
    let service = json!(ride.service_type);
    let rules = [
        (
            ride.completed_at < from,
            Verdict::BeforeStart,
            text(from),
            completed_at.clone(),
        ),
        (
            ride.completed_at >= to,
            Verdict::AfterDeadline,
            text(to),
            completed_at,
        ),
        (
            json!(ride.currency_code) != document["currency_code"],
            Verdict::WrongCurrency,
            document["currency_code"].clone(),
            json!(ride.currency_code),
        ),
        (
            json!(ride.amount_cents).as_i64() < document["min_amount_cents"].as_i64(),
            Verdict::BelowMinAmount,
            document["min_amount_cents"].clone(),
            json!(ride.amount_cents),
        ),
        (
            document["min_distance_m"]
                .as_i64()
                .is_some_and(|least| ride.distance_m.unwrap_or(-1) < least),
            Verdict::BelowMinDistance,
            document["min_distance_m"].clone(),
            json!(ride.distance_m),
        ),
        (
            outside("country_codes", &country),
            Verdict::OutsideArea,
            document["country_codes"].clone(),
            country.clone(),
        ),
        (
            outside("city_ids", &city),
            Verdict::OutsideArea,
            document["city_ids"].clone(),
            city.clone(),
        ),
        (
            outside("service_types", &service),
            Verdict::WrongServiceType,
            document["service_types"].clone(),
            service.clone(),
        ),
        (
            document["hours"].as_array().is_some_and(|windows| {
                !windows
                    .iter()
                    .any(|window| covers(window, ride.completed_at))
            }),
            Verdict::OutsideHours,
            document["hours"].clone(),
            json!(
                in_new_york(ride.completed_at)
                    .format("%Y-%m-%dT%H:%M:%S")
                    .to_string()
            ),
        ),
        (
            document["max_rides_per_day"]
                .as_u64()
                .is_some_and(|most| u64::from(counted_that_day) >= most),
            Verdict::DailyLimitReached,
            document["max_rides_per_day"].clone(),
            json!(counted_that_day),
        ),
    ];
    rules
        .into_iter()
        .filter(|(broken, ..)| *broken)
        .map(|(_, verdict, required, actual)| (verdict, required, actual))
        .collect()
}

/// The local time in New York, from its offset in those two weeks rather than from a time zone
/// database.
fn in_new_york(at: Instant) -> NaiveDateTime {
    let daylight_saving_ends = instant("2024-11-03T06:00:00Z");
    let hours = if at < daylight_saving_ends { 4 } else { 5 };
    (at - TimeDelta::hours(hours)).naive_utc()
}

fn day_in_new_york(at: Instant) -> NaiveDate {
    in_new_york(at).date()
}

/// Whether a window of the document covers this instant, by its texts.
fn covers(window: &Value, at: Instant) -> bool {
    let local = in_new_york(at);
    let day = local.format("%a").to_string().to_uppercase()[..2].to_owned();
    let time = local.format("%H:%M:%S%.3f").to_string();
    let text = |name: &str| window[name].as_str().expect("a text").to_owned();
    let days = window["days"].as_array().expect("days");
    days.contains(&json!(day)) && text("from") <= time && time < text("to")
}

/// What a set of counted rides comes to.
fn tally_of<'a>(counted: impl IntoIterator<Item = &'a Ride>) -> Tally {
    let mut days = BTreeSet::new();
    let mut tally = Tally::default();
    for ride in counted {
        tally.rides += 1;
        tally.amount_cents += i128::from(ride.amount_cents);
        days.insert(day_in_new_york(ride.completed_at));
    }
    tally.days = days.len() as u32;
    tally
}

/// What clients are told of the goals.
fn told(conditions: &Conditions, tally: &Tally) -> Value {
    json!([
        conditions.rides_completed(tally),
        conditions.further_goals(tally)
    ])
}

/// Rides and reversals, some of rides that never come, in any order and some repeated.
fn records(most: usize) -> impl Strategy<Value = Vec<RideRecord>> {
    deliveries(most).prop_flat_map(|(rides, arriving)| {
        let reversed = prop::collection::vec(0..=rides.len() as u128 + 2, 0..rides.len());
        let reversals = reversed.prop_map(|ids| {
            let reversal = |id| Reversal {
                ride_id: Uuid::from_u128(id),
                user_id: 48_151,
            };
            ids.into_iter()
                .map(reversal)
                .map(RideRecord::Reversed)
                .collect::<Vec<_>>()
        });
        (Just(arriving), reversals)
            .prop_map(|(arriving, reversals)| {
                let rides = arriving.into_iter().map(RideRecord::Completed);
                rides.chain(reversals).collect::<Vec<_>>()
            })
            .prop_shuffle()
    })
}

/// The contract's table of reversals, written down a second time: records applied singly, in order,
/// with everything counted again from the rides each time.
fn one_by_one(conditions: &Conditions, records: &[RideRecord]) -> (BTreeMap<Uuid, Verdict>, Value) {
    let (started_at, deadline) = window();
    let mut recorded: BTreeMap<Uuid, (Verdict, Option<Ride>)> = BTreeMap::new();
    let counted = |recorded: &BTreeMap<Uuid, (Verdict, Option<Ride>)>| -> Vec<Ride> {
        let counted = recorded
            .values()
            .filter(|(verdict, _)| *verdict == Verdict::Counted);
        counted.filter_map(|(_, ride)| ride.clone()).collect()
    };
    for record in records {
        let counting = counted(&recorded);
        if conditions.is_reached_by(&tally_of(&counting)) {
            break;
        }
        match record {
            RideRecord::Completed(ride) => {
                let day = day_in_new_york(ride.completed_at);
                let that_day = counting
                    .iter()
                    .filter(|ride| day_in_new_york(ride.completed_at) == day);
                let judgement = judge(
                    conditions,
                    started_at,
                    deadline,
                    ride,
                    that_day.count() as u32,
                );
                recorded
                    .entry(ride.ride_id)
                    .or_insert_with(|| (judgement.verdict, Some(ride.clone())));
            }
            RideRecord::Reversed(reversal) => {
                recorded
                    .entry(reversal.ride_id)
                    .or_insert((Verdict::Reversed, None))
                    .0 = Verdict::Reversed;
            }
        }
    }
    let told = told(conditions, &tally_of(&counted(&recorded)));
    (
        recorded
            .into_iter()
            .map(|(id, (verdict, _))| (id, verdict))
            .collect(),
        told,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_window_takes_its_first_instant_and_not_its_last(
        started_at in 946_684_800_000_i64..4_000_000_000_000,
        seconds in 1_i64..=366 * 86_400,
        off in -3_i64..=3,
        at_the_end: bool,
    ) {
        let conditions = conditions(&json!({
            "target_rides": 1, "min_amount_cents": 0, "currency_code": "MXN",
            "challenge_period": format!("PT{seconds}S"), "claim_period": "P7D",
        }));
        let started_at = DateTime::from_timestamp_millis(started_at).expect("within range");
        let deadline = started_at + conditions.challenge_period.delta();
        let edge = if at_the_end { deadline } else { started_at };
        let ride = Ride {
            ride_id: Uuid::nil(),
            user_id: 1,
            completed_at: edge + TimeDelta::milliseconds(off),
            amount_cents: 0,
            currency_code: "MXN".parse().expect("a currency"),
            country_code: None,
            city_id: None,
            service_type: None,
            distance_m: None,
        };
        let expected = match (at_the_end, off >= 0) {
            (false, false) => Verdict::BeforeStart,
            (true, true) => Verdict::AfterDeadline,
            _ => Verdict::Counted,
        };
        prop_assert_eq!(judge(&conditions, started_at, deadline, &ride, 0).verdict, expected);
    }

    #[test]
    fn the_first_broken_rule_gives_the_verdict_and_the_values_compared(
        conditions in any_conditions(1..10),
        ride in any_ride(),
        counted_that_day in 0_u32..5,
    ) {
        let (started_at, deadline) = window();
        let judgement = judge(&conditions, started_at, deadline, &ride, counted_that_day);
        match broken_rules(&conditions, &ride, counted_that_day).first() {
            None => {
                prop_assert_eq!(judgement.verdict, Verdict::Counted);
                prop_assert_eq!(judgement.details, None);
            }
            Some((verdict, required, actual)) => {
                prop_assert_eq!(judgement.verdict, *verdict);
                let details = json!({ "required": required, "actual": actual });
                prop_assert_eq!(judgement.details, Some(details));
            }
        }
    }

    #[test]
    fn where_nothing_caps_the_order_of_arrival_and_repeats_change_no_verdict(
        conditions in uncapped(Just(10_000)),
        (rides, arriving) in deliveries(30),
    ) {
        let mut in_order = begun(&conditions);
        let mut as_they_come = begun(&conditions);
        let expected = verdicts(&mut in_order, &rides);
        prop_assert_eq!(&verdicts(&mut as_they_come, &arriving), &expected);
        prop_assert_eq!(expected.len(), rides.len(), "every ride is judged");
        prop_assert_eq!(in_order.tally.rides, as_they_come.tally.rides);
        prop_assert_eq!(in_order.tally.rides as usize, counted(&expected));
    }

    #[test]
    fn where_only_the_target_caps_the_order_of_arrival_changes_no_count(
        conditions in uncapped(1_u32..10),
        (rides, arriving) in deliveries(30),
    ) {
        let mut in_order = begun(&conditions);
        let mut as_they_come = begun(&conditions);
        verdicts(&mut in_order, &rides);
        verdicts(&mut as_they_come, &arriving);
        prop_assert_eq!(in_order.tally.rides, as_they_come.tally.rides);
    }

    #[test]
    fn applying_everything_again_changes_nothing(
        conditions in any_conditions(1..20),
        rides in rides(30),
        spoiled in any::<Index>(),
    ) {
        let mut challenge = begun(&conditions);
        let recorded: BTreeSet<Uuid> = verdicts(&mut challenge, &rides).into_keys().collect();
        let (completed, per_day) = (challenge.tally.rides, challenge.counted_per_day.clone());
        let spoiled = spoiled.index(rides.len());
        for (index, ride) in rides.iter().enumerate() {
            let mut again = ride.clone();
            if index == spoiled {
                again.amount_cents += 1_000;
            }
            let outcome = challenge.take(&again);
            if recorded.contains(&ride.ride_id) {
                prop_assert_eq!(outcome, RideOutcome::Duplicate { differs: index == spoiled });
            } else {
                prop_assert_eq!(outcome, RideOutcome::NotInProgress);
            }
        }
        prop_assert_eq!(challenge.tally.rides, completed);
        prop_assert_eq!(challenge.counted_per_day, per_day);
    }

    #[test]
    fn a_duplicate_uses_up_no_place_of_a_day_or_of_the_target(
        conditions in any_conditions(1..10),
        (_, arriving) in deliveries(30),
    ) {
        let mut seen = BTreeSet::new();
        let mut once = arriving.clone();
        once.retain(|ride| seen.insert(ride.ride_id));
        let mut with_repeats = begun(&conditions);
        let mut without = begun(&conditions);
        prop_assert_eq!(verdicts(&mut with_repeats, &arriving), verdicts(&mut without, &once));
        prop_assert_eq!(with_repeats.tally.rides, without.tally.rides);
    }

    #[test]
    fn neither_the_target_nor_a_days_cap_is_ever_exceeded_or_left_short(
        conditions in capped(1_u32..10),
        (_, arriving) in deliveries(40),
    ) {
        let mut challenge = begun(&conditions);
        let most = conditions.max_rides_per_day.expect("capped");
        let mut per_day: BTreeMap<NaiveDate, u32> = BTreeMap::new();
        for ride in &arriving {
            let complete = challenge.is_complete();
            let day = per_day.entry(day_in_new_york(ride.completed_at)).or_default();
            match challenge.take(ride) {
                RideOutcome::Judged { judgement, .. } => {
                    prop_assert!(!complete, "judged after the target was reached");
                    match judgement.verdict {
                        Verdict::Counted => *day += 1,
                        Verdict::DailyLimitReached => prop_assert_eq!(*day, most),
                        _ => {}
                    }
                    prop_assert!(*day <= most);
                }
                RideOutcome::Duplicate { differs } => prop_assert!(!differs),
                RideOutcome::NotInProgress => prop_assert!(complete),
                RideOutcome::Reversed { .. } | RideOutcome::ReversedBefore => unreachable!("a ride"),
            }
            prop_assert!(challenge.tally.rides <= conditions.target_rides);
            prop_assert_eq!(challenge.tally.rides, per_day.values().sum::<u32>());
        }
    }

    #[test]
    fn how_rides_are_cut_into_batches_changes_nothing(
        conditions in any_conditions(1..20),
        (_, arriving) in deliveries(30),
        size in 1_usize..10,
    ) {
        let mut whole = begun(&conditions);
        let expected = verdicts(&mut whole, &arriving);
        // Between batches only receipts and the participation are kept.
        let mut kept: BTreeMap<Uuid, RecordedRide> = BTreeMap::new();
        let mut tally = Tally::default();
        for batch in arriving.chunks(size) {
            let mut challenge = Challenge {
                tally,
                recorded: kept.clone().into_iter().collect(),
                ..begun(&conditions)
            };
            for ride in kept.values().filter(|ride| ride.verdict == Verdict::Counted) {
                if let Some(day) = ride.day {
                    *challenge.counted_per_day.entry(day).or_default() += 1;
                }
            }
            if challenge.is_complete() {
                break;
            }
            for ride in batch {
                challenge.take(ride);
            }
            tally = challenge.tally;
            kept = challenge.recorded.into_iter().collect();
        }
        let kept: BTreeMap<Uuid, Verdict> =
            kept.into_iter().map(|(id, ride)| (id, ride.verdict)).collect();
        prop_assert_eq!(kept, expected);
        prop_assert_eq!(tally, whole.tally);
    }

    #[test]
    fn goals_are_of_the_set_of_counted_rides_whatever_their_order(
        conditions in with_goals(uncapped(1_u32..10)),
        (rides, arriving) in deliveries(30),
    ) {
        let mut in_order = begun(&conditions);
        let mut as_they_come = begun(&conditions);
        verdicts(&mut in_order, &rides);
        verdicts(&mut as_they_come, &arriving);
        prop_assert_eq!(told(&conditions, &in_order.tally), told(&conditions, &as_they_come.tally));
        prop_assert_eq!(in_order.is_complete(), as_they_come.is_complete());
    }

    #[test]
    fn rides_and_reversals_cut_into_batches_anyhow_end_as_one_by_one(
        conditions in with_goals(any_conditions(1..10)),
        records in records(30),
        sizes in prop::collection::vec(1_usize..8, 1..20),
    ) {
        let (expected, told_in_the_end) = one_by_one(&conditions, &records);
        let mut kept: HashMap<Uuid, RecordedRide> = HashMap::new();
        let mut counted_per_day: HashMap<NaiveDate, u32> = HashMap::new();
        let mut tally = Tally::default();
        let mut rest = &records[..];
        for size in sizes.iter().cycle() {
            let (batch, after) = rest.split_at((*size).min(rest.len()));
            rest = after;
            let mut challenge = Challenge {
                tally,
                // What ingest reads: the rides of the batch.
                recorded: batch.iter().filter_map(|record| {
                    let id = record.ride_id();
                    Some((id, *kept.get(&id)?))
                }).collect(),
                counted_per_day: counted_per_day.clone(),
                ..begun(&conditions)
            };
            if challenge.is_complete() || batch.is_empty() {
                break;
            }
            let before = tally;
            let mut moves = 0;
            for record in batch {
                let outcome = match record {
                    RideRecord::Completed(ride) => challenge.take(ride),
                    RideRecord::Reversed(reversal) => challenge.take_back(reversal),
                };
                moves += u32::from(matches!(
                    outcome,
                    RideOutcome::Judged { moved: true, .. } | RideOutcome::Reversed { moved: true, .. }
                ));
            }
            tally = challenge.tally;
            prop_assert!(moves > 0 || told(&conditions, &before) == told(&conditions, &tally));
            kept.extend(challenge.recorded);
            counted_per_day = challenge.counted_per_day;
        }
        let kept: BTreeMap<Uuid, Verdict> =
            kept.into_iter().map(|(id, ride)| (id, ride.verdict)).collect();
        prop_assert_eq!(kept, expected);
        prop_assert_eq!(told(&conditions, &tally), told_in_the_end);
    }

    #[test]
    fn a_ride_that_says_something_else_in_one_field_has_another_fingerprint(
        one in any_ride(),
        other in any_ride(),
        field in 0..7,
    ) {
        let mut changed = one.clone();
        match field {
            0 => changed.completed_at = other.completed_at,
            1 => changed.amount_cents = other.amount_cents,
            2 => changed.currency_code = other.currency_code,
            3 => changed.country_code = other.country_code,
            4 => changed.city_id = other.city_id,
            5 => changed.service_type = other.service_type,
            _ => changed.distance_m = other.distance_m,
        }
        prop_assert_eq!(one.fingerprint() == changed.fingerprint(), one == changed);
    }

    #[test]
    fn only_the_contracts_moves_between_statuses_are_possible(
        status in select(StatusName::ALL.to_vec()),
        expired_for in select(ExpiredReason::ALL.to_vec()),
        off in prop_oneof![Just(0_i64), -2_i64..=2, any::<i32>().prop_map(i64::from)],
    ) {
        let conditions = conditions(&json!({
            "target_rides": 1, "min_amount_cents": 0, "currency_code": "MXN",
            "challenge_period": "P10D", "claim_period": "P7D",
        }));
        let (before, deadline) = window();
        let now = deadline + TimeDelta::milliseconds(off);
        let passed = off >= 0;
        let completion = Completion { completed_at: before, reward_deadline: deadline };
        let status = match status {
            StatusName::InProgress => Status::InProgress,
            StatusName::Completed => Status::Completed(completion),
            StatusName::Rewarded => Status::Rewarded { completion, rewarded_at: before },
            StatusName::Expired => Status::Expired { completion: None, expired_at: before, reason: expired_for },
        };
        let refused = MoveError::From(status.name());
        let expired = |reason, completion| Status::Expired { completion, expired_at: now, reason };

        // A completing ride is judged by when it was completed, so no deadline stands in its way.
        let completed = Status::Completed(Completion {
            completed_at: now,
            reward_deadline: now + TimeDelta::days(7),
        });
        prop_assert_eq!(status.complete(now, &conditions), match status {
            Status::InProgress => Ok(completed),
            _ => Err(refused),
        });
        prop_assert_eq!(status.accept(now), match status {
            Status::Completed(_) if passed => Err(MoveError::TooLate),
            Status::Completed(_) => Ok(Status::Rewarded { completion, rewarded_at: now }),
            _ => Err(refused),
        });
        prop_assert_eq!(status.expire(deadline, now), match status {
            Status::InProgress | Status::Completed(_) if !passed => Err(MoveError::TooEarly),
            Status::InProgress => Ok(expired(ExpiredReason::ChallengeNotCompleted, None)),
            Status::Completed(_) => Ok(expired(ExpiredReason::RewardNotClaimed, Some(completion))),
            _ => Err(refused),
        });
        // At any time until the challenge is settled, the client may quit it.
        prop_assert_eq!(status.quit(now), match status {
            Status::InProgress => Ok(expired(ExpiredReason::Quit, None)),
            _ => Err(refused),
        });
        prop_assert_eq!(status.cancel(now), match status {
            Status::Completed(_) if passed => Err(MoveError::TooLate),
            Status::InProgress => Ok(expired(ExpiredReason::Cancelled, None)),
            Status::Completed(_) => Ok(expired(ExpiredReason::Cancelled, Some(completion))),
            _ => Err(refused),
        });
    }
}
