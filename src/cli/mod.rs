//! The command line. Every option can also be given as an environment variable, which the help
//! names. `config.example.toml` has the service's own configuration.

mod files;
mod operating;
mod tools;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};

use self::values::positive_duration;
use crate::readiness::Role;

pub use self::files::{
    BackTestArgs, ImportCommand, ImportFormat, ImportPreOffersArgs, ReplayCommand, ReplayRidesArgs,
    ReportForm, ReportOutput, RideFormat, Speed,
};
pub use self::operating::{
    EraseArgs, PositionsAcceptArgs, PositionsCommand, PositionsSetArgs, ReceiptsCommand,
    ReceiptsMoveMonthArgs, ReconcileArgs, RepublishArgs, VerifyArgs, VerifyFormat,
};
pub use self::tools::{DoctorArgs, HealthcheckArgs, OpenapiArgs, TokenArgs};

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
