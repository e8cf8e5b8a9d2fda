//! The results as a page.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::Arguments;
use crate::backlog::Run;

/// The parts alone.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    /// Producing the backlog until all is acknowledged.
    pub produce: Duration,
    /// Reading it.
    pub drain: Duration,
    /// Reading and parsing it.
    pub parse: Duration,
    /// Applying its participants' rides.
    pub apply: Duration,
}

/// What was measured on one backlog.
#[derive(Debug)]
pub struct Backlog {
    /// How many of 100 rides are by participants.
    pub share: u32,
    /// How many rides.
    pub rides: u64,
    /// The parts alone.
    pub floors: Floors,
    /// The service.
    pub runs: Vec<Run>,
}

impl Backlog {
    /// The run that took the median time.
    fn median(&self) -> Run {
        let mut runs = self.runs.clone();
        runs.sort_by_key(|run| run.took);
        runs[runs.len() / 2]
    }

    fn per_second(&self, took: Duration) -> f64 {
        self.rides as f64 / took.as_secs_f64()
    }

    fn floors_sum(&self) -> Duration {
        self.floors.parse + self.floors.apply
    }

    fn ratio(&self) -> f64 {
        self.median().took.as_secs_f64() / self.floors_sum().as_secs_f64()
    }

    fn cpu(&self, used: Duration) -> f64 {
        used.as_secs_f64() * 1e6 / self.rides as f64
    }

    fn peak_memory(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| run.peak_memory)
            .max()
            .unwrap_or_default()
    }
}

impl Display for Backlog {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let run = self.median();
        writeln!(
            f,
            "{} %: {:.2} s ({:.2} s published), {} rides/s; floors: produce {:.2}, drain {:.2}, parse {:.2}, apply {:.2}; ratio {:.2}",
            self.share,
            run.took.as_secs_f64(),
            run.published.as_secs_f64(),
            count(self.per_second(run.took)),
            self.floors.produce.as_secs_f64(),
            self.floors.drain.as_secs_f64(),
            self.floors.parse.as_secs_f64(),
            self.floors.apply.as_secs_f64(),
            self.ratio(),
        )?;
        writeln!(
            f,
            "  cpu/1M: worker {:.2}, postgres {:.2}, broker {:.2}; rss {} MB; runs {:?}",
            self.cpu(run.cpu.worker),
            self.cpu(run.cpu.postgres),
            self.cpu(run.cpu.broker),
            self.peak_memory() / 1_000_000,
            self.runs.iter().map(|run| run.took).collect::<Vec<_>>(),
        )
    }
}

/// The page.
pub struct Report {
    facts: Vec<(&'static str, String)>,
    /// A section of the page.
    pub backlogs: Vec<Backlog>,
}

impl Report {
    /// A page without results.
    pub fn new(facts: Vec<(&'static str, String)>, _arguments: &Arguments) -> Self {
        Self {
            facts,
            backlogs: Vec::new(),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.facts {
            writeln!(f, "| {name} | {value} |")?;
        }
        for backlog in &self.backlogs {
            writeln!(f, "{backlog}")?;
        }
        Ok(())
    }
}

/// A number with its thousands apart.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
