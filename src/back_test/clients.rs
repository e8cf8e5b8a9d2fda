//! Every client's challenge, judged ride by ride as ingest judges it, and the counts that give the
//! result for all targets at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use chrono::TimeDelta;
use hashbrown::HashMap as FastMap;
use uuid::Uuid;

use super::report::{DaysToCompletion, NearMisses, Row};
use crate::domain::goals::Tally;
use crate::domain::participation::{Challenge, RideOutcome};
use crate::domain::promotion::{Conditions, Verdict};
use crate::domain::ride::Ride;
use crate::domain::{Instant, UserId};

/// A repeated ride is recognised while the client's newest ride was completed at most this much
/// later. Older ids are forgotten, so that memory does not grow with the rides.
const DUPLICATES_WITHIN: TimeDelta = TimeDelta::days(7);

/// How many rides short of the target is still a near miss.
const NEAR_MISS: u32 = 3;

/// Which rides of the input are in the period, and of which clients.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Rides completed before this are skipped.
    pub from: Option<Instant>,
    /// Rides completed at or after this are skipped.
    pub to: Option<Instant>,
    /// Only these clients, if given.
    pub users: Option<HashSet<UserId>>,
}

impl Scope {
    fn covers(&self, ride: &Ride) -> bool {
        self.from.is_none_or(|from| ride.completed_at >= from)
            && self.to.is_none_or(|to| ride.completed_at < to)
            && self
                .users
                .as_ref()
                .is_none_or(|users| users.contains(&ride.user_id))
    }
}

/// All clients of a back-test. It needs the rides in the order in which they were published.
pub struct Clients<'a> {
    /// With the largest target: a client who reached a smaller one continues to ride.
    conditions: &'a Conditions,
    targets: RangeInclusive<u32>,
    scope: Scope,
    clients: FastMap<UserId, Client<'a>>,
    /// `by_target[n][verdict]`: verdicts on rides of clients who had completed the challenge for every
    /// target up to `n`. They are verdicts for every target above it.
    by_target: Vec<[u64; Verdict::ALL.len()]>,
    /// Minutes from the start to the ride that counted as the n-th, by target.
    minutes: BTreeMap<u32, BTreeMap<u32, u64>>,
    duplicates: u64,
    outside: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

struct Client<'a> {
    challenge: Challenge<'a>,
    /// The largest target for which the challenge is completed; 0 at first.
    completed_target: u32,
    /// Rides that may come again.
    recent: Vec<(Instant, Uuid)>,
    newest: Instant,
}

impl<'a> Clients<'a> {
    /// No client yet. `conditions` have the last of `targets`.
    pub fn new(conditions: &'a Conditions, targets: RangeInclusive<u32>, scope: Scope) -> Self {
        let counts = conditions.target_rides as usize + 1;
        Self {
            conditions,
            targets,
            scope,
            clients: FastMap::new(),
            by_target: vec![[0; Verdict::ALL.len()]; counts],
            minutes: BTreeMap::new(),
            duplicates: 0,
            outside: 0,
            first: None,
            last: None,
        }
    }

    /// Rides that were recognised as repeats.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Rides outside of the period, or of clients that are not selected.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// The first and the last `completed_at` of the rides in scope.
    pub fn period(&self) -> Option<(Instant, Instant)> {
        self.first.zip(self.last)
    }

    /// Applies one ride. The client's first one starts their challenge.
    pub fn apply(&mut self, ride: &Ride) {
        if !self.scope.covers(ride) {
            self.outside += 1;
            return;
        }
        let completed_at = ride.completed_at;
        self.first = Some(
            self.first
                .map_or(completed_at, |first| first.min(completed_at)),
        );
        self.last = Some(
            self.last
                .map_or(completed_at, |last| last.max(completed_at)),
        );
        let conditions = self.conditions;
        let client = self
            .clients
            .entry(ride.user_id)
            .or_insert_with(|| Client::started(conditions, completed_at));
        if client.challenge.is_complete() {
            return;
        }
        if client.has_seen(ride) {
            self.duplicates += 1;
            return;
        }
        let completed_before = client.completed_target;
        let RideOutcome::Judged { judgement, .. } = client.challenge.take(ride) else {
            return;
        };
        // Repetitions are recognised by `recent`, which forgets; this would not.
        client.challenge.recorded.clear();
        self.by_target[completed_before as usize][judgement.verdict as usize] += 1;
        if judgement.verdict != Verdict::Counted {
            return;
        }
        let tally = &client.challenge.tally;
        if !conditions.has_reached_further_goals(tally) {
            return;
        }
        // With the further goals reached, every target is that the counted rides have reached.
        client.completed_target = conditions.rides_completed(tally);
        let minutes = (completed_at - client.challenge.started_at).num_minutes();
        let minutes = u32::try_from(minutes).unwrap_or(0);
        for target in completed_before + 1..=client.completed_target {
            if self.targets.contains(&target) {
                *self
                    .minutes
                    .entry(target)
                    .or_default()
                    .entry(minutes)
                    .or_default() += 1;
            }
        }
        if client.challenge.is_complete() {
            client.recent = Vec::new();
            client.challenge.counted_per_day = HashMap::new();
        }
    }

