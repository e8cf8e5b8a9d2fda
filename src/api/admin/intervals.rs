//! The query parameters of calls that return figures over time: from when, to when, and in which intervals.

use chrono::TimeDelta;
use utoipa::IntoParams;

use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::domain::Instant;
use crate::domain::period::{Period, PeriodError};
use crate::store::Store;

/// The most intervals of a response.
const MAX_INTERVALS: i64 = 1_000;

/// An hour.
pub const HOUR: Period = match Period::from_seconds(3_600) {
    Some(hour) => hour,
    None => panic!("an hour is less than 366 days"),
};

/// A day of 24 hours.
pub const DAY: Period = match Period::from_seconds(86_400) {
    Some(day) => day,
    None => panic!("a day is less than 366 days"),
};

/// The parameters, as the OpenAPI document describes them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub struct IntervalParams {
    /// The start of the first interval, RFC 3339; the default is in the description of the call
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// The end of the last interval, exclusive; default: now
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
    /// The length of each interval, ISO 8601, at least `PT1S`; the default is in the description of the call
    #[param(example = "PT1H")]
    interval: Option<String>,
}

/// The parameters as they were sent.
#[derive(Clone, Copy, Debug)]
pub struct IntervalQuery {
    from: Option<Instant>,
    to: Option<Instant>,
    interval: Option<Period>,
}

impl FromQuery for IntervalQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        Ok(Self {
            from: params.instant("from")?,
            to: params.instant("to")?,
            interval: params.parsed("interval", |text| match text.parse::<Period>() {
                Ok(period) if period.seconds() == 0 => Err("must be at least PT1S".to_owned()),
                read => read.map_err(|error: PeriodError| error.to_string()),
            })?,
        })
    }
}

/// Intervals of the same length one after another; the last one may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// The start of the first.
    pub from: Instant,
    /// The end of the last.
    pub to: Instant,
    /// The length of each.
    pub length: Period,
}

impl IntervalQuery {
    /// The intervals, with defaults for what was not sent: up to now, from `span` before the end on, each of
    /// `length`. There are at most 1,000.
    pub async fn intervals(
        self,
        store: &Store,
        span: TimeDelta,
        length: Period,
    ) -> Result<Intervals> {
        let to = match self.to {
            Some(to) => to,
            None => store.now().await?,
        };
        let from = self.from.unwrap_or_else(|| to - span);
        if from >= to {
            return Err(Problem::invalid_field("from", "must be before to"));
        }
        let length = self.interval.unwrap_or(length);
        let (all, each) = (
            (to - from).num_milliseconds(),
            length.delta().num_milliseconds(),
        );
        if all > each.saturating_mul(MAX_INTERVALS) {
            let reason =
                format!("must be longer: there would be more than {MAX_INTERVALS} intervals");
            return Err(Problem::invalid_field("interval", reason));
        }
        Ok(Intervals { from, to, length })
    }
}
