//! The small commands: `token`, `doctor`, `healthcheck` and `openapi`.

use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::api::auth::{ADMIN_SCOPE, ScopeWord};
use crate::cli::values::{operator_name, positive_duration};
use crate::readiness::Role;

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
