//! The progress of long work: a bar on a terminal, a plain line every few seconds elsewhere. It is
//! on standard error, because standard output is for the result.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Monotonic};

use indicatif::{ProgressBar, ProgressStyle};

use crate::input::OpenedInput;

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How often the bar is drawn.
const BAR_EVERY: Duration = Duration::from_millis(200);

/// The progress of one pass through a file.
#[derive(Debug)]
pub struct Progress {
    unit: &'static str,
    bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
    began: Monotonic,
    shown: Monotonic,
    bar: Option<ProgressBar>,
    is_silent: bool,
}

impl Progress {
    /// For work through this file, counted in `unit` ("lines", "rides").
    pub fn through(file: &OpenedInput, unit: &'static str) -> Self {
        Self::new(unit, file.bytes_total, Arc::clone(&file.bytes_read))
    }

    /// For work of unknown length.
    pub fn of_unknown_length(unit: &'static str) -> Self {
        Self::new(unit, None, Arc::default())
    }

    /// Of work within the service, where the log says what it came to.
    pub fn silent() -> Self {
        let mut progress = Self::new("", None, Arc::default());
        progress.bar = None;
        progress.is_silent = true;
        progress
    }

    fn new(unit: &'static str, bytes_total: Option<u64>, bytes_read: Arc<AtomicU64>) -> Self {
        let now = Monotonic::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match bytes_total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{bar:30} {percent:>3}%  {msg}  {eta} left",
                ),
                None => (
                    ProgressBar::new_spinner(),
                    "{spinner}  {msg}  {elapsed} so far",
                ),
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            unit,
            bytes_total,
            bytes_read,
            began: now,
            shown: now,
            bar,
            is_silent: false,
        }
    }

    /// The number done so far. It may be called for each item; it draws only from time to time.
    pub fn set(&mut self, count: u64) {
        let every = if self.bar.is_some() {
            BAR_EVERY
        } else {
            PLAIN_EVERY
        };
        if self.is_silent || self.shown.elapsed() < every {
            return;
        }
        self.shown = Monotonic::now();
        let bytes_read = self.bytes_read.load(Ordering::Relaxed);
        let elapsed = self.began.elapsed();
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!(
                    "{count} {}, {:.0}/s",
                    self.unit,
                    rate(count, elapsed)
                ));
                if self.bytes_total.is_some() {
                    bar.set_position(bytes_read);
                } else {
                    bar.tick();
                }
            }
            None => eprintln!(
                "{}",
                plain(self.unit, count, elapsed, bytes_read, self.bytes_total)
            ),
        }
    }

    /// Writes a line without damaging the bar.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The work has ended; the caller reports the result.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(0.001)
}

fn plain(
    unit: &str,
    count: u64,
    elapsed: Duration,
    bytes_read: u64,
    bytes_total: Option<u64>,
) -> String {
    let mut line = format!("{count} {unit}, {:.0}/s", rate(count, elapsed));
    if let Some(total) = bytes_total.filter(|total| *total > 0 && bytes_read > 0) {
        let share = (bytes_read as f64 / total as f64).min(1.0);
        let left = elapsed.as_secs_f64() * (1.0 - share) / share;
        // Writing to a string cannot fail.
        let _ = write!(line, ", {:.0}%, about {left:.0} s left", share * 100.0);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_count_rate_and_time_left() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            plain("lines", 2_000, ten, 25, Some(100)),
            "2000 lines, 200/s, 25%, about 30 s left"
        );
        assert_eq!(
            plain("rides", 2_000, ten, 25, None),
            "2000 rides, 200/s",
            "a pipe has no end to count down to"
        );
        assert_eq!(
            plain("rides", 0, Duration::ZERO, 0, Some(0)),
            "0 rides, 0/s"
        );
    }
}
