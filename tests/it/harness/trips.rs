//! Historical rides in the format of the DEBS 2015 challenge, and a recount of them that shares no
//! code with the product.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{America::New_York, Tz};
use serde_json::{Value, json};
use uuid::Uuid;

use super::process::new_dir;

/// Names the file of real rides; without it one is generated.
const FILE_VARIABLE: &str = "RIDE_PROMO_TEST_RIDES";

/// A file of trips.
///
/// The real one has 6,000 trips of 3,837 drivers, all dropped off between 00:02 and 00:41 on the
/// first of January 2013 and sorted by it, mostly to the minute, so that many have the same time.
/// No row is malformed and none is there twice. Odd are: trips of no duration (40) or no distance
/// (46), without coordinates (89 without any), whose duration is a second off their two times (20),
/// and one driver with ten trips in five cars, some at the same time, two of them with both times
/// the same. The generated one has the same number of trips and drivers, and all of these oddities.
#[derive(Debug)]
pub struct Trips {
    /// Where it is.
    pub path: PathBuf,
    /// Its rows, in its order.
    pub trips: Vec<Trip>,
}

/// A row: one ride.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// The whole line. Two rows are the same ride where it is the same.
    pub line: String,
    /// The driver, who is the client here.
    pub user_id: i64,
    /// The drop-off.
    pub completed_at: DateTime<Utc>,
    /// The fare.
    pub amount_cents: i64,
}

impl Trips {
    /// The real file where the environment names one, else the generated one.
    pub fn load() -> &'static Self {
        static TRIPS: LazyLock<Trips> = LazyLock::new(|| {
            let path = match std::env::var_os(FILE_VARIABLE) {
                Some(real) => fs::canonicalize(&real)
                    .unwrap_or_else(|error| panic!("{FILE_VARIABLE}={}: {error}", real.display())),
                None => {
                    let generated = new_dir("trips").join("generated.csv");
                    fs::write(&generated, generate()).expect("the run's directory is ours");
                    generated
                }
            };
            Trips::read(path)
        });
        &TRIPS
    }

    /// Reads a file in which every row is well formed.
    pub fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let parse = |line: &str| {
            Trip::parse(line).unwrap_or_else(|| panic!("not a trip in {}: {line}", path.display()))
        };
        Self {
            trips: text.lines().map(parse).collect(),
            path,
        }
    }

    /// Writes the same rows in another order, the same one for the same seed.
    pub fn shuffled(&self, seed: u64) -> PathBuf {
        let mut lines: Vec<&str> = self.trips.iter().map(|trip| trip.line.as_str()).collect();
        let mut random = Random(seed);
        for last in (1..lines.len()).rev() {
            lines.swap(last, random.below(last as u64 + 1) as usize);
        }
        let path = new_dir("trips").join(format!("{}.csv", Uuid::new_v4().simple()));
        fs::write(&path, lines.join("\n") + "\n").expect("the run's directory is ours");
        path
    }

    /// Everyone who rides in the file.
    pub fn users(&self) -> BTreeSet<i64> {
        self.trips.iter().map(|trip| trip.user_id).collect()
    }

    /// The file's path, as an argument.
    pub fn argument(&self) -> &str {
        as_argument(&self.path)
    }
}

/// A path as an argument of a command.
pub fn as_argument(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are UTF-8")
}

impl Trip {
    /// Reads a row; `None` where it is malformed.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let [
            _,
            hack_license,
            _,
            dropoff,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            fare_amount,
            ..,
        ] = fields[..]
        else {
            return None;
        };
        let dropoff = NaiveDateTime::parse_from_str(dropoff, "%Y-%m-%d %H:%M:%S").ok()?;
        let (units, cents) = fare_amount.split_once('.')?;
        if fields.len() != 17 || cents.len() != 2 {
            return None;
        }
        Some(Self {
            line: line.to_owned(),
            user_id: i64::from_str_radix(hack_license.get(..15)?, 16).ok()?,
            completed_at: New_York
                .from_local_datetime(&dropoff)
                .single()?
                .with_timezone(&Utc),
            amount_cents: units.parse::<i64>().ok()? * 100 + cents.parse::<i64>().ok()?,
        })
    }
}

