//! The plan of a run: the promotions, and which simulated client rides when.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::format_duration;
use crate::domain::reward::{CountryCode, CurrencyCode};
use crate::domain::ride::Ride;
use crate::domain::{Instant, UserId};

/// How long a client has to complete the rides.
const CHALLENGE_PERIOD: Duration = Duration::from_secs(22);

/// How long a client then has to claim the reward.
const CLAIM_PERIOD: Duration = Duration::from_secs(10);

/// The same for the second chance, which is faster.
const SECOND_CHALLENGE_PERIOD: Duration = Duration::from_secs(8);

/// The same for the second chance.
const SECOND_CLAIM_PERIOD: Duration = Duration::from_secs(5);

/// The time of a guest, a client whose token is printed, for each: the rides, and the claim.
const GUEST_PERIOD: Duration = Duration::from_secs(30 * 60);

/// How many rides a guest has to complete.
const GUEST_TARGET_RIDES: usize = 5;

/// How late a ride may be published.
pub(super) const ALLOWED_LATENESS: Duration = Duration::from_secs(3);

/// The time from a client's start to the end of everything. What is not over then is late.
pub(super) const LIFE: Duration = Duration::from_secs(36);

/// How many rides a simulated client has to complete.
const TARGET_RIDES: usize = 5;

/// The same for the second chance.
const SECOND_TARGET_RIDES: usize = 2;

/// The least fare of a ride that counts, for simulated rides.
const MIN_AMOUNT_CENTS: i64 = 5_000;

/// Starts of simulated clients per second.
const STARTS_PER_SECOND: f64 = 10.0;

/// The fewest simulated clients of a very short run.
const MIN_CLIENTS: f64 = 200.0;

/// Simulated clients are numbered from here.
const FIRST_CLIENT: UserId = 1_000_001;

/// The numbers of clients without a challenge.
const STRANGERS: std::ops::Range<UserId> = 9_000_000..9_020_000;

/// An offer.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) promotion_key: String,
    pub(super) title: String,
    pub(super) conditions: Value,
    pub(super) currency_code: CurrencyCode,
    pub(super) country_code: CountryCode,
    pub(super) target_rides: usize,
}

impl Offer {
    pub(super) fn new(
        target_rides: usize,
        min_amount_cents: i64,
        currency_code: CurrencyCode,
        country_code: CountryCode,
    ) -> Self {
        Self {
            promotion_key: "demo-newbie".to_owned(),
            title: format!("Complete {target_rides} rides and get a loan"),
            conditions: json!({
                "target_rides": target_rides,
                "min_amount_cents": min_amount_cents,
                "currency_code": currency_code,
                "challenge_period": format_duration(CHALLENGE_PERIOD),
                "claim_period": format_duration(CLAIM_PERIOD),
            }),
            currency_code,
            country_code,
            target_rides,
        }
    }

    /// The offer to the clients whose tokens are printed: the same, with time to read the screens.
    pub(super) fn for_guests(&self) -> Self {
        let mut offer = self.clone();
        offer.promotion_key = "demo-at-your-pace".to_owned();
        offer.target_rides = GUEST_TARGET_RIDES;
        offer.title = format!("Complete {GUEST_TARGET_RIDES} rides and get a loan");
        offer.conditions["target_rides"] = json!(GUEST_TARGET_RIDES);
        offer.conditions["challenge_period"] = json!(format_duration(GUEST_PERIOD));
        offer.conditions["claim_period"] = json!(format_duration(GUEST_PERIOD));
        offer
    }

    /// The offer to clients who did not get the first reward.
    pub(super) fn second_chance(&self) -> Self {
        let mut offer = self.clone();
        offer.promotion_key = "demo-second-chance".to_owned();
        offer.title = format!("Try again: {SECOND_TARGET_RIDES} rides");
        offer.target_rides = SECOND_TARGET_RIDES;
        offer.conditions["target_rides"] = json!(SECOND_TARGET_RIDES);
        offer.conditions["challenge_period"] = json!(format_duration(SECOND_CHALLENGE_PERIOD));
        offer.conditions["claim_period"] = json!(format_duration(SECOND_CLAIM_PERIOD));
        offer
    }

    /// The offer to simulated clients.
    pub(super) fn simulated() -> anyhow::Result<Self> {
        Ok(Self::new(
            TARGET_RIDES,
            MIN_AMOUNT_CENTS,
            "MXN".parse()?,
            "MX".parse()?,
        ))
    }

