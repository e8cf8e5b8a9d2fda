//! `back-test`: what a promotion would have come to if every client had started it with their first
//! ride of a period. It judges rides by the code of ingest, and writes nothing.

mod chart;
mod clients;
mod report;
mod topic;

use std::collections::HashSet;
use std::ops::RangeInclusive;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

pub use self::chart::svg;
use self::clients::Clients;
pub use self::clients::Scope;
pub use self::report::{Output, Period, Report, Rides};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::promotion::Conditions;
use crate::domain::{Instant, UserId};
use crate::input::{Line, Lines, OpenedInput};
use crate::ride_file::{self, Format};
use crate::wire::{document, ride_completed};

/// How many rides are judged before other tasks may run.
const YIELD_EVERY: u64 = 1_024;

/// The parameters of a back-test.
#[derive(Clone, Debug)]
pub struct Question {
    /// The promotion's conditions.
    pub conditions: Conditions,
    /// One row for each of these targets; empty means the target of the conditions.
    pub targets: Option<RangeInclusive<u32>>,
    /// What one completion costs, in cents.
    pub reward_cents: Option<i64>,
    /// Which rides: the period and the clients.
    pub scope: Scope,
}

/// The parameters are invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Reads a conditions document. Every fault names its field.
pub fn conditions(text: &str) -> Result<Conditions, UsageError> {
    let value = document::read(text.as_bytes().to_vec())
        .map_err(|error| UsageError(format!("the conditions cannot be read: {error}")))?;
    Conditions::from_json(&value).map_err(|errors| {
        let faults: Vec<String> = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.reason))
            .collect();
        UsageError(faults.join("; "))
    })
}

/// Reads a file with one `user_id` per line; blank lines are skipped.
pub async fn users(file: OpenedInput) -> anyhow::Result<HashSet<UserId>> {
    let mut lines = Lines::new(file.text);
    let mut users = HashSet::new();
    while let Some(line) = lines.next().await? {
        let text = match line {
            Line::Whole(bytes) => std::str::from_utf8(bytes).unwrap_or("not UTF-8").trim(),
            Line::TooLong => "a line that is too long",
        };
        if text.is_empty() {
            continue;
        }
        let user_id = text.parse().ok().filter(|user_id| *user_id >= 1);
        let user_id: UserId = match user_id {
            Some(user_id) => user_id,
            None => {
                let text = text.to_owned();
                let line = lines.number();
                return Err(UsageError(format!(
                    "line {line} of the users must be a user_id from 1, got {text:?}"
                ))
                .into());
            }
        };
        users.insert(user_id);
    }
    Ok(users)
}

/// Back-tests on a file of rides. `watch` gets the number of rows read; `malformed` gets the line
/// and the fault of each row that is not a valid ride.
pub async fn on_file(
    question: &Question,
    file: OpenedInput,
    format: Format,
    stop: &CancellationToken,
    mut watch: impl FnMut(u64),
    mut malformed: impl FnMut(u64, &str),
) -> anyhow::Result<Report> {
    let conditions = question.widest();
    let mut test = Test::new(question, &conditions);
    let mut rows = ride_file::open(file.text, format, Some(Clock::System.now())).await?;
    loop {
        let line = rows.lines_read();
        let row = rows
            .next()
            .await
            .with_context(|| format!("cannot read on after line {line}"))?;
        let Some(row) = row else { break };
        match row.record {
            Ok(record) => test.clients.apply_record(&record),
            Err(reason) => {
                test.malformed += 1;
                malformed(row.line, &reason);
            }
        }
        test.read += 1;
        watch(test.read);
        if test.read.is_multiple_of(YIELD_EVERY) {
            anyhow::ensure!(
                !stop.is_cancelled(),
                "interrupted before the end of the file"
            );
            tokio::task::yield_now().await;
        }
    }
    Ok(test.report(question))
}

/// Back-tests on the ride topic's history from `from` on. It blocks until the topic's end is
/// reached.
pub fn on_topic(
    question: &Question,
    kafka: &KafkaConfig,
    from: Instant,
    stop: &CancellationToken,
    mut watch: impl FnMut(u64),
) -> anyhow::Result<Report> {
    let conditions = question.widest();
    let mut test = Test::new(question, &conditions);
    let now = Clock::System.now();
    topic::read(kafka, from, stop, |value| {
        match ride_completed::decode(value, now) {
            Ok(record) => test.clients.apply_record(&record),
            Err(_) => test.malformed += 1,
        }
        test.read += 1;
        watch(test.read);
    })?;
    Ok(test.report(question))
}

impl Question {
    fn targets(&self) -> RangeInclusive<u32> {
        let target = self.conditions.target_rides;
        self.targets.clone().unwrap_or(target..=target)
    }

    /// The conditions with the largest target; smaller ones are reached on the way.
    fn widest(&self) -> Conditions {
        Conditions {
            target_rides: *self.targets().end(),
            ..self.conditions.clone()
        }
    }
}

/// A back-test in progress.
struct Test<'a> {
    clients: Clients<'a>,
    read: u64,
    malformed: u64,
}

impl<'a> Test<'a> {
    fn new(question: &Question, widest: &'a Conditions) -> Self {
        Self {
            clients: Clients::new(widest, question.targets(), question.scope.clone()),
            read: 0,
            malformed: 0,
        }
    }

    fn report(self, question: &Question) -> Report {
        Report {
            conditions: question.conditions.clone(),
            period: self.clients.period().map(|(from, to)| Period { from, to }),
            rides: Rides {
                read: self.read,
                malformed: self.malformed,
                reversals: self.clients.reversals(),
                outside: self.clients.outside(),
                duplicates: self.clients.duplicates(),
            },
            targets: self.clients.rows(question.reward_cents),
        }
    }
}
