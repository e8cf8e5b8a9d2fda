//! The read model: participations kept in memory. Most reads only ask "has it changed?", and the
//! model answers them without the database.
//!
//! An entry is filled from Postgres when a participation is first asked for. Changes that this
//! process writes and records of the status topic (see [`tail`]) keep it current. Postgres holds the
//! truth; the model answers only if it cannot contradict what the client has already been told:
//!
//! - The client names the version it has, and the model's version is not older. So a client never
//!   sees a lower version.
//! - The participation is over for good. Or it is live, and Postgres was asked after the request
//!   arrived which participations have ended (see [`endings`]): the only change that a client can
//!   make is to end it, through any process.
//! - While it is live, the model is fresh: within the last seconds, everything committed had been
//!   published, and everything published had been read. Otherwise, for instance while Kafka is
//!   unavailable or behind, the read goes to Postgres.
//!
//! A participation is entered before it is read from Postgres, so that no event in between is lost.
//! The row and the event are merged: the higher version stays.

pub mod endings;
mod entries;
pub mod progress;
pub mod tail;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use lru::LruCache;
use opentelemetry::trace::SpanContext;
use tokio::sync::{Semaphore, watch};

use self::endings::Endings;
use self::entries::{Content, Entries, WatchedEntry};
use crate::domain::ParticipationKey;
use crate::domain::participation::Status;
use crate::store::clock::DbClock;
use crate::store::outbox::OutboxAge;
use crate::store::participations::StoredParticipation;
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::wire::participation::State;

/// How long the tail's proof that it has read everything is valid.
const TAIL_PROOF_LASTS: Duration = Duration::from_secs(2);

/// How long the proof that nearly everything is published is valid.
const RELAY_PROOF_LASTS: Duration = Duration::from_secs(3);

/// If an event has been waiting in the outbox for longer, the topic is behind.
const RELAY_LAG_TOLERATED: Duration = Duration::from_secs(2);

/// An entry without an event for this long is compared with Postgres at the next read. This bounds
/// the effect of an event that was missed in a way not foreseen.
const COMPARE_AFTER: Duration = Duration::from_secs(30);

/// How many long polls and streams read Postgres at the same time when the model may not answer.
/// Few are enough: these clients wait anyway.
const FALLBACK_READS: usize = 4;

/// Participations in memory.
#[derive(Debug)]
pub struct Model {
    store: Store,
    entries: Mutex<Entries>,
    clock: DbClock,
    origin: Monotonic,
    /// Milliseconds since `origin` until which the tail's proof is valid.
    tail_proof: AtomicU64,
    /// The same for the proof that nearly everything is published.
    relay_proof: AtomicU64,
    fallback: Semaphore,
    endings: Endings,
    metrics: Arc<Metrics>,
}

