//! Hears of every participation that ended through whatever process, before a conditional read is
//! answered from memory: all reads of a moment share one question to Postgres.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Model;
use crate::backoff::Backoff;
use crate::store::endings::EndingFeed;
use crate::store::{self, Store, within};

/// How long a read waits for an answer that is not its own before it asks Postgres itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most time between two questions, so that an answer stays short however few read.
const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// Connecting or a question that takes longer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The first and the longest pause between two attempts to open a session.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// What readers and the one who asks share.
#[derive(Debug)]
pub(super) struct Endings {
    /// Whether there is a session that is asked.
    listening: AtomicBool,
    /// How many questions have begun.
    begun: AtomicU64,
    /// How many have been answered, and what they said is in the model.
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
    /// Waits until the model knows of every ending that was committed before this call; false where
    /// that cannot be had soon.
    pub(super) async fn are_heard(&self) -> bool {
        if !self.listening.load(Ordering::SeqCst) {
            return false;
        }
        // A question that is on its way may have been asked before what must be heard.
        let mine = self.begun.load(Ordering::SeqCst) + 1;
        let mut heard = self.heard.subscribe();
        self.wanted.notify_one();
        matches!(
            timeout(PATIENCE, heard.wait_for(|heard| *heard >= mine)).await,
            Ok(Ok(_))
        ) && self.listening.load(Ordering::SeqCst)
    }

    pub(super) fn begin_session(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    /// Who waits for an answer reads Postgres now. It counts as one more question, so that the next
    /// session's first is nobody's who asked before.
    pub(super) fn end_session(&self) {
        self.listening.store(false, Ordering::SeqCst);
        self.answered(self.begin_question());
    }

    /// The number of a question that is asked after this.
    pub(super) fn begin_question(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What the answer said is in the model.
    pub(super) fn answered(&self, question: u64) {
        self.heard.send_replace(question);
    }

    /// Ends when somebody waits.
    pub(super) async fn is_wanted(&self) {
        self.wanted.notified().await;
    }
}

/// Asks for endings as long as it is polled, and tells the model.
pub async fn listen(store: Store, model: Arc<Model>) {
    let mut backoff = BACKOFF;
    loop {
        let Err(error) = follow(&store, &model, &mut backoff).await;
        model.endings.end_session();
        tracing::debug!(%error, "endings are not heard of; conditional reads go to postgres");
        sleep(backoff.pause()).await;
    }
}

async fn follow(store: &Store, model: &Model, backoff: &mut Backoff) -> store::Result<Infallible> {
    let endings = &model.endings;
    let mut feed = within(ANSWER_TIMEOUT, EndingFeed::connect(store)).await?;
    // What was entered before the session began may have ended unheard.
    model.forget();
    endings.begin_session();
    backoff.reset();
    loop {
        let began = Instant::now();
        let question = endings.begin_question();
        let ended = within(ANSWER_TIMEOUT, feed.next()).await?;
        model.ended(&ended);
        endings.answered(question);
        // However many read, Postgres is busy with this for half of the time at most.
        sleep(began.elapsed()).await;
        let _ = timeout(ASK_AT_LEAST_EVERY, endings.is_wanted()).await;
    }
}
