//! The model's tail of the status topic: a thread that reads new records, and shows once a second
//! that it has read everything.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant as Monotonic};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Model;
use crate::backoff::Backoff;
use crate::config::KafkaConfig;
use crate::domain::ParticipationKey;
use crate::kafka::{self, Cluster, ClusterError, LogContext};
use crate::telemetry::traces;
use crate::wire::promotion_status::PromotionStatus;
use crate::wire::traceparent::{HEADER, first_of};

/// How often the topic's end offsets are requested.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The longest poll, so how soon the thread notices anything but a record.
const POLL: Duration = Duration::from_millis(50);

/// A tail that reads nothing for this long, although the topic goes on, is started again. Longer
/// than a relay that died can leave a transaction open.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The first and the longest pause before a lost tail is started again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Why the tail must be started again. Until then the model is not fresh, and reads go to Postgres.
#[derive(Debug, thiserror::Error)]
enum TailLost {
    #[error(transparent)]
    PendingEntry(#[from] KafkaError),
    #[error(transparent)]
    Asking(#[from] ClusterError),
    #[error("partition {partition} ends at {end}, before the next offset to read ({next})")]
    Shorter { partition: i32, end: i64, next: i64 },
    #[error("nothing was read for {STALLED_AFTER:?}")]
    Stalled,
}

/// Starts the tail on its own thread, which ends soon after `stop`. Call it within a runtime.
pub fn spawn(
    model: Arc<Model>,
    kafka: KafkaConfig,
    cluster: Cluster,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let tail = Tail {
        model,
        kafka,
        cluster,
        runtime: Handle::current(),
        stop,
    };
    thread::Builder::new()
        .name("status-tail".to_owned())
        .spawn(move || {
            let run = || tail.run();
            run_again_after_panics(run, &tail.stop);
        })
        .map(drop)
}

/// Runs the tail until it returns, which it does when it is told to stop. After a panic it begins
/// again as after any other loss: with a new consumer and an empty model.
fn run_again_after_panics(run: impl Fn(), stop: &CancellationToken) {
    while std::panic::catch_unwind(AssertUnwindSafe(&run)).is_err() && !stop.is_cancelled() {
        // The panic's message is on standard error.
        tracing::error!(
            "the thread that follows the status topic panicked, starting it again; reads go to postgres"
        );
        thread::sleep(PROBE_EVERY);
    }
}

struct Tail {
    model: Arc<Model>,
    kafka: KafkaConfig,
    cluster: Cluster,
    runtime: Handle,
    stop: CancellationToken,
}

/// The topic's ends, and when they were requested. These are high watermarks: they include records
/// of open transactions, and of transactions whose commit has not reached the partition yet.
struct Probe {
    asked_at: Monotonic,
    ends: BTreeMap<i32, i64>,
}

type Consumer = BaseConsumer<LogContext>;

impl Tail {
    fn run(&self) {
        let mut backoff = BACKOFF;
        while !self.stop.is_cancelled() {
            let began = Monotonic::now();
            let Err(lost) = self.follow() else {
                return;
            };
            if began.elapsed() > backoff.longest() * 2 {
                backoff.reset();
            }
            if backoff.is_first() {
                tracing::warn!(
                    topic = self.kafka.status_topic,
                    error = %lost,
                    "the status topic cannot be followed; reads go to postgres"
                );
            }
            let until = Monotonic::now() + backoff.pause();
            while !self.stop.is_cancelled() && Monotonic::now() < until {
                thread::sleep(POLL);
            }
        }
    }

    /// Reads until stopped, or until events may have been missed.
    fn follow(&self) -> Result<(), TailLost> {
        let topic = self.kafka.status_topic.as_str();
        let mut config = kafka::tail_consumer(&self.kafka);
        if !self.kafka.properties.contains_key("fetch.wait.max.ms") {
            // A commit alone does not end a waiting fetch. The wait is short because clients wait
            // for the result.
            config.set("fetch.wait.max.ms", "10");
        }
        let consumer: Consumer = config.create_with_context(LogContext {
            role: "status-tail",
        })?;
        let ends = self.runtime.block_on(self.cluster.end_offsets(topic))?;
        let mut reader = TailProgress {
            model: &self.model,
            consumer: &consumer,
            topic,
            next: ends,
            goal: None,
            reached: (Monotonic::now(), BTreeMap::new()),
            behind_since: None,
        };
        reader.assign()?;
        // What was entered before the ends were known may lack the events before those ends.
        self.model.forget();
        tracing::info!(topic, "following the status topic");
        let (answers, probes) = sync_channel(1);
        let prober = self
            .runtime
            .spawn(probe(self.cluster.clone(), topic.to_owned(), answers));
        // The guard ends the prober when this call ends.
        let _prober = AbortOnDropHandle::new(prober);
        self.read(&mut reader, &probes)
    }

    fn read(
        &self,
        reader: &mut TailProgress<'_>,
        probes: &Receiver<Probe>,
    ) -> Result<(), TailLost> {
        while !self.stop.is_cancelled() {
            match reader.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => reader.take(&message),
                Some(Err(KafkaError::PartitionEOF(partition))) => reader.at_end(partition)?,
                Some(Err(error)) if kafka::is_lasting(&error) => return Err(error.into()),
                // librdkafka reconnects to brokers that were unavailable.
                Some(Err(error)) => tracing::debug!(%error, "reading the status topic"),
            }
            if let Ok(probe) = probes.try_recv() {
                reader.aim(probe)?;
            }
        }
        Ok(())
    }
}

/// Requests the topic's ends once a second. It does not run on the reading thread, because a slow
/// response must not delay records that were already fetched.
async fn probe(cluster: Cluster, topic: String, answers: SyncSender<Probe>) {
    let mut tick = tokio::time::interval(PROBE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked_at = Monotonic::now();
        match cluster.end_offsets(&topic).await {
            // If the channel is full, the thread has not looked at the last result yet; that will do.
            Ok(ends) => drop(answers.try_send(Probe { asked_at, ends })),
            Err(error) => tracing::debug!(%error, "requesting the status topic's ends"),
        }
    }
}

/// What was read so far, and up to where the tail must read to be at the end.
struct TailProgress<'a> {
    model: &'a Model,
    consumer: &'a Consumer,
    topic: &'a str,
    /// The offset after the last one read, by partition.
    next: BTreeMap<i32, i64>,
    goal: Option<ProbeEnds>,
    /// How far the topic was read, and when, at the last probe. The ends of a later probe are no lower.
    reached: (Monotonic, BTreeMap<i32, i64>),
    /// Since when nothing was read although there is something to read.
    behind_since: Option<Monotonic>,
}