impl Model {
    /// An empty model of at most `capacity` participations, besides those that are watched. It is not
    /// fresh until both proofs have arrived.
    pub fn new(store: Store, capacity: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            store,
            entries: Mutex::new(Entries {
                recent: LruCache::new(capacity),
                watched: HashMap::new(),
                generations: 0,
            }),
            clock: DbClock::default(),
            origin: Monotonic::now(),
            tail_proof: AtomicU64::new(0),
            relay_proof: AtomicU64::new(0),
            fallback: Semaphore::new(FALLBACK_READS),
            endings: Endings::default(),
            metrics,
        })
    }

    /// The model's estimate of the database's clock.
    pub fn clock(&self) -> &DbClock {
        &self.clock
    }

    /// Reads a participation from memory if that is allowed, else from Postgres. `seen` is the version
    /// that the client has; `knows_overdue` says whether the client was told that this version is past
    /// its deadline.
    pub async fn read(
        &self,
        key: ParticipationKey,
        seen: Option<i32>,
        knows_overdue: bool,
    ) -> store::Result<Option<StoredParticipation>> {
        // A passed deadline is not told from memory first: an extension may be running.
        let may_be_told = |stored: &StoredParticipation| !stored.is_overdue() || knows_overdue;
        if let Some(stored) = self.answer(&key, seen) {
            if stored.state.status.is_final() {
                return Ok(Some(stored));
            }
            if self.endings.are_heard().await
                && let Some(stored) = self.answer(&key, seen).filter(may_be_told)
            {
                return Ok(Some(stored));
            }
        }
        self.load(key).await
    }

    /// As [`Model::read`], for a long poll or stream that looks for a change. Its request arrived
    /// before any write that is answered from now on. So a newer version may be told at once, and if
    /// a fresh model has no newer version, Postgres is not asked for terminal transitions. Only a
    /// passed deadline is confirmed by Postgres the first time, because an extension may be running;
    /// `was_overdue` says whether the client was told of it before.
    pub async fn reread(
        &self,
        key: ParticipationKey,
        seen: i32,
        was_overdue: bool,
    ) -> store::Result<Option<StoredParticipation>> {
        let may_be_told = |stored: &StoredParticipation| !stored.is_overdue() || was_overdue;
        if let Some(stored) = self.for_waiting(&key, seen).filter(may_be_told) {
            return Ok(Some(stored));
        }
        // The semaphore is never closed. If it were, only the bound would be lost.
        let _one_of_few = self.fallback.acquire().await;
        self.load(key).await
    }

    /// The model's state for a long poll or stream, if the model may give one.
    fn for_waiting(&self, key: &ParticipationKey, seen: i32) -> Option<StoredParticipation> {
        let now = self.clock.now()?;
        let fresh = self.is_fresh();
        let mut entries = self.lock();
        let entry = entries.get(key)?;
        let Content::Known {
            state,
            conditions,
            confirmed,
        } = &entry.content
        else {
            return None;
        };
        let current = fresh && confirmed.elapsed() < COMPARE_AFTER && seen == state.version;
        if seen < state.version {
            entry.link(state.version);
        }
        (seen < state.version || current).then(|| StoredParticipation {
            state: Arc::clone(state),
            conditions: Arc::clone(conditions),
            now,
        })
    }

    /// The model's state for a read, if the model may give one. If it is live, the caller must then
    /// wait until every terminal transition is known, and call again.
    fn answer(&self, key: &ParticipationKey, seen: Option<i32>) -> Option<StoredParticipation> {
        let seen = seen?;
        let now = self.clock.now()?;
        let fresh = self.is_fresh();
        let mut entries = self.lock();
        let Content::Known {
            state,
            conditions,
            confirmed,
        } = &entries.get(key)?.content
        else {
            return None;
        };
        let allowed = match state.status {
            Status::InProgress | Status::Completed(_) => {
                fresh && confirmed.elapsed() < COMPARE_AFTER
            }
            Status::Rewarded { .. } | Status::Expired { .. } => true,
        };
        (allowed && seen <= state.version).then(|| StoredParticipation {
            state: Arc::clone(state),
            conditions: Arc::clone(conditions),
            now,
        })
    }

    /// Reads a participation from Postgres and keeps it.
    pub async fn load(&self, key: ParticipationKey) -> store::Result<Option<StoredParticipation>> {
        let reading = self.begin(key);
        let stored = self.store.participation(key.0, key.1).await?;
        Ok(stored.map(|stored| reading.finish(stored)))
    }

    /// Call before reading or writing a participation in Postgres. Give the resulting state to
    /// [`PendingEntry::finish`].
    pub fn begin(&self, key: ParticipationKey) -> PendingEntry<'_> {
        let mut entries = self.lock();
        let generation = match entries.get(&key) {
            Some(entry) => entry.generation,
            None => {
                let entry = entries.awaited();
                let generation = entry.generation;
                entries.recent.put(key, entry);
                generation
            }
        };
        self.count(&entries);
        drop(entries);
        PendingEntry {
            model: self,
            key,
            generation,
        }
    }

    /// Keeps a participation in memory, and notifies of its changes, until dropped.
    pub fn watch(self: &Arc<Self>, key: ParticipationKey) -> Watch {
        let mut entries = self.lock();
        let changed = if let Some(watched) = entries.watched.get_mut(&key) {
            watched.watchers += 1;
            watched.changed.subscribe()
        } else {
            let entry = match entries.recent.pop(&key) {
                Some(entry) => entry,
                None => entries.awaited(),
            };
            let (changed, receiver) = watch::channel(());
            let watched = WatchedEntry {
                entry,
                changed,
                watchers: 1,
            };
            entries.watched.insert(key, watched);
            receiver
        };
        self.count(&entries);
        drop(entries);
        Watch {
            model: Arc::clone(self),
            key,
            changed,
        }
    }

    /// Whether the model has an entry that an event of this participation can change.
    fn wants(&self, key: &ParticipationKey) -> bool {
        let entries = self.lock();
        entries.watched.contains_key(key) || entries.recent.contains(key)
    }

    /// Whether a request waits for a change of this participation.
    fn is_watched(&self, key: &ParticipationKey) -> bool {
        self.lock().watched.contains_key(key)
    }

    /// Takes a state from the status topic, or from Postgres, if it is newer.
    fn apply(&self, state: State, cause: Option<SpanContext>) {
        let key = (state.user_id, state.promotion_id);
        let cause = cause.map(|cause| Box::new((state.version, cause)));
        let mut entries = self.lock();
        let entry = match entries.watched.get_mut(&key) {
            Some(watched) => Some(&mut watched.entry),
            // An event does not count as a read: the eviction order stays.
            None => entries.recent.peek_mut(&key),
        };
        let Some(entry) = entry else {
            return;
        };
        let newer = match &mut entry.content {
            Content::Awaited(heard) => {
                if heard
                    .as_ref()
                    .is_none_or(|heard| heard.version < state.version)
                {
                    *heard = Some(Arc::new(state));
                }
                true
            }
            Content::Known {
                state: known,
                confirmed,
                ..
            } if known.version < state.version => {
                *known = Arc::new(state);
                *confirmed = Monotonic::now();
                true
            }
            Content::Known { .. } => false,
        };
        if newer {
            entry.cause = cause;
            entries.changed(&key);
        }
    }

    /// Drops what is known of these participations: they ended, so it may be older.
    fn ended(&self, keys: &[ParticipationKey]) {
        let mut entries = self.lock();
        for key in keys {
            if entries.peek(key).is_some_and(|entry| !entry.is_over()) {
                entries.forget(key);
                entries.changed(key);
            }
        }
        self.count(&entries);
    }

    /// The client's data was erased: drops what is known, and makes the waiting requests read
    /// Postgres.
    fn erased(&self, key: &ParticipationKey) {
        let mut entries = self.lock();
        entries.forget(key);
        entries.changed(key);
        self.count(&entries);
    }

    /// Forgets everything, because events may have been missed. Waiting requests read Postgres at
    /// their next regular look, so they do not do it all at once.
    fn forget(&self) {
        let mut entries = self.lock();
        entries.recent.clear();
        let watched: Vec<ParticipationKey> = entries.watched.keys().copied().collect();
        for key in &watched {
            entries.forget(key);
        }
        self.count(&entries);
    }

    /// Records that the tail has read everything that was in the topic at `asked_at`.
    fn tail_reached_end(&self, asked_at: Monotonic) {
        self.prove(&self.tail_proof, asked_at + TAIL_PROOF_LASTS);
    }

    /// Takes the result of a question to Postgres at `asked_at`: its clock, and whether everything
    /// but the newest events is published.
    pub fn observe(&self, pulse: &OutboxAge, asked_at: Monotonic) {
        self.clock.observe(pulse.now);
        let published = pulse.oldest_unpublished.is_none_or(|oldest| {
            let waiting = (pulse.now - oldest).to_std().unwrap_or_default();
            waiting < RELAY_LAG_TOLERATED
        });
        if published {
            self.prove(&self.relay_proof, asked_at + RELAY_PROOF_LASTS);
        }
        self.metrics.model.fresh.set(i64::from(self.is_fresh()));
    }

    fn prove(&self, proof: &AtomicU64, until: Monotonic) {
        let until = until.saturating_duration_since(self.origin).as_millis();
        proof.fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.metrics.model.fresh.set(i64::from(self.is_fresh()));
    }

    /// Whether it is proven that the model knows everything committed until a few seconds ago.
    pub fn is_fresh(&self) -> bool {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.tail_proof.load(Ordering::Relaxed)
            && now < self.relay_proof.load(Ordering::Relaxed)
    }

    fn count(&self, entries: &Entries) {
        let held = entries.recent.len() + entries.watched.len();
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        self.metrics.model.entries.set(held);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // No critical section can panic in the middle of a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A participation that is being read or written in Postgres and is already entered in the model.
/// If it is dropped without a state, the entry goes too.
#[derive(Debug)]
#[must_use]
pub struct PendingEntry<'a> {
    model: &'a Model,
    key: ParticipationKey,
    generation: u64,
}

