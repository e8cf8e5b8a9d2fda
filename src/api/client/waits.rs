//! How many long polls and streams are held at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use crate::api::problem::{Problem, Result};
use crate::config::ApiConfig;
use crate::domain::UserId;

/// When a client who holds too many may try again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The bounds, and what is held.
#[derive(Debug)]
pub struct Waits {
    most_per_client: usize,
    most: usize,
    held: Mutex<Held>,
    gauge: IntGauge,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_client: HashMap<UserId, usize>,
}

impl Waits {
    /// As configured; `gauge` shows how many are held.
    pub fn new(config: &ApiConfig, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            most_per_client: config.max_waits_per_client,
            most: config.max_waits,
            held: Mutex::default(),
            gauge,
        })
    }

    /// A place for one more, given back when it is dropped.
    pub fn enter(self: &Arc<Self>, user_id: UserId) -> Result<Wait> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= self.most {
            return Err(Problem::temporarily_unavailable());
        }
        let of_client = held.by_client.entry(user_id).or_default();
        if *of_client >= self.most_per_client {
            return Err(Problem::too_many_requests(TRY_AGAIN));
        }
        *of_client += 1;
        held.all += 1;
        self.gauge.inc();
        Ok(Wait {
            waits: Arc::clone(self),
            user_id,
        })
    }
}

/// A place among those who wait.
#[derive(Debug)]
pub struct Wait {
    waits: Arc<Waits>,
    user_id: UserId,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut held = self
            .waits
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        self.waits.gauge.dec();
        if let Some(of_client) = held.by_client.get_mut(&self.user_id) {
            *of_client -= 1;
            if *of_client == 0 {
                held.by_client.remove(&self.user_id);
            }
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
            most_per_client: 2,
            most: 3,
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
}