    /// The outcome for each target. `reward_cents` is what one completion costs.
    pub fn rows(&self, reward_cents: Option<i64>) -> Vec<Row> {
        let counts = self.by_target.len();
        let mut ended_with = vec![0_u64; counts];
        let mut open_with = vec![0_u64; counts];
        for client in self.clients.values() {
            let counted = self.conditions.rides_completed(&client.challenge.tally);
            ended_with[counted as usize] += 1;
            let is_open = self
                .last
                .is_some_and(|last| last < client.challenge.challenge_deadline);
            open_with[client.completed_target as usize] += u64::from(is_open);
        }
        self.targets
            .clone()
            .map(|target| {
                let short = |missing: u32| {
                    target
                        .checked_sub(missing)
                        .map_or(0, |counted| ended_with[counted as usize])
                };
                let until_target = ..target as usize;
                let none = BTreeMap::new();
                let minutes = self.minutes.get(&target).unwrap_or(&none);
                let completed: u64 = minutes.values().sum();
                Row {
                    target_rides: target,
                    clients: self.clients.len() as u64,
                    completed,
                    still_open: open_with[until_target].iter().sum(),
                    days_to_completion: DaysToCompletion::of(minutes),
                    near_misses: NearMisses([1, 2, NEAR_MISS].map(short)),
                    verdicts: Verdict::ALL.map(|verdict| {
                        let of_count =
                            |verdicts: &[u64; Verdict::ALL.len()]| verdicts[verdict as usize];
                        (
                            verdict,
                            self.by_target[until_target].iter().map(of_count).sum(),
                        )
                    }),
                    cost_cents: reward_cents.map(|cents| {
                        cents.saturating_mul(i64::try_from(completed).unwrap_or(i64::MAX))
                    }),
                }
            })
            .collect()
    }
}

impl<'a> Client<'a> {
    fn started(conditions: &'a Conditions, started_at: Instant) -> Self {
        Self {
            challenge: Challenge {
                conditions,
                started_at,
                challenge_deadline: started_at + conditions.challenge_period.delta(),
                tally: Tally::default(),
                recorded: HashMap::new(),
                counted_per_day: HashMap::new(),
            },
            completed_target: 0,
            recent: Vec::new(),
            newest: started_at,
        }
    }

