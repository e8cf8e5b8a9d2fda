//! Every client's challenge, judged ride by ride as ingest judges it, and the counts that give the
//! result for all targets at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use chrono::TimeDelta;
use hashbrown::HashMap as FastMap;
use uuid::Uuid;

use super::report::{DaysToCompletion, NearMisses, Row};
use crate::domain::goals::Tally;
use crate::domain::participation::{Challenge, RecordedRide, RideOutcome};
use crate::domain::promotion::{Conditions, Verdict};
use crate::domain::ride::{Reversal, Ride, RideRecord};
use crate::domain::{Instant, UserId};

/// A ride is recognised when it is repeated or taken back while the client's newest ride was completed at
/// most this much later. Older rides are forgotten, so that memory does not grow with the rides.
const REMEMBERED: TimeDelta = TimeDelta::days(7);

/// How many rides short of the target is still a near miss.
const NEAR_MISS: usize = 3;

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
    /// target up to `n`. They are verdicts for every target above it. A ride that is taken back loses its
    /// verdict only for the targets above those completed by then, so a number alone may be below zero.
    by_target: Vec<[i64; Verdict::ALL.len()]>,
    /// Minutes from the start to the ride that counted as the n-th, by target.
    minutes: BTreeMap<u32, BTreeMap<u32, u64>>,
    duplicates: u64,
    reversals: u64,
    outside: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

struct Client<'a> {
    challenge: Challenge<'a>,
    /// The largest target for which the challenge is completed; 0 at first.
    completed_target: u32,
    /// Rides that may come again or be taken back.
    recent: Vec<RecentRide>,
    newest: Instant,
}

