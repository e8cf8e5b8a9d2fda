//! Durations as the contract writes them: ISO 8601 without months and years (`P14D`, `PT10M`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SECONDS_PER_DAY: u64 = 86_400;

/// The longest period of the contract, 366 days.
pub const MAX_SECONDS: u64 = 366 * SECONDS_PER_DAY;

/// A whole number of seconds from 0 to 366 days. `P14D` is exactly 14 × 24 h: no calendar, no
/// daylight saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

/// Why a text is not a [`Period`] or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// The form is wrong. Months, years and fractions are not allowed.
    #[error(
        "must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P14D or PT10M"
    )]
    Form,
    /// Longer than 366 days.
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
        // At most 366 days, which is far inside the range.
        TimeDelta::seconds(i64::try_from(self.0).unwrap_or(i64::MAX / 1_000))
    }

    /// As the standard library's type, for timers.
    pub const fn std(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        if text.contains('.') {
            return Err(PeriodError::Form);
        }
        Self::from_seconds(parse_duration(text)?.as_secs()).ok_or(PeriodError::TooLong)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.std()))
    }
}

/// Reads weeks, days, hours, minutes and seconds, in this order, each at most once. Only seconds may have a
/// fraction, of at most nine digits, because some settings are far below a second. Any length that a
/// [`Duration`] can hold is valid.
pub fn parse_duration(text: &str) -> Result<Duration, PeriodError> {
    let rest = text.strip_prefix('P').ok_or(PeriodError::Form)?;
    let (date, time) = match rest.split_once('T') {
        Some((_, "")) => return Err(PeriodError::Form),
        Some((date, time)) => (date, time),
        None => (rest, ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(PeriodError::Form);
    }
    let date = parts(date, &[('W', 7 * SECONDS_PER_DAY), ('D', SECONDS_PER_DAY)])?;
    let time = parts(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    date.checked_add(time).ok_or(PeriodError::TooLong)
}

/// Reads `<number><unit>` pairs. The units come from the list, in its order, each at most once.
fn parts(mut text: &str, mut units: &[(char, u64)]) -> Result<Duration, PeriodError> {
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let end = text.find(|c: char| c.is_ascii_alphabetic());
        let (number, rest) = text.split_at(end.ok_or(PeriodError::Form)?);
        let mut chars = rest.chars();
        let unit = chars.next().ok_or(PeriodError::Form)?;
        let index = units.iter().position(|(name, _)| *name == unit);
        let index = index.ok_or(PeriodError::Form)?;
        let seconds_per_unit = units[index].1;
        units = &units[index + 1..];
        text = chars.as_str();
        let (whole, nanos) = match number.split_once('.') {
            Some((whole, digits)) if unit == 'S' => (whole, nanos(digits)?),
            Some(_) => return Err(PeriodError::Form),
            None => (number, 0),
        };
        // u64's own parser would accept a plus sign.
        if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PeriodError::Form);
        }
        let whole: u64 = whole.parse().map_err(|_| PeriodError::TooLong)?;
        sum = whole
            .checked_mul(seconds_per_unit)
            .and_then(|seconds| sum.checked_add(Duration::new(seconds, nanos)))
            .ok_or(PeriodError::TooLong)?;
    }
    Ok(sum)
}

fn nanos(digits: &str) -> Result<u32, PeriodError> {
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PeriodError::Form);
    }
    format!("{digits:0<9}")
        .parse()
        .map_err(|_| PeriodError::Form)
}

/// The shortest common form: `P14D`, `PT10M`, `PT0.2S`, `PT0S`.
pub fn format_duration(duration: Duration) -> String {
    use fmt::Write as _;

    let total = duration.as_secs();
    let mut text = String::from("P");
    if total >= 86_400 {
        let _ = write!(text, "{}D", total / 86_400);
    }
    let (hours, minutes, seconds) = (total / 3_600 % 24, total / 60 % 60, total % 60);
    let nanos = duration.subsec_nanos();
    if hours + minutes + seconds > 0 || nanos > 0 || total == 0 {
        text.push('T');
    }
    if hours > 0 {
        let _ = write!(text, "{hours}H");
    }
    if minutes > 0 {
        let _ = write!(text, "{minutes}M");
    }
    if nanos > 0 {
        let fraction = format!("{nanos:09}");
        let _ = write!(text, "{seconds}.{}S", fraction.trim_end_matches('0'));
    } else if seconds > 0 || total == 0 {
        let _ = write!(text, "{seconds}S");
    }
    text
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

    #[test]
    fn reads_and_writes_durations_with_fractions() {
        for (text, millis) in [
            ("PT0S", 0),
            ("PT0.2S", 200),
            ("PT1.05S", 1_050),
            ("PT10M", 600_000),
            ("PT1H30M", 5_400_000),
            ("P14D", 14 * 86_400_000),
            ("P1DT1S", 86_401_000),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(parse_duration("P2W"), parse_duration("P14D"));
    }

    #[test]
    fn a_duration_is_nothing_else() {
        for text in [
            "",
            "P",
            "PT",
            "P1DT",
            "10",
            "10s",
            "PT10",
            "P1M",
            "P1Y",
            "PT0.5M",
            "PT.5S",
            "PT1.S",
            "PT-1S",
            "PT+1S",
            "PT1S1M",
            "PT1S1S",
            "pt1s",
            "P1D1W",
            "PT1.0000000001S",
            "P99999999999999999999D",
        ] {
            assert_eq!(parse_duration(text).ok(), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn writes_what_it_reads(length in 0..=MAX_SECONDS) {
            let period = Period::from_seconds(length).expect("within bounds");
            proptest::prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }
    }
}
