//! Bounds the concurrent long polls and streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use prometheus::IntGauge;
use tokio_util::sync::CancellationToken;

use crate::api::problem::{Problem, Result};
use crate::config::ApiConfig;
use crate::domain::UserId;

/// When a client with too many waits may try again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A client that holds the maximum and asks for another gets the place of its oldest stream, if that
/// is at least this old. The service cannot tell whether a stream is still read as long as the kernel at
/// the other end has room, and a quiet stream does not fill that within hours.
const REPLACEABLE_AFTER: Duration = Duration::from_secs(30);

/// The bounds, and the waits that are held.
#[derive(Debug)]
pub struct Waits {
    max_per_client: usize,
    max: usize,
    held: Mutex<HeldWaits>,
    gauge: IntGauge,
}

#[derive(Debug, Default)]
struct HeldWaits {
    all: usize,
    next_id: u64,
    by_client: HashMap<UserId, Vec<HeldWait>>,
}

/// A wait that is held.
#[derive(Debug)]
struct HeldWait {
    id: u64,
    since: Monotonic,
    /// Ends the wait if it is a stream.
    replaced: Option<CancellationToken>,
}

impl Waits {
    /// `gauge` shows how many waits are held.
    pub fn new(config: &ApiConfig, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            max_per_client: config.max_waits_per_client,
            max: config.max_waits,
            held: Mutex::default(),
            gauge,
        })
    }

    /// A place for one more long poll, given back when it is dropped.
    pub fn enter(self: &Arc<Self>, user_id: UserId) -> Result<Wait> {
        self.take(user_id, None)
    }

    /// A place for one more stream, and a token that is cancelled when another takes the place.
    pub fn enter_stream(self: &Arc<Self>, user_id: UserId) -> Result<(Wait, CancellationToken)> {
        let replaced = CancellationToken::new();
        let wait = self.take(user_id, Some(replaced.clone()))?;
        Ok((wait, replaced))
    }

    fn take(
        self: &Arc<Self>,
        user_id: UserId,
        replaced: Option<CancellationToken>,
    ) -> Result<Wait> {
        let mut held = self.lock();
        let places = held.by_client.get_mut(&user_id);
        let full = places.filter(|places| places.len() >= self.max_per_client);
        if let Some(places) = full {
            // The places are in the order of arrival.
            let oldest = places.iter().position(|place| place.replaced.is_some());
            let old = |at: &usize| places[*at].since.elapsed() >= REPLACEABLE_AFTER;
            let Some(at) = oldest.filter(old) else {
                return Err(Problem::too_many_requests(TRY_AGAIN));
            };
            if let Some(replaced) = places.remove(at).replaced {
                replaced.cancel();
            }
            held.all -= 1;
            self.gauge.dec();
        }
        if held.all >= self.max {
            return Err(Problem::temporarily_unavailable());
        }
        let id = held.next_id;
        held.next_id += 1;
        held.all += 1;
        self.gauge.inc();
        held.by_client.entry(user_id).or_default().push(HeldWait {
            id,
            since: Monotonic::now(),
            replaced,
        });
        Ok(Wait {
            waits: Arc::clone(self),
            user_id,
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HeldWaits> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of a long poll or stream, given back when it is dropped.
#[derive(Debug)]
pub struct Wait {
    waits: Arc<Waits>,
    user_id: UserId,
    id: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut held = self.waits.lock();
        let Some(places) = held.by_client.get_mut(&self.user_id) else {
            return;
        };
        let before = places.len();
        places.retain(|place| place.id != self.id);
        // A replaced stream has given its place back already.
        let given_back = before - places.len();
        if places.is_empty() {
            held.by_client.remove(&self.user_id);
        }
        if given_back > 0 {
            held.all -= given_back;
            self.waits.gauge.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_every_place_and_places_are_given_back() {
        let gauge = IntGauge::new("held", "held").expect("a gauge");
        let waits = Arc::new(Waits {
            max_per_client: 2,
            max: 3,
            held: Mutex::default(),
            gauge: gauge.clone(),
        });
        let first = waits.enter(1).expect("a place");
        let _second = waits.enter(1).expect("a place");
        assert_eq!(waits.enter(1).expect_err("too many").status(), 429);
        let _third = waits.enter(2).expect("a place");
        assert_eq!(waits.enter(3).expect_err("full").status(), 503);
        assert_eq!(gauge.get(), 3);
        drop(first);
        assert_eq!(gauge.get(), 2);
        let _again = waits.enter(1).expect("a place");
    }

    #[test]
    fn the_oldest_stream_gives_way_once_it_is_old() {
        let gauge = IntGauge::new("held", "held").expect("a gauge");
        let waits = Arc::new(Waits {
            max_per_client: 2,
            max: 2,
            held: Mutex::default(),
            gauge: gauge.clone(),
        });
        let poll = waits.enter(1).expect("a place");
        let (stream, replaced) = waits.enter_stream(1).expect("a place");
        assert_eq!(waits.enter(1).expect_err("too many").status(), 429);
        for place in waits.lock().by_client.get_mut(&1).expect("held") {
            place.since = Monotonic::now()
                .checked_sub(REPLACEABLE_AFTER)
                .expect("this machine runs for longer");
        }
        let (_next, kept) = waits.enter_stream(1).expect("the old one's place");
        assert!(replaced.is_cancelled() && !kept.is_cancelled());
        assert_eq!(gauge.get(), 2);
        drop(stream);
        assert_eq!(gauge.get(), 2, "given back once");
        // A poll ends by itself, and the other stream is new.
        assert_eq!(waits.enter(1).expect_err("too many").status(), 429);
        drop(poll);
        assert_eq!(gauge.get(), 1);
        let _again = waits.enter(1).expect("a place");
    }
}
