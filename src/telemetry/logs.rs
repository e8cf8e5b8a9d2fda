//! The log, on stderr.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};

/// Writes log lines to stderr, as configured, including those of the `log` crate. A second call
/// changes nothing (tests start several services in one process).
pub fn init_logs(config: &LogConfig) {
    init_logs_to(config, Stderr::find());
}

/// Like [`init_logs`], but writes past other output on the terminal.
pub fn init_logs_to<W>(config: &LogConfig, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The level was parsed when the configuration was read.
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    // An error means that a subscriber is installed already.
    let _ = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).try_init()
        }
    };
}

/// Writes on stderr why a command failed; the log may not exist yet.
pub fn say_failure(text: &str) {
    let mut stderr = Stderr::find().at(Level::ERROR);
    // If stderr is closed, the error cannot be reported.
    let _ = stderr.write_all(format!("{text}\n").as_bytes());
}

/// Stderr, and whether it is systemd's journal. The journal reads a line's priority from its
/// beginning (`sd-daemon(3)`) and removes it, so that `journalctl -p warning` finds warnings.
#[derive(Clone, Copy, Debug)]
struct Stderr {
    journal: bool,
}

impl Stderr {
    fn find() -> Self {
        // Compares the journal's socket by device and inode, because the variable survives a
        // redirection.
        let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| {
            let stderr = io::stderr().as_fd().try_clone_to_owned();
            let found = stderr.and_then(|stderr| std::fs::File::from(stderr).metadata());
            found.is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
        });
        Self { journal }
    }

    fn at(self, level: Level) -> Lines {
        Lines {
            priority: match level {
                _ if !self.journal => "",
                Level::ERROR => "<3>",
                Level::WARN => "<4>",
                Level::INFO => "<6>",
                Level::DEBUG | Level::TRACE => "<7>",
            },
        }
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.at(Level::INFO)
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Lines {
        self.at(*event.level())
    }
}

/// The text of one write: whole lines of one priority.
struct Lines {
    priority: &'static str,
}

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.priority.is_empty() {
            io::stderr().write_all(lines)?;
        } else {
            // In one write, because lines of several threads would mix otherwise.
            let mut prefixed = Vec::with_capacity(self.priority.len() + lines.len());
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                prefixed.extend_from_slice(self.priority.as_bytes());
                prefixed.extend_from_slice(line);
            }
            io::stderr().write_all(&prefixed)?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
