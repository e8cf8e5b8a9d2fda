//! The read model: participations kept in memory, so that the many reads which only ask "has it
//! changed?" need no database.
//!
//! It is filled from Postgres when a participation is first asked for, and kept up to date by what
//! this process writes and by the status topic (see [`tail`]). Postgres holds the truth; the model
//! answers only where it cannot contradict what its client has seen or was told:
//!
//! - The client names the version it has, and the model's is not older. So no version goes back.
//! - The participation is over for good; or it is live, and Postgres was asked since the question
//!   came which participations have ended (see [`endings`]): what a client can do to one is to end
//!   it, through any process.
//! - While it is live, the model is shown to be fresh: within the last seconds, whatever was
//!   committed had been published, and whatever was published had been read. Otherwise, with Kafka
//!   away or behind, Postgres answers.
//!
//! A participation that is read from Postgres is entered before it is read, so that no event
//! between the reading and the entering is lost: both are merged, the higher version stays.

pub mod endings;
pub mod tail;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use lru::LruCache;
use opentelemetry::trace::SpanContext;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use self::endings::Endings;
use crate::domain::participation::Status;
use crate::domain::{PromotionId, UserId};
use crate::store::clock::DbClock;
use crate::store::outbox::Pulse;
use crate::store::participations::Stored;
use crate::store::{self, Store};
use crate::telemetry::{Metrics, traces};
use crate::wire::participation::State;

/// A participation.
pub type Key = (UserId, PromotionId);

/// How long the tail's proof of having read everything is good for.
const TAIL_PROOF_LASTS: Duration = Duration::from_secs(2);

/// How long the relay's proof of having published nearly everything is good for.
const RELAY_PROOF_LASTS: Duration = Duration::from_secs(3);

/// An event that has been waiting longer to be published means that the topic is behind.
const RELAY_LAG_TOLERATED: Duration = Duration::from_secs(2);

/// After this long without an event an entry is compared with Postgres when it is next asked for:
/// a bound on every way of missing an event that nobody thought of.
const COMPARE_AFTER: Duration = Duration::from_secs(30);

/// How many of those who wait for a change read Postgres at the same time, where the model may not
/// answer them: few, because nobody notices when their answer takes a moment longer.
const FALLBACK_READS: usize = 4;

/// Participations in memory.
#[derive(Debug)]
pub struct Model {
    store: Store,
    entries: Mutex<Entries>,
    clock: DbClock,
    origin: Monotonic,
    /// Milliseconds since `origin` until which the tail is shown to have read everything.
    tail_proof: AtomicU64,
    /// The same for the relay's having published nearly everything.
    relay_proof: AtomicU64,
    fallback: Semaphore,
    endings: Endings,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Entries {
    /// Those nobody waits for; the one not read for longest makes room.
    recent: LruCache<Key, Entry>,
    /// Those somebody waits for, which must not go; as many as waits are allowed.
    watched: HashMap<Key, Watched>,
    generations: u64,
}

#[derive(Debug)]
struct Entry {
    /// Which registration of the key this is: a reading that began before it must not fill it.
    generation: u64,
    content: Content,
    /// Where the newest event was received, if that was traced, and its version.
    cause: Option<Box<(i32, SpanContext)>>,
}

impl Entry {
    /// Whether it is known to be over for good.
    fn is_over(&self) -> bool {
        matches!(&self.content, Content::Known { state, .. } if state.status.is_final())
    }

    /// What answers with this version was caused by the event that brought it.
    fn link(&self, version: i32) {
        if let Some((of, cause)) = self.cause.as_deref()
            && *of == version
        {
            traces::link_current(cause);
        }
    }
}

#[derive(Debug)]
enum Content {
    /// Being read from Postgres; the newest event meanwhile.
    Awaited(Option<Arc<State>>),
    /// Known, and not older than any event since it was entered.
    Known {
        state: Arc<State>,
        conditions: Arc<Value>,
        /// When Postgres or an event last said so.
        confirmed: Monotonic,
    },
}

#[derive(Debug)]
struct Watched {
    entry: Entry,
    changed: watch::Sender<()>,
    watchers: usize,
}

impl Entries {
    fn get(&mut self, key: &Key) -> Option<&mut Entry> {
        match self.watched.get_mut(key) {
            Some(watched) => Some(&mut watched.entry),
            None => self.recent.get_mut(key),
        }
    }

    /// As [`Entries::get`], which does not count as a reading: the order of leaving stays.
    fn peek(&self, key: &Key) -> Option<&Entry> {
        match self.watched.get(key) {
            Some(watched) => Some(&watched.entry),
            None => self.recent.peek(key),
        }
    }

    /// Drops what is known; a reading that is under way will not fill it.
    fn forget(&mut self, key: &Key) {
        self.recent.pop(key);
        let awaited = self.awaited();
        if let Some(watched) = self.watched.get_mut(key) {
            watched.entry = awaited;
        }
    }

    fn awaited(&mut self) -> Entry {
        self.generations += 1;
        Entry {
            generation: self.generations,
            content: Content::Awaited(None),
            cause: None,
        }
    }

    fn changed(&self, key: &Key) {
        if let Some(watched) = self.watched.get(key) {
            watched.changed.send_replace(());
        }
    }
}

impl Model {
    /// An empty model of at most `capacity` participations (and those that are watched), which is
    /// not fresh until its tail and its pulse say so.
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

    /// The database's clock.
    pub fn clock(&self) -> &DbClock {
        &self.clock
    }

