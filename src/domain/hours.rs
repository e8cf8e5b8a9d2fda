//! Windows of the week in which rides count, in local time (contract 2, "Narrowings").

use chrono::{Datelike as _, NaiveDateTime, Timelike as _};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::fields::{BadValue, string};
use super::words::words;

/// How many windows a promotion may have.
const MAX_WINDOWS: usize = 28;

/// The end of a day, in minutes.
const MINUTES_OF_DAY: u16 = 24 * 60;

words! {
    /// A day of the week.
    pub enum Weekday {
        /// Monday.
        Monday = "MO",
        /// Tuesday.
        Tuesday = "TU",
        /// Wednesday.
        Wednesday = "WE",
        /// Thursday.
        Thursday = "TH",
        /// Friday.
        Friday = "FR",
        /// Saturday.
        Saturday = "SA",
        /// Sunday.
        Sunday = "SU",
    }
}

/// A time of day in minutes, `00:00` to `24:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// `HH:MM`, two digits each, up to and including `24:00`.
    fn parse(text: &str) -> Option<Self> {
        let (hour, minute) = text.split_once(':')?;
        let number = |digits: &str| {
            let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        let minutes = hour * 60 + minute;
        (minute < 60 && minutes <= MINUTES_OF_DAY).then_some(Self(minutes))
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:02}:{:02}", self.0 / 60, self.0 % 60))
    }
}

/// A window: hours on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Window {
    /// The days, each once.
    #[schema(min_items = 1, max_items = 7)]
    days: Vec<Weekday>,
    /// The start of the window, `00:00` to `23:59`.
    #[schema(value_type = String, pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$", example = "06:00")]
    from: TimeOfDay,
    /// Its end, exclusive: `00:01` to `24:00`, after `from`.
    #[schema(value_type = String, pattern = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", example = "10:00")]
    to: TimeOfDay,
}

impl Window {
    /// Whether a local time lies in the window.
    pub fn covers(&self, local: NaiveDateTime) -> bool {
        let day = Weekday::ALL[local.weekday().num_days_from_monday() as usize];
        let minute = u16::try_from(local.hour() * 60 + local.minute()).unwrap_or(MINUTES_OF_DAY);
        self.days.contains(&day) && (self.from.0..self.to.0).contains(&minute)
    }
}

/// Reads the list of windows. Errors name the window, counted from 1.
pub(super) fn windows(value: &Value) -> Result<Vec<Window>, BadValue> {
    let items = value
        .as_array()
        .ok_or_else(|| BadValue::WrongType("must be a list".to_owned()))?;
    if items.is_empty() || items.len() > MAX_WINDOWS {
        return Err(BadValue::Invalid(format!(
            "must have 1 to {MAX_WINDOWS} windows"
        )));
    }
    let read = |(index, item)| {
        window(item).map_err(|refusal| {
            let named = |reason: String| format!("window {}: {reason}", index + 1);
            match refusal {
                BadValue::WrongType(reason) => BadValue::WrongType(named(reason)),
                BadValue::Invalid(reason) => BadValue::Invalid(named(reason)),
            }
        })
    };
    items.iter().enumerate().map(read).collect()
}

fn window(value: &Value) -> Result<Window, BadValue> {
    let object = value
        .as_object()
        .ok_or_else(|| BadValue::WrongType("must be an object".to_owned()))?;
    if let Some(name) = object
        .keys()
        .find(|name| !["days", "from", "to"].contains(&name.as_str()))
    {
        return Err(BadValue::Invalid(format!("{name} is not a known field")));
    }
    let member = |name: &str| {
        object
            .get(name)
            .filter(|value| !value.is_null())
            .ok_or_else(|| BadValue::Invalid(format!("{name} is required")))
    };
    let days = days(member("days")?)?;
    let from = time(member("from")?, "from must be 00:00 to 23:59")?;
    let to = time(member("to")?, "to must be 00:01 to 24:00")?;
    if from.0 == MINUTES_OF_DAY {
        return Err(BadValue::Invalid("from must be 00:00 to 23:59".to_owned()));
    }
    if from >= to {
        return Err(BadValue::Invalid("from must be before to".to_owned()));
    }
    Ok(Window { days, from, to })
}

fn days(value: &Value) -> Result<Vec<Weekday>, BadValue> {
    let items = value
        .as_array()
        .ok_or_else(|| BadValue::WrongType("days must be a list".to_owned()))?;
    if items.is_empty() {
        return Err(BadValue::Invalid("days must not be empty".to_owned()));
    }
    let mut days = Vec::with_capacity(items.len());
    for item in items {
        let text =
            string(item).map_err(|_| BadValue::WrongType("days must be strings".to_owned()))?;
        let day: Weekday = text
            .parse()
            .map_err(|error| BadValue::Invalid(format!("days {error}")))?;
        if days.contains(&day) {
            return Err(BadValue::Invalid(format!("days name {day} twice")));
        }
        days.push(day);
    }
    Ok(days)
}

