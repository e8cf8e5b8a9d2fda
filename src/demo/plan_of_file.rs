//! The plan of a run whose rides come from a file.

use std::collections::HashMap;
use std::time::Duration;

use super::plan::{Claim, Client, Ends, LIFE, Offer, Trip};
use crate::domain::UserId;
use crate::domain::ride::Ride;

/// The most starts per second of a file's clients, because each start is a transaction of its own.
const MAX_STARTS_PER_SECOND: usize = 90;

/// How long a client of a file reads the terms.
const FILE_READING: Duration = Duration::from_secs(1);

/// Turns the rides of a file into clients of the demo. Each rider starts the challenge with their
/// first ride. Rides keep their relative spacing, compressed so that they fit into the run. `None`
/// without rides.
pub(super) fn of_file(
    mut rides: Vec<Ride>,
    duration: Option<Duration>,
) -> Option<(Offer, Vec<Client>)> {
    rides.sort_by_key(|ride| ride.completed_at);
    let (first, last) = (rides.first()?.completed_at, rides.last()?.completed_at);
    let mut of_rider: HashMap<UserId, Vec<&Ride>> = HashMap::new();
    for ride in &rides {
        of_rider.entry(ride.user_id).or_default().push(ride);
    }

    // Leaves time for the last challenges to expire, and for the service to start them all.
    let fits = duration.map_or(Duration::from_secs(45), |duration| {
        duration.saturating_sub(LIFE / 2).max(duration / 2)
    });
    let span = fits.max(Duration::from_secs(
        (of_rider.len() / MAX_STARTS_PER_SECOND) as u64,
    ));
    let whole = (last - first).num_milliseconds().max(1) as f64;
    let place = |ride: &Ride| {
        let share = (ride.completed_at - first).num_milliseconds() as f64 / whole;
        span.mul_f64(share.clamp(0.0, 1.0))
    };

    // Conditions that a part of the riders meets.
    let currency_code = most_common(rides.iter().map(|ride| ride.currency_code))?;
    let country_code = most_common(rides.iter().filter_map(|ride| ride.country_code))
        .or_else(|| "US".parse().ok())?;
    let mut amounts: Vec<i64> = rides.iter().map(|ride| ride.amount_cents).collect();
    amounts.sort_unstable();
    let min_amount_cents = amounts[amounts.len() / 10];
    let mut counts: Vec<usize> = of_rider.values().map(Vec::len).collect();
    counts.sort_unstable();
    let target_rides = counts[counts.len() * 8 / 10].clamp(1, 10_000);
    let offer = Offer::new(target_rides, min_amount_cents, currency_code, country_code);

    let mut clients: Vec<Client> = of_rider
        .into_iter()
        .map(|(user_id, rides)| {
            let arrives = rides.first().map_or(Duration::ZERO, |ride| place(ride));
            let trips = rides
                .into_iter()
                .map(|ride| Trip {
                    after: place(ride) - arrives,
                    ends: Ends::InTime,
                    reported_after: Duration::ZERO,
                    repeated_after: None,
                    ride: ride.clone(),
                })
                .collect();
            Client {
                user_id,
                arrives,
                trips,
                claim: match user_id % 5 {
                    0 => Claim::TooLate,
                    1 => Claim::TwiceAfter(FILE_READING),
                    _ => Claim::After(FILE_READING),
                },
                // A file's riders have only the rides of the file.
                second_chance: None,
            }
        })
        .collect();
    clients.sort_by_key(|client| (client.arrives, client.user_id));
    Some((offer, clients))
}

fn most_common<T: Eq + std::hash::Hash + Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by(|(one, count), (other, others)| count.cmp(others).then_with(|| other.cmp(one)))
        .map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::super::plan::ride;
    use super::*;
    use crate::domain::Instant;

    #[test]
    fn a_files_rides_keep_their_order_and_riders() {
        let at = |minute: i64| Instant::UNIX_EPOCH + chrono::TimeDelta::minutes(minute);
        let mut rides: Vec<Ride> = (0..100)
            .map(|n| Ride {
                completed_at: at(n),
                ..ride(1 + n % 7, 1_000 + n, "MXN".parse().expect("a currency"))
            })
            .collect();
        rides.reverse();
        let duration = Duration::from_secs(60);
        let (offer, clients) = of_file(rides, Some(duration)).expect("rides");
        assert_eq!(clients.len(), 7);
        assert_eq!(offer.currency_code.as_str(), "MXN");
        assert_eq!(offer.conditions["min_amount_cents"], 1_010);
        let trips: usize = clients.iter().map(|client| client.trips.len()).sum();
        assert_eq!(trips, 100);
        for client in &clients {
            assert_eq!(client.trips[0].after, Duration::ZERO);
            assert!(client.trips.is_sorted_by_key(|trip| trip.ride.completed_at));
            let last = client.trips.last().expect("a ride");
            assert!(client.arrives + last.after <= duration);
        }
        assert!(of_file(Vec::new(), None).is_none());
    }
}