    /// Reads a participation for a client who says which version it has, and whether it was told that
    /// this is past its deadline: from memory where that is allowed, else from Postgres.
    pub async fn read(
        &self,
        key: Key,
        seen: Option<i32>,
        knows_overdue: bool,
    ) -> store::Result<Option<Stored>> {
        // That a deadline has passed is not told from memory: an extension may be running.
        let may_be_told = |stored: &Stored| !stored.is_overdue() || knows_overdue;
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

    /// As [`Model::read`], for those who wait and look whether something has changed. They asked
    /// before any write that is answered from now on, so what is newer than they have seen may be
    /// told at once, and a fresh model that knows nothing newer needs no second opinion.
    /// Only that a deadline has passed is asked of Postgres the first time: an extension may be
    /// running. `was_overdue` says whether it was told before.
    pub async fn reread(
        &self,
        key: Key,
        seen: i32,
        was_overdue: bool,
    ) -> store::Result<Option<Stored>> {
        let may_be_told = |stored: &Stored| !stored.is_overdue() || was_overdue;
        if let Some(stored) = self.news(&key, seen).filter(may_be_told) {
            return Ok(Some(stored));
        }
        // Nobody closes it; and if so, the bound is gone and not the answer.
        let _one_of_few = self.fallback.acquire().await;
        self.load(key).await
    }

    /// The model's answer to one who waits, if it may give one.
    fn news(&self, key: &Key, seen: i32) -> Option<Stored> {
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
        (seen < state.version || current).then(|| Stored {
            state: Arc::clone(state),
            conditions: Arc::clone(conditions),
            now,
        })
    }

    /// The model's answer, if it may give one; one that is live only to who has then heard of every
    /// ending.
    fn answer(&self, key: &Key, seen: Option<i32>) -> Option<Stored> {
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
        (allowed && seen <= state.version).then(|| Stored {
            state: Arc::clone(state),
            conditions: Arc::clone(conditions),
            now,
        })
    }

    /// Reads a participation from Postgres, and keeps it.
    pub async fn load(&self, key: Key) -> store::Result<Option<Stored>> {
        let reading = self.begin(key);
        let stored = self.store.participation(key.0, key.1).await?;
        Ok(stored.map(|stored| reading.finish(stored)))
    }

    /// Call before reading or writing a participation in Postgres; what comes of it goes to
    /// [`Reading::finish`].
    pub fn begin(&self, key: Key) -> Reading<'_> {
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
        Reading {
            model: self,
            key,
            generation,
        }
    }

    /// Keeps a participation in memory and hears of its changes, until dropped.
    pub fn watch(self: &Arc<Self>, key: Key) -> Watch {
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
            let watched = Watched {
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

    /// Whether an event of this participation is of any interest.
    fn wants(&self, key: &Key) -> bool {
        let entries = self.lock();
        entries.watched.contains_key(key) || entries.recent.contains(key)
    }

    /// Takes a state from the status topic, if it is newer.
    fn apply(&self, state: State, cause: Option<SpanContext>) {
        let key = (state.user_id, state.promotion_id);
        let cause = cause.map(|cause| Box::new((state.version, cause)));
        let mut entries = self.lock();
        let entry = match entries.watched.get_mut(&key) {
            Some(watched) => Some(&mut watched.entry),
            // Being written about is not being read: the order of leaving stays.
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

    /// Takes note that these have ended: what is known of them, or is being read, may be older.
    fn ended(&self, keys: &[Key]) {
        let mut entries = self.lock();
        for key in keys {
            if entries.peek(key).is_some_and(|entry| !entry.is_over()) {
                entries.forget(key);
                entries.changed(key);
            }
        }
        self.count(&entries);
    }

    /// Takes note that the client's data was erased: what is known of it goes, and who waits reads
    /// Postgres.
    fn erased(&self, key: &Key) {
        let mut entries = self.lock();
        entries.forget(key);
        entries.changed(key);
        self.count(&entries);
    }

    /// Forgets everything: events may have been missed. Who waits reads Postgres at their next
    /// look, not all at once.
    fn forget(&self) {
        let mut entries = self.lock();
        entries.recent.clear();
        let watched: Vec<Key> = entries.watched.keys().copied().collect();
        for key in &watched {
            entries.forget(key);
        }
        self.count(&entries);
    }

    /// Takes note that the tail has read everything that was in the topic at `asked_at`.
    fn tail_reached_end(&self, asked_at: Monotonic) {
        self.prove(&self.tail_proof, asked_at + TAIL_PROOF_LASTS);
    }

    /// Takes note of what Postgres said when it was asked at `asked_at`: its clock, and whether
    /// everything but the newest is published.
    pub fn observe(&self, pulse: &Pulse, asked_at: Monotonic) {
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

    /// Whether the model is shown to know what was committed a few seconds ago.
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
        // Nothing in a critical section can panic halfway through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A participation that is being read or written in Postgres, and entered in the model already.
/// Dropped without an answer, it leaves no trace.
#[derive(Debug)]
#[must_use]
pub struct Reading<'a> {
    model: &'a Model,
    key: Key,
    generation: u64,
}

impl Reading<'_> {
    /// Merges what Postgres said with what the model heard meanwhile; answers the newer.
    pub fn finish(self, stored: Stored) -> Stored {
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
                    // Entered after this reading began: an event between the two may be missing.
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
        Stored {
            state: newest,
            ..stored
        }
    }
}

impl Drop for Reading<'_> {
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

/// Somebody who waits for a participation to change.
#[derive(Debug)]
pub struct Watch {
    model: Arc<Model>,
    key: Key,
    changed: watch::Receiver<()>,
}

impl Watch {
    /// Ends when something new is known of the participation since the last call.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The sender lives as long as there is a watch; without it there is nothing to hear.
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
        if let Some(Watched { entry, .. }) = entries.watched.remove(&self.key)
            && matches!(entry.content, Content::Known { .. })
        {
            entries.recent.put(self.key, entry);
        }
        self.model.count(&entries);
    }
}

#[cfg(test)]
mod tests;
