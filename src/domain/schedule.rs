//! When a promotion can be started (contract 2, Schedule and budget).

use super::Instant;

/// The half-open interval in which starts are possible. Its end does not end a started challenge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The start of the interval; `None` if it has none.
    pub opens_at: Option<Instant>,
    /// The end, exclusive; `None` if it has none.
    pub closes_at: Option<Instant>,
}

impl Schedule {
    /// Whether starts are possible at `now`.
    pub fn is_open(&self, now: Instant) -> bool {
        self.opens_at.is_none_or(|opens_at| opens_at <= now)
            && self.closes_at.is_none_or(|closes_at| now < closes_at)
    }

    /// Whether it is open at any moment.
    pub fn is_possible(&self) -> bool {
        self.opens_at
            .zip(self.closes_at)
            .is_none_or(|(opens_at, closes_at)| opens_at < closes_at)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn it_is_open_from_its_beginning_until_before_its_end() {
        let at = |second| Instant::UNIX_EPOCH + TimeDelta::seconds(second);
        let open_at = |opens_at: Option<i64>, closes_at: Option<i64>| -> Vec<i64> {
            let schedule = Schedule {
                opens_at: opens_at.map(at),
                closes_at: closes_at.map(at),
            };
            (1..=4)
                .filter(|second| schedule.is_open(at(*second)))
                .collect()
        };
        assert_eq!(open_at(None, None), [1, 2, 3, 4]);
        assert_eq!(open_at(Some(2), None), [2, 3, 4]);
        assert_eq!(open_at(None, Some(3)), [1, 2]);
        assert_eq!(open_at(Some(2), Some(4)), [2, 3]);
    }

    #[test]
    fn its_end_is_after_its_beginning() {
        let now = Instant::UNIX_EPOCH;
        let possible = |opens_at, closes_at| {
            Schedule {
                opens_at,
                closes_at,
            }
            .is_possible()
        };
        assert!(possible(None, None));
        assert!(possible(Some(now), None));
        assert!(possible(None, Some(now)));
        assert!(possible(Some(now), Some(now + TimeDelta::milliseconds(1))));
        assert!(!possible(Some(now), Some(now)));
        assert!(!possible(Some(now + TimeDelta::milliseconds(1)), Some(now)));
    }
}