fn time(value: &Value, must: &str) -> Result<TimeOfDay, BadValue> {
    let text = string(value).map_err(|_| BadValue::WrongType(format!("{must}, as a string")))?;
    TimeOfDay::parse(text).ok_or_else(|| BadValue::Invalid(must.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_window_covers_its_days_from_its_beginning_to_before_its_end() {
        let windows = windows(&json!([
            { "days": [Weekday::Monday, Weekday::Friday], "from": "06:00", "to": "10:00" },
            { "days": [Weekday::Sunday], "from": "00:00", "to": "24:00" },
        ]))
        .expect("valid");
        assert_eq!(
            serde_json::to_value(&windows).expect("JSON")[1],
            json!({ "days": [Weekday::Sunday], "from": "00:00", "to": "24:00" })
        );
        for (local, covered) in [
            ("2026-11-23T05:59:59.999", false),
            ("2026-11-23T06:00:00", true),
            ("2026-11-23T09:59:59.999", true),
            ("2026-11-23T10:00:00", false),
            ("2026-11-24T08:00:00", false),
            ("2026-11-27T08:00:00", true),
            ("2026-11-28T23:59:59.999", false),
            ("2026-11-29T00:00:00", true),
            ("2026-11-29T23:59:59.999", true),
        ] {
            let at: NaiveDateTime = local.parse().expect("a local time");
            assert_eq!(
                windows.iter().any(|window| window.covers(at)),
                covered,
                "{local}"
            );
        }
    }

    #[test]
    fn each_fault_names_its_window() {
        let window = |days: Value, from: &str, to: &str| json!([{ "days": [Weekday::Monday], "from": "00:00", "to": "00:01" }, { "days": days, "from": from, "to": to }]);
        for (value, reason) in [
            (
                window(json!([]), "06:00", "10:00"),
                "days must not be empty",
            ),
            (
                window(json!([Weekday::Monday, Weekday::Monday]), "06:00", "10:00"),
                "days name MO twice",
            ),
            (
                window(json!(["mo"]), "06:00", "10:00"),
                "days must be one of MO, TU",
            ),
            (
                window(json!([Weekday::Monday]), "24:00", "24:00"),
                "from must be 00:00 to 23:59",
            ),
            (
                window(json!([Weekday::Monday]), "6:00", "10:00"),
                "from must be 00:00 to 23:59",
            ),
            (
                window(json!([Weekday::Monday]), "+6:00", "10:00"),
                "from must be 00:00 to 23:59",
            ),
            (
                window(json!([Weekday::Monday]), "06:60", "10:00"),
                "from must be 00:00 to 23:59",
            ),
            (
                window(json!([Weekday::Monday]), "06:00", "24:01"),
                "to must be 00:01 to 24:00",
            ),
            (
                window(json!([Weekday::Monday]), "06:00", "06:00"),
                "from must be before to",
            ),
            (
                window(json!([Weekday::Monday]), "22:00", "06:00"),
                "from must be before to",
            ),
        ] {
            let error = windows(&value).expect_err("invalid");
            let BadValue::Invalid(text) = error else {
                panic!("{error:?}");
            };
            assert!(text.starts_with(&format!("window 2: {reason}")), "{text}");
        }
        let one = &window(json!([Weekday::Monday]), "06:00", "10:00")[1];
        for (value, reason) in [
            (json!([]), "must have 1 to 28 windows"),
            (json!(vec![one; 29]), "must have 1 to 28 windows"),
            (
                json!([{ "days": [Weekday::Monday], "from": "06:00" }]),
                "window 1: to is required",
            ),
            (
                json!([{ "days": [Weekday::Monday], "from": "06:00", "to": "07:00", "zone": "UTC" }]),
                "window 1: zone is not a known field",
            ),
        ] {
            assert_eq!(windows(&value), Err(BadValue::Invalid(reason.to_owned())));
        }
        for value in [
            json!({}),
            json!([1]),
            json!([{ "days": Weekday::Monday }]),
            json!([{ "days": [1] }]),
        ] {
            assert!(
                matches!(windows(&value), Err(BadValue::WrongType(_))),
                "{value}"
            );
        }
        assert!(windows(&json!(vec![one; 28])).is_ok());
    }
}