impl Trip {
    /// The trip as the platform would publish it, at its own time: the same row is the same ride.
    pub fn ride(&self) -> Value {
        json!({
            "ride_id": Uuid::new_v5(&Uuid::NAMESPACE_OID, self.line.as_bytes()).to_string(),
            "user_id": self.user_id, "completed_at": super::world::instant(self.completed_at),
            "amount_cents": self.amount_cents, "currency_code": "USD", "country_code": "US", "service_type": "city",
        })
    }
}

/// When a client took part: a half-open interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// `started_at`
    pub started_at: DateTime<Utc>,
    /// `challenge_deadline`
    pub deadline: DateTime<Utc>,
}

/// A promotion's conditions, as far as the trips can tell them apart.
///
/// Every trip is of currency `USD`, country `US`, service type `city`, and has no city.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `target_rides`
    pub target_rides: u32,
    /// `min_amount_cents`
    pub min_amount_cents: i64,
    /// `currency_code`
    pub currency_code: String,
    /// `country_codes`
    pub country_codes: Option<Vec<String>>,
    /// `city_ids`
    pub city_ids: Option<Vec<i64>>,
    /// `service_types`
    pub service_types: Option<Vec<String>>,
    /// `max_rides_per_day` and `day_boundary_timezone`
    pub daily_limit: Option<(u32, Tz)>,
}

impl Rules {
    /// This many rides of at least this fare, in dollars, in any place.
    pub fn dollars(target_rides: u32, min_amount_cents: i64) -> Self {
        Self {
            target_rides,
            min_amount_cents,
            currency_code: "USD".to_owned(),
            country_codes: None,
            city_ids: None,
            service_types: None,
            daily_limit: None,
        }
    }

    fn allow_trips(&self) -> bool {
        let allows = |allowed: &Option<Vec<String>>, value: &str| {
            allowed
                .as_ref()
                .is_none_or(|allowed| allowed.iter().any(|one| one == value))
        };
        self.currency_code == "USD"
            && allows(&self.country_codes, "US")
            && self.city_ids.is_none()
            && allows(&self.service_types, "city")
    }
}

/// The rides of each client and local day that could count, each once, with their fares.
type Countable<'a> = BTreeMap<i64, BTreeMap<NaiveDate, BTreeMap<&'a str, i64>>>;

fn countable<'a>(
    trips: &'a [Trip],
    participants: &BTreeMap<i64, Window>,
    rules: &Rules,
) -> Countable<'a> {
    let mut rides = Countable::new();
    for trip in trips.iter().filter(|_| rules.allow_trips()) {
        let Some(window) = participants.get(&trip.user_id) else {
            continue;
        };
        let in_time = (window.started_at..window.deadline).contains(&trip.completed_at);
        if in_time && trip.amount_cents >= rules.min_amount_cents {
            let zone = rules.daily_limit.map_or(Tz::UTC, |(_, zone)| zone);
            let day = trip.completed_at.with_timezone(&zone).date_naive();
            rides
                .entry(trip.user_id)
                .or_default()
                .entry(day)
                .or_default()
                .insert(&trip.line, trip.amount_cents);
        }
    }
    rides
}

/// The sum of the fares that could count of each participant that has any.
pub fn fares(
    trips: &[Trip],
    participants: &BTreeMap<i64, Window>,
    rules: &Rules,
) -> BTreeMap<i64, i64> {
    let of = |days: BTreeMap<NaiveDate, BTreeMap<&str, i64>>| -> i64 {
        days.values().flat_map(BTreeMap::values).sum()
    };
    let rides = countable(trips, participants, rules).into_iter();
    rides.map(|(user_id, days)| (user_id, of(days))).collect()
}

/// `rides_completed` of each participant once every trip was applied, in any order and however
/// often: who has a window, even with no ride that counts, is in the answer.
pub fn recount(
    trips: &[Trip],
    participants: &BTreeMap<i64, Window>,
    rules: &Rules,
) -> BTreeMap<i64, u32> {
    let rides = countable(trips, participants, rules);
    let per_day = rules
        .daily_limit
        .map_or(usize::MAX, |(limit, _)| limit as usize);
    let count = |user_id: &i64| -> u32 {
        let days = rides.get(user_id).into_iter().flat_map(BTreeMap::values);
        let counted: usize = days.map(|rides| rides.len().min(per_day)).sum();
        rules
            .target_rides
            .min(u32::try_from(counted).unwrap_or(u32::MAX))
    };
    participants
        .keys()
        .map(|user_id| (*user_id, count(user_id)))
        .collect()
}

