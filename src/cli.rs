//! The command line. Every option can also be given as an environment variable, which the help
//! names. `config.example.toml` has the service's own configuration.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::NaiveDate;
use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::auth::{ADMIN_SCOPE, ScopeWord, is_actor};
use crate::domain::period::parse_duration;
use crate::domain::promotion::MAX_TARGET_RIDES;
use crate::domain::{Instant, parse_instant};
use crate::positions::PositionTarget;
use crate::readiness::Role;

const AFTER_HELP: &str = "\
Configuration: defaults, then the file of --config, then the environment. A key `section.name` of
the file is the variable RIDE_PROMO__SECTION__NAME. Required: DATABASE_URL, KAFKA_BROKERS,
RIDE_PROMO__AUTH__ALGORITHM with RIDE_PROMO__AUTH__HS256_SECRET or RIDE_PROMO__AUTH__JWKS.
config.example.toml has every key with its default and meaning.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";

/// Turns rides into loans: counts rides from Kafka towards a promotion and serves the client's
/// journey to the reward.
#[derive(Debug, Parser)]
#[command(
    name = "ride-promo",
    version,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    propagate_version = true
)]
pub struct Cli {
    /// Configuration file, TOML
    // In the platform's encoding of paths; an empty variable counts as not set.
    #[arg(long, global = true, value_name = "FILE", env = "RIDE_PROMO_CONFIG", value_parser = clap::value_parser!(OsString))]
    config: Option<OsString>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The configuration file, if one was named.
    pub fn config_file(&self) -> Option<&Path> {
        self.config
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(Path::new)
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: all roles in one process, or some of them
    Serve(ServeArgs),
    /// Apply missing database migrations, or finish an upgrade
    Migrate(MigrateArgs),
    /// Run everything on this machine without configuration, and remove it at the end
    Demo(DemoArgs),
    /// Import data from a file
    #[command(subcommand)]
    Import(ImportCommand),
    /// Publish historical data
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Compute the result of a promotion on past rides
    BackTest(BackTestArgs),
    /// Show or set the positions in the ride topic
    #[command(subcommand)]
    Positions(PositionsCommand),
    /// Maintain the partitions of receipts
    #[command(subcommand)]
    Receipts(ReceiptsCommand),
    /// Publish the present state of participations again, for subscribers that lost their state
    Republish(RepublishArgs),
    /// Erase everything of a client, or erase again after a restore
    Erase(EraseArgs),
    /// After a restore, with everything else stopped: compare the database with the status topic
    Reconcile(ReconcileArgs),
    /// Recount participations from their receipts, and compare them with the outbox and the status topic;
    /// changes nothing
    Verify(VerifyArgs),
    /// Print a development token (HS256 only)
    Token(TokenArgs),
    /// Check configuration, names, TLS, Kafka, Postgres, schema and clocks
    Doctor(DoctorArgs),
    /// Check the health of the process on this machine, for containers
    Healthcheck(HealthcheckArgs),
    /// Print the OpenAPI document of the client API, JSON
    Openapi(OpenapiArgs),
    /// Print the completion script of a shell
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Roles of this process
    #[arg(
        long,
        env = "RIDE_PROMO_ROLES",
        value_delimiter = ',',
        default_values = ["ingest", "relay", "sweep", "api"]
    )]
    pub roles: Vec<Role>,

    /// Apply missing database migrations first
    #[arg(long, env = "RIDE_PROMO_MIGRATE", value_parser = FalseyValueParser::new())]
    pub migrate: bool,
}

/// `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Finish the upgrade when no process of an older release runs: from then on the new release
    /// writes data that an older one cannot read. There is no way back
    #[arg(long, env = "RIDE_PROMO_MIGRATE_FINISH", value_parser = FalseyValueParser::new())]
    pub finish: bool,
}

/// `demo`. Its environment variables have names of their own, so that it does not use the servers
/// that a shell has configured for `serve`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Use this Kafka instead of one in the process: host:port; with topics and a group of its own,
    /// deleted at the end
    #[arg(long, value_name = "HOST:PORT", env = "RIDE_PROMO_DEMO_BROKERS")]
    pub brokers: Option<String>,

    /// Use this Postgres instead of a private one: postgres://…; with a database of its own beside
    /// the named one, removed at the end; the role needs CREATEDB
    #[arg(
        long,
        value_name = "URL",
        env = "RIDE_PROMO_DEMO_DATABASE_URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,

    /// Feed these rides, NDJSON of ride-completed or DEBS 2015, instead of simulated ones
    #[arg(long, value_name = "FILE", env = "RIDE_PROMO_DEMO_RIDES")]
    pub rides: Option<PathBuf>,

    /// End after this time, ISO 8601, with a recount of every participation
    #[arg(long, value_name = "DURATION", env = "RIDE_PROMO_DEMO_DURATION", value_parser = positive_duration)]
    pub duration: Option<Duration>,
}

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

