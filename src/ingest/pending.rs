//! A question that the poll thread asks and looks for the answer of in a later round: what needs
//! Postgres or a request to the broker runs on the runtime.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant as Monotonic};

use tokio::runtime::Handle;

/// Where a question stands. The answer comes out of [`Pending::advance`] once; from then on the
/// question is due again, at once unless it is [put off](Pending::after).
#[derive(Debug)]
pub(super) enum Pending<T> {
    /// It is to be asked at this moment.
    Due(Monotonic),
    /// It was asked; the answer comes here.
    Asked(Receiver<T>),
}

/// How long after the task that was to answer has died the question is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl<T> Pending<T> {
    /// To be asked in the next round.
    pub(super) fn now() -> Self {
        Self::Due(Monotonic::now())
    }

    /// To be asked when so much time has passed.
    pub(super) fn after(pause: Duration) -> Self {
        Self::Due(Monotonic::now() + pause)
    }

    /// Asks when it is due; returns the answer when it is there.
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

    /// Makes it due now, unless it was asked already.
    pub(super) fn hurry(&mut self) {
        if let Self::Due(at) = self {
            *at = Monotonic::now();
        }
    }
}

/// Has the runtime find the answer to a question.
pub(super) fn ask<T: Send + 'static>(
    runtime: &Handle,
    question: impl Future<Output = T> + Send + 'static,
) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move {
        // It fails where the answer is no longer of interest.
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
