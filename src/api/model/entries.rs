//! The entries of the read model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant as Monotonic;

use lru::LruCache;
use opentelemetry::trace::SpanContext;
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::ParticipationKey;
use crate::telemetry::traces;
use crate::wire::participation::State;

#[derive(Debug)]
pub(super) struct Entries {
    /// Entries without a [`Watch`](super::Watch). The least recently read one makes room.
    pub(super) recent: LruCache<ParticipationKey, Entry>,
    /// Entries with a [`Watch`](super::Watch). They stay; the number of waits bounds them.
    pub(super) watched: HashMap<ParticipationKey, WatchedEntry>,
    pub(super) generations: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Which registration of the key this is. A reading that began before it must not fill it.
    pub(super) generation: u64,
    pub(super) content: Content,
    /// The version of the newest event and the span that received it, if that was traced.
    pub(super) cause: Option<Box<(i32, SpanContext)>>,
}

impl Entry {
    /// Whether the participation is known to be over for good.
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.content, Content::Known { state, .. } if state.status.is_final())
    }

    /// Links the current span to the event that brought this version.
    pub(super) fn link(&self, version: i32) {
        if let Some((of, cause)) = self.cause.as_deref()
            && *of == version
        {
            traces::link_current(cause);
        }
    }
}

#[derive(Debug)]
pub(super) enum Content {
    /// Being read from Postgres; holds the newest event received meanwhile.
    Awaited(Option<Arc<State>>),
    /// Known, and as new as every event since it was entered.
    Known {
        state: Arc<State>,
        conditions: Arc<Value>,
        /// When Postgres or an event last confirmed it.
        confirmed: Monotonic,
    },
}

#[derive(Debug)]
pub(super) struct WatchedEntry {
    pub(super) entry: Entry,
    pub(super) changed: watch::Sender<()>,
    pub(super) watchers: usize,
}

impl Entries {
    pub(super) fn get(&mut self, key: &ParticipationKey) -> Option<&mut Entry> {
        match self.watched.get_mut(key) {
            Some(watched) => Some(&mut watched.entry),
            None => self.recent.get_mut(key),
        }
    }

    /// As [`Entries::get`], but does not count as a read: the eviction order stays.
    pub(super) fn peek(&self, key: &ParticipationKey) -> Option<&Entry> {
        match self.watched.get(key) {
            Some(watched) => Some(&watched.entry),
            None => self.recent.peek(key),
        }
    }

    /// Drops what is known. A reading that is under way will not fill the entry.
    pub(super) fn forget(&mut self, key: &ParticipationKey) {
        self.recent.pop(key);
        let awaited = self.awaited();
        if let Some(watched) = self.watched.get_mut(key) {
            watched.entry = awaited;
        }
    }

    pub(super) fn awaited(&mut self) -> Entry {
        self.generations += 1;
        Entry {
            generation: self.generations,
            content: Content::Awaited(None),
            cause: None,
        }
    }

    pub(super) fn changed(&self, key: &ParticipationKey) {
        if let Some(watched) = self.watched.get(key) {
            watched.changed.send_replace(());
        }
    }
}
