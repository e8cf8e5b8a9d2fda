//! Learns which participations ended through any process, before the model answers a conditional
//! read from memory. Concurrent reads share one question to Postgres.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant as Monotonic, sleep, timeout};

use super::Model;
use crate::backoff::Backoff;
use crate::store::endings::EndingFeed;
use crate::store::{self, Store, within};

/// How long a read waits for a shared question before it reads Postgres itself.
const SHARED_QUESTION_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest time between two questions. It keeps the answers short even if there are few reads.
const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// The timeout of connecting, and of one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The first and the longest pause between two attempts to open a session.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// What the readers share with the task that asks Postgres.
#[derive(Debug)]
pub(super) struct Endings {
    /// Whether a session with Postgres is open.
    listening: AtomicBool,
    /// How many questions have begun.
    begun: AtomicU64,
    /// The number of the last question whose answer is in the model.
    heard: watch::Sender<u64>,
    wanted: Notify,
}

impl Default for Endings {
    fn default() -> Self {
        Self {
            listening: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            heard: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }
}

impl Endings {
    /// Waits until the model knows every terminal transition that was committed before this call.
    /// Returns false if that cannot be had soon.
    pub(super) async fn are_heard(&self) -> bool {
        if !self.listening.load(Ordering::SeqCst) {
            return false;
        }
        // A question that is already under way may have begun before this call.
        let mine = self.begun.load(Ordering::SeqCst) + 1;
        let mut heard = self.heard.subscribe();
        self.wanted.notify_one();
        matches!(
            timeout(
                SHARED_QUESTION_TIMEOUT,
                heard.wait_for(|heard| *heard >= mine)
            )
            .await,
            Ok(Ok(_))
        ) && self.listening.load(Ordering::SeqCst)
    }

    pub(super) fn begin_session(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    /// Lets the waiting readers read Postgres themselves. This counts as one more question: a reader
    /// that waited for the next one must not take the next session's first question for it.
    pub(super) fn end_session(&self) {
        self.listening.store(false, Ordering::SeqCst);
        self.answered(self.begin_question());
    }

    /// Begins a question and returns its number.
    pub(super) fn begin_question(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Call once the answer to `question` is in the model.
    pub(super) fn answered(&self, question: u64) {
        self.heard.send_replace(question);
    }

    /// Returns when a reader waits.
    pub(super) async fn is_wanted(&self) {
        self.wanted.notified().await;
    }
}

/// Asks Postgres for terminal transitions, and tells the model, as long as it is polled.
pub async fn listen(store: Store, model: Arc<Model>) {
    let mut backoff = BACKOFF;
    loop {
        let Err(error) = follow(&store, &model, &mut backoff).await;
        model.endings.end_session();
        tracing::debug!(%error, "terminal transitions cannot be asked for; conditional reads go to postgres");
        sleep(backoff.pause()).await;
    }
}

async fn follow(store: &Store, model: &Model, backoff: &mut Backoff) -> store::Result<Infallible> {
    let endings = &model.endings;
    let mut feed = within(ANSWER_TIMEOUT, EndingFeed::connect(store)).await?;
    // A participation that was entered before the session began may have ended without notice.
    model.forget();
    endings.begin_session();
    backoff.reset();
    loop {
        let began = Monotonic::now();
        let question = endings.begin_question();
        let ended = within(ANSWER_TIMEOUT, feed.next()).await?;
        model.ended(&ended);
        endings.answered(question);
        // So these questions keep Postgres busy at most half of the time, whatever the load.
        sleep(began.elapsed()).await;
        let _ = timeout(ASK_AT_LEAST_EVERY, endings.is_wanted()).await;
    }
}
