//! Runs the commands that read past rides: `replay` and `back-test`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use ride_promo::cli::{BackTestArgs, Cli, ReplayRidesArgs, ReportForm, RideFormat, Speed};
use ride_promo::config::Needs;
use ride_promo::progress::Progress;
use ride_promo::replay::ReplayError;
use ride_promo::store::audit::Author;
use ride_promo::{back_test, replay, ride_file, serve};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::commands::{answer, block_on, configured, open, operator, stop_on_signal};

/// How many malformed rows of a back-test are shown with their fault; all are counted.
const MAX_FAULTS_SHOWN: usize = 20;

pub(super) fn replay_rides(cli: &Cli, args: &ReplayRidesArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE_AND_KAFKA)?;
    if args.keep_times {
        eprintln!(
            "note: --keep-times is deprecated: rides keep their times unless --retime is given"
        );
    }
    let options = replay::Options {
        format: match args.format {
            RideFormat::Ndjson => ride_file::Format::Ndjson,
            RideFormat::Debs2015 => ride_file::Format::Debs2015,
        },
        speed: match args.speed {
            Some(Speed::Times(factor)) => replay::Speed::Times(factor),
            None if args.retime => replay::Speed::Times(1.0),
            // Old rides need no waiting.
            Some(Speed::Max) | None => replay::Speed::Max,
        },
        retime: args.retime,
    };
    let author = Author {
        actor: operator(),
        call: "replay rides".to_owned(),
    };
    let entry = |summary: &replay::ReplaySummary, state: &str| {
        json!({
            "file": args.file.display().to_string(), "topic": config.kafka.ride_topic, "retimed": args.retime,
            "state": state, "read": summary.read, "published": summary.published,
            "malformed": summary.malformed, "failed": summary.failed
        })
    };
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let file = open(&args.file).await?;
        let store = serve::store_of(&config.database)?;
        let record = async |summary: &replay::ReplaySummary, state: &str| {
            store
                .record_action(author.clone(), entry(summary, state))
                .await
                .context("writing to the audit")
        };
        // Before the first ride is published, because it must not be published without an entry in
        // the audit.
        record(&replay::ReplaySummary::default(), "STARTED").await?;
        let mut progress = Progress::through(&file, "rides");
        let replayed =
            replay::replay_rides(
                &config.kafka,
                file.text,
                options,
                &stop,
                |event| match event {
                    replay::Event::Read(count) => progress.set(count),
                    replay::Event::Malformed { line, reason } => {
                        progress.note(&format!("line {line} skipped: {reason}"))
                    }
                },
            )
            .await;
        progress.finish();
        let (summary, state, broke_off) = match replayed {
            Ok(summary) if summary.interrupted => (summary, "INTERRUPTED", None),
            Ok(summary) => (summary, "FINISHED", None),
            Err(mut error) => {
                let summary = match &mut error {
                    ReplayError::Unreadable { summary, .. } => std::mem::take(&mut **summary),
                    _ => replay::ReplaySummary::default(),
                };
                (summary, "FAILED", Some(error))
            }
        };
        let recorded = record(&summary, state).await;
        answer(
            format!(
                "{} read, {} published, {} malformed and skipped, {} rejected by Kafka\n",
                summary.read, summary.published, summary.malformed, summary.failed
            )
            .as_bytes(),
        )?;
        if let Some(error) = broke_off {
            return Err(error.into());
        }
        recorded?;
        if let Some(why) = summary.first_failure {
            anyhow::bail!("Kafka rejected {} rides: {why}", summary.failed);
        }
        anyhow::ensure!(
            !summary.interrupted,
            "interrupted before the end of the file"
        );
        Ok(ExitCode::SUCCESS)
    })
}

fn ride_format(format: RideFormat) -> ride_file::Format {
    match format {
        RideFormat::Ndjson => ride_file::Format::Ndjson,
        RideFormat::Debs2015 => ride_file::Format::Debs2015,
    }
}

pub(super) fn back_test(cli: &Cli, args: &BackTestArgs) -> anyhow::Result<ExitCode> {
    let needs = match args.rides {
        Some(_) => Needs::NOTHING,
        None => Needs::KAFKA,
    };
    let config = configured(cli, needs)?;
    let text = std::fs::read_to_string(&args.conditions)
        .with_context(|| format!("reading {}", args.conditions.display()))?;
    let conditions =
        back_test::conditions(&text).with_context(|| format!("{}", args.conditions.display()))?;
    let output = match args.output {
        ReportForm::Table => back_test::Output::Table,
        ReportForm::Json => back_test::Output::Json,
        ReportForm::Csv => back_test::Output::Csv,
    };
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let users = match &args.users {
            Some(file) => Some(back_test::users(open(file).await?).await?),
            None => None,
        };
        let question = back_test::Question {
            conditions,
            targets: args.targets.clone(),
            reward_cents: args.reward_cents,
            scope: back_test::Scope {
                from: args.from,
                to: args.to,
                users,
            },
        };
        let report = match (&args.rides, args.from) {
            (Some(rides), _) => back_test_on_file(&question, rides, args.format, &stop).await?,
            (None, from) => {
                let mut progress = Progress::of_unknown_length("rides");
                // clap requires one of the two.
                let from = from.context("--from is required without --rides")?;
                let report = tokio::task::spawn_blocking(move || {
                    let report =
                        back_test::on_topic(&question, &config.kafka, from, &stop, |rides| {
                            progress.set(rides)
                        });
                    progress.finish();
                    report
                });
                report.await??
            }
        };
        if let Some(file) = &args.svg {
            std::fs::write(file, back_test::svg(&report))
                .with_context(|| format!("writing {}", file.display()))?;
        }
        answer(report.render(output)?.as_bytes())
    })
}

async fn back_test_on_file(
    question: &back_test::Question,
    rides: &Path,
    format: RideFormat,
    stop: &CancellationToken,
) -> anyhow::Result<back_test::Report> {
    let file = open(rides).await?;
    let mut progress = Progress::through(&file, "rides");
    let mut faults = Vec::new();
    let report = back_test::on_file(
        question,
        file,
        ride_format(format),
        stop,
        |rides| progress.set(rides),
        |line, reason| {
            if faults.len() < MAX_FAULTS_SHOWN {
                faults.push(format!("line {line} skipped: {reason}"));
            }
        },
    )
    .await;
    for fault in faults {
        progress.note(&fault);
    }
    progress.finish();
    report
}