/// `positions …`.
#[derive(Debug, Subcommand)]
pub enum PositionsCommand {
    /// Show each partition's position, ends, lag and owner
    Show,
    /// Set positions while no process owns the partition; audited
    Set(PositionsSetArgs),
    /// Continue with these positions on the present database server; audited
    Accept(PositionsAcceptArgs),
}

/// `positions accept`.
#[derive(Debug, Args)]
pub struct PositionsAcceptArgs {
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        env = "RIDE_PROMO_POSITIONS_REASON",
        value_parser = reason
    )]
    pub reason: String,
}

/// `positions set`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct PositionsSetArgs {
    /// The partition
    #[arg(
        long,
        group = "which",
        env = "RIDE_PROMO_POSITIONS_PARTITION",
        value_parser = clap::value_parser!(i32).range(0..)
    )]
    pub partition: Option<i32>,

    /// Every partition of the topic
    #[arg(long, group = "which", env = "RIDE_PROMO_POSITIONS_ALL", value_parser = FalseyValueParser::new())]
    pub all: bool,

    /// The new position: beginning, end, or an offset
    #[arg(
        long,
        value_name = "beginning|end|OFFSET",
        env = "RIDE_PROMO_POSITIONS_TO",
        value_parser = position_target
    )]
    pub to: PositionTarget,

    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        env = "RIDE_PROMO_POSITIONS_REASON",
        value_parser = reason
    )]
    pub reason: String,
}

/// `receipts …`.
#[derive(Debug, Subcommand)]
pub enum ReceiptsCommand {
    /// Move months' receipts from the default partition into partitions of their own, as the owner,
    /// while everything runs; audited
    MoveMonth(ReceiptsMoveMonthArgs),
}

/// `receipts move-month`.
#[derive(Debug, Args)]
pub struct ReceiptsMoveMonthArgs {
    /// The months, such as 2027-01; best all that are there, because the rest is copied as well
    #[arg(required = true, value_parser = month)]
    pub months: Vec<NaiveDate>,
}

/// `republish`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whose").required(true))]
pub struct RepublishArgs {
    /// Participations of one client
    #[arg(
        long,
        value_name = "ID",
        group = "whose",
        env = "RIDE_PROMO_REPUBLISH_USER",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub user: Option<i64>,

    /// Participations in one promotion
    #[arg(
        long,
        value_name = "ID",
        group = "whose",
        env = "RIDE_PROMO_REPUBLISH_PROMOTION",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub promotion: Option<i64>,

    /// All participations
    #[arg(long, group = "whose", env = "RIDE_PROMO_REPUBLISH_ALL", value_parser = FalseyValueParser::new())]
    pub all: bool,
}

/// `erase`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct EraseArgs {
    /// The client
    #[arg(
        long,
        value_name = "ID",
        group = "what",
        requires = "reason",
        env = "RIDE_PROMO_ERASE_USER",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub user: Option<i64>,

    /// After a restore, erase again the clients of the erasure ledger's topic that the database's
    /// ledger lacks
    #[arg(
        long,
        group = "what",
        conflicts_with_all = ["keep_loan", "forget_loan", "reason"],
        env = "RIDE_PROMO_ERASE_REPLAY",
        value_parser = FalseyValueParser::new()
    )]
    pub replay: bool,

    /// Why, for the audit; must not name the client
    #[arg(long, value_name = "TEXT", env = "RIDE_PROMO_ERASE_REASON", value_parser = reason)]
    pub reason: Option<String>,

    /// For a rewarded client: keep the participation and the origination
    #[arg(
        long,
        conflicts_with = "forget_loan",
        env = "RIDE_PROMO_ERASE_KEEP_LOAN",
        value_parser = FalseyValueParser::new()
    )]
    pub keep_loan: bool,

    /// For a rewarded client: erase these too
    #[arg(long, env = "RIDE_PROMO_ERASE_FORGET_LOAN", value_parser = FalseyValueParser::new())]
    pub forget_loan: bool,
}

