//! The commands that read a file or the past: `import`, `replay` and `back-test`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::values::{instant, speed, targets};
use crate::domain::Instant;

/// `import …`.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Import pre-approved loans; the same file twice changes nothing
    PreOffers(ImportPreOffersArgs),
}

/// `import pre-offers`.
#[derive(Debug, Args)]
pub struct ImportPreOffersArgs {
    /// NDJSON or CSV with a header, plain or gzip; - for standard input
    pub file: PathBuf,

    /// Format; auto detects it from the file's beginning
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_IMPORT_FORMAT")]
    pub format: ImportFormat,

    /// Format of the report
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_IMPORT_OUTPUT")]
    pub output: ReportOutput,

    /// Judge every line and report what would come of it, and change nothing
    #[arg(long, env = "RIDE_PROMO_IMPORT_DRY_RUN", value_parser = FalseyValueParser::new())]
    pub dry_run: bool,
}

/// The format of an import's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportOutput {
    /// A table on a terminal, else JSON
    #[default]
    Auto,
    /// A table for people
    Table,
    /// One line of JSON
    Json,
}

/// The format of pre-offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// Detected from the file's beginning
    #[default]
    Auto,
    /// One JSON object per line
    Ndjson,
    /// Comma-separated with a header
    Csv,
}

/// `replay …`.
#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// Publish the rides of a file to the ride topic, with their times as they are; audited
    Rides(ReplayRidesArgs),
}

/// `replay rides`.
#[derive(Debug, Args)]
pub struct ReplayRidesArgs {
    /// The rides; - for standard input
    pub file: PathBuf,

    /// Format
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_REPLAY_FORMAT")]
    pub format: RideFormat,

    /// This many times as fast as the rides happened, or max [default: max; 1 with --retime]
    #[arg(
        long,
        value_name = "FACTOR|max",
        env = "RIDE_PROMO_REPLAY_SPEED",
        value_parser = speed
    )]
    pub speed: Option<Speed>,

    /// Move the rides' times, for tests: the first ride ends now, the others as long after it as in
    /// the file. Without it every ride keeps its time
    #[arg(long, env = "RIDE_PROMO_REPLAY_RETIME", value_parser = FalseyValueParser::new())]
    pub retime: bool,

    /// Deprecated: rides keep their times unless --retime is given
    #[arg(long, env = "RIDE_PROMO_REPLAY_KEEP_TIMES", value_parser = FalseyValueParser::new(), conflicts_with = "retime")]
    pub keep_times: bool,
}

/// `back-test`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).multiple(true))]
pub struct BackTestArgs {
    /// The promotion's conditions, a JSON document
    #[arg(long, value_name = "FILE", env = "RIDE_PROMO_BACK_TEST_CONDITIONS")]
    pub conditions: PathBuf,

    /// The rides, in the order in which they were published; - for standard input. Without it the
    /// ride topic is read
    #[arg(
        long,
        value_name = "FILE",
        group = "source",
        env = "RIDE_PROMO_BACK_TEST_RIDES"
    )]
    pub rides: Option<PathBuf>,

    /// Format of the rides
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_BACK_TEST_FORMAT")]
    pub format: RideFormat,

    /// Only rides completed at or after this instant, RFC 3339
    #[arg(
        long,
        value_name = "INSTANT",
        group = "source",
        env = "RIDE_PROMO_BACK_TEST_FROM",
        value_parser = instant
    )]
    pub from: Option<Instant>,

    /// Only rides completed before this instant, RFC 3339
    #[arg(
        long,
        value_name = "INSTANT",
        env = "RIDE_PROMO_BACK_TEST_TO",
        value_parser = instant
    )]
    pub to: Option<Instant>,

    /// Only these clients: a file with one user_id per line
    #[arg(long, value_name = "FILE", env = "RIDE_PROMO_BACK_TEST_USERS")]
    pub users: Option<PathBuf>,

    /// One row for each target_rides from FIRST to LAST, instead of the one of the conditions
    #[arg(
        long,
        value_name = "FIRST..LAST",
        env = "RIDE_PROMO_BACK_TEST_TARGETS",
        value_parser = targets
    )]
    pub targets: Option<RangeInclusive<u32>>,

    /// What one completion costs, in cents of the conditions' currency
    #[arg(
        long,
        value_name = "N",
        env = "RIDE_PROMO_BACK_TEST_REWARD_CENTS",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub reward_cents: Option<i64>,

    /// Format of the report
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_BACK_TEST_OUTPUT")]
    pub output: ReportForm,

    /// Also draw completion rate and cost over target_rides into this file
    #[arg(long, value_name = "FILE", env = "RIDE_PROMO_BACK_TEST_SVG")]
    pub svg: Option<PathBuf>,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON object
    Json,
    /// Comma-separated with a header
    Csv,
}

/// The format of rides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RideFormat {
    /// One ride-completed event per line
    #[default]
    Ndjson,
    /// Taxi trips of the DEBS 2015 Grand Challenge, CSV
    Debs2015,
}

/// The speed of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// This many times as fast as they happened; finite and above 0.
    Times(f64),
    /// As fast as Kafka accepts them.
    Max,
}