/// The ends of a probe that are not reached yet.
struct ProbeEnds {
    asked_at: Monotonic,
    missing: BTreeMap<i32, i64>,
}

impl TailProgress<'_> {
    fn assign(&self) -> Result<(), TailLost> {
        let mut assignment = TopicPartitionList::with_capacity(self.next.len());
        for (partition, next) in &self.next {
            assignment.add_partition_offset(self.topic, *partition, Offset::Offset(*next))?;
        }
        Ok(self.consumer.assign(&assignment)?)
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().and_then(parse_key);
        if key.is_none_or(|key| self.model.wants(&key)) {
            match message
                .payload()
                .map(serde_json::from_slice::<PromotionStatus>)
            {
                Some(Ok(event)) => {
                    let traceparent = message
                        .headers()
                        .and_then(|all| first_of(kafka::header_values(all, HEADER)));
                    let span = traceparent.and_then(|traceparent| {
                        traces::received(
                            self.topic,
                            message.partition(),
                            message.offset(),
                            traceparent,
                        )
                    });
                    let cause = span.as_ref().map(traces::ReceivedSpan::context);
                    self.model.apply(event.state, cause);
                }
                // Not one of ours, or of a later release. The entry is compared with Postgres soon.
                Some(Err(error)) => tracing::warn!(
                    topic = self.topic,
                    partition = message.partition(),
                    offset = message.offset(),
                    %error,
                    "a status event cannot be read"
                ),
                // A tombstone: the client's data was erased.
                None => {
                    if let Some(key) = key {
                        self.model.erased(&key);
                    }
                }
            }
        }
        self.behind_since = None;
        self.advance(message.partition(), message.offset() + 1);
    }

    /// The partition is read to its end, including transaction markers, which are no messages.
    fn at_end(&mut self, partition: i32) -> Result<(), TailLost> {
        let positions = self.consumer.position()?;
        let position = positions.find_partition(self.topic, partition);
        // There is no position if nothing was read since the assignment.
        if let Some(Offset::Offset(next)) = position.map(|position| position.offset()) {
            self.advance(partition, next);
        }
        Ok(())
    }

    fn advance(&mut self, partition: i32, to: i64) {
        let next = self.next.entry(partition).or_default();
        *next = to.max(*next);
        let Some(goal) = &mut self.goal else {
            return;
        };
        if goal
            .missing
            .get(&partition)
            .is_some_and(|end| *end <= *next)
        {
            goal.missing.remove(&partition);
            self.check_goal();
        }
    }

    fn aim(&mut self, probe: Probe) -> Result<(), TailLost> {
        let (reached_at, reached) = &self.reached;
        for (partition, next) in reached {
            let end = probe.ends.get(partition).copied().unwrap_or(0);
            if end < *next && *reached_at < probe.asked_at {
                return Err(TailLost::Shorter {
                    partition: *partition,
                    end,
                    next: *next,
                });
            }
        }
        let mut added = false;
        let mut missing = BTreeMap::new();
        let mut lag = 0;
        for (partition, end) in probe.ends {
            let next = *self.next.entry(partition).or_insert_with(|| {
                // An added partition is read from its beginning.
                added = true;
                0
            });
            if end > next {
                lag += end - next;
                missing.insert(partition, end);
            }
        }
        self.model.metrics.model.tail_lag.set(lag);
        if added {
            self.assign()?;
        }
        self.reached = (Monotonic::now(), self.next.clone());
        self.goal = Some(ProbeEnds {
            asked_at: probe.asked_at,
            missing,
        });
        self.check_goal();
        if self.goal.is_none() {
            return Ok(());
        }
        let behind_since = self.behind_since.get_or_insert_with(Monotonic::now);
        if behind_since.elapsed() > STALLED_AFTER {
            return Err(TailLost::Stalled);
        }
        Ok(())
    }

    fn check_goal(&mut self) {
        if let Some(goal) = self.goal.take_if(|goal| goal.missing.is_empty()) {
            self.behind_since = None;
            self.model.tail_reached_end(goal.asked_at);
            self.model.metrics.model.tail_lag.set(0);
        }
    }
}

/// `{user_id}:{promotion_id}`.
fn parse_key(key: &[u8]) -> Option<ParticipationKey> {
    let (user_id, promotion_id) = std::str::from_utf8(key).ok()?.split_once(':')?;
    Some((user_id.parse().ok()?, promotion_id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_panic_does_not_end_the_tail() {
        let runs = Cell::new(0);
        let run = || {
            runs.set(runs.get() + 1);
            assert_ne!(runs.get(), 1, "the first run panics");
        };
        run_again_after_panics(run, &CancellationToken::new());
        assert_eq!(runs.get(), 2);
    }

    #[test]
    fn reads_the_topics_keys() {
        assert_eq!(parse_key(b"48151:1"), Some((48_151, 1)));
        for key in [&b"48151"[..], b":1", b"48151:", b"a:1", b"\xff:1", b"1:2:3"] {
            assert_eq!(parse_key(key), None, "{key:?}");
        }
    }
}
