//! Runs the subcommands, one function each.

mod import;
mod operating;
mod rides;
mod tools;

use std::future::Future;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ride_promo::cli::{
    Cli, Command, DemoArgs, ImportCommand, MigrateArgs, ReceiptsCommand, ReplayCommand, ServeArgs,
};
use ride_promo::config::{Config, Needs};
use ride_promo::input::{self, OpenedInput};
use ride_promo::{demo, serve, store, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::import::import_pre_offers;
use self::operating::{erase, move_months, positions, reconcile, republish, verify};
use self::rides::{back_test, replay_rides};
use self::tools::{completions, examine, healthcheck, issue_token, openapi};

/// The timeout of blocking calls at the end of the process.
const BLOCKED_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the subcommand.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Serve(args) => serve(cli, args),
        Command::Migrate(args) => migrate(cli, args),
        Command::Demo(args) => demo(args),
        Command::Import(ImportCommand::PreOffers(args)) => import_pre_offers(cli, args),
        Command::Replay(ReplayCommand::Rides(args)) => replay_rides(cli, args),
        Command::BackTest(args) => back_test(cli, args),
        Command::Positions(command) => positions(cli, command),
        Command::Receipts(ReceiptsCommand::MoveMonth(args)) => move_months(cli, args),
        Command::Republish(args) => republish(cli, args),
        Command::Erase(args) => erase(cli, args),
        Command::Reconcile(args) => reconcile(cli, args),
        Command::Verify(args) => verify(cli, args),
        Command::Token(args) => issue_token(cli, args),
        Command::Doctor(args) => examine(cli, args),
        Command::Healthcheck(args) => healthcheck(cli, args),
        Command::Openapi(args) => openapi(args),
        Command::Completions { shell } => completions(*shell),
    }
}

/// Reads the configuration and starts the log.
fn configured(cli: &Cli, needs: Needs) -> anyhow::Result<Config> {
    let config = Config::load(cli.config_file(), needs)?;
    telemetry::init_logs(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// Runs a command's future to its end on a runtime of its own. It does not wait for a call of
/// librdkafka that still blocks then, because its result is not needed any more.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(BLOCKED_TIMEOUT);
    result
}

/// Writes a command's result to stdout. A reader that closed the pipe (`| head`) is not an error.
fn answer(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn serve(cli: &Cli, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::ALL)?;
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        serve::serve(config, &args.roles, args.migrate, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// SIGTERM and SIGINT begin a graceful stop; a second one ends the process at once.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::spawn(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if attempt > 0 {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

fn migrate(cli: &Cli, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE)?;
    block_on(async {
        let store = serve::store_of(&config.database)?;
        store::schema::migrate(&store).await?;
        if args.finish {
            store.finish_upgrade().await?;
        }
        let status = store.schema_status().await?;
        let upgrade = if store.upgrade_is_finished().await? {
            String::new()
        } else {
            format!("{}\n", store::StoreError::UpgradeUnfinished)
        };
        answer(format!("{status}\n{upgrade}").as_bytes())
    })
}

fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        Ok(match demo::run(args, stop).await? {
            demo::DemoOutcome::Stopped | demo::DemoOutcome::Agreed => ExitCode::SUCCESS,
            demo::DemoOutcome::Disagreed => ExitCode::FAILURE,
        })
    })
}

async fn open(file: &Path) -> anyhow::Result<OpenedInput> {
    input::open(file)
        .await
        .with_context(|| format!("opening {}", file.display()))
}

/// Who runs this command, as far as the environment says.
fn operator() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty());
    format!("cli:{}", user.as_deref().unwrap_or("unknown"))
}
