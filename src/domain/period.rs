//! Durations as the contract writes them: ISO 8601 without months and years (`P14D`, `PT10M`).

use std::fmt;
use std::str::FromStr;

use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SECONDS_PER_DAY: u64 = 86_400;

/// The longest period of the contract, 366 days.
pub const MAX_SECONDS: u64 = 366 * SECONDS_PER_DAY;

/// A whole number of seconds from 0 to 366 days. `P14D` is exactly 14 × 24 h: no calendar, no
/// daylight saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

/// Why a text is not a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// Not of the form; months, years and fractions among others.
    #[error(
        "must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P14D or PT10M"
    )]
    Form,
    /// Above 366 days.
    #[error("must be at most P366D")]
    TooLong,
}

impl Period {
    /// A period of that many seconds, at most [`MAX_SECONDS`].
    pub const fn from_seconds(seconds: u64) -> Option<Self> {
        if seconds <= MAX_SECONDS {
            Some(Self(seconds))
        } else {
            None
        }
    }

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// As chrono's type, for adding to an instant.
    pub fn delta(self) -> TimeDelta {
        // At most 366 days, far inside the range.
        TimeDelta::seconds(i64::try_from(self.0).unwrap_or(i64::MAX / 1_000))
    }

    /// As the standard library's type, for timers.
    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let mut rest = text.strip_prefix('P').ok_or(PeriodError::Form)?;
        let mut seconds = 0_u64;
        let mut in_time = false;
        // Designators must come in this order, each at most once: the index of the last one seen.
        let mut last = None;
        if rest.is_empty() {
            return Err(PeriodError::Form);
        }
        while !rest.is_empty() {
            if let Some(time) = rest.strip_prefix('T') {
                if in_time || time.is_empty() {
                    return Err(PeriodError::Form);
                }
                in_time = true;
                rest = time;
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let mut chars = tail.chars();
            let unit = chars.next().ok_or(PeriodError::Form)?;
            let (order, scale) = match (in_time, unit) {
                (false, 'W') => (0, 7 * SECONDS_PER_DAY),
                (false, 'D') => (1, SECONDS_PER_DAY),
                (true, 'H') => (2, 3_600),
                (true, 'M') => (3, 60),
                (true, 'S') => (4, 1),
                _ => return Err(PeriodError::Form),
            };
            if number.is_empty() || last.is_some_and(|last| last >= order) {
                return Err(PeriodError::Form);
            }
            last = Some(order);
            let number: u64 = number.parse().map_err(|_| PeriodError::TooLong)?;
            seconds = number
                .checked_mul(scale)
                .and_then(|part| seconds.checked_add(part))
                .ok_or(PeriodError::TooLong)?;
            rest = chars.as_str();
        }
        Self::from_seconds(seconds).ok_or(PeriodError::TooLong)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / SECONDS_PER_DAY, self.0 % SECONDS_PER_DAY);
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        f.write_str("P")?;
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if hours + minutes + seconds > 0 || days == 0 {
            f.write_str("T")?;
        }
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        if seconds > 0 || self.0 == 0 {
            write!(f, "{seconds}S")?;
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Result<u64, PeriodError> {
        text.parse::<Period>().map(Period::seconds)
    }

    #[test]
    fn reads_every_unit_of_the_contract() {
        assert_eq!(seconds("P14D"), Ok(14 * 86_400));
        assert_eq!(seconds("P2W"), Ok(14 * 86_400));
        assert_eq!(
            seconds("P1W2DT3H4M5S"),
            Ok(9 * 86_400 + 3 * 3_600 + 4 * 60 + 5)
        );
        assert_eq!(seconds("PT36H"), Ok(36 * 3_600));
        assert_eq!(seconds("P366D"), Ok(MAX_SECONDS));
        assert_eq!(seconds("PT0S"), Ok(0));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "", "P", "PT", "14D", "P1M", "P1Y", "P1.5D", "PT5", "P1H", "PT1D", "P1D1W", "P1D1D",
            "P-1D", "P1DT", "PTT1S", "pt1s", " P1D",
        ] {
            assert_eq!(seconds(text), Err(PeriodError::Form), "{text}");
        }
        assert_eq!(seconds("P367D"), Err(PeriodError::TooLong));
        assert_eq!(seconds("P99999999999999999999D"), Err(PeriodError::TooLong));
        assert_eq!(seconds("P9999999999999999D"), Err(PeriodError::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn writes_what_it_reads(length in 0..=MAX_SECONDS) {
            let period = Period::from_seconds(length).expect("within bounds");
            proptest::prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }
    }
}
