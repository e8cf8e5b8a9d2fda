//! Parses the values of options. Each error says what was expected.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::NaiveDate;

use crate::api::auth::is_actor;
use crate::cli::files::Speed;
use crate::domain::period::parse_duration;
use crate::domain::promotion::MAX_TARGET_RIDES;
use crate::domain::{Instant, parse_instant};
use crate::positions::PositionTarget;

/// As the admin API takes a token's `sub`.
pub(super) fn operator_name(text: &str) -> Result<String, String> {
    if is_actor(text) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of 1 to 200 printable characters".to_owned())
    }
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(366 * 86_400);
    parse_duration(text)
        .ok()
        .filter(|duration| *duration >= Duration::from_secs(1) && *duration <= longest)
        .ok_or_else(|| {
            "expected an ISO 8601 duration from PT1S to P366D, such as PT60S or PT1H".to_owned()
        })
}

pub(super) fn instant(text: &str) -> Result<Instant, String> {
    parse_instant(text)
        .ok_or_else(|| "expected an RFC 3339 instant such as 2026-11-01T00:00:00Z".to_owned())
}

pub(super) fn targets(text: &str) -> Result<RangeInclusive<u32>, String> {
    let target = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|target| (1..=MAX_TARGET_RIDES).contains(target))
    };
    text.split_once("..")
        .and_then(|(first, last)| Some(target(first)?..=target(last)?))
        .filter(|targets| !targets.is_empty())
        .ok_or_else(|| {
            format!("expected FIRST..LAST such as 5..40, both from 1 to {MAX_TARGET_RIDES}")
        })
}

pub(super) fn month(text: &str) -> Result<NaiveDate, String> {
    let is_long = text.len() == "2027-01".len();
    NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
        .ok()
        .filter(|_| is_long)
        .ok_or_else(|| "expected a month, such as 2027-01".to_owned())
}

pub(super) fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    text.parse::<f64>()
        .ok()
        .filter(|factor| factor.is_finite() && *factor > 0.0)
        .map(Speed::Times)
        .ok_or_else(|| "expected a factor above 0, such as 60, or max".to_owned())
}

pub(super) fn position_target(text: &str) -> Result<PositionTarget, String> {
    match text {
        "beginning" => Ok(PositionTarget::Beginning),
        "end" => Ok(PositionTarget::End),
        offset => offset
            .parse::<i64>()
            .ok()
            .filter(|offset| *offset >= 0)
            .map(PositionTarget::Offset)
            .ok_or_else(|| "expected beginning, end or an offset from 0".to_owned()),
    }
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if (1..=1_000).contains(&text.chars().count()) && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 1000 characters".to_owned())
    }
}