    /// The guests' conditions in one line.
    pub(super) fn guest_terms(&self) -> String {
        let minutes = GUEST_PERIOD.as_secs() / 60;
        format!(
            "{} rides in {minutes} minutes, then {minutes} minutes to apply for the loan",
            self.target_rides
        )
    }
}

/// A planned client: when they start, and what they ride from then on.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) user_id: UserId,
    /// After the beginning of the run.
    pub(super) arrives: Duration,
    /// Sorted by the time of the ride.
    pub(super) trips: Vec<Trip>,
    /// What they do about the reward, if they complete the challenge.
    pub(super) claim: Claim,
    /// Whether they try again if they got no reward, and what they ride then.
    pub(super) second_chance: Option<Vec<Trip>>,
}

/// What a client does about a reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Reads the terms for this long, and accepts.
    After(Duration),
    /// The same, with two taps.
    TwiceAfter(Duration),
    /// Comes after it has expired.
    TooLate,
}

/// A planned ride.
#[derive(Clone, Debug)]
pub(super) struct Trip {
    /// After the client's start.
    pub(super) after: Duration,
    pub(super) ends: Ends,
    /// How long after its end it is published.
    pub(super) reported_after: Duration,
    /// Published a second time, this long after the first.
    pub(super) repeated_after: Option<Duration>,
    pub(super) ride: Ride,
}

/// When a ride was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// When it is due.
    InTime,
    /// This long before the client started, though published after.
    BeforeTheStart(Duration),
    /// At the deadline or just after it.
    AfterTheDeadline,
}

/// The types of simulated clients.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Of a hundred clients.
    share: u32,
    /// Seconds between two rides.
    pause: (f64, f64),
    /// How many rides at most.
    most: usize,
    /// Too cheap rides, of a hundred.
    cheap: u32,
    /// Rides in another currency, of a hundred.
    abroad: u32,
}

const HABITS: [Habit; 6] = [
    // Rides to work and back, and reaches the target.
    Habit {
        share: 40,
        pause: (2.0, 4.2),
        most: 9,
        cheap: 5,
        abroad: 0,
    },
    // Is in a hurry.
    Habit {
        share: 12,
        pause: (0.4, 1.5),
        most: 7,
        cheap: 5,
        abroad: 0,
    },
    // Takes short rides: half of them are too cheap.
    Habit {
        share: 16,
        pause: (1.8, 3.0),
        most: 10,
        cheap: 50,
        abroad: 0,
    },
    // Rides now and then.
    Habit {
        share: 17,
        pause: (6.0, 10.0),
        most: 4,
        cheap: 10,
        abroad: 0,
    },
    // Is travelling.
    Habit {
        share: 7,
        pause: (2.5, 4.0),
        most: 8,
        cheap: 0,
        abroad: 70,
    },
    // Gives up after one ride.
    Habit {
        share: 8,
        pause: (3.0, 9.0),
        most: 1,
        cheap: 0,
        abroad: 0,
    },
];

/// The currency of the rides.
#[derive(Clone, Copy, Debug)]
struct Currencies {
    home: CurrencyCode,
    abroad: CurrencyCode,
}

/// Simulated clients, one after the other.
pub(super) struct Crowd {
    currencies: Currencies,
    next: UserId,
    per_second: f64,
    /// No client starts after this.
    until: Duration,
}

impl Crowd {
    /// In a run with an end, the last clients arrive early enough that most of their journeys fit.
    pub(super) fn new(offer: &Offer, duration: Option<Duration>) -> anyhow::Result<Self> {
        let until = duration.map_or(Duration::MAX, |duration| {
            duration.saturating_sub(LIFE).max(duration / 3)
        });
        let per_second =
            (MIN_CLIENTS / until.as_secs_f64().max(1.0)).clamp(STARTS_PER_SECOND, 40.0);
        Ok(Self {
            currencies: Currencies {
                home: offer.currency_code,
                abroad: "USD".parse()?,
            },
            next: FIRST_CLIENT,
            per_second,
            until,
        })
    }

    /// The next `count` clients; fewer, or none, at the end.
    pub(super) fn take(&mut self, count: usize, rng: &mut impl Rng) -> Vec<Client> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let before = (self.next - FIRST_CLIENT) as f64;
            let arrives = Duration::from_secs_f64(before / self.per_second);
            if arrives > self.until {
                break;
            }
            clients.push(Client {
                user_id: self.next,
                arrives,
                trips: trips(self.next, self.currencies, rng),
                claim: claim(rng),
                second_chance: second_chance(self.next, self.currencies, rng),
            });
            self.next += 1;
        }
        clients
    }
}

