//! The figures of a run, read from the public API, shown as a picture or as a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::api::{PromotionStats, Stats};
use super::rides::Counts;
use crate::domain::PromotionId;
use crate::domain::promotion::Verdict;

/// How wide the longest bar is.
const WIDTH: usize = 32;

/// All figures at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Funnel {
    clients: PromotionStats,
    /// How many of those started are a client's second promotion.
    second_chances: u64,
    published: u64,
    rides: Rides,
    quarantine: i64,
    outbox: i64,
    lag: Option<i64>,
}

/// The outcomes of the rides that were read, from the service's metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rides {
    applied: u64,
    counted: u64,
    /// Judged and not counted, by verdict.
    refused: BTreeMap<String, u64>,
    repeated: u64,
    without_challenge: u64,
}

impl Rides {
    /// Parses the text of `/metrics`.
    fn of_metrics(text: &str) -> Self {
        let mut rides = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line
                .strip_prefix("ride_promo_")
                .and_then(|line| line.rsplit_once(' '))
            else {
                continue;
            };
            // Counters are whole numbers; other values are not counters of ours.
            let Ok(value) = value.parse::<u64>() else {
                continue;
            };
            let (name, label) = match name.split_once('{') {
                Some((name, label)) => (name, label.trim_end_matches('}')),
                None => (name, ""),
            };
            match name {
                "rides_consumed_total" => rides.applied = value,
                "rides_duplicate_total" => rides.repeated = value,
                "rides_no_participation_total" => rides.without_challenge = value,
                "rides_judged_total" => match label.split('"').nth(1) {
                    Some(verdict) if verdict == Verdict::Counted.as_str() => rides.counted = value,
                    Some(verdict) if value > 0 => {
                        rides.refused.insert(verdict.to_owned(), value);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        rides
    }
}

impl Funnel {
    /// From the service's responses and the publisher's counts.
    pub(super) fn new(
        stats: &Stats,
        metrics: &str,
        first: PromotionId,
        published: &Counts,
    ) -> Self {
        // The database has no promotions but the demo's.
        let mut clients = PromotionStats::default();
        for promotion in &stats.promotions {
            clients.started += promotion.started;
            clients.in_progress += promotion.in_progress;
            clients.completed += promotion.completed;
            clients.rewarded += promotion.rewarded;
            clients.expired.challenge_not_completed += promotion.expired.challenge_not_completed;
            clients.expired.reward_not_claimed += promotion.expired.reward_not_claimed;
        }
        let others = stats.promotions.iter();
        let others = others.filter(|promotion| promotion.promotion_id != first);
        Self {
            second_chances: others.map(|promotion| promotion.started).sum(),
            clients,
            published: published.published(),
            rides: Rides::of_metrics(metrics),
            quarantine: stats.quarantine_open,
            outbox: stats.outbox.depth,
            lag: stats.ingest.lag,
        }
    }

    /// Records applied since the service started.
    pub(super) fn applied(&self) -> u64 {
        self.rides.applied
    }

    /// No record and no event is in progress.
    pub(super) fn is_settled(&self) -> bool {
        self.outbox == 0 && self.lag == Some(0)
    }

    fn expired(&self) -> u64 {
        let expired = &self.clients.expired;
        expired.challenge_not_completed + expired.reward_not_claimed
    }

    fn not_counted(&self) -> String {
        let total: u64 = self.rides.refused.values().sum();
        let mut reasons: Vec<(&String, &u64)> = self.rides.refused.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<String> = reasons
            .into_iter()
            .map(|(verdict, count)| format!("{} {count}", verdict.to_lowercase().replace('_', " ")))
            .collect();
        if reasons.is_empty() {
            total.to_string()
        } else {
            format!("{total} ({})", reasons.join(", "))
        }
    }

    fn service(&self) -> String {
        format!(
            "quarantine {}, outbox {}, lag {}",
            self.quarantine,
            self.outbox,
            self.lag.map_or("unknown".to_owned(), |lag| lag.to_string())
        )
    }

    /// As a line.
    pub(super) fn line(&self, at: &str) -> String {
        let clients = &self.clients;
        format!(
            "{at}  started {} (second chances {}), in progress {}, completed {}, rewarded {}, expired {} (challenge not completed {}, reward \
             not claimed {}); rides published {}, counted {}, not counted {}, repeated {}, for clients without a challenge {}; {}",
            clients.started,
            self.second_chances,
            clients.in_progress,
            clients.completed,
            clients.rewarded,
            self.expired(),
            clients.expired.challenge_not_completed,
            clients.expired.reward_not_claimed,
            self.published,
            self.rides.counted,
            self.not_counted(),
            self.rides.repeated,
            self.rides.without_challenge,
            self.service()
        )
    }

    /// As a picture of several lines.
    pub(super) fn picture(&self, at: &str) -> String {
        let clients = &self.clients;
        let mut picture = format!("{at}\n");
        for (name, count, note) in [
            (
                "started",
                clients.started,
                format!("  second chances {}", self.second_chances),
            ),
            ("in progress", clients.in_progress, String::new()),
            ("completed", clients.completed, String::new()),
            ("rewarded", clients.rewarded, String::new()),
            (
                "expired",
                self.expired(),
                format!(
                    "  challenge not completed {}, reward not claimed {}",
                    clients.expired.challenge_not_completed, clients.expired.reward_not_claimed
                ),
            ),
        ] {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(
                picture,
                "  {name:<12}{count:>7} {}{note}",
                bar(count, clients.started)
            );
        }
        let _ = writeln!(
            picture,
            "  rides       {:>7} published, {} counted, {} repeated, {} for clients without a challenge",
            self.published, self.rides.counted, self.rides.repeated, self.rides.without_challenge
        );
        let _ = writeln!(picture, "  not counted  {}", self.not_counted());
        let _ = write!(picture, "  {}", self.service());
        picture
    }
}

fn bar(count: u64, of: u64) -> String {
    if count == 0 || of == 0 {
        return String::new();
    }
    // One is visible, too.
    let length = (count as usize * WIDTH).div_ceil(of as usize);
    "█".repeat(length.min(WIDTH))
}

/// The time of a run: `0:07`, or `0:07 of 1:00` if it ends after a given time.
pub(super) fn clock(elapsed: Duration, duration: Option<Duration>) -> String {
    let minutes = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    match duration {
        None => minutes(elapsed),
        Some(duration) => format!(
            "{} of {}",
            minutes(elapsed.min(duration)),
            minutes(duration)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn reads_the_services_own_metrics() {
        let metrics = Metrics::new();
        metrics.ingest.consumed.inc_by(20);
        metrics.ingest.judged.add(Verdict::Counted.as_str(), 7);
        metrics
            .ingest
            .judged
            .add(Verdict::BelowMinAmount.as_str(), 3);
        metrics.ingest.duplicate.inc_by(2);
        metrics.ingest.no_participation.inc_by(8);
        let rides = Rides::of_metrics(&metrics.render());
        let expected = Rides {
            applied: 20,
            counted: 7,
            refused: [(Verdict::BelowMinAmount.to_string(), 3)].into(),
            repeated: 2,
            without_challenge: 8,
        };
        assert_eq!(rides, expected);
    }

    #[test]
    fn names_every_stage() {
        let funnel = Funnel {
            clients: PromotionStats {
                started: 10,
                in_progress: 1,
                ..PromotionStats::default()
            },
            ..Funnel::default()
        };
        let (line, picture) = (funnel.line("0:01"), funnel.picture("0:01"));
        for word in [
            "started",
            "second chances",
            "in progress",
            "completed",
            "rewarded",
            "expired",
            "challenge not completed",
            "reward not claimed",
            "published",
            "counted",
            "not counted",
            "quarantine",
            "outbox",
            "lag",
        ] {
            assert!(line.contains(word), "{word} in {line}");
            assert!(picture.contains(word), "{word} in {picture}");
        }
        assert_eq!(bar(10, 10).chars().count(), WIDTH);
        assert_eq!(bar(1, 1_000).chars().count(), 1);
        assert_eq!(bar(0, 10), "");
    }

    #[test]
    fn says_how_far_it_is() {
        let seconds = Duration::from_secs;
        assert_eq!(clock(seconds(67), None), "1:07");
        assert_eq!(clock(seconds(67), Some(seconds(60))), "1:00 of 1:00");
    }
}
