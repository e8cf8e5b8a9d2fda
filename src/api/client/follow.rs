//! Follows a participation from change to change, for long polls and streams.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use crate::api::etag::{Tag, keep_settling};
use crate::api::model::{Model, Watch};
use crate::api::problem::Problem;
use crate::domain::ParticipationKey;
use crate::domain::participation::Status;
use crate::store::participations::StoredParticipation;

/// How often a follower looks without a notification. The times are spread, so that not many look at
/// once.
const LOOK_EVERY_MS: std::ops::Range<u64> = 800..1_200;

/// After this, a follower looks again if a deadline should have passed by its own estimate of the
/// clock, and had not passed by the state it got.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A long poll or stream that has sent a participation and waits for the next state.
#[derive(Debug)]
pub struct Follower {
    model: Arc<Model>,
    key: ParticipationKey,
    watch: Watch,
    seen: Option<StoredParticipation>,
    /// Why the last look failed, if it did.
    pub failed: Option<Problem>,
}

impl Follower {
    /// Begins to follow: no later change is missed. Tell it the known state next, by
    /// [`Follower::saw`].
    pub fn new(model: &Arc<Model>, key: ParticipationKey) -> Self {
        Self {
            model: Arc::clone(model),
            key,
            watch: model.watch(key),
            seen: None,
            failed: None,
        }
    }

    /// Records the state that the client was told, or is about to be told.
    pub fn saw(&mut self, stored: StoredParticipation) {
        self.seen = Some(stored);
    }

    /// Waits for a state with another tag than the last one seen; it is never older. After a look that
    /// failed, it looks again.
    pub async fn next(&mut self) -> StoredParticipation {
        loop {
            // Until a notification or the next regular look.
            let _ = tokio::time::timeout(self.next_look(), self.watch.changed()).await;
            if let Some(next) = self.look().await {
                self.seen = Some(next.clone());
                return next;
            }
        }
    }

    /// Looks once; `None` if nothing new is known.
    async fn look(&mut self) -> Option<StoredParticipation> {
        let seen = self.seen.as_ref().map(Tag::of);
        let version = seen.map_or(0, |seen| seen.version);
        let was_overdue = self
            .seen
            .as_ref()
            .is_some_and(StoredParticipation::is_overdue);
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

    /// How long to wait for a notification before the next look. A deadline shortens it, because
    /// settling begins without an event.
    fn next_look(&self) -> Duration {
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
