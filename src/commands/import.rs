//! Runs `import`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use ride_promo::cli::{Cli, ImportFormat, ImportPreOffersArgs, ReportOutput};
use ride_promo::config::Needs;
use ride_promo::import::ImportError;
use ride_promo::progress::Progress;
use ride_promo::wire::pre_offer::ImportReport;
use ride_promo::{import, serve};

use crate::commands::{answer, block_on, configured, open, operator};

pub(super) fn import_pre_offers(cli: &Cli, args: &ImportPreOffersArgs) -> anyhow::Result<ExitCode> {
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
