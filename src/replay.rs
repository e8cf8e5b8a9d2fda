//! Publishes the rides of a file to the ride topic, as fast as they happened or faster.
//!
//! Rides keep their times; the speed only decides the moment of publishing. With retiming, the
//! first ride ends now, and each other ride as long after it as in the file, divided by the speed.
//! A ride is published when it ends; at the greatest speed it ends when it is published. A ride
//! always keeps its id, so a second replay has the same rides.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::io::AsyncRead;
use tokio::time::Instant as Monotonic;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::Instant;
use crate::domain::ride::Ride;
use crate::kafka;
use crate::ride_file::{self, Format};
use crate::wire::format_instant;
use crate::wire::ride_completed::encode;

/// `ce_type` of a ride.
const CE_TYPE: &str = "ride.completed";

/// `ce_source` of the rides published here.
const CE_SOURCE: &str = "/ride-promo/replay";

/// How long the broker may take to report the topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause while the producer's queue is full, and between two checks whether it is empty.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// How many rides are passed to the producer before other tasks may run.
const YIELD_EVERY: u64 = 256;

/// How fast rides follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// This many times as fast as they happened; above 0.
    Times(f64),
    /// As fast as Kafka accepts them.
    Max,
}

/// The options of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The format of the file.
    pub format: Format,
    /// How fast.
    pub speed: Speed,
    /// Publish times moved to now instead of the original ones.
    pub retime: bool,
}

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// Rows that were read, without blank ones.
    pub read: u64,
    /// Rides that Kafka has acknowledged.
    pub published: u64,
    /// Rows that are not valid rides; they were skipped.
    pub malformed: u64,
    /// Rides that Kafka rejected.
    pub failed: u64,
    /// The reason of the first rejection.
    pub first_failure: Option<String>,
    /// The replay was stopped before the end of the file.
    pub interrupted: bool,
}

/// Progress events of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The number of rows read.
    Read(u64),
    /// A line that is not a valid ride.
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: &'a str,
    },
}

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The rest of the text cannot be read.
    #[error("cannot read on after line {line}: {source}")]
    Unreadable {
        /// The last line that was read.
        line: u64,
        /// Why.
        source: io::Error,
        /// The result up to there; those rides were published.
        summary: Box<ReplaySummary>,
    },
    /// Kafka is unavailable, or has no such topic; nothing was published.
    #[error("cannot publish to the topic {topic} at {brokers}: {reason}")]
    NoTopic {
        /// The ride topic.
        topic: String,
        /// The brokers that were asked.
        brokers: String,
        /// Why.
        reason: String,
    },
    /// The producer cannot continue.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
}

/// The headers of a ride's record, CloudEvents in binary mode.
pub fn headers(ride: &Ride, source: &str) -> OwnedHeaders {
    let ride_id = ride.ride_id.to_string();
    let completed_at = format_instant(ride.completed_at);
    [
        ("ce_specversion", "1.0"),
        ("ce_id", ride_id.as_str()),
        ("ce_type", CE_TYPE),
        ("ce_source", source),
        ("ce_time", completed_at.as_str()),
        ("content-type", "application/json"),
    ]
    .into_iter()
    .fold(
        OwnedHeaders::new_with_capacity(6),
        |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        },
    )
}

/// The times at which each ride ends and is published, relative to the first ride.
struct Pace {
    options: Options,
    /// The first ride: its original instant, and its publication by both clocks.
    first: Option<(Instant, Instant, Monotonic)>,
}

/// The decision of [`Pace`] about a ride.
#[derive(Debug, PartialEq)]
struct TimedRide {
    completed_at: Instant,
    /// Do not publish earlier than this.
    publish_at: Option<Monotonic>,
}

impl Pace {
    /// `None` if the time would be outside of the calendar.
    fn time(&mut self, original: Instant, now: Instant, ticks: Monotonic) -> Option<TimedRide> {
        let (first, began, began_ticks) = *self.first.get_or_insert((original, now, ticks));
        let Speed::Times(speed) = self.options.speed else {
            return Some(TimedRide {
                completed_at: if self.options.retime { now } else { original },
                publish_at: None,
            });
        };
        // The milliseconds between two instants fit a float's 53 bits. A quotient that does not fit
        // saturates, and is rejected below.
        let after_ms = ((original - first).num_milliseconds() as f64 / speed).round() as i64;
        let completed_at = if self.options.retime {
            began.checked_add_signed(TimeDelta::try_milliseconds(after_ms)?)?
        } else {
            original
        };
        // A ride that ends before the first one is late, and is published at once.
        let wait = Duration::from_millis(u64::try_from(after_ms).unwrap_or(0));
        Some(TimedRide {
            completed_at,
            publish_at: Some(began_ticks.checked_add(wait)?),
        })
    }
}

