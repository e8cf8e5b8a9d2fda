//! The commands that inspect and repair: `positions`, `receipts`, `republish`, `erase`, `reconcile` and `verify`.

use chrono::NaiveDate;
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::values::{instant, month, position_target, reason};
use crate::domain::Instant;
use crate::positions::PositionTarget;

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
