//! Runs the small commands: `token`, `doctor`, `healthcheck`, `openapi` and `completions`.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory as _;
use ride_promo::cli::{Cli, DoctorArgs, HealthcheckArgs, OpenapiArgs, TokenArgs};
use ride_promo::clock::Clock;
use ride_promo::config::{Config, ConfigError, ConfigProblem, Needs};
use ride_promo::token::{self, TokenError};
use ride_promo::{api, doctor, healthcheck, store};

use crate::commands::{answer, block_on};

pub(super) fn openapi(args: &OpenapiArgs) -> anyhow::Result<ExitCode> {
    let document = if args.admin {
        api::openapi::admin_openapi()
    } else {
        api::openapi::client_openapi()
    };
    answer(format!("{document:#}\n").as_bytes())
}

pub(super) fn issue_token(cli: &Cli, args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(cli.config_file(), Needs::AUTH)?;
    let scopes: Vec<String> = args.scope.iter().map(ToString::to_string).collect();
    let scope = scopes.join(" ");
    let (section, auth, subject) = match args.user {
        Some(user_id) => ("auth", &config.auth, token::Subject::User(user_id)),
        None => {
            let operator = token::Subject::Operator {
                name: args.operator.as_deref().unwrap_or("admin"),
                scope: &scope,
            };
            ("admin_auth", &config.admin_auth, operator)
        }
    };
    let token =
        token::issue(auth, subject, Clock::System.now(), args.expires_in).map_err(|error| {
            match error {
                // Wrong for this command, right for the service.
                error @ (TokenError::NotSymmetric(_) | TokenError::NoSecret) => {
                    anyhow::Error::new(ConfigError {
                        problems: vec![ConfigProblem {
                            key: format!("{section}.algorithm"),
                            message: error.to_string(),
                        }],
                    })
                }
                error => error.into(),
            }
        })?;
    answer(format!("{token}\n").as_bytes())
}

pub(super) fn examine(cli: &Cli, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    // No log: the findings are complete, and librdkafka's lines would come in between.
    let config = Config::load(cli.config_file(), Needs::ALL);
    let outcome = block_on(async {
        let schema = async |connection: &mut sqlx::PgConnection| match store::schema::schema_status(
            connection,
        )
        .await
        {
            Ok(status) if status.is_usable() => Ok(status.to_string()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(doctor::run(
            &config,
            args.broker_clock,
            &args.roles,
            schema,
            &mut io::stdout(),
        )
        .await?)
    });
    Ok(match outcome? {
        doctor::DoctorOutcome::Healthy => ExitCode::SUCCESS,
        doctor::DoctorOutcome::Unhealthy => ExitCode::FAILURE,
        doctor::DoctorOutcome::Misconfigured => ExitCode::from(2),
    })
}

pub(super) fn healthcheck(cli: &Cli, args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(cli.config_file(), Needs::NOTHING)?;
    let check = if args.ready {
        healthcheck::Check::Ready
    } else {
        healthcheck::Check::Alive
    };
    block_on(async {
        let says = healthcheck::ask(config.probes(), check).await?;
        answer(format!("{says}\n").as_bytes())
    })
}

pub(super) fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ride-promo", &mut script);
    answer(&script)
}