/// A ride that may come again or be taken back.
struct RecentRide {
    ride_id: Uuid,
    /// When it was completed; of a ride of which only the reversal came, the client's newest until then.
    completed_at: Instant,
    recorded: RecordedRide,
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
            reversals: 0,
            outside: 0,
            first: None,
            last: None,
        }
    }

    /// Rides that were recognised as repeats.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Reversals, with whatever effect.
    pub fn reversals(&self) -> u64 {
        self.reversals
    }

    /// Rides outside of the period, or of clients that are not selected.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// The first and the last `completed_at` of the rides in scope.
    pub fn period(&self) -> Option<(Instant, Instant)> {
        self.first.zip(self.last)
    }

    /// Applies one record of the topic.
    pub fn apply_record(&mut self, record: &RideRecord) {
        match record {
            RideRecord::Completed(ride) => self.apply(ride),
            RideRecord::Reversed(reversal) => self.take_back(reversal),
        }
    }

    /// Applies one ride. The client's first one starts their challenge.
    fn apply(&mut self, ride: &Ride) {
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
        client.newest = client.newest.max(completed_at);
        if client.has_seen(ride.ride_id) {
            self.duplicates += 1;
            return;
        }
        let completed_before = client.completed_target;
        let RideOutcome::Judged { judgement, .. } = client.challenge.take(ride) else {
            return;
        };
        client.remember(ride.ride_id, completed_at);
        self.by_target[completed_before as usize][judgement.verdict as usize] += 1;
        if judgement.verdict != Verdict::Counted {
            return;
        }
        let tally = &client.challenge.tally;
        if !conditions.has_reached_further_goals(tally) {
            return;
        }
        // With the further goals reached, every target is that the counted rides have reached. What was
        // completed stays completed, whatever was taken back since.
        client.completed_target = conditions.rides_completed(tally).max(completed_before);
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

    /// Takes a ride back, where the client's challenge is in progress.
    fn take_back(&mut self, reversal: &Reversal) {
        self.reversals += 1;
        let Some(client) = self.clients.get_mut(&reversal.user_id) else {
            return;
        };
        if client.challenge.is_complete() {
            return;
        }
        let ride_id = reversal.ride_id;
        let recent = &mut client.recent;
        let place = recent.iter().position(|recent| recent.ride_id == ride_id);
        let known = place.map(|place| recent.swap_remove(place));
        let completed_at = known
            .as_ref()
            .map_or(client.newest, |known| known.completed_at);
        let recorded = known.map(|known| (ride_id, known.recorded));
        client.challenge.recorded.extend(recorded);
        let outcome = client.challenge.take_back(reversal);
        client.remember(ride_id, completed_at);
        if let RideOutcome::Reversed { before, .. } = outcome {
            let verdicts = &mut self.by_target[client.completed_target as usize];
            if let Some(before) = before {
                verdicts[before as usize] -= 1;
            }
            verdicts[Verdict::Reversed as usize] += 1;
        }
    }

    /// The outcome for each target. `reward_cents` is what one completion costs.
    pub fn rows(&self, reward_cents: Option<i64>) -> Vec<Row> {
        let counts = self.by_target.len();
        let mut short_of = vec![[0_u64; NEAR_MISS]; counts];
        let mut open_with = vec![0_u64; counts];
        for client in self.clients.values() {
            let counted = self.conditions.rides_completed(&client.challenge.tally) as usize;
            for missing in 1..=NEAR_MISS {
                // A ride that was taken back after a completion leaves it completed.
                if counted + missing > client.completed_target as usize
                    && let Some(short) = short_of.get_mut(counted + missing)
                {
                    short[missing - 1] += 1;
                }
            }
            let is_open = self
                .last
                .is_some_and(|last| last < client.challenge.challenge_deadline);
            open_with[client.completed_target as usize] += u64::from(is_open);
        }
        self.targets
            .clone()
            .map(|target| {
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
                    near_misses: NearMisses(short_of[target as usize]),
                    verdicts: Verdict::ALL.map(|verdict| {
                        let of_count =
                            |verdicts: &[i64; Verdict::ALL.len()]| verdicts[verdict as usize];
                        let rides: i64 = self.by_target[until_target].iter().map(of_count).sum();
                        (verdict, rides.unsigned_abs())
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

    /// Whether this ride, or its reversal, was seen before.
    fn has_seen(&self, ride_id: Uuid) -> bool {
        self.recent.iter().any(|recent| recent.ride_id == ride_id)
    }

    /// Moves what the challenge has recorded of this ride to `recent`, which forgets, as the challenge would
    /// not.
    fn remember(&mut self, ride_id: Uuid, completed_at: Instant) {
        let Some(recorded) = self.challenge.recorded.remove(&ride_id) else {
            return;
        };
        if self.recent.len() == self.recent.capacity() {
            let horizon = self.newest - REMEMBERED;
            self.recent.retain(|recent| recent.completed_at >= horizon);
        }
        self.recent.push(RecentRide {
            ride_id,
            completed_at,
            recorded,
        });
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

    /// A ride, or its reversal.
    fn a_record() -> impl Strategy<Value = RideRecord> {
        (a_ride(), prop::bool::weighted(0.2)).prop_map(|(ride, is_reversal)| {
            if is_reversal {
                let (ride_id, user_id) = (ride.ride_id, ride.user_id);
                RideRecord::Reversed(Reversal { ride_id, user_id })
            } else {
                RideRecord::Completed(ride)
            }
        })
    }

    /// Each client's challenge with exactly this target, as ingest would apply the records: the
    /// counts of completed challenges, of near misses and of verdicts.
    fn as_ingest_does(
        conditions: &Conditions,
        records: &[RideRecord],
    ) -> (u64, [u64; 3], [u64; Verdict::ALL.len()]) {
        let mut challenges: HashMap<UserId, Challenge<'_>> = HashMap::new();
        let mut verdicts = [0; Verdict::ALL.len()];
        for record in records {
            let outcome = match record {
                RideRecord::Completed(ride) => {
                    let challenge = challenges.entry(ride.user_id).or_insert_with(|| {
                        Client::started(conditions, ride.completed_at).challenge
                    });
                    challenge.take(ride)
                }
                RideRecord::Reversed(reversal) => match challenges.get_mut(&reversal.user_id) {
                    Some(challenge) => challenge.take_back(reversal),
                    None => RideOutcome::NotInProgress,
                },
            };
            match outcome {
                RideOutcome::Judged { judgement, .. } => verdicts[judgement.verdict as usize] += 1,
                RideOutcome::Reversed { before, .. } => {
                    if let Some(before) = before {
                        verdicts[before as usize] -= 1;
                    }
                    verdicts[Verdict::Reversed as usize] += 1;
                }
                _ => {}
            }
        }
        let short = [1, 2, 3].map(|missing| {
            let is_short = |challenge: &&Challenge<'_>| {
                !challenge.is_complete()
                    && challenge.tally.rides + missing == conditions.target_rides
            };
            challenges.values().filter(is_short).count() as u64
        });
        let completed = challenges
            .values()
            .filter(|challenge| challenge.is_complete());
        (completed.count() as u64, short, verdicts)
    }

    proptest! {
        #[test]
        fn it_judges_as_ingest_does_in_one_pass_for_all_targets(
            records in prop::collection::vec(a_record(), 0..80),
            rules in some_rules(),
        ) {
            let widest = conditions(*TARGETS.end(), &rules);
            let mut clients = Clients::new(&widest, TARGETS, Scope::default());
            for record in &records {
                clients.apply_record(record);
            }
            for row in clients.rows(Some(7)) {
                let one = conditions(row.target_rides, &rules);
                let (completed, short, verdicts) = as_ingest_does(&one, &records);
                prop_assert_eq!(row.completed, completed);
                prop_assert_eq!(row.near_misses.0, short);
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
                .all(|recent| recent.ride_id.as_u128() >= 100)
        );
    }
}