/// `reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    /// Repair what differs; without it the differences are only shown, with exit code 1
    #[arg(long, env = "RIDE_PROMO_RECONCILE_APPLY", value_parser = FalseyValueParser::new())]
    pub apply: bool,

    /// Accept that the rewards of this client that only the status topic has are lost: the client
    /// may start and accept again
    #[arg(
        long,
        value_name = "USER",
        conflicts_with = "apply",
        env = "RIDE_PROMO_RECONCILE_ACCEPT_LOSS",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub accept_loss: Option<i64>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only the participations of this client
    #[arg(long, value_name = "ID", env = "RIDE_PROMO_VERIFY_USER", value_parser = clap::value_parser!(i64).range(1..))]
    pub user: Option<i64>,

    /// Only participations that were started at this instant or later, RFC 3339
    #[arg(long, value_name = "STARTED_AT", env = "RIDE_PROMO_VERIFY_SINCE", value_parser = instant)]
    pub since: Option<Instant>,

    /// How differences are written: a line each
    #[arg(long, value_enum, default_value_t, env = "RIDE_PROMO_VERIFY_FORMAT")]
    pub format: VerifyFormat,
}

/// How differences are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum VerifyFormat {
    /// For people
    #[default]
    Text,
    /// JSON objects, the last of which is the summary
    Json,
}

/// `token`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true))]
pub struct TokenArgs {
    /// A client's token, by user_id
    #[arg(
        long,
        value_name = "ID",
        group = "subject",
        env = "RIDE_PROMO_TOKEN_USER",
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub user: Option<i64>,

    /// An operator's token, whose name is `admin`
    #[arg(long, group = "subject", env = "RIDE_PROMO_TOKEN_ADMIN", value_parser = FalseyValueParser::new())]
    pub admin: bool,

    /// An operator's token, by the name that the audit shows
    #[arg(long, value_name = "NAME", group = "subject", env = "RIDE_PROMO_TOKEN_OPERATOR", value_parser = operator_name)]
    pub operator: Option<String>,

    /// What the operator may do; several separated by commas
    #[arg(
        long,
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = ADMIN_SCOPE,
        conflicts_with = "user",
        env = "RIDE_PROMO_TOKEN_SCOPE"
    )]
    pub scope: Vec<ScopeWord>,

    /// Validity, ISO 8601
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "PT1H",
        env = "RIDE_PROMO_TOKEN_EXPIRES_IN",
        value_parser = positive_duration
    )]
    pub expires_in: Duration,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Compare a broker's clock too, by a record in a topic that is created and deleted
    #[arg(long, env = "RIDE_PROMO_DOCTOR_BROKER_CLOCK", value_parser = FalseyValueParser::new())]
    pub broker_clock: bool,

    /// Roles whose rights in Postgres are checked
    #[arg(
        long,
        env = "RIDE_PROMO_ROLES",
        value_delimiter = ',',
        default_values = ["ingest", "relay", "sweep", "api"]
    )]
    pub roles: Vec<Role>,
}

/// `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Check that every role is ready, not only that the process is alive
    #[arg(long, env = "RIDE_PROMO_HEALTHCHECK_READY", value_parser = FalseyValueParser::new())]
    pub ready: bool,
}

/// `openapi`.
#[derive(Debug, Args)]
pub struct OpenapiArgs {
    /// Print the document of the admin API
    #[arg(long, env = "RIDE_PROMO_OPENAPI_ADMIN", value_parser = FalseyValueParser::new())]
    pub admin: bool,
}

/// As the admin API takes a token's `sub`.
fn operator_name(text: &str) -> Result<String, String> {
    if is_actor(text) {
        Ok(text.to_owned())
    } else {
        Err("expected a name of 1 to 200 printable characters".to_owned())
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(366 * 86_400);
    parse_duration(text)
        .ok()
        .filter(|duration| *duration >= Duration::from_secs(1) && *duration <= longest)
        .ok_or_else(|| {
            "expected an ISO 8601 duration from PT1S to P366D, such as PT60S or PT1H".to_owned()
        })
}

fn instant(text: &str) -> Result<Instant, String> {
    parse_instant(text)
        .ok_or_else(|| "expected an RFC 3339 instant such as 2026-11-01T00:00:00Z".to_owned())
}

fn targets(text: &str) -> Result<RangeInclusive<u32>, String> {
    let target = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|target| (1..=MAX_TARGET_RIDES).contains(target))
    };
    text.split_once("..")
        .and_then(|(first, last)| Some(target(first)?..=target(last)?))
        .filter(|targets| !targets.is_empty())
        .ok_or_else(|| {
            format!("expected FIRST..LAST such as 5..40, both from 1 to {MAX_TARGET_RIDES}")
        })
}

