//! A subscriber of status changes, like those of other services. It reads the topic from the run's
//! first event on, and checks at the end that it has seen every version of every participation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::config::KafkaConfig;
use crate::domain::participation::StatusName;
use crate::domain::{PromotionId, UserId};
use crate::kafka::{self, LogContext};
use crate::wire::promotion_status::PromotionStatus;

/// How long to wait for a record.
const POLL: Duration = Duration::from_millis(100);

/// How long the last events may take to be read.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(15);

/// The versions seen of one participation.
#[derive(Debug, Default)]
struct SeenParticipation {
    /// The newest version without a gap before it.
    version: i32,
    status: Option<StatusName>,
    /// The version of the last record: an older one may be repeated, but not last.
    last: i32,
}

#[derive(Default)]
struct Notes {
    seen: HashMap<(UserId, PromotionId), SeenParticipation>,
    events: u64,
    complaints: Vec<String>,
}

impl Notes {
    fn take(&mut self, event: &PromotionStatus) {
        let state = &event.state;
        let seen = self
            .seen
            .entry((state.user_id, state.promotion_id))
            .or_default();
        self.events += 1;
        seen.last = state.version;
        if state.version <= seen.version {
            return;
        }
        if state.version != seen.version + 1 {
            self.complaints.push(format!(
                "client {}: version {} follows version {} in the status topic",
                state.user_id, state.version, seen.version
            ));
        }
        seen.version = state.version;
        seen.status = Some(state.status.name());
    }
}

/// The subscriber, reading on a thread of its own.
pub(super) struct Audience {
    notes: Arc<Mutex<Notes>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Audience {
    /// Subscribes, from the topic's beginning.
    pub(super) fn listen(kafka: &KafkaConfig, partitions: &[i32]) -> anyhow::Result<Self> {
        let consumer: BaseConsumer<LogContext> = kafka::tail_consumer(kafka)
            .create_with_context(LogContext { role: "audience" })
            .context("creating the subscriber of status changes")?;
        let mut assignment = TopicPartitionList::new();
        for partition in partitions {
            assignment.add_partition_offset(&kafka.status_topic, *partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let notes = Arc::new(Mutex::new(Notes::default()));
        let over = Arc::new(AtomicBool::new(false));
        let thread = {
            let (notes, over) = (Arc::clone(&notes), Arc::clone(&over));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    read(&consumer, &notes);
                }
            })
        };
        Ok(Self {
            notes,
            over,
            thread: Some(thread),
        })
    }

    /// Waits until every participation's version was seen. Returns the complaints and the number of
    /// events.
    pub(super) async fn compare(
        &self,
        versions: &[(UserId, PromotionId, i32, StatusName)],
    ) -> (Vec<String>, u64) {
        let began = tokio::time::Instant::now();
        loop {
            let missing: Vec<String> = {
                let notes = lock(&self.notes);
                versions
                    .iter()
                    .filter_map(|(user_id, promotion_id, version, status)| {
                        let seen = notes.seen.get(&(*user_id, *promotion_id));
                        let same = seen.is_some_and(|seen| {
                            (seen.version, seen.last, seen.status) == (*version, *version, Some(*status))
                        });
                        (!same).then(|| {
                            format!(
                                "client {user_id}: version {version}, {status}, but the status topic ends with {seen:?}"
                            )
                        })
                    })
                    .collect()
            };
            if missing.is_empty() || began.elapsed() > EVENTS_TIMEOUT {
                let notes = lock(&self.notes);
                let mut complaints = notes.complaints.clone();
                complaints.extend(missing);
                return (complaints, notes.events);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only ends early by a panic, which was reported already.
            let _ = thread.join();
        }
    }
}

fn read(consumer: &BaseConsumer<LogContext>, notes: &Mutex<Notes>) {
    match consumer.poll(POLL) {
        None | Some(Err(KafkaError::PartitionEOF(_))) => {}
        Some(Err(error)) => tracing::warn!(%error, "reading status changes"),
        Some(Ok(message)) => {
            let event = message.payload().map(serde_json::from_slice);
            let mut notes = lock(notes);
            match event {
                Some(Ok(event)) => notes.take(&event),
                Some(Err(error)) => notes.complaints.push(format!(
                    "an event of the status topic is malformed: {error}"
                )),
                None => notes
                    .complaints
                    .push("a record of the status topic has no value".to_owned()),
            }
        }
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    // The notes are consistent at any moment, also after a panic.
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
