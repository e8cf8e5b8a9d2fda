//! Pauses between attempts, each twice as long as the one before, up to a maximum.

use std::time::Duration;

/// The pause before the next attempt.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `first`, up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next pause is the first one again, after a successful attempt.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }

    /// Whether there was no pause since the beginning or the last reset.
    pub fn is_first(&self) -> bool {
        self.next == self.first
    }

    /// The longest pause.
    pub const fn longest(&self) -> Duration {
        self.longest
    }

    /// The pause to make now; the next one is longer.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_and_begins_again() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        assert!(backoff.is_first());
        let pauses: Vec<Duration> = (0..4).map(|_| backoff.pause()).collect();
        assert_eq!(pauses, [1, 2, 4, 5].map(seconds));
        assert!(!backoff.is_first());
        backoff.reset();
        assert_eq!(backoff.pause(), seconds(1));
    }
}
