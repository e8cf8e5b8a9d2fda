//! Durations in the configuration: ISO 8601, with a fraction of a second allowed (`PT0.2S`),
//! because some of them are waits far below a second.

use std::time::Duration;

/// Reads weeks, days, hours, minutes and seconds, in this order; only seconds may have a fraction,
/// of at most nine digits. `None` for anything else.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (date, time) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None => (rest, ""),
    };
    if date.is_empty() && time.is_empty() {
        return None;
    }
    let date = parts(date, &[('W', 604_800), ('D', 86_400)])?;
    let time = parts(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    date.checked_add(time)
}

/// Reads `<number><unit>` pairs whose units come from the list, in its order, each at most once.
fn parts(mut text: &str, mut units: &[(char, u64)]) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let end = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, rest) = text.split_at(end);
        let mut chars = rest.chars();
        let unit = chars.next()?;
        let index = units.iter().position(|(name, _)| *name == unit)?;
        let seconds_per_unit = units[index].1;
        units = &units[index + 1..];
        text = chars.as_str();
        let (whole, nanos) = match number.split_once('.') {
            Some((whole, digits)) if unit == 'S' => (whole, nanos(digits)?),
            Some(_) => return None,
            None => (number, 0),
        };
        // u64's own parsing would let a plus sign through.
        if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let seconds = whole.parse::<u64>().ok()?.checked_mul(seconds_per_unit)?;
        sum = sum.checked_add(Duration::new(seconds, nanos))?;
    }
    Some(sum)
}

fn nanos(digits: &str) -> Option<u32> {
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

/// The shortest usual way to write it: `P14D`, `PT10M`, `PT0.2S`, `PT0S`.
pub(super) fn format(duration: Duration) -> String {
    use std::fmt::Write as _;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_the_configuration_uses() {
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
            assert_eq!(parse(text), Some(duration), "{text}");
            assert_eq!(format(duration), text);
        }
        assert_eq!(parse("P2W"), parse("P14D"));
    }

    #[test]
    fn refuses_everything_else() {
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
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