/// The rides of a simulated client.
fn trips(user_id: UserId, currencies: Currencies, rng: &mut impl Rng) -> Vec<Trip> {
    use rand::RngExt as _;

    let mut chosen = rng.random_range(0..100_u32);
    let habit = HABITS
        .iter()
        .find(|habit| {
            let here = chosen < habit.share;
            chosen = chosen.saturating_sub(habit.share);
            here
        })
        .unwrap_or(&HABITS[0]);
    let mut trips = Vec::new();
    let mut after = 0.0;
    while trips.len() < habit.most {
        after += rng.random_range(habit.pause.0..habit.pause.1);
        if after >= CHALLENGE_PERIOD.as_secs_f64() {
            break;
        }
        let mut percent = |share: u32| rng.random_ratio(share, 100);
        let (cheap, abroad) = (percent(habit.cheap), percent(habit.abroad));
        let (early, late, twice) = (percent(3), percent(8), percent(6));
        trips.push(Trip {
            after: Duration::from_secs_f64(after),
            ends: if early {
                Ends::BeforeTheStart(Duration::from_secs(rng.random_range(1..600)))
            } else {
                Ends::InTime
            },
            // Late, but within the allowed lateness.
            reported_after: Duration::from_millis(if late {
                rng.random_range(500..2_000)
            } else {
                0
            }),
            repeated_after: twice.then(|| Duration::from_millis(rng.random_range(0..2_000))),
            ride: ride(
                user_id,
                if cheap {
                    rng.random_range(1_500..5_000)
                } else {
                    rng.random_range(5_000..30_000)
                },
                if abroad {
                    currencies.abroad
                } else {
                    currencies.home
                },
            ),
        });
    }
    // Half of them ride once more after the deadline, and see why that ride did not count.
    if habit.most > 1 && rng.random_ratio(1, 2) {
        trips.push(Trip {
            after: CHALLENGE_PERIOD + Duration::from_millis(rng.random_range(0..800)),
            ends: Ends::AfterTheDeadline,
            reported_after: Duration::ZERO,
            repeated_after: None,
            ride: ride(user_id, rng.random_range(5_000..30_000), currencies.home),
        });
    }
    trips
}

/// Most claim, in one way or the other, and some forget to.
fn claim(rng: &mut impl Rng) -> Claim {
    use rand::RngExt as _;

    let reading = Duration::from_millis(rng.random_range(200..2_500));
    match rng.random_range(0..100) {
        0..50 => Claim::After(reading),
        50..75 => Claim::TwiceAfter(reading),
        _ => Claim::TooLate,
    }
}

/// Most try again; some of those do not ride enough this time either.
fn second_chance(user_id: UserId, currencies: Currencies, rng: &mut impl Rng) -> Option<Vec<Trip>> {
    use rand::RngExt as _;

    if rng.random_ratio(1, 3) {
        return None;
    }
    let rides = SECOND_TARGET_RIDES - usize::from(rng.random_ratio(1, 4));
    let mut after = Duration::ZERO;
    let trips = (0..rides).map(|_| {
        after += Duration::from_millis(rng.random_range(200..1_200));
        Trip {
            after,
            ends: Ends::InTime,
            reported_after: Duration::ZERO,
            repeated_after: None,
            ride: ride(user_id, rng.random_range(5_000..30_000), currencies.home),
        }
    });
    Some(trips.collect())
}

/// A ride; its time is set when it is published.
pub(super) fn ride(user_id: UserId, amount_cents: i64, currency_code: CurrencyCode) -> Ride {
    Ride {
        country_code: "MX".parse().ok(),
        city_id: Some(4_198),
        service_type: Some("city".into()),
        ..Ride::new(
            Uuid::now_v7(),
            user_id,
            Instant::UNIX_EPOCH,
            amount_cents,
            currency_code,
        )
    }
}

/// A ride of a client without a challenge, like most of the traffic.
pub(super) fn stranger(offer: &Offer, rng: &mut impl Rng) -> Ride {
    use rand::RngExt as _;

    ride(
        rng.random_range(STRANGERS),
        rng.random_range(1_500..30_000),
        offer.currency_code,
    )
}

/// A ride that meets the conditions of the offer.
pub(super) fn good_ride(user_id: UserId, offer: &Offer) -> Ride {
    let min = offer.conditions["min_amount_cents"].as_i64();
    Ride {
        country_code: Some(offer.country_code),
        ..ride(
            user_id,
            min.unwrap_or_default() + 1_500,
            offer.currency_code,
        )
    }
}

