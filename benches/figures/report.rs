//! The results as a page.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::Arguments;
use crate::backlog::Run;
use crate::latency::{Latency, Load};

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
    /// One line while it is being measured.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let run = self.median();
        write!(
            f,
            "{} %: {} rides/s, {:.2} of the floors; {} MB; runs {:.2?}",
            self.share,
            count(self.per_second(run.took)),
            self.ratio(),
            self.peak_memory() / 1_000_000,
            self.runs.iter().map(|run| run.took).collect::<Vec<_>>(),
        )
    }
}

/// The page.
pub struct Report {
    facts: Vec<(&'static str, String)>,
    participants: i64,
    runs: usize,
    load: Load,
    /// A line of the throughput tables each.
    pub backlogs: Vec<Backlog>,
    /// A line of the latency table each.
    pub latencies: Vec<Latency>,
}

impl Report {
    /// A page without results.
    pub fn new(facts: Vec<(&'static str, String)>, arguments: &Arguments, load: Load) -> Self {
        Self {
            facts,
            participants: arguments.participants,
            runs: arguments.runs,
            load,
            backlogs: Vec::new(),
            latencies: Vec::new(),
        }
    }

    fn throughput(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rides = self.backlogs.first().map_or(0, |backlog| backlog.rides);
        writeln!(
            f,
            "## A backlog worked off\n\n\
             `serve --roles ingest,relay,sweep`, one process, starts with {} rides in the topic and {} challenges in progress.\n\
             *Share*: rides by participants. *Time*: until the last position is recorded, the median of {} runs. *Floors*: reading\n\
             and parsing the same topic, plus applying its participants' rides, each alone, one after the other. *Published*: until\n\
             the last status change is in its topic, too. *Memory*: the most the process ever had resident, over all runs. After each\n\
             run every receipt, count and position is checked.\n\n\
             | share | rides/s | time | floors | time ÷ floors | published | memory |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            count(rides as f64),
            count(self.participants as f64),
            self.runs
        )?;
        for backlog in &self.backlogs {
            let run = backlog.median();
            writeln!(
                f,
                "| {} % | {} | {:.2} s | {:.2} s | **{:.2}** | {:.2} s | {} MB |",
                backlog.share,
                count(backlog.per_second(run.took)),
                run.took.as_secs_f64(),
                backlog.floors_sum().as_secs_f64(),
                backlog.ratio(),
                run.published.as_secs_f64(),
                backlog.peak_memory() / 1_000_000,
            )?;
        }
        writeln!(
            f,
            "\nThe floors apart, each the median of the same runs, and the processor's seconds per million rides:\n\n\
             | share | produce + ack | drain | drain + parse | apply | worker | Postgres | broker |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for backlog in &self.backlogs {
            let (run, floors) = (backlog.median(), backlog.floors);
            writeln!(
                f,
                "| {} % | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.2} s |",
                backlog.share,
                floors.produce.as_secs_f64(),
                floors.drain.as_secs_f64(),
                floors.parse.as_secs_f64(),
                floors.apply.as_secs_f64(),
                backlog.cpu(run.cpu.worker),
                backlog.cpu(run.cpu.postgres),
                backlog.cpu(run.cpu.broker),
            )?;
        }
        Ok(())
    }

    fn latency(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n## From a ride to the client's screen\n\n\
             `serve` with every role, one process. {} rides a second come at their times, whether or not those before were seen\n\
             (open loop), each of one of {} clients who wait by long polls. *From the acknowledgement*: of the ride by the broker, to\n\
             the answer that shows it, received and read. *From its time*: since the ride was due to be sent. {} s of warm-up, then\n\
             {} s measured; a line is a run.\n\n\
             | p50 | p99 | p99.9 | most | from its time: p50 | p99 | worker | Postgres | broker | memory |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            count(f64::from(self.load.rides_per_second)),
            count(f64::from(self.load.watchers)),
            self.load.warm_up.as_secs(),
            self.load.measured.as_secs(),
        )?;
        for latency in &self.latencies {
            let ack = |of_1000| millis(Latency::quantile(&latency.from_ack, of_1000));
            let due = |of_1000| millis(Latency::quantile(&latency.from_due, of_1000));
            let cpu =
                |used: Duration| format!("{:.0} %", 100.0 * used.as_secs_f64() / self.seconds());
            writeln!(
                f,
                "| {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {} MB |",
                ack(500),
                ack(990),
                ack(999),
                ack(1_000),
                due(500),
                due(990),
                cpu(latency.cpu.worker),
                cpu(latency.cpu.postgres),
                cpu(latency.cpu.broker),
                latency.peak_memory / 1_000_000,
            )?;
        }
        writeln!(
            f,
            "\nWorker, Postgres and broker: of one core. The benchmark itself, with its clients, runs on the same machine."
        )
    }

    fn seconds(&self) -> f64 {
        (self.load.warm_up + self.load.measured).as_secs_f64()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Figures\n\n\
             Written by `make bench`, which measures the release build on a real Kafka and PostgreSQL of its own and everything it is\n\
             compared with in the same run. Ratios hold elsewhere, absolute times are this machine's.\n\n\
             | | |\n| --- | --- |"
        )?;
        for (name, value) in &self.facts {
            writeln!(f, "| {name} | {value} |")?;
        }
        writeln!(f)?;
        self.throughput(f)?;
        self.latency(f)
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
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
