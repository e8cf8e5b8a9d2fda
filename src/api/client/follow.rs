//! Following a participation from change to change, for long polls and streams.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use crate::api::etag::{Tag, keep_settling};
use crate::api::model::{Key, Model, Watch};
use crate::api::problem::Problem;
use crate::domain::participation::Status;
use crate::store::participations::Stored;

/// How often one who waits looks for themselves, whatever they heard or did not hear. Spread, so
/// that many do not look at once.
const LOOK_EVERY_MS: std::ops::Range<u64> = 800..1_200;

/// A deadline that should have passed by our estimate, and has not by the answer, is looked at
/// again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Somebody who has seen a participation and waits for the next.
#[derive(Debug)]
pub struct Follower {
    model: Arc<Model>,
    key: Key,
    watch: Watch,
    seen: Option<Stored>,
    /// Why the last look failed, if it did.
    pub failed: Option<Problem>,
}

impl Follower {
    /// Begins to follow, so that nothing is missed that happens after. Tell it next what is known
    /// by [`Follower::saw`].
    pub fn new(model: &Arc<Model>, key: Key) -> Self {
        Self {
            model: Arc::clone(model),
            key,
            watch: model.watch(key),
            seen: None,
            failed: None,
        }
    }

    /// Takes note of what the client was, or is about to be, told.
    pub fn saw(&mut self, stored: Stored) {
        self.seen = Some(stored);
    }

    /// Waits for a state with another tag than the one seen, which never is an older one. A look
    /// that fails is followed by another.
    pub async fn next(&mut self) -> Stored {
        loop {
            // Until there is news, or for so long.
            let _ = tokio::time::timeout(self.patience(), self.watch.changed()).await;
            if let Some(next) = self.look().await {
                self.seen = Some(next.clone());
                return next;
            }
        }
    }

    /// One look; `None` where nothing new is known.
    async fn look(&mut self) -> Option<Stored> {
        let seen = self.seen.as_ref().map(Tag::of);
        let version = seen.map_or(0, |seen| seen.version);
        let was_overdue = self.seen.as_ref().is_some_and(Stored::is_overdue);
        let found = match self.model.reread(self.key, version, was_overdue).await {
            Ok(found) => found?,
            Err(error) => {
                self.failed = Some(error.into());
                return None;
            }
        };
        self.failed = None;
        let found = keep_settling(found, seen.is_some_and(|seen| seen.settling));
        let newer = found.state.version >= version && seen != Some(Tag::of(&found));
        newer.then_some(found)
    }

    /// How long to wait for news before looking: shorter where the deadline comes first, because
    /// settling begins then without any news.
    fn patience(&self) -> Duration {
        let look = Duration::from_millis(rand::rng().random_range(LOOK_EVERY_MS));
        let deadline = self.seen.as_ref().and_then(|seen| {
            let waits = seen.state.status == Status::InProgress && !Tag::of(seen).settling;
            let now = self.model.clock().now().filter(|_| waits)?;
            let left = seen.state.challenge_deadline - now;
            Some(left.to_std().unwrap_or_default().max(LOOK_AGAIN))
        });
        deadline.map_or(look, |deadline| deadline.min(look))
    }
}
