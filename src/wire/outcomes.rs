//! What became of a promotion's newest participations: why rides did not count, near misses, and how
//! long completion took.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::promotion::Verdict;

/// Figures of a promotion's participations that started within a time.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Outcomes {
    /// The promotion.
    pub promotion_id: i64,
    /// Only participations that started at or after this.
    #[serde(with = "crate::wire::instant")]
    pub from: DateTime<Utc>,
    /// Only participations that started before this.
    #[serde(with = "crate::wire::instant")]
    pub to: DateTime<Utc>,
    /// How many participations these figures are of: the newest ones, at most 1,000.
    #[schema(minimum = 0, maximum = 1000)]
    pub participations: usize,
    /// Whether more started within the time.
    pub more: bool,
    /// How many of their rides got which verdict; verdicts that no ride got are left out. Receipts that
    /// retention has dropped are not counted.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub verdicts: BTreeMap<Verdict, i64>,
    /// How many expired with their challenge one, two and three rides short.
    pub near_misses: NearMisses,
    /// How long the completed ones took from start to completion, in days; `null` where none completed.
    #[schema(required)]
    pub days_to_completion: Option<DaysToCompletion>,
}

/// Participations that expired short of the rides needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct NearMisses {
    /// One ride short.
    #[serde(rename = "1")]
    pub one: i64,
    /// Two rides short.
    #[serde(rename = "2")]
    pub two: i64,
    /// Three rides short.
    #[serde(rename = "3")]
    pub three: i64,
}

/// Days from start to completion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DaysToCompletion {
    /// A tenth of them took at most this long.
    pub p10: f64,
    /// Half of them.
    pub p50: f64,
    /// Nine tenths of them.
    pub p90: f64,
}

/// One participation, as far as these figures need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many rides it ended short of the target; `None` where it did not expire for that.
    pub rides_short: Option<i32>,
    /// Seconds from start to completion; `None` where it was not completed.
    pub seconds_to_completion: Option<i64>,
}

impl NearMisses {
    /// Counts them.
    pub fn of(outcomes: &[Outcome]) -> Self {
        let short = |rides| {
            let those = outcomes.iter().filter(|one| one.rides_short == Some(rides));
            i64::try_from(those.count()).unwrap_or(i64::MAX)
        };
        Self {
            one: short(1),
            two: short(2),
            three: short(3),
        }
    }
}

impl DaysToCompletion {
    /// The percentiles by the nearest rank; `None` where none completed.
    pub fn of(outcomes: &[Outcome]) -> Option<Self> {
        let mut seconds: Vec<i64> = outcomes
            .iter()
            .filter_map(|one| one.seconds_to_completion)
            .collect();
        seconds.sort_unstable();
        let percentile = |percent: usize| {
            let rank = (seconds.len() * percent).div_ceil(100).max(1);
            Some(*seconds.get(rank - 1)? as f64 / 86_400.0)
        };
        Some(Self {
            p10: percentile(10)?,
            p50: percentile(50)?,
            p90: percentile(90)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_and_percentiles_are_of_those_who_have_them() {
        let completed = |days: i64| Outcome {
            rides_short: None,
            seconds_to_completion: Some(days * 86_400),
        };
        let short = |rides: i32| Outcome {
            rides_short: Some(rides),
            seconds_to_completion: None,
        };
        let mut outcomes: Vec<Outcome> = (1..=10).rev().map(completed).collect();
        outcomes.extend([1, 1, 2, 4].map(short));
        let expected = NearMisses {
            one: 2,
            two: 1,
            three: 0,
        };
        assert_eq!(NearMisses::of(&outcomes), expected);
        let days = DaysToCompletion::of(&outcomes).expect("some completed");
        assert_eq!((days.p10, days.p50, days.p90), (1.0, 5.0, 9.0));
        assert_eq!(DaysToCompletion::of(&[short(1)]), None);
    }
}
