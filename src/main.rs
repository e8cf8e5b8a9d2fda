//! The process: parses the command line, runs the command and reports its end. Exit codes: 0 done,
//! 1 failed, 2 wrong usage or configuration, found before anything is contacted.

mod allocator;
mod commands;

use std::process::ExitCode;

use clap::Parser as _;

use ride_promo::cli::Cli;
use ride_promo::config::ConfigError;
use ride_promo::{back_test, causes, telemetry};

fn main() -> ExitCode {
    allocator::set_up();
    // Before anything that might use TLS. An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match commands::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            let misconfigured = error.downcast_ref::<ConfigError>().is_some()
                || error.downcast_ref::<back_test::UsageError>().is_some();
            telemetry::say_failure(&format!("ride-promo: {}", causes::in_words(&error)));
            ExitCode::from(if misconfigured { 2 } else { 1 })
        }
    }
}