    /// Whether this ride was seen before; remembers it.
    fn has_seen(&mut self, ride: &Ride) -> bool {
        self.newest = self.newest.max(ride.completed_at);
        let horizon = self.newest - DUPLICATES_WITHIN;
        if self
            .recent
            .iter()
            .any(|(_, ride_id)| *ride_id == ride.ride_id)
        {
            return true;
        }
        if self.recent.len() == self.recent.capacity() {
            self.recent
                .retain(|(completed_at, _)| *completed_at >= horizon);
        }
        self.recent.push((ride.completed_at, ride.ride_id));
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::hours::Weekday;

    const TARGETS: RangeInclusive<u32> = 1..=6;

    /// What the tests vary beside the target: goals, and every narrowing.
    #[derive(Clone, Debug, Default)]
    struct Rules {
        target_days: Option<u32>,
        target_amount_cents: Option<i64>,
        max_rides_per_day: Option<u32>,
        min_distance_m: Option<i64>,
        country_codes: Option<Vec<&'static str>>,
        city_ids: Option<Vec<i64>>,
        service_types: Option<Vec<&'static str>>,
        hours: Option<Value>,
    }

    fn conditions(target: u32, rules: &Rules) -> Conditions {
        let document = json!({ "target_rides": target, "min_amount_cents": 2, "currency_code": "MXN",
            "challenge_period": "P3D", "claim_period": "P7D", "day_boundary_timezone": "America/Mexico_City",
            "target_days": rules.target_days, "target_amount_cents": rules.target_amount_cents,
            "max_rides_per_day": rules.max_rides_per_day, "min_distance_m": rules.min_distance_m,
            "country_codes": rules.country_codes, "city_ids": rules.city_ids,
            "service_types": rules.service_types, "hours": rules.hours });
        Conditions::from_json(&document).expect("valid conditions")
    }

    prop_compose! {
        fn some_rules()(
            target_days in prop::option::of(1_u32..4),
            target_amount_cents in prop::option::of(1_i64..12),
            max_rides_per_day in prop::option::of(1_u32..3),
            min_distance_m in prop::option::of(1_i64..4),
            country_codes in prop::option::of(Just(vec!["MX", "BR"])),
            city_ids in prop::option::of(Just(vec![0, 1])),
            service_types in prop::option::of(Just(vec!["city"])),
            // Half of the week's days, half of a day.
            hours in prop::option::of(Just(json!([
                { "days": [Weekday::Sunday, Weekday::Tuesday], "from": "00:00", "to": "24:00" },
                { "days": [Weekday::Monday], "from": "06:30", "to": "18:30" },
            ]))),
        ) -> Rules {
            Rules {
                target_days, target_amount_cents, max_rides_per_day, min_distance_m, country_codes, city_ids,
                service_types, hours,
            }
        }
    }

    prop_compose! {
        /// What a ride says beside its client, moment and fare; each thing is one that counts more often
        /// than not.
        fn a_place()(
            currency in select(vec!["MXN", "MXN", "MXN", "COP"]),
            country in prop::option::weighted(0.9, select(vec!["MX", "MX", "BR", "CO"])),
            city_id in prop::option::weighted(0.9, 0_i64..3),
            service in prop::option::weighted(0.9, select(vec!["city", "city", "delivery"])),
            distance_m in prop::option::weighted(0.9, 0_i64..8),
        ) -> Ride {
            let currency_code = currency.parse().expect("a currency");
            Ride {
                country_code: country.map(|code| code.parse().expect("a country")),
                city_id,
                service_type: service.map(Box::from),
                distance_m,
                ..Ride::new(Uuid::nil(), 1, Instant::UNIX_EPOCH, 0, currency_code)
            }
        }
    }

    prop_compose! {
        /// A ride of one of three clients, within six days, some too cheap, some repeated.
        fn a_ride()(
            id in 0_u128..60, user_id in 1_i64..4, hours in 0_i64..144, amount_cents in 0_i64..6, place in a_place(),
        ) -> Ride {
            let first: Instant = "2026-11-01T00:00:00Z".parse().expect("an instant");
            Ride {
                ride_id: Uuid::from_u128(id),
                user_id,
                completed_at: first + TimeDelta::hours(hours),
                amount_cents,
                ..place
            }
        }
    }

    /// Each client's challenge with exactly this target, as ingest would apply the rides: the
    /// counts of completed challenges and of verdicts.
    fn as_ingest_does(conditions: &Conditions, rides: &[Ride]) -> (u64, [u64; Verdict::ALL.len()]) {
        let mut challenges: HashMap<UserId, Challenge<'_>> = HashMap::new();
        let mut verdicts = [0; Verdict::ALL.len()];
        for ride in rides {
            let challenge = challenges
                .entry(ride.user_id)
                .or_insert_with(|| Client::started(conditions, ride.completed_at).challenge);
            if let RideOutcome::Judged { judgement, .. } = challenge.take(ride) {
                verdicts[judgement.verdict as usize] += 1;
            }
        }
        let completed = challenges
            .values()
            .filter(|challenge| challenge.is_complete());
        (completed.count() as u64, verdicts)
    }

    proptest! {
        #[test]
        fn it_judges_as_ingest_does_in_one_pass_for_all_targets(
            rides in prop::collection::vec(a_ride(), 0..80),
            rules in some_rules(),
        ) {
            let widest = conditions(*TARGETS.end(), &rules);
            let mut clients = Clients::new(&widest, TARGETS, Scope::default());
            for ride in &rides {
                clients.apply(ride);
            }
            for row in clients.rows(Some(7)) {
                let one = conditions(row.target_rides, &rules);
                let (completed, verdicts) = as_ingest_does(&one, &rides);
                prop_assert_eq!(row.completed, completed);
                prop_assert_eq!(row.verdicts.map(|(_, rides)| rides), verdicts);
                prop_assert_eq!(row.cost_cents, Some(7 * completed as i64));
            }
        }
    }

    #[test]
    fn a_repetition_is_recognised_for_seven_days() {
        let widest = conditions(6, &Rules::default());
        let ride = |id: u128, day: i64| {
            let first: Instant = "2026-11-01T00:00:00Z".parse().expect("an instant");
            let currency_code = "MXN".parse().expect("a currency");
            let completed_at = first + TimeDelta::days(day);
            Ride::new(Uuid::from_u128(id), 1, completed_at, 5, currency_code)
        };
        let mut clients = Clients::new(&widest, TARGETS, Scope::default());
        for (id, day) in [(0, 0), (1, 7), (0, 0)] {
            clients.apply(&ride(id, day));
        }
        assert_eq!(clients.duplicates(), 1);
        // Much later, the ids of then are forgotten.
        for id in 100..200 {
            clients.apply(&ride(id, 30));
        }
        let remembered = &clients.clients[&1].recent;
        assert!(
            remembered
                .iter()
                .all(|(_, ride_id)| ride_id.as_u128() >= 100)
        );
    }
}
