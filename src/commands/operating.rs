//! Runs the commands that inspect and repair: `positions`, `receipts`, `republish`, `erase`, `reconcile` and `verify`.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;

use chrono::NaiveDate;
use ride_promo::cli::{
    Cli, EraseArgs, PositionsCommand, ReceiptsMoveMonthArgs, ReconcileArgs, RepublishArgs,
    VerifyArgs, VerifyFormat,
};
use ride_promo::config::{ConfigError, ConfigProblem, Needs};
use ride_promo::kafka::Cluster;
use ride_promo::positions::{self, Decision};
use ride_promo::progress::Progress;
use ride_promo::store::audit::Author;
use ride_promo::store::erasure::ErasureKey;
use ride_promo::store::republish::RepublishSelection;
use ride_promo::wire::erasure::ErasedLoan;
use ride_promo::{recovery, serve, store};
use tokio_util::sync::CancellationToken;

use crate::commands::{answer, block_on, configured, operator, stop_on_signal};

pub(super) fn positions(cli: &Cli, command: &PositionsCommand) -> anyhow::Result<ExitCode> {
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

pub(super) fn move_months(cli: &Cli, args: &ReceiptsMoveMonthArgs) -> anyhow::Result<ExitCode> {
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

pub(super) fn republish(cli: &Cli, args: &RepublishArgs) -> anyhow::Result<ExitCode> {
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

pub(super) fn erase(cli: &Cli, args: &EraseArgs) -> anyhow::Result<ExitCode> {
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

pub(super) fn reconcile(cli: &Cli, args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
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

pub(super) fn verify(cli: &Cli, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
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