impl PendingEntry<'_> {
    /// Merges the state from Postgres with the events received meanwhile; returns the newer one.
    pub fn finish(self, stored: StoredParticipation) -> StoredParticipation {
        let model = self.model;
        model.clock.observe(stored.now);
        let mut entries = model.lock();
        let Some(entry) = entries.get(&self.key) else {
            return stored;
        };
        let (newest, changed) = match &mut entry.content {
            Content::Awaited(heard) => {
                let heard = heard
                    .take()
                    .filter(|heard| heard.version > stored.state.version);
                let newest = heard.unwrap_or_else(|| Arc::clone(&stored.state));
                if entry.generation == self.generation {
                    entry.content = Content::Known {
                        state: Arc::clone(&newest),
                        conditions: Arc::clone(&stored.conditions),
                        confirmed: Monotonic::now(),
                    };
                } else {
                    // Entered after this reading began: an event in between may be missing.
                    entry.content = Content::Awaited(Some(Arc::clone(&newest)));
                }
                (newest, true)
            }
            Content::Known {
                state, confirmed, ..
            } => {
                let newer = state.version < stored.state.version;
                if newer {
                    *state = Arc::clone(&stored.state);
                }
                if state.version == stored.state.version {
                    *confirmed = Monotonic::now();
                }
                (Arc::clone(state), newer)
            }
        };
        if changed {
            entries.changed(&self.key);
        }
        drop(entries);
        StoredParticipation {
            state: newest,
            ..stored
        }
    }
}

impl Drop for PendingEntry<'_> {
    fn drop(&mut self) {
        let mut entries = self.model.lock();
        let unfilled = entries.recent.peek(&self.key).is_some_and(|entry| {
            entry.generation == self.generation && matches!(entry.content, Content::Awaited(_))
        });
        if unfilled {
            entries.recent.pop(&self.key);
            self.model.count(&entries);
        }
    }
}

/// A request that waits for a participation to change.
#[derive(Debug)]
pub struct Watch {
    model: Arc<Model>,
    key: ParticipationKey,
    changed: watch::Receiver<()>,
}

impl Watch {
    /// Returns when something new is known of the participation since the last call.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The sender lives as long as a watch. Without a sender there are no changes.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut entries = self.model.lock();
        let Some(watched) = entries.watched.get_mut(&self.key) else {
            return;
        };
        watched.watchers -= 1;
        if watched.watchers > 0 {
            return;
        }
        if let Some(WatchedEntry { entry, .. }) = entries.watched.remove(&self.key)
            && matches!(entry.content, Content::Known { .. })
        {
            entries.recent.put(self.key, entry);
        }
        self.model.count(&entries);
    }
}

#[cfg(test)]
mod tests;
