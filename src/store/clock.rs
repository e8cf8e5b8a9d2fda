//! An estimate of Postgres' clock: its last reading, carried forward by this machine's monotonic clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant as Monotonic};

use chrono::DateTime;

use crate::domain::Instant;

/// The offset before the first reading.
const UNKNOWN: i64 = i64::MIN;

/// An estimate of the database's clock, for uses that cannot ask Postgres each time: rides from the future,
/// `settling`, `server_time`. Decisions about money ask Postgres itself.
#[derive(Debug)]
pub struct DbClock {
    origin: Monotonic,
    /// Milliseconds of the database's clock at `origin`.
    offset_ms: AtomicI64,
    /// Milliseconds since `origin` at the last observation.
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
    /// Records a reading of the database's clock, made just now.
    pub fn observe(&self, now: Instant) {
        self.observe_at(now, Monotonic::now());
    }

    /// Records a reading of the database's clock, made at `at` of this machine's clock.
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
