//! Collects the starts that come while others are written, so that they share the next transaction. A start
//! that finds none before it is run at once, alone in its batch.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant as Monotonic;

use tokio::sync::oneshot;

use super::StartOutcome;
use super::batch::start_together;
use super::facts::Candidate;
use crate::store::{ACQUIRE_TIMEOUT, Result, Store, StoreError, span};

/// The most starts of one transaction. It bounds how long their clients' pre-offers are locked.
const MAX_STARTS: usize = 64;

/// The most transactions of starts that a process runs at the same time: one is prepared and sent while
/// another one is written.
const MAX_BATCHES: usize = 2;

/// The most starts that wait. More of them would wait longer than [`ACQUIRE_TIMEOUT`].
const MAX_WAITING: usize = 8_192;

/// A start that waits for the next batch.
#[derive(Debug)]
struct PendingStart {
    candidate: Candidate,
    since: Monotonic,
    /// Gets the result, or `None` if the start needs a transaction of its own.
    reply: oneshot::Sender<Result<Option<StartOutcome>>>,
}

impl PendingStart {
    /// The caller may have gone, which changes nothing here.
    fn end(self, result: Result<Option<StartOutcome>>) {
        let _ = self.reply.send(result);
    }
}

/// The starts that wait, and the workers that run them.
#[derive(Debug, Default)]
pub(in crate::store) struct StartQueue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    starts: VecDeque<PendingStart>,
    workers: usize,
}

impl StartQueue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a start. Returns whether the caller must run a worker, which calls [`Self::next_batch`] until
    /// it returns `None`.
    fn push(&self, start: PendingStart) -> bool {
        let mut waiting = self.lock();
        if waiting.starts.len() >= MAX_WAITING {
            waiting.starts.retain(|start| !start.reply.is_closed());
        }
        if waiting.starts.len() >= MAX_WAITING {
            start.end(Err(too_late()));
            return false;
        }
        waiting.starts.push_back(start);
        let needs_worker = waiting.workers < MAX_BATCHES;
        waiting.workers += usize::from(needs_worker);
        needs_worker
    }

    /// The starts that waited longest, each client once: another start of a client is told to go alone, where it
    /// waits for the first. `None` if none waits, and then the worker has ended.
    fn next_batch(&self) -> Option<Vec<PendingStart>> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut users = HashSet::new();
        while batch.len() < MAX_STARTS
            && let Some(start) = waiting.starts.pop_front()
        {
            if start.reply.is_closed() {
                // Its caller has gone before anything was begun.
            } else if start.since.elapsed() >= ACQUIRE_TIMEOUT {
                start.end(Err(too_late()));
            } else if users.insert(start.candidate.key.0) {
                batch.push(start);
            } else {
                start.end(Ok(None));
            }
        }
        if batch.is_empty() {
            waiting.workers -= 1;
            return None;
        }
        Some(batch)
    }
}

/// As for a start that waited too long for a session.
fn too_late() -> StoreError {
    StoreError::Unavailable(sqlx::Error::PoolTimedOut)
}

impl Store {
    /// Starts in a transaction together with the starts that wait at this moment. Returns `None` if this start
    /// needs a transaction of its own; then nothing was changed. A start that has begun is not cancelled if its
    /// caller is dropped.
    pub(super) async fn start_with_others(
        &self,
        candidate: Candidate,
    ) -> Result<Option<StartOutcome>> {
        let (reply, result) = oneshot::channel();
        let start = PendingStart {
            candidate,
            since: Monotonic::now(),
            reply,
        };
        if self.starts.push(start) {
            let store = self.clone();
            tokio::spawn(async move {
                while let Some(batch) = store.starts.next_batch() {
                    store.run_batch(batch).await;
                }
            });
        }
        let options = self.options();
        let result = async { result.await.unwrap_or(Ok(None)) };
        span::traced("start", &options, result).await
    }

