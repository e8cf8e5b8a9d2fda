//! The command line: one function per subcommand. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! configuration, found before anything is contacted.

mod allocator;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chrono::NaiveDate;
use clap::{CommandFactory as _, Parser as _};

use ride_promo::cli::{
    BackTestArgs, Cli, Command, DemoArgs, DoctorArgs, EraseArgs, HealthcheckArgs, ImportCommand,
    ImportFormat, ImportPreOffersArgs, MigrateArgs, OpenapiArgs, PositionsCommand, ReceiptsCommand,
    ReceiptsMoveMonthArgs, ReconcileArgs, ReplayCommand, ReplayRidesArgs, ReportForm, ReportOutput,
    RepublishArgs, RideFormat, ServeArgs, Speed, TokenArgs, VerifyArgs, VerifyFormat,
};
use ride_promo::clock::Clock;
use ride_promo::config::{Config, ConfigError, ConfigProblem, Needs};
use ride_promo::import::ImportError;
use ride_promo::input::{self, OpenedInput};
use ride_promo::kafka::Cluster;
use ride_promo::positions::{self, Decision};
use ride_promo::progress::Progress;
use ride_promo::replay::ReplayError;
use ride_promo::store;
use ride_promo::store::audit::Author;
use ride_promo::store::erasure::ErasureKey;
use ride_promo::store::republish::RepublishSelection;
use ride_promo::token::{self, TokenError};
use ride_promo::wire::erasure::ErasedLoan;
use ride_promo::wire::pre_offer::ImportReport;
use ride_promo::{
    api, back_test, causes, demo, doctor, healthcheck, import, recovery, replay, ride_file, serve,
    telemetry,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The timeout of blocking calls at the end of the process.
const BLOCKED_TIMEOUT: Duration = Duration::from_millis(500);

/// How many malformed rows of a back-test are shown with their fault; all are counted.
const MAX_FAULTS_SHOWN: usize = 20;

fn main() -> ExitCode {
    allocator::set_up();
    // Before anything that might use TLS. An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            let misconfigured = error.downcast_ref::<ConfigError>().is_some()
                || error.downcast_ref::<back_test::UsageError>().is_some();
            telemetry::say_failure(&format!("ride-promo: {}", causes::in_words(&error)));
            ExitCode::from(if misconfigured { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
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

fn import_pre_offers(cli: &Cli, args: &ImportPreOffersArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE)?;
    let format = match args.format {
        ImportFormat::Auto => import::Format::of_file(&args.file),
        ImportFormat::Ndjson => import::Format::Ndjson,
        ImportFormat::Csv => import::Format::Csv,
    };
    block_on(async {
        let store = serve::store_of(&config.database)?;
        let file = open(&args.file).await?;
        // Standard input has none.
        let name = args.file.file_name().filter(|name| *name != "-");
        let name = name.map(|name| name.to_string_lossy().into_owned());
        let mut progress = Progress::through(&file, "lines");
        let report = import::import_pre_offers(
            &store,
            file.text,
            format,
            &operator(),
            name.as_deref(),
            args.dry_run,
            |lines| progress.set(lines),
        )
        .await;
        progress.finish();
        match report {
            Ok(report) => print_report(&report, args.output),
            Err(error) => {
                // The report of the lines imported before is printed too.
                if let ImportError::Unreadable { report, .. } = &error {
                    print_report(report, args.output)?;
                }
                Err(error.into())
            }
        }
    })
}

fn print_report(report: &ImportReport, output: ReportOutput) -> anyhow::Result<ExitCode> {
    let is_table = match output {
        ReportOutput::Auto => std::io::stdout().is_terminal(),
        ReportOutput::Table => true,
        ReportOutput::Json => false,
    };
    if is_table {
        answer(report.table().as_bytes())
    } else {
        answer(format!("{}\n", serde_json::to_string(report)?).as_bytes())
    }
}

fn replay_rides(cli: &Cli, args: &ReplayRidesArgs) -> anyhow::Result<ExitCode> {
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

fn back_test(cli: &Cli, args: &BackTestArgs) -> anyhow::Result<ExitCode> {
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

async fn open(file: &Path) -> anyhow::Result<OpenedInput> {
    input::open(file)
        .await
        .with_context(|| format!("opening {}", file.display()))
}

fn positions(cli: &Cli, command: &PositionsCommand) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE_AND_KAFKA)?;
    block_on(async {
        let store = serve::store_of(&config.database)?;
        let cluster = Cluster::new(&config.kafka)?;
        match command {
            PositionsCommand::Show => {}
            PositionsCommand::Set(args) => {
                let decision = Decision {
                    partition: args.partition,
                    to: args.to,
                    actor: operator(),
                    reason: args.reason.clone(),
                };
                positions::set(&config.kafka, &store, &cluster, &decision).await?;
            }
            PositionsCommand::Accept(args) => {
                positions::accept_server(&store, &operator(), &args.reason).await?;
            }
        }
        answer(
            positions::show(&config.kafka, &store, &cluster)
                .await?
                .as_bytes(),
        )
    })
}

fn move_months(cli: &Cli, args: &ReceiptsMoveMonthArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE)?;
    let months: BTreeSet<NaiveDate> = args.months.iter().copied().collect();
    let months: Vec<NaiveDate> = months.into_iter().collect();
    block_on(async {
        let store = serve::store_of(&config.database)?;
        let author = Author {
            actor: operator(),
            call: "receipts move-month".to_owned(),
        };
        let moved = store::receipts::move_months(&store, &months, &author).await?;
        answer(
            format!(
                "{} receipts moved, {} left in the default partition\n",
                moved.moved, moved.left
            )
            .as_bytes(),
        )
    })
}

fn author(call: &str) -> Author {
    Author {
        actor: operator(),
        call: call.to_owned(),
    }
}

fn republish(cli: &Cli, args: &RepublishArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE)?;
    let selection = match (args.user, args.promotion) {
        (Some(user_id), _) => RepublishSelection::User(user_id),
        (None, Some(promotion_id)) => RepublishSelection::Promotion(promotion_id),
        (None, None) => RepublishSelection::All,
    };
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let store = serve::store_for(&config.database, "republish")?;
        let mut progress = Progress::of_unknown_length("participations");
        let author = author("republish");
        let summary =
            recovery::republish::republish(&store, selection, &author, &stop, &mut progress).await;
        progress.finish();
        let summary = summary?;
        answer(
            format!(
                "{} participations published again, {} of them with a new version\n",
                summary.published, summary.lifted
            )
            .as_bytes(),
        )
    })
}