/// Publishes every ride of a text, plain or gzip, in bounded memory. When `stop` is cancelled, it
/// still waits for the rides that were passed to Kafka.
pub async fn replay_rides<R>(
    config: &KafkaConfig,
    reader: R,
    options: Options,
    stop: &CancellationToken,
    mut watch: impl FnMut(Event<'_>) + Send,
) -> Result<ReplaySummary, ReplayError>
where
    R: AsyncRead + Send + Unpin,
{
    let publisher = Publisher::connect(config).await?;
    let clock = Clock::System;
    // With retiming, a ride may have a time in the future.
    let not_after = (!options.retime).then(|| clock.now());
    let at_start = |source| ReplayError::Unreadable {
        line: 0,
        source,
        summary: Box::default(),
    };
    let mut rides = ride_file::open(reader, options.format, not_after)
        .await
        .map_err(at_start)?;
    let mut pace = Pace {
        options,
        first: None,
    };
    let mut summary = ReplaySummary::default();
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => {
                summary.interrupted = true;
                break;
            }
            next = rides.next() => next,
        };
        let next = match next {
            Ok(next) => next,
            Err(source) => {
                let line = rides.lines_read();
                let summary = Box::new(publisher.finish(summary).await);
                return Err(ReplayError::Unreadable {
                    line,
                    source,
                    summary,
                });
            }
        };
        let Some(row) = next else {
            break;
        };
        let line = row.line;
        summary.read += 1;
        let timed = row.ride().and_then(|mut ride| {
            let timed = pace
                .time(ride.completed_at, clock.now(), Monotonic::now())
                .ok_or_else(|| "ends at a time that cannot be reached at this speed".to_owned())?;
            ride.completed_at = timed.completed_at;
            Ok((ride, timed.publish_at))
        });
        match timed {
            Ok((ride, publish_at)) => {
                let published = async {
                    if let Some(at) = publish_at {
                        tokio::time::sleep_until(at).await;
                    }
                    publisher.publish(&ride).await
                };
                tokio::select! {
                    published = published => published?,
                    // It was not passed to Kafka, so it does not count as read.
                    () = stop.cancelled() => {
                        summary.read -= 1;
                        summary.interrupted = true;
                        break;
                    }
                }
            }
            Err(reason) => {
                summary.malformed += 1;
                watch(Event::Malformed {
                    line,
                    reason: &reason,
                });
            }
        }
        watch(Event::Read(summary.read));
        if summary.read.is_multiple_of(YIELD_EVERY) {
            tokio::task::yield_now().await;
        }
    }
    Ok(publisher.finish(summary).await)
}

/// The outcome of the rides that were passed to the producer.
#[derive(Debug, Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Deliveries {
    fn first_failure(&self) -> Option<String> {
        // No code panics while it holds this lock.
        self.first_failure.lock().ok()?.clone()
    }
}

struct ReplayContext {
    deliveries: Arc<Deliveries>,
}

impl ClientContext for ReplayContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_line("replay", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error("replay", &error, reason);
    }
}

impl ProducerContext for ReplayContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.deliveries.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.deliveries.failed.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut first) = self.deliveries.first_failure.lock() {
                    first.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}

struct Publisher {
    /// Polls on a thread of its own.
    producer: ThreadedProducer<ReplayContext>,
    topic: String,
}

impl Publisher {
    /// Asks for the topic first, so that an unavailable broker or a mistyped topic is reported at
    /// once, and not per ride and minutes later.
    async fn connect(config: &KafkaConfig) -> Result<Self, ReplayError> {
        let context = ReplayContext {
            deliveries: Arc::default(),
        };
        let producer: ThreadedProducer<ReplayContext> =
            kafka::producer(config).create_with_context(context)?;
        let topic = config.ride_topic.clone();
        let publisher = Self { producer, topic };
        // The client's calls block.
        let asked = tokio::task::spawn_blocking(move || {
            let found = publisher.has_topic();
            (publisher, found)
        });
        let no_topic = |reason| ReplayError::NoTopic {
            topic: config.ride_topic.clone(),
            brokers: config.brokers.clone(),
            reason,
        };
        match asked.await {
            Ok((publisher, Ok(()))) => Ok(publisher),
            Ok((_, Err(reason))) => Err(no_topic(reason)),
            Err(died) => Err(no_topic(died.to_string())),
        }
    }