fn month(text: &str) -> Result<NaiveDate, String> {
    let is_long = text.len() == "2027-01".len();
    NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
        .ok()
        .filter(|_| is_long)
        .ok_or_else(|| "expected a month, such as 2027-01".to_owned())
}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    text.parse::<f64>()
        .ok()
        .filter(|factor| factor.is_finite() && *factor > 0.0)
        .map(Speed::Times)
        .ok_or_else(|| "expected a factor above 0, such as 60, or max".to_owned())
}

fn position_target(text: &str) -> Result<PositionTarget, String> {
    match text {
        "beginning" => Ok(PositionTarget::Beginning),
        "end" => Ok(PositionTarget::End),
        offset => offset
            .parse::<i64>()
            .ok()
            .filter(|offset| *offset >= 0)
            .map(PositionTarget::Offset)
            .ok_or_else(|| "expected beginning, end or an offset from 0".to_owned()),
    }
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if (1..=1_000).contains(&text.chars().count()) && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 1000 characters".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn takes_the_contracts_command_lines() {
        for line in [
            "ride-promo serve",
            "ride-promo serve --roles ingest,relay --migrate",
            "ride-promo migrate --config f.toml",
            "ride-promo migrate --finish",
            "ride-promo demo --duration PT60S --rides f",
            "ride-promo import pre-offers -",
            "ride-promo replay rides f --format debs2015 --speed max --keep-times",
            "ride-promo replay rides f --retime --speed 60",
            "ride-promo back-test --conditions c --rides f --format debs2015 --targets 5..40",
            "ride-promo back-test --conditions c --from 2026-11-01T00:00:00Z --to 2026-11-15T00:00:00Z",
            "ride-promo positions show",
            "ride-promo positions set --partition 3 --to 17 --reason new",
            "ride-promo positions set --all --to beginning --reason new",
            "ride-promo receipts move-month 2027-01 2027-02",
            "ride-promo republish --user 48151",
            "ride-promo republish --promotion 1",
            "ride-promo republish --all",
            "ride-promo erase --user 48151 --reason asked",
            "ride-promo erase --user 48151 --reason asked --keep-loan",
            "ride-promo erase --replay",
            "ride-promo reconcile",
            "ride-promo reconcile --apply",
            "ride-promo reconcile --accept-loss 48151",
            "ride-promo token --user 48151",
            "ride-promo token --admin --expires-in P1D",
            "ride-promo doctor",
            "ride-promo doctor --broker-clock",
            "ride-promo doctor --roles relay",
            "ride-promo healthcheck --ready",
            "ride-promo openapi",
            "ride-promo openapi --admin",
            "ride-promo completions bash",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let Command::Serve(args) = parse("ride-promo serve").expect("parses").command else {
            panic!("serve");
        };
        assert_eq!(args.roles.len(), 4);
    }

    #[test]
    fn refuses_wrong_usage_with_exit_code_2() {
        for line in [
            "ride-promo serve --roles cook",
            "ride-promo token",
            "ride-promo token --user 0",
            "ride-promo token --user 1 --admin",
            "ride-promo token --user 1 --expires-in 1h",
            "ride-promo positions set --to end --reason r",
            "ride-promo positions set --all --partition 1 --to end --reason r",
            "ride-promo positions set --all --to -5 --reason r",
            "ride-promo positions set --all --to end",
            "ride-promo republish",
            "ride-promo republish --all --user 1",
            "ride-promo erase --user 1",
            "ride-promo erase --user 1 --reason r --keep-loan --forget-loan",
            "ride-promo erase --replay --keep-loan",
            "ride-promo erase --user 1 --replay --reason r",
            "ride-promo reconcile --apply --accept-loss 1",
            "ride-promo replay rides f --speed 0",
            "ride-promo replay rides f --retime --keep-times",
            "ride-promo back-test --conditions c",
            "ride-promo back-test --rides f",
            "ride-promo back-test --conditions c --rides f --targets 40..5",
            "ride-promo back-test --conditions c --rides f --targets 0..5",
            "ride-promo back-test --conditions c --from yesterday",
            "ride-promo receipts move-month",
            "ride-promo receipts move-month 2027-13",
            "ride-promo receipts move-month 2027-1",
            "ride-promo completions tcsh-no",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_option_has_a_variable() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let builtin = ["help", "version"].contains(&arg.get_id().as_str());
                if !arg.is_positional() && !builtin {
                    assert!(arg.get_env().is_some(), "{} {arg}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