fn erase(cli: &Cli, args: &EraseArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE_AND_KAFKA)?;
    let Some(secret) = &config.erase.secret else {
        return Err(anyhow::Error::new(ConfigError {
            problems: vec![ConfigProblem {
                key: "erase.secret".to_owned(),
                message: "is missing; set RIDE_PROMO__ERASE__SECRET or …_FILE".to_owned(),
            }],
        }));
    };
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let key = ErasureKey::new(secret.expose())?;
        let store = serve::store_for(&config.database, "erase")?;
        let Some(user_id) = args.user else {
            let author = author("erase --replay");
            let replayed = recovery::erase::replay(&config, &store, &key, &author, &stop).await?;
            return answer(
                format!(
                    "{} erasures in the ledger, {} of them not in this database; {} clients erased again\n",
                    replayed.entries, replayed.missing, replayed.erased
                )
                .as_bytes(),
            );
        };
        let loan = match (args.keep_loan, args.forget_loan) {
            (true, _) => Some(ErasedLoan::Kept),
            (_, true) => Some(ErasedLoan::Forgotten),
            _ => None,
        };
        let reason = args.reason.as_deref().unwrap_or_default();
        let author = author("erase");
        let removed =
            recovery::erase::erase(&config, &store, &key, user_id, loan, &author, reason).await?;
        answer(format!("{}\n", serde_json::to_string(&removed)?).as_bytes())
    })
}

fn reconcile(cli: &Cli, args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE_AND_KAFKA)?;
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let store = serve::store_for(&config.database, store::reconcile::PURPOSE)?;
        if let Some(user_id) = args.accept_loss {
            let author = author("reconcile --accept-loss");
            let accepted = store.accept_loss(user_id, &author).await?;
            anyhow::ensure!(accepted > 0, "no reward of client {user_id} is held");
            return answer(
                format!("{accepted} rewards of client {user_id} are given up\n").as_bytes(),
            );
        }
        let author = author("reconcile --apply");
        let mut progress = Progress::of_unknown_length("records");
        let found = recovery::reconcile::reconcile(
            &config.kafka,
            &store,
            args.apply.then_some(&author),
            &mut io::stdout(),
            &stop,
            &mut progress,
        )
        .await;
        progress.finish();
        let found = found?;
        let verb = if args.apply {
            "put right"
        } else {
            "to be put right"
        };
        answer(
            format!(
                "{} records read, {} not readable; {} differences, {} of them {verb}\n",
                found.records,
                found.unreadable,
                found.differences,
                found.differences - found.left
            )
            .as_bytes(),
        )?;
        Ok(
            if found.differences == 0 || (args.apply && found.left == 0) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            },
        )
    })
}

fn verify(cli: &Cli, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let config = configured(cli, Needs::DATABASE_AND_KAFKA)?;
    let scope = store::recount::RecountScope {
        user_id: args.user,
        since: args.since,
    };
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let store = serve::store_for(&config.database, recovery::verify::PURPOSE)?;
        let mut progress = Progress::of_unknown_length("participations");
        let mut written = Ok(());
        let verified = recovery::verify::verify(
            &config.kafka,
            &store,
            scope,
            &stop,
            &mut progress,
            |difference| {
                if written.is_ok() {
                    written = write_difference(args.format, difference);
                }
            },
        )
        .await;
        progress.finish();
        let found = verified?;
        written?;
        let summary = match args.format {
            VerifyFormat::Text => format!(
                "{} participations recounted with {} receipts, {} skipped because their receipts were dropped; {} differences\n",
                found.participations, found.receipts, found.skipped, found.differences
            ),
            VerifyFormat::Json => format!("{}\n", serde_json::to_string(&found)?),
        };
        answer(summary.as_bytes())?;
        Ok(if found.differences == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

fn write_difference(
    format: VerifyFormat,
    difference: &recovery::verify::Difference,
) -> anyhow::Result<()> {
    let line = match format {
        VerifyFormat::Text => format!("{difference}\n"),
        VerifyFormat::Json => format!("{}\n", serde_json::to_string(difference)?),
    };
    answer(line.as_bytes()).map(drop)
}

/// Who runs this command, as far as the environment says.
fn operator() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty());
    format!("cli:{}", user.as_deref().unwrap_or("unknown"))
}

fn openapi(args: &OpenapiArgs) -> anyhow::Result<ExitCode> {
    let document = if args.admin {
        api::openapi::admin_openapi()
    } else {
        api::openapi::client_openapi()
    };
    answer(format!("{document:#}\n").as_bytes())
}

fn issue_token(cli: &Cli, args: &TokenArgs) -> anyhow::Result<ExitCode> {
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

fn examine(cli: &Cli, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
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

fn healthcheck(cli: &Cli, args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
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

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ride-promo", &mut script);
    answer(&script)
}
