//! The log, on stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};

/// Sends log lines to stderr, as configured; those of the `log` crate as well. A second call
/// changes nothing (tests start several services in one process).
pub fn init_logs(config: &LogConfig) {
    init_logs_to(config, std::io::stderr);
}

/// As [`init_logs`], past whatever else is drawn on the terminal.
pub fn init_logs_to<W>(config: &LogConfig, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The level was parsed when the configuration was read.
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    // An error means that somebody was here before.
    let _ = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).try_init()
        }
    };
}