    async fn run_batch(&self, batch: Vec<PendingStart>) {
        let candidates: Arc<[Candidate]> =
            batch.iter().map(|start| start.candidate.clone()).collect();
        let result = self
            .run_tx("start", move |connection| {
                let candidates = Arc::clone(&candidates);
                Box::pin(async move { start_together(connection, &candidates).await })
            })
            .await;
        match result {
            Ok(mut results) => {
                for start in batch {
                    let result = results.remove(&start.candidate.key.0);
                    start.end(Ok(result));
                }
            }
            Err(error) if may_succeed_alone(&error) => {
                tracing::debug!(starts = batch.len(), %error, "a batch of starts failed");
                for start in batch {
                    start.end(Ok(None));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for start in batch {
                    start.end(Err(StoreError::Shared(Arc::clone(&error))));
                }
            }
        }
    }
}

/// Whether the error may come from one client of the batch, so that the others can start. The
/// transaction was rolled back then.
fn may_succeed_alone(error: &StoreError) -> bool {
    // A lock was not available in time, or the statement waited for another transaction too long.
    let waited = || matches!(error.code().as_deref(), Some("55P03" | "57014"));
    !error.is_unavailable() || error.is_conflict() || waited()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Reply = oneshot::Receiver<Result<Option<StartOutcome>>>;

    fn pending(user_id: i64) -> (PendingStart, Reply) {
        let (reply, result) = oneshot::channel();
        let candidate = Candidate {
            key: (user_id, 1),
            erased_name: None,
            traceparent: None,
        };
        let since = Monotonic::now();
        (
            PendingStart {
                candidate,
                since,
                reply,
            },
            result,
        )
    }

    fn users(batch: &[PendingStart]) -> Vec<i64> {
        batch.iter().map(|start| start.candidate.key.0).collect()
    }

    #[test]
    fn a_batch_has_each_client_once_and_none_whose_caller_has_gone() {
        let queue = StartQueue::default();
        let mut replies = Vec::new();
        for user_id in [1, 2, 1, 3] {
            let (start, reply) = pending(user_id);
            queue.push(start);
            replies.push(reply);
        }
        // The caller of client 2 hangs up.
        drop(replies.remove(1));
        let batch = queue.next_batch().expect("starts wait");
        assert_eq!(users(&batch), [1, 3]);
        assert!(matches!(replies[1].try_recv(), Ok(Ok(None))), "goes alone");
        assert!(replies[0].try_recv().is_err(), "is in the batch");
    }

    #[test]
    fn workers_and_batches_are_bounded_and_a_worker_ends_when_none_waits() {
        let queue = StartQueue::default();
        let (starts, _replies): (Vec<_>, Vec<_>) = (1..=200).map(pending).unzip();
        let workers = starts
            .into_iter()
            .filter_map(|start| queue.push(start).then_some(()));
        assert_eq!(workers.count(), MAX_BATCHES);
        let mut sizes = Vec::new();
        for _ in 0..MAX_BATCHES {
            while let Some(batch) = queue.next_batch() {
                sizes.push(batch.len());
            }
        }
        assert_eq!(sizes, [64, 64, 64, 8]);
        let (start, _reply) = pending(1);
        assert!(queue.push(start), "the workers have ended");
    }

    #[test]
    fn a_full_queue_and_a_long_wait_are_unavailable() {
        let queue = StartQueue::default();
        let (starts, _replies): (Vec<_>, Vec<_>) = (1..=MAX_WAITING as i64).map(pending).unzip();
        for start in starts {
            queue.push(start);
        }
        let is_unavailable = |mut reply: Reply| {
            let reply = reply.try_recv().expect("is told at once");
            reply.is_err_and(|error| error.is_unavailable())
        };
        let (start, reply) = pending(0);
        queue.push(start);
        assert!(is_unavailable(reply));

        let queue = StartQueue::default();
        let (mut late, reply) = pending(1);
        late.since = Monotonic::now()
            .checked_sub(ACQUIRE_TIMEOUT)
            .expect("the machine runs for longer");
        queue.push(late);
        assert!(queue.next_batch().is_none());
        assert!(is_unavailable(reply));
    }
}