/// SplitMix64: the same numbers on every machine and with every version of every crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`; the bias of so small limits does not matter here.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn hex(&mut self) -> String {
        format!("{:016X}{:016X}", self.next(), self.next())
    }
}

/// The generated file: as [`Trips`] describes the real one.
fn generate() -> String {
    /// How many drivers have how many trips in the real file.
    const DRIVERS: [(u64, u64); 5] = [(2_164, 1), (1_242, 2), (381, 3), (46, 4), (3, 5)];

    let mut random = Random(2_015);
    let midnight = NaiveDate::from_ymd_opt(2013, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
    let midnight = midnight.expect("a day there was");
    let at = |seconds: u64| midnight + TimeDelta::seconds(seconds as i64);
    let mut rows: Vec<(NaiveDateTime, String)> = Vec::new();
    let mut add = |random: &mut Random, [car, driver]: [&str; 2], from: u64, to: u64| {
        let number = rows.len();
        // the oddities, each in about as many rows as in the real file
        let nowhere = number.is_multiple_of(67);
        let distance = if number.is_multiple_of(130) {
            0
        } else {
            20 + random.below(1_200)
        };
        let seconds = (to - from).saturating_sub(u64::from(number.is_multiple_of(300)));
        let fare = 250 + 50 * random.below(if number.is_multiple_of(100) { 514 } else { 60 });
        let (surcharge, tax) = (50, 50);
        let (payment, tip) = if number % 5 < 2 {
            ("CRD", random.below(400))
        } else {
            ("CSH", 0)
        };
        let total = fare + surcharge + tax + tip;
        let mut coordinate = |degrees: &str| {
            let fraction = random.below(1_000_000);
            if nowhere {
                "0.000000".to_owned()
            } else {
                format!("{degrees}.{fraction:06}")
            }
        };
        let coordinates = ["-73", "40", "-73", "40"].map(&mut coordinate).join(",");
        let cents = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let mut row = format!("{car},{driver},{},{},{seconds},", at(from), at(to));
        write!(
            row,
            "{},{coordinates},{payment},{},",
            cents(distance),
            cents(fare)
        )
        .and_then(|()| write!(row, "{},{},", cents(surcharge), cents(tax)))
        .and_then(|()| write!(row, "{},0.00,{}", cents(tip), cents(total)))
        .expect("a string takes everything");
        rows.push((at(to), row));
    };

    for (drivers, trips) in DRIVERS {
        for _ in 0..drivers {
            let (car, driver) = (random.hex(), random.hex());
            // one after the other: each in its share of the time
            let share = 39 / trips;
            let mut free_from = 0;
            for trip in 0..trips {
                let minute = 2 + trip * share + random.below(share);
                let second = if random.below(140) == 0 {
                    random.below(60)
                } else {
                    0
                };
                let to = minute * 60 + second;
                let minutes = if random.below(150) == 0 {
                    0
                } else {
                    1 + random.below(share)
                };
                let from = to.saturating_sub(minutes * 60).max(free_from);
                add(&mut random, [&car, &driver], from, to);
                free_from = to;
            }
        }
    }
    // the driver of five cars: trips that overlap, two from and to the same minute
    let driver = random.hex();
    let cars: [String; 5] = std::array::from_fn(|_| random.hex());
    let odd = [
        (2, 3),
        (3, 4),
        (3, 4),
        (4, 6),
        (5, 9),
        (6, 9),
        (12, 16),
        (14, 16),
        (16, 17),
        (38, 38),
    ];
    for (number, (from, to)) in odd.into_iter().enumerate() {
        add(
            &mut random,
            [&cars[number % cars.len()], &driver],
            from * 60,
            to * 60,
        );
    }

    // stable, so the same file every time
    rows.sort_by_key(|(dropoff, _)| *dropoff);
    rows.into_iter().map(|(_, row)| row + "\n").collect()
}
