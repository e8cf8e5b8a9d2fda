//! Requests of the poll thread to Postgres and to brokers. They run on the runtime, and the poll
//! thread picks up each response in a later round.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant as Monotonic};

use tokio::runtime::Handle;

/// The state of a request. [`Pending::advance`] returns the response once. From then on the request
/// is due again, at once unless it is [put off](Pending::after).
#[derive(Debug)]
pub(super) enum Pending<T> {
    /// To be sent at this moment.
    Due(Monotonic),
    /// Sent; the response arrives here.
    Asked(Receiver<T>),
}

/// How long after the responding task has died the request is sent again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl<T> Pending<T> {
    /// To be sent in the next round.
    pub(super) fn now() -> Self {
        Self::Due(Monotonic::now())
    }

    /// To be sent after this pause.
    pub(super) fn after(pause: Duration) -> Self {
        Self::Due(Monotonic::now() + pause)
    }

    /// Sends the request when it is due; returns the response when it has arrived.
    pub(super) fn advance(&mut self, ask: impl FnOnce() -> Receiver<T>) -> Option<T> {
        match self {
            Self::Due(at) if Monotonic::now() < *at => None,
            Self::Due(_) => {
                *self = Self::Asked(ask());
                None
            }
            Self::Asked(answers) => match answers.try_recv() {
                Ok(answer) => {
                    *self = Self::now();
                    Some(answer)
                }
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    *self = Self::after(RETRY_INTERVAL);
                    None
                }
            },
        }
    }

    /// Makes it due now, unless it was sent already.
    pub(super) fn hurry(&mut self) {
        if let Self::Due(at) = self {
            *at = Monotonic::now();
        }
    }
}

/// Runs a request on the runtime.
pub(super) fn ask<T: Send + 'static>(
    runtime: &Handle,
    question: impl Future<Output = T> + Send + 'static,
) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move {
        // It fails if the response is not needed any more.
        let _ = sender.send(question.await);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_question_is_asked_when_due_answered_once_and_asked_again_where_the_answer_is_lost() {
        let runtime = Handle::current();
        let mut pending = Pending::after(Duration::from_secs(600));
        assert_eq!(pending.advance(|| panic!("not yet")), None::<i32>);
        pending.hurry();
        assert_eq!(pending.advance(|| ask(&runtime, async { 7 })), None);
        let answer = loop {
            if let Some(answer) = pending.advance(|| panic!("asked already")) {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert_eq!(answer, 7);
        assert_eq!(pending.advance(|| sync_channel(1).1), None);
        assert_eq!(pending.advance(|| panic!("asked already")), None);
        assert!(matches!(pending, Pending::Due(at) if at > Monotonic::now()));
    }
}