/// A ride whose fare is one cent too low to count.
pub(super) fn cheap_ride(user_id: UserId, offer: &Offer) -> Ride {
    let min = offer.conditions["min_amount_cents"].as_i64();
    Ride {
        amount_cents: (min.unwrap_or_default() - 1).max(0),
        ..good_ride(user_id, offer)
    }
}

/// An invalid record, with the key of a client without a challenge.
pub(super) fn poison(rng: &mut impl Rng) -> (Option<String>, String) {
    use rand::RngExt as _;

    let user_id = rng.random_range(STRANGERS);
    let ride_id = Uuid::now_v7();
    match rng.random_range(0..4) {
        0 => (None, "<ride/>".to_owned()),
        1 => (
            Some(user_id.to_string()),
            json!({ "ride_id": ride_id, "user_id": user_id }).to_string(),
        ),
        2 => (
            Some(user_id.to_string()),
            json!({ "ride_id": ride_id, "user_id": user_id, "completed_at": "2026-11-22T18:04:05.123Z",
                    "amount_cents": 6500.5, "currency_code": "MXN" })
            .to_string(),
        ),
        _ => (
            Some(user_id.to_string()),
            json!({ "ride_id": ride_id, "user_id": user_id, "completed_at": "2026-11-22T18:04:05.123Z",
                    "amount_cents": -6500, "currency_code": "MXN" })
            .to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn a_run_of_a_minute_has_a_few_hundred_clients_whose_lives_fit() {
        let mut rng = SmallRng::seed_from_u64(1);
        let minute = Duration::from_secs(60);
        let offer = Offer::simulated().expect("an offer");
        let mut crowd = Crowd::new(&offer, Some(minute)).expect("a crowd");
        let clients = crowd.take(10_000, &mut rng);
        assert!((200..=400).contains(&clients.len()), "{}", clients.len());
        assert!(clients.iter().all(|client| client.arrives + LIFE <= minute));
        for client in &clients {
            assert!(client.trips.is_sorted_by_key(|trip| trip.after));
        }
        let finish = |client: &&Client| {
            let counts = |trip: &&Trip| {
                trip.ends == Ends::InTime
                    && trip.ride.amount_cents >= MIN_AMOUNT_CENTS
                    && trip.ride.currency_code.as_str() == "MXN"
            };
            client.trips.iter().filter(counts).count() >= TARGET_RIDES
        };
        let finished = clients.iter().filter(finish).count();
        let share = finished * 100 / clients.len();
        assert!((20..=80).contains(&share), "{share} of a hundred complete");
        // Everything that can become of a reward becomes of some.
        let claims = |is: fn(&Claim) -> bool| {
            let of = clients.iter().filter(|client| is(&client.claim)).count();
            of * 100 / clients.len()
        };
        assert!(claims(|claim| matches!(claim, Claim::After(_))) > 20);
        assert!(claims(|claim| matches!(claim, Claim::TwiceAfter(_))) > 10);
        assert!(claims(|claim| *claim == Claim::TooLate) > 10);
        let again: Vec<usize> = clients
            .iter()
            .filter_map(|client| client.second_chance.as_ref().map(Vec::len))
            .collect();
        assert!(again.contains(&SECOND_TARGET_RIDES) && again.contains(&1));
        assert!(again.len() < clients.len());
    }

    #[test]
    fn a_short_run_has_clients_too_and_an_endless_one_no_end_of_them() {
        let mut rng = SmallRng::seed_from_u64(1);
        let offer = Offer::simulated().expect("an offer");
        let mut short = Crowd::new(&offer, Some(Duration::from_secs(5))).expect("a crowd");
        let clients = short.take(10_000, &mut rng);
        assert!(clients.len() > 50, "{}", clients.len());
        let mut endless = Crowd::new(&offer, None).expect("a crowd");
        for _ in 0..100 {
            assert_eq!(endless.take(100, &mut rng).len(), 100);
        }
    }

    #[test]
    fn what_is_meant_to_be_no_ride_is_none() {
        let mut rng = SmallRng::seed_from_u64(1);
        let now = "2026-11-23T00:00:00Z".parse().expect("instant");
        for _ in 0..50 {
            let (_, value) = poison(&mut rng);
            assert!(crate::wire::ride_completed::decode(value.as_bytes(), now).is_err());
        }
    }
}
