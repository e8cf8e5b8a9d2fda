//! The machine's own clock, for what Postgres' clock cannot decide (tokens, log lines, waits).
//!
//! Rides and rewards are judged by `clock_timestamp()`, in the statement that judges.

use chrono::{DateTime, Utc};

/// The source of the present time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Always the same instant, for tests.
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// The present, cut to milliseconds like every instant of the contract.
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            #[expect(
                clippy::disallowed_methods,
                reason = "the one place that reads the machine's clock"
            )]
            Self::System => truncate_to_millis(Utc::now()),
            Self::Fixed(instant) => *instant,
        }
    }
}

/// Cuts digits after the milliseconds off.
pub fn truncate_to_millis(instant: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(instant.timestamp_millis()).unwrap_or(instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_below_a_millisecond_are_cut_not_rounded() {
        let fine: DateTime<Utc> = "2026-11-22T18:04:05.123999Z".parse().expect("instant");
        let cut: DateTime<Utc> = "2026-11-22T18:04:05.123Z".parse().expect("instant");
        assert_eq!(truncate_to_millis(fine), cut);
        // Before 1970 the cut is still towards the past.
        let fine: DateTime<Utc> = "1969-12-31T23:59:59.9995Z".parse().expect("instant");
        let cut: DateTime<Utc> = "1969-12-31T23:59:59.999Z".parse().expect("instant");
        assert_eq!(truncate_to_millis(fine), cut);
    }

    #[test]
    fn a_fixed_clock_stands_still() {
        let instant = "2026-11-22T18:04:05.123Z".parse().expect("instant");
        assert_eq!(Clock::Fixed(instant).now(), instant);
        assert_eq!(Clock::System.now().timestamp_subsec_micros() % 1_000, 0);
    }
}