    fn has_topic(&self) -> Result<(), String> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(Some(&self.topic), METADATA_TIMEOUT)
            .map_err(|error| error.to_string())?;
        match metadata.topics().first() {
            Some(topic) if topic.error().is_some() || topic.partitions().is_empty() => {
                Err("there is no such topic; `serve` creates it".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Waits for the rides that were passed to Kafka, and adds their outcome to the summary.
    async fn finish(&self, mut summary: ReplaySummary) -> ReplaySummary {
        self.drain().await;
        let deliveries = self.deliveries();
        summary.published = deliveries.acknowledged.load(Ordering::Relaxed);
        summary.failed = deliveries.failed.load(Ordering::Relaxed);
        summary.first_failure = deliveries.first_failure();
        summary
    }

    fn deliveries(&self) -> &Deliveries {
        &self.producer.context().deliveries
    }

    /// Passes a ride to the producer, and waits while its queue is full.
    async fn publish(&self, ride: &Ride) -> Result<(), KafkaError> {
        let (key, payload) = (ride.user_id.to_string(), encode(ride));
        let mut record = BaseRecord::to(&self.topic)
            .key(&key)
            .payload(&payload)
            .headers(headers(ride, CE_SOURCE));
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    tokio::time::sleep(QUEUE_PAUSE).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits until every ride is acknowledged or has failed. The producer gives up on a record
    /// after `message.timeout.ms`.
    async fn drain(&self) {
        while self.producer.in_flight_count() > 0 {
            tokio::time::sleep(QUEUE_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn at(text: &str) -> Instant {
        DateTime::parse_from_rfc3339(text)
            .expect("an instant")
            .to_utc()
    }

    fn pace(speed: Speed, retime: bool) -> Pace {
        Pace {
            options: Options {
                format: Format::Ndjson,
                speed,
                retime,
            },
            first: None,
        }
    }

    #[tokio::test]
    async fn rides_are_spaced_as_in_the_file() {
        let began = Monotonic::now();
        let now = at("2026-11-22T18:00:00Z");
        let (first, later, earlier) = (
            at("2013-01-01T05:02:00Z"),
            at("2013-01-01T06:02:00Z"),
            at("2013-01-01T05:01:00Z"),
        );
        let mut sixty = pace(Speed::Times(60.0), true);
        for (original, completed_at, wait_s) in [
            (first, "2026-11-22T18:00:00Z", 0),
            (later, "2026-11-22T18:01:00Z", 60),
            (earlier, "2026-11-22T17:59:59Z", 0),
        ] {
            // What the clocks say after the first ride does not matter.
            let timed = sixty.time(original, now, began).expect("in the calendar");
            assert_eq!(timed.completed_at, at(completed_at));
            assert_eq!(timed.publish_at, Some(began + Duration::from_secs(wait_s)));
        }

        let mut kept = pace(Speed::Times(1.0), false);
        kept.time(first, now, began);
        let timed = kept.time(later, now, began).expect("in the calendar");
        assert_eq!(timed.completed_at, later);
        assert_eq!(timed.publish_at, Some(began + Duration::from_secs(3600)));

        for (retime, completed_at) in [(true, now), (false, later)] {
            let mut max = pace(Speed::Max, retime);
            max.time(first, first, began);
            let timed = max.time(later, now, began).expect("in the calendar");
            assert_eq!((timed.completed_at, timed.publish_at), (completed_at, None));
        }

        let mut slow = pace(Speed::Times(f64::MIN_POSITIVE), true);
        slow.time(first, now, began);
        assert_eq!(slow.time(later, now, began), None);
        assert_eq!(slow.time(earlier, now, began), None);
    }

    #[tokio::test]
    async fn what_is_published_is_what_was_read() {
        let text = concat!(
            r#"{"ride_id":"0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11","user_id":48151,"completed_at":"2026-11-22T18:04:05.123Z","amount_cents":6500,"currency_code":"MXN","country_code":"MX","city_id":4198,"service_type":"city"}"#,
            "\r\n\r\n",
            r#"{"ride_id":"0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11","user_id":1,"completed_at":"2026-11-22T18:04:05.000Z","amount_cents":0,"currency_code":"MXN"}"#,
            "\n{}\n",
            r#"{"ride_id":"0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11","user_id":1,"completed_at":"2999-01-01T00:00:00.000Z","amount_cents":0,"currency_code":"MXN"}"#,
        );
        for (not_after, good) in [(Some(at("2026-11-22T18:04:00Z")), 2), (None, 3)] {
            let mut rides = ride_file::open(text.as_bytes(), Format::Ndjson, not_after)
                .await
                .expect("memory");
            let mut read = Vec::new();
            while let Some(row) = rides.next().await.expect("memory") {
                read.push(row);
            }
            let lines: Vec<u64> = read.iter().map(|row| row.line).collect();
            assert_eq!(lines, [1, 3, 4, 5]);
            let written: Vec<String> = read
                .into_iter()
                .filter_map(|row| row.ride().ok())
                .map(|ride| String::from_utf8(encode(&ride)).expect("JSON"))
                .collect();
            assert_eq!(written.len(), good);
            for (written, source) in written.iter().zip(text.lines().step_by(2)) {
                assert_eq!(written, source);
            }
        }
    }
}
