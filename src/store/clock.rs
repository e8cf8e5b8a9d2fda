//! Postgres' clock, carried forward by this machine's monotonic one between two looks at it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant as Monotonic};

use chrono::DateTime;

use crate::domain::Instant;

/// Nothing observed yet.
const UNKNOWN: i64 = i64::MIN;

/// An estimate of the database's clock for what cannot ask it each time: rides from the future,
/// `settling`, `server_time`. What moves money asks Postgres itself.
#[derive(Debug)]
pub struct DbClock {
    origin: Monotonic,
    /// Milliseconds of the database's clock at `origin`.
    offset_ms: AtomicI64,
    /// Milliseconds since `origin` when it was observed last.
    observed_ms: AtomicI64,
}

impl Default for DbClock {
    fn default() -> Self {
        Self {
            origin: Monotonic::now(),
            offset_ms: AtomicI64::new(UNKNOWN),
            observed_ms: AtomicI64::new(UNKNOWN),
        }
    }
}

impl DbClock {
    /// Takes note of what the database's clock has just said.
    pub fn observe(&self, now: Instant) {
        self.observe_at(now, Monotonic::now());
    }

    /// Takes note of what the database's clock said at that moment of ours.
    pub fn observe_at(&self, now: Instant, at: Monotonic) {
        let elapsed = at.saturating_duration_since(self.origin).as_millis();
        let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX / 2);
        self.offset_ms
            .store(now.timestamp_millis() - elapsed, Ordering::Relaxed);
        self.observed_ms.store(elapsed, Ordering::Relaxed);
    }

    /// Whether it was observed within this time.
    pub fn is_fresh(&self, within: Duration) -> bool {
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX / 2);
        let observed = self.observed_ms.load(Ordering::Relaxed);
        observed != UNKNOWN && self.elapsed_ms() - observed <= within
    }

    /// The database's clock, if it was ever observed.
    pub fn now(&self) -> Option<Instant> {
        let offset_ms = self.offset_ms.load(Ordering::Relaxed);
        if offset_ms == UNKNOWN {
            return None;
        }
        DateTime::from_timestamp_millis(offset_ms + self.elapsed_ms())
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX / 2)
    }
}
