//! The pure rules: which rides count, which transitions exist, who is eligible. There is no async code,
//! SQL, Kafka or HTTP here, so every rule can be tested and read by itself.

pub mod anchor;
pub mod budget;
pub mod eligibility;
pub mod extension;
pub mod fields;
pub mod goals;
pub mod hours;
pub mod participation;
pub mod period;
pub mod promotion;
pub mod reminder;
pub mod reward;
pub mod ride;
pub mod schedule;
pub mod source;
pub mod split;
pub mod standing;
pub mod time_zone;
pub mod verdict;
pub mod words;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};

/// An instant; the contract's precision is milliseconds (see [`to_millis`]).
pub type Instant = DateTime<Utc>;

/// The client: a positive 64-bit integer (contract 1).
pub type UserId = i64;

/// A promotion's number (contract 1).
pub type PromotionId = i64;

/// Identifies a participation.
pub type ParticipationKey = (UserId, PromotionId);

/// Cuts an instant to milliseconds, as the contract demands of every input. A leap second becomes the
/// second after it, as in Postgres.
pub fn to_millis(instant: Instant) -> Instant {
    DateTime::from_timestamp_millis(instant.timestamp_millis()).unwrap_or(instant)
}

/// An RFC 3339 instant with any offset, cut to milliseconds; `None` for any other text. chrono alone would
/// also accept a Unicode minus, a leap second in any minute, and instants whose year in UTC has not four
/// digits.
pub fn parse_instant(text: &str) -> Option<Instant> {
    let instant = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    let is_leap_second = instant.nanosecond() >= 1_000_000_000;
    let may_leap = (instant.hour(), instant.minute()) == (23, 59);
    let instant = to_millis(instant);
    let is_one =
        text.is_ascii() && (may_leap || !is_leap_second) && (0..=9999).contains(&instant.year());
    is_one.then_some(instant)
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;

    use super::*;

    #[test]
    fn an_instant_is_rfc_3339_and_nothing_else() {
        for (text, read) in [
            ("2026-11-22T18:04:05.1239Z", "2026-11-22T18:04:05.123Z"),
            ("2026-11-22t12:04:05-06:00", "2026-11-22T18:04:05.000Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("2016-12-31T17:59:60.5-06:00", "2017-01-01T00:00:00.500Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
        ] {
            let instant = parse_instant(text)
                .map(|instant| instant.to_rfc3339_opts(SecondsFormat::Millis, true));
            assert_eq!(instant.as_deref(), Some(read), "{text}");
        }
        for text in [
            "2026-11-22",
            "2026-11-22T18:04:05",
            "2026-11-22T18:04:05\u{2212}06:00",
            "2026-11-22T18:04:60Z",
            "2026-11-22T22:59:60Z",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59-00:01",
            "0000-01-01T00:00:00+00:01",
        ] {
            assert_eq!(parse_instant(text), None, "{text}");
        }
    }
}
