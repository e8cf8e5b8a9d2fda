//! The report of a back-test in its three formats: a table for people, JSON and CSV for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::domain::Instant;
use crate::domain::promotion::{Conditions, Verdict};

/// The format of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One JSON object.
    Json,
    /// RFC 4180 with a header, one row per target.
    Csv,
}

/// A whole back-test.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The conditions, with the target of the file.
    pub conditions: Conditions,
    /// The first and the last `completed_at` of the rides that were judged; null without any.
    pub period: Option<Period>,
    /// Counts of the input.
    pub rides: Rides,
    /// The outcome for each target, in order.
    pub targets: Vec<Row>,
}

/// The span of the rides in scope, both ends included.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Period {
    /// The earliest `completed_at`.
    #[serde(with = "crate::wire::instant")]
    pub from: Instant,
    /// The latest `completed_at`.
    #[serde(with = "crate::wire::instant")]
    pub to: Instant,
}

/// Counts of the input. Rides after a client's completion are only in `read`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rides {
    /// Rows or records that were read.
    pub read: u64,
    /// Those that break the contract of rides.
    pub malformed: u64,
    /// Records that take a ride back.
    pub reversals: u64,
    /// Those of other clients, or completed outside of the period.
    pub outside: u64,
    /// Repeated rides.
    pub duplicates: u64,
}

/// The outcome for one target.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How many rides complete the challenge.
    pub target_rides: u32,
    /// Clients with a ride in the period: each started with their first one.
    pub clients: u64,
    /// Clients who reached the target in time.
    pub completed: u64,
    /// Clients who did not, and whose challenge was not over when the input ended.
    pub still_open: u64,
    /// Days from the start to the completing ride; null where no client completed.
    pub days_to_completion: Option<DaysToCompletion>,
    /// Clients who ended one, two and three rides short.
    pub near_misses: NearMisses,
    /// Verdicts on the rides of challenges in progress.
    #[serde(serialize_with = "by_verdict")]
    pub verdicts: [(Verdict, u64); Verdict::ALL.len()],
    /// The reward's amount times the completions; null if no amount was given.
    pub cost_cents: Option<i64>,
}

impl Row {
    /// Completed of all clients, 0 to 1; 0 without clients.
    pub fn rate(&self) -> f64 {
        if self.clients == 0 {
            return 0.0;
        }
        self.completed as f64 / self.clients as f64
    }
}

/// Percentiles of the days from the start to the completing ride, nearest rank, by the minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DaysToCompletion {
    /// A tenth of the completing clients needed at most this long.
    pub p10: f64,
    /// Half of them.
    pub p50: f64,
    /// Nine tenths of them.
    pub p90: f64,
}

impl DaysToCompletion {
    /// From a histogram of minutes.
    pub fn of(minutes: &BTreeMap<u32, u64>) -> Option<Self> {
        let total: u64 = minutes.values().sum();
        let percentile = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            minutes.iter().find_map(|(minutes, clients)| {
                seen += clients;
                (seen >= rank).then(|| f64::from(*minutes) / (24.0 * 60.0))
            })
        };
        Some(Self {
            p10: percentile(10)?,
            p50: percentile(50)?,
            p90: percentile(90)?,
        })
    }
}

/// Clients who ended 1, 2 and 3 rides short of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMisses(pub [u64; 3]);

impl Serialize for NearMisses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        for (short, clients) in ["1", "2", "3"].iter().zip(self.0) {
            map.serialize_entry(short, &clients)?;
        }
        map.end()
    }
}

fn by_verdict<S: Serializer>(
    verdicts: &[(Verdict, u64); Verdict::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(verdicts.len()))?;
    for (verdict, rides) in verdicts {
        map.serialize_entry(verdict.as_str(), rides)?;
    }
    map.end()
}

/// The columns of the table and of the CSV, before those of the verdicts.
const COLUMNS: [&str; 12] = [
    "target_rides",
    "clients",
    "completed",
    "rate",
    "still_open",
    "days_p10",
    "days_p50",
    "days_p90",
    "short_1",
    "short_2",
    "short_3",
    "cost_cents",
];

impl Report {
    /// The report in this format, with a line end.
    pub fn render(&self, output: Output) -> anyhow::Result<String> {
        Ok(match output {
            Output::Table => self.table(),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&self.json()?)?),
            Output::Csv => self.csv(),
        })
    }

    /// The rate is derived, so it is added to the JSON here.
    fn json(&self) -> anyhow::Result<serde_json::Value> {
        let mut json = serde_json::to_value(self)?;
        for (index, row) in self.targets.iter().enumerate() {
            json["targets"][index]["rate"] = serde_json::json!(rounded(row.rate(), 6));
        }
        Ok(json)
    }

    fn csv(&self) -> String {
        let verdicts = Verdict::ALL.map(Verdict::as_str);
        let mut text = [COLUMNS.as_slice(), verdicts.as_slice()].concat().join(",");
        text.push('\n');
        for row in &self.targets {
            let verdicts = row.verdicts.iter().map(|(_, rides)| rides.to_string());
            let cells: Vec<String> = cells(row).into_iter().chain(verdicts).collect();
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }

    fn table(&self) -> String {
        let rides = &self.rides;
        let taken_back = match rides.reversals {
            0 => String::new(),
            reversals => format!(", {reversals} taken back"),
        };
        let mut text = format!(
            "{} rides read: {} malformed, {} repeated, {} outside of the period or of other clients{taken_back}\n",
            rides.read, rides.malformed, rides.duplicates, rides.outside
        );
        if let Some(Period { from, to }) = self.period {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "completed from {} to {}",
                crate::wire::format_instant(from),
                crate::wire::format_instant(to)
            );
        }
        text.push('\n');
        let header = COLUMNS.map(str::to_owned);
        let rows: Vec<Vec<String>> = std::iter::once(header.to_vec())
            .chain(self.targets.iter().map(cells))
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        for row in &rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:>width$}"))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text.push_str("\nverdicts, by target\n");
        for row in &self.targets {
            let verdicts: Vec<String> = row
                .verdicts
                .iter()
                .filter(|(_, rides)| *rides > 0)
                .map(|(verdict, rides)| format!("{} {rides}", verdict.as_str()))
                .collect();
            let _ = writeln!(text, "{:>12}  {}", row.target_rides, verdicts.join(", "));
        }
        text
    }
}

fn cells(row: &Row) -> Vec<String> {
    let days = |of: fn(&DaysToCompletion) -> f64| {
        row.days_to_completion
            .as_ref()
            .map_or_else(String::new, |days| format!("{:.3}", of(days)))
    };
    let [short_1, short_2, short_3] = row.near_misses.0;
    vec![
        row.target_rides.to_string(),
        row.clients.to_string(),
        row.completed.to_string(),
        format!("{:.4}", row.rate()),
        row.still_open.to_string(),
        days(|days| days.p10),
        days(|days| days.p50),
        days(|days| days.p90),
        short_1.to_string(),
        short_2.to_string(),
        short_3.to_string(),
        row.cost_cents
            .map_or_else(String::new, |cents| cents.to_string()),
    ]
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
