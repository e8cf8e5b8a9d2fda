//! Standard output: on a terminal a picture that is redrawn, elsewhere a line every few seconds.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant as Monotonic};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::funnel::Funnel;

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The demo's output. Copies write to the same place.
#[derive(Clone)]
pub(super) struct Screen {
    /// Holds the picture; `None` if standard output is not a terminal.
    picture: Option<ProgressBar>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let picture = io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { picture }
    }

    /// A title for people: in colour if the terminal supports it, plain elsewhere. `NO_COLOR` with
    /// any value (no-color.org) and `TERM=dumb` mean plain.
    pub(super) fn title(&self, text: &str) -> String {
        let set = |name: &str| std::env::var_os(name).unwrap_or_default();
        if has_colour(self.picture.is_some(), &set("NO_COLOR"), &set("TERM")) {
            format!("\u{1b}[1;36m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Writes lines above the picture.
    pub(super) fn say(&self, text: &str) {
        self.aside(|| {
            // The demo continues without a reader: the terminal can be reattached, and Ctrl-C still
            // works.
            let _ = writeln!(io::stdout(), "{text}");
        });
    }

    /// Runs a function on the terminal without damaging the picture.
    fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.picture {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    /// Shows the figures. It may be called often: it limits how often it writes a line.
    pub(super) fn show(&self, funnel: &Funnel, at: &str, last: &mut Option<Monotonic>) {
        match &self.picture {
            Some(bar) => bar.set_message(funnel.picture(at)),
            None if last.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) => {
                *last = Some(Monotonic::now());
                self.say(&funnel.line(at));
            }
            None => {}
        }
    }

    /// Removes the picture; the lines above it stay.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.picture {
            bar.finish_and_clear();
        }
    }

    /// Ends the drawing; the last figures stay on the screen.
    pub(super) fn keep(&self, funnel: &Funnel, at: &str) {
        self.clear();
        self.say(&match self.picture {
            Some(_) => funnel.picture(at),
            None => funnel.line(at),
        });
    }
}

/// Whether to write colour, by the type of standard output, `NO_COLOR` and `TERM`.
fn has_colour(is_terminal: bool, no_color: &OsStr, term: &OsStr) -> bool {
    is_terminal && no_color.is_empty() && !term.is_empty() && term != "dumb"
}

/// Log lines go to standard error, past the picture.
impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(self.clone())
    }
}

/// Writes one log line.
pub(super) struct LogLine(Screen);

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.aside(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_have_it_and_people_who_want_it() {
        let has = |is_terminal, no_color: &str, term: &str| {
            has_colour(is_terminal, no_color.as_ref(), term.as_ref())
        };
        assert!(has(true, "", "xterm-256color"));
        assert!(!has(false, "", "xterm-256color"), "a pipe");
        assert!(!has(true, "1", "xterm-256color"), "NO_COLOR");
        assert!(!has(true, "", "dumb"));
        assert!(!has(true, "", ""));
    }
}
