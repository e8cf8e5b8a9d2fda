//! Metrics, in Prometheus' text format; docs/metrics.md lists them.
//!
//! They are handles that are resolved once, so counting costs an atomic add. Never build a label
//! per message. Names start with `ride_promo_`; times are in seconds.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::domain::participation::{DeadlineOf, ExpiredReason};
use crate::domain::promotion::Verdict;
use crate::wire::promotion_status::EventType;
use crate::wire::ride_completed::QuarantineReason;

/// Labels: what holds expiry back.
const HELD_BACK_CAUSES: [&str; 2] = ["lag", "quarantine"];

/// Labels: what keeps Postgres from removing dead rows.
const HORIZON_HOLDERS: [&str; 4] = ["session", "prepared", "slot", "standby"];

/// Labels: the outcome of spans that left the queue.
const SPAN_RESULTS: [&str; 2] = ["exported", "failed"];

/// Labels: the outcomes of checking a token.
const TOKEN_RESULTS: [&str; 4] = ["cached", "verified", "refused", "unavailable"];

/// Labels: the APIs whose tokens are checked.
const APIS: [&str; 2] = ["client", "admin"];

/// Labels: the outcomes of an accept.
const ACCEPT_RESULTS: [&str; 5] = ["rewarded", "repeated", "refused", "unavailable", "failed"];

/// Metrics of one name and one label with known values. They exist from the start at zero, so that
/// a rate over the first event is right.
#[derive(Debug)]
pub struct Family<M> {
    handles: Vec<(&'static str, M)>,
}

impl<M> Family<M> {
    fn new(labels: &[&'static str], handle: impl Fn(&str) -> M) -> Self {
        Self {
            handles: labels.iter().map(|label| (*label, handle(label))).collect(),
        }
    }

    /// The metric of a label value; `None` if there is no such value.
    pub fn get(&self, label: &str) -> Option<&M> {
        // There are only a few labels: a scan is faster than a hash.
        self.handles
            .iter()
            .find_map(|(known, handle)| (*known == label).then_some(handle))
    }
}

impl Family<IntCounter> {
    /// Adds to the counter of a label. An unknown label is a bug, and is not counted.
    pub fn add(&self, label: &str, count: u64) {
        debug_assert!(
            self.get(label).is_some(),
            "{label} is not a label of this family"
        );
        if let Some(counter) = self.get(label) {
            counter.inc_by(count);
        }
    }
}

impl Family<IntGauge> {
    /// Sets the gauge of a label. An unknown label is a bug, and is not shown.
    pub fn set(&self, label: &str, value: i64) {
        debug_assert!(
            self.get(label).is_some(),
            "{label} is not a label of this family"
        );
        if let Some(gauge) = self.get(label) {
            gauge.set(value);
        }
    }
}

/// Every metric of the process, by concern.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reading and applying rides.
    pub ingest: IngestMetrics,
    /// Publishing.
    pub relay: RelayMetrics,
    /// Expiring.
    pub sweep: SweepMetrics,
    /// HTTP.
    pub api: ApiMetrics,
    /// The read model.
    pub model: ModelMetrics,
    /// The pool of database connections.
    pub pool: PoolMetrics,
    /// What operators must know of the database.
    pub database: DatabaseMetrics,
    /// What is in use of budgets.
    pub budget: BudgetMetrics,
    /// Spans.
    pub traces: TraceMetrics,
    ready: IntGaugeVec,
}

/// Reading and applying rides. Every consumed record is judged, a duplicate, of no participant,
/// quarantined or a tombstone: these five add up to `consumed`.
#[derive(Debug)]
pub struct IngestMetrics {
    /// Records whose position was committed.
    pub consumed: IntCounter,
    /// Rides judged, by verdict.
    pub judged: Family<IntCounter>,
    /// Rides that were already recorded.
    pub duplicate: IntCounter,
    /// Duplicates that differ from the recorded ride; counted in `duplicate` too.
    pub duplicate_differing: IntCounter,
    /// Rides of clients without a live participation.
    pub no_participation: IntCounter,
    /// Records quarantined, by reason.
    pub quarantined: Family<IntCounter>,
    /// Null values, skipped.
    pub tombstones: IntCounter,
    /// Records that say that a ride was taken back.
    pub reversals: IntCounter,
    /// Seconds from the first statement of a batch to its commit.
    pub batch_seconds: Histogram,
    /// Records of a batch.
    pub batch_records: Histogram,
    /// Clients with a live participation, as ingest knows them.
    pub live_clients: IntGauge,
    /// Batches dropped because another consumer owned a partition.
    pub fenced_batches: IntCounter,
    /// 1 while ingest has stopped and waits for an operator.
    pub stopped: IntGauge,
    lag: IntGaugeVec,
    position: IntGaugeVec,
    stalled_seconds: GaugeVec,
}

/// One partition of the ride topic. Drop it with [`IngestMetrics::forget_partition`] when it is
/// revoked, otherwise its last values stay in the output.
#[derive(Clone, Debug)]
pub struct PartitionMetrics {
    /// Records between the recorded position and the end.
    pub lag: IntGauge,
    /// The offset recorded as next.
    pub position: IntGauge,
    /// Seconds for which there has been something to read while the position has not moved.
    pub stalled_seconds: Gauge,
}

impl IngestMetrics {
    /// The handles of a partition; resolve them once per assignment.
    pub fn partition(&self, partition: i32) -> PartitionMetrics {
        let label = partition.to_string();
        PartitionMetrics {
            lag: self.lag.with_label_values(&[&label]),
            position: self.position.with_label_values(&[&label]),
            stalled_seconds: self.stalled_seconds.with_label_values(&[&label]),
        }
    }

    /// Stops showing a partition that another process reads now.
    pub fn forget_partition(&self, partition: i32) {
        let label = partition.to_string();
        // An error means that it was not shown.
        let _ = self.lag.remove_label_values(&[&label]);
        let _ = self.position.remove_label_values(&[&label]);
        let _ = self.stalled_seconds.remove_label_values(&[&label]);
    }
}

/// Publishing.
#[derive(Debug)]
pub struct RelayMetrics {
    /// Events published, each counted when its Kafka transaction committed.
    pub published: IntCounter,
    /// The same by type. An event that is published again after a failure is counted again.
    pub transitions: Family<IntCounter>,
    /// Kafka transactions committed.
    pub transactions: IntCounter,
    /// Kafka transactions that failed or were fenced.
    pub failures: IntCounter,
    /// Seconds of a transaction, from reading the outbox to the commit.
    pub transaction_seconds: Histogram,
    /// Rows in the outbox.
    pub outbox_depth: IntGauge,
    /// Age of the outbox's oldest row, in seconds; 0 when it is empty.
    pub outbox_oldest_age_seconds: Gauge,
    /// Seconds from recording a status change, with the receipts of its rides, to the commit of the
    /// Kafka transaction that published it.
    pub status_delay_seconds: Histogram,
    /// Reminders published, by the deadline they are about. One that is published again after a
    /// failure is counted again.
    pub reminders_published: Family<IntCounter>,
    /// Seconds from the moment at which a reminder was due to the commit of the Kafka transaction that
    /// published it.
    pub reminder_delay_seconds: Histogram,
    /// When the last import of pre-offers that reached the database began, as Unix time; 0 where there
    /// is none in the newest part of the audit.
    pub import_last_timestamp_seconds: Gauge,
}

/// Expiring.
#[derive(Debug)]
pub struct SweepMetrics {
    /// Seconds since the time up to which all rides are proven processed.
    pub barrier_age_seconds: Gauge,
    /// Participations past their deadline that cannot expire yet, by cause.
    pub held_back: Family<IntGauge>,
    /// Participations expired, by reason.
    pub expired: Family<IntCounter>,
    /// Differences that the last recount by `verify.interval` found.
    pub verify_differences: IntGauge,
    /// Participations that it skipped.
    pub verify_skipped: IntGauge,
    /// When it ended, as Unix time; 0 where there was none in this process.
    pub verify_last_end_timestamp_seconds: Gauge,
    /// Seconds for which the reminder that waits longest has been due and not recorded; 0 where none
    /// is.
    pub reminders_due_age_seconds: Gauge,
    /// Extensions that are not done.
    pub extensions_running: IntGauge,
    /// Seconds since the oldest of them was ordered.
    pub extension_oldest_age_seconds: Gauge,
    /// Steps that took an extension further.
    pub extension_steps: IntCounter,
}

/// HTTP, both listeners.
#[derive(Debug)]
pub struct ApiMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Long polls and streams held now.
    pub waits_in_flight: IntGauge,
    /// Most long polls and streams that may be held; 0 if the role `api` does not run.
    pub waits_max: IntGauge,
    /// Requests refused by the rate limit.
    pub rate_limited: IntCounter,
    /// Accepts, by outcome.
    pub accepts: Family<IntCounter>,
    /// Tokens checked, by outcome.
    pub tokens: Family<IntCounter>,
    key_set_age: GaugeVec,
    connections: IntGaugeVec,
    connections_refused: IntCounterVec,
}

impl ApiMetrics {
    /// The connections of a listener: open ones, and those closed at once because their address had
    /// too many.
    pub fn connections(&self, listener: &'static str) -> (IntGauge, IntCounter) {
        (
            self.connections.with_label_values(&[listener]),
            self.connections_refused.with_label_values(&[listener]),
        )
    }

    /// Shows how long ago the issuer last confirmed the key set of an API's tokens. Without a key
    /// set it shows nothing.
    pub fn key_set_age(&self, api: &str, age: Duration) {
        debug_assert!(APIS.contains(&api), "{api} is not an API");
        self.key_set_age
            .with_label_values(&[api])
            .set(age.as_secs_f64());
    }

    /// Counts a request with a response. `route` is the route's template, never the path, because
    /// the number of series must not depend on clients.
    pub fn observe(
        &self,
        listener: &'static str,
        route: &str,
        method: &Method,
        status: StatusCode,
        elapsed: Duration,
    ) {
        // All other methods share one series.
        let method = match method.as_str() {
            known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known,
            _ => "other",
        };
        self.requests
            .with_label_values(&[listener, route, method, status.as_str()])
            .inc();
        self.seconds
            .with_label_values(&[route])
            .observe(elapsed.as_secs_f64());
    }
}

/// The read model.
#[derive(Debug)]
pub struct ModelMetrics {
    /// Participations it holds.
    pub entries: IntGauge,
    /// 1 while its tail of the status topic is shown to be fresh.
    pub fresh: IntGauge,
    /// Records between its tail and the status topic's end.
    pub tail_lag: IntGauge,
}

/// The pool of database connections.
#[derive(Debug)]
pub struct PoolMetrics {
    /// Open connections.
    pub size: IntGauge,
    /// Open connections that are not in use.
    pub idle: IntGauge,
    /// Most connections that may be open.
    pub max: IntGauge,
}

/// What operators must know of the database; set by the role `sweep`.
#[derive(Debug)]
pub struct DatabaseMetrics {
    /// Seconds for which dead rows have been kept, by what keeps them.
    pub horizon_seconds: Family<IntGauge>,
    /// Transaction ids assigned meanwhile.
    pub horizon_transactions: Family<IntGauge>,
    /// Receipts in the default partition; counted up to 10,000.
    pub receipts_in_default_partition: IntGauge,
    /// How many of the coming twelve months have no partition for receipts.
    pub receipt_months_missing: IntGauge,
}

/// What is in use of promotions' budgets; kept by the role `sweep`.
#[derive(Debug)]
pub struct BudgetMetrics {
    participations: IntGaugeVec,
    reward_cents: IntGaugeVec,
}

/// How much of a maximum is in use; `None` where there is no maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetGauge {
    /// By live participations.
    pub reserved: i64,
    /// By rewarded ones.
    pub spent: i64,
    /// The maximum.
    pub max: Option<i64>,
}

impl BudgetMetrics {
    /// Shows a promotion's budget, by its key.
    pub fn show(&self, promotion: &str, participations: BudgetGauge, reward_cents: BudgetGauge) {
        for (gauges, values) in [
            (&self.participations, participations),
            (&self.reward_cents, reward_cents),
        ] {
            let set = |state, value| gauges.with_label_values(&[promotion, state]).set(value);
            set("reserved", values.reserved);
            set("spent", values.spent);
            match values.max {
                Some(max) => set("max", max),
                // Whether it was shown before or not.
                None => drop(gauges.remove_label_values(&[promotion, "max"])),
            }
        }
    }

    /// Removes the series of a promotion whose budget was removed.
    pub fn forget(&self, promotion: &str) {
        for gauges in [&self.participations, &self.reward_cents] {
            for state in ["reserved", "spent", "max"] {
                drop(gauges.remove_label_values(&[promotion, state]));
            }
        }
    }
}

/// Spans, while traces are on. Ended ones that are neither sent nor waiting did not fit into the
/// queue.
#[derive(Debug)]
pub struct TraceMetrics {
    /// Spans that ended.
    pub ended: IntCounter,
    /// Spans sent to the collector, by outcome.
    pub sent: Family<IntCounter>,
}

impl Metrics {
    /// Every metric at zero, in a registry of its own, with the process' own (`process_…`).
    pub fn new() -> Arc<Self> {
        let make = Make(Registry::new());
        let version = unwrap(IntGaugeVec::new(
            opts("build_info", "1; the version is the label"),
            &["version"],
        ));
        make.registered(version)
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        unwrap(make.0.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        )));
        let family = |name: &str, help: &str, label: &str, labels: &[&'static str]| {
            let counters = make.registered(unwrap(IntCounterVec::new(opts(name, help), &[label])));
            Family::new(labels, |value| counters.with_label_values(&[value]))
        };
        Arc::new(Self {
            ingest: IngestMetrics {
                consumed: make.counter(
                    "rides_consumed_total",
                    "Records whose position was committed",
                ),
                judged: family(
                    "rides_judged_total",
                    "Rides judged",
                    "verdict",
                    &Verdict::WORDS,
                ),
                duplicate: make.counter("rides_duplicate_total", "Rides that were recorded before"),
                duplicate_differing: make.counter(
                    "rides_duplicate_differing_total",
                    "Rides that were recorded before and now say something else",
                ),
                no_participation: make.counter(
                    "rides_no_participation_total",
                    "Rides of clients without a live participation",
                ),
                quarantined: family(
                    "rides_quarantined_total",
                    "Records quarantined",
                    "reason",
                    &QuarantineReason::WORDS,
                ),
                tombstones: make.counter("tombstones_total", "Records with a null value, skipped"),
                reversals: make.counter("reversals_total", "Records that say that a ride was taken back"),
                batch_seconds: make.histogram(
                    "ingest_batch_seconds",
                    "Time from a batch's first statement to its commit",
                    &SECONDS,
                ),
                batch_records: make.histogram(
                    "ingest_batch_records",
                    "Records of a batch",
                    &[
                        1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0,
                        50_000.0,
                    ],
                ),
                live_clients: make.gauge(
                    "ingest_live_clients",
                    "Clients with a live participation, as ingest knows them",
                ),
                fenced_batches: make.counter(
                    "ingest_fenced_batches_total",
                    "Batches dropped because another consumer owned a partition",
                ),
                stopped: make.gauge(
                    "ingest_stopped",
                    "1 while ingest has stopped and waits for an operator",
                ),
                lag: make.gauges(
                    "ingest_lag",
                    "Records between the recorded position and the end",
                    "partition",
                ),
                position: make.gauges("ingest_position", "Offset recorded as next", "partition"),
                stalled_seconds: make.floats(
                    "ingest_stalled_seconds",
                    "Time for which there has been something to read and the position has not moved",
                    "partition",
                ),
            },
            relay: RelayMetrics {
                published: make.counter("relay_published_total", "Events published"),
                transitions: family(
                    "transitions_total",
                    "Status changes published",
                    "type",
                    &EventType::WORDS,
                ),
                transactions: make
                    .counter("relay_transactions_total", "Kafka transactions committed"),
                failures: make.counter(
                    "relay_failures_total",
                    "Kafka transactions that failed or were fenced",
                ),
                transaction_seconds: make.histogram(
                    "relay_transaction_seconds",
                    "Time from reading the outbox to the Kafka commit",
                    &SECONDS,
                ),
                outbox_depth: make.gauge("outbox_depth", "Rows in the outbox"),
                outbox_oldest_age_seconds: make.float(
                    "outbox_oldest_age_seconds",
                    "Age of the outbox's oldest row",
                ),
                status_delay_seconds: make.histogram(
                    "status_delay_seconds",
                    "Time from recording a status change to its publication",
                    &SECONDS,
                ),
                reminders_published: family(
                    "reminders_published_total",
                    "Reminders published",
                    "of",
                    &DeadlineOf::WORDS,
                ),
                reminder_delay_seconds: make.histogram(
                    "reminder_delay_seconds",
                    "Time from the moment at which a reminder was due to its publication",
                    &SECONDS,
                ),
                import_last_timestamp_seconds: make.float(
                    "import_last_timestamp_seconds",
                    "Unix time of the last import of pre-offers, 0 for none",
                ),
            },
            sweep: SweepMetrics {
                barrier_age_seconds: make.float(
                    "sweep_barrier_age_seconds",
                    "Time since the instant up to which all rides are proven processed",
                ),
                held_back: {
                    let gauges = make.gauges(
                        "sweep_held_back",
                        "Participations past their deadline that may not be expired yet",
                        "cause",
                    );
                    Family::new(&HELD_BACK_CAUSES, |cause| {
                        gauges.with_label_values(&[cause])
                    })
                },
                expired: family(
                    "expired_total",
                    "Participations expired",
                    "reason",
                    &ExpiredReason::WORDS,
                ),
                verify_differences: make.gauge(
                    "verify_differences",
                    "Differences that the last recount found",
                ),
                verify_skipped: make.gauge(
                    "verify_skipped",
                    "Participations that the last recount skipped",
                ),
                verify_last_end_timestamp_seconds: make.float(
                    "verify_last_end_timestamp_seconds",
                    "Unix time of the end of the last recount, 0 for none",
                ),
                reminders_due_age_seconds: make.float(
                    "reminders_due_age_seconds",
                    "Time for which the oldest reminder that is due has not been recorded",
                ),
                extensions_running: make.gauge("extensions_running", "Extensions that are not done"),
                extension_oldest_age_seconds: make.float(
                    "extension_oldest_age_seconds",
                    "Time since the oldest extension that is not done was ordered, 0 for none",
                ),
                extension_steps: make.counter(
                    "extension_steps_total",
                    "Steps that took an extension further",
                ),
            },
            api: ApiMetrics {
                requests: make.registered(unwrap(IntCounterVec::new(
                    opts("http_requests_total", "Requests answered"),
                    &["listener", "route", "method", "status"],
                ))),
                seconds: make.registered(unwrap(HistogramVec::new(
                    HistogramOpts::from(opts(
                        "http_request_seconds",
                        "Time from a request's head to its answer's head",
                    ))
                    .buckets(SECONDS.to_vec()),
                    &["route"],
                ))),
                waits_in_flight: make.gauge("waits_in_flight", "Long polls and streams held"),
                waits_max: make.gauge("waits_max", "Long polls and streams there may be"),
                rate_limited: make
                    .counter("rate_limited_total", "Requests refused by the rate limit"),
                accepts: family("accepts_total", "Accepts", "result", &ACCEPT_RESULTS),
                tokens: family("tokens_total", "Tokens checked", "result", &TOKEN_RESULTS),
                connections: make.gauges("http_connections", "Open connections", "listener"),
                connections_refused: make.registered(unwrap(IntCounterVec::new(
                    opts(
                        "http_connections_refused_total",
                        "Connections closed at once because their address had too many",
                    ),
                    &["listener"],
                ))),
                key_set_age: make.registered(unwrap(GaugeVec::new(
                    opts(
                        "key_set_age_seconds",
                        "Time since the issuer last confirmed its key set",
                    ),
                    &["api"],
                ))),
            },
            model: ModelMetrics {
                entries: make.gauge("model_entries", "Participations the read model holds"),
                fresh: make.gauge("model_fresh", "1 while the read model is shown to be fresh"),
                tail_lag: make.gauge(
                    "model_tail_lag",
                    "Records between the read model and the status topic's end",
                ),
            },
            pool: PoolMetrics {
                size: make.gauge("db_pool_size", "Open database connections"),
                idle: make.gauge("db_pool_idle", "Database connections not in use"),
                max: make.gauge("db_pool_max", "Database connections there may be"),
            },
            database: DatabaseMetrics {
                horizon_seconds: {
                    let gauges = make.gauges(
                        "db_horizon_age_seconds",
                        "Time for which dead rows are kept",
                        "holder",
                    );
                    Family::new(&HORIZON_HOLDERS, |holder| {
                        gauges.with_label_values(&[holder])
                    })
                },
                horizon_transactions: {
                    let gauges = make.gauges(
                        "db_horizon_age_transactions",
                        "Transaction ids given out since the oldest that is kept",
                        "holder",
                    );
                    Family::new(&HORIZON_HOLDERS, |holder| {
                        gauges.with_label_values(&[holder])
                    })
                },
                receipts_in_default_partition: make.gauge(
                    "receipts_in_default_partition",
                    "Receipts of months without a partition, counted up to 10,000",
                ),
                receipt_months_missing: make.gauge(
                    "receipt_months_missing",
                    "Coming months without a partition for receipts, of twelve",
                ),
            },
            budget: BudgetMetrics {
                participations: make.registered(unwrap(IntGaugeVec::new(
                    opts("budget_participations", "Participations of a promotion's budget"),
                    &["promotion", "state"],
                ))),
                reward_cents: make.registered(unwrap(IntGaugeVec::new(
                    opts("budget_reward_cents", "Cents of a promotion's budget"),
                    &["promotion", "state"],
                ))),
            },
            traces: TraceMetrics {
                ended: make.counter("trace_spans_ended_total", "Spans that ended"),
                sent: family(
                    "trace_spans_sent_total",
                    "Spans sent to the collector",
                    "result",
                    &SPAN_RESULTS,
                ),
            },
            ready: make.gauges("role_ready", "1 while the role can do its work", "role"),
            registry: make.0,
        })
    }

    /// Shows whether a role of this process can do its work; other roles are not shown.
    pub fn role_ready(&self, role: &'static str, ready: bool) {
        self.ready.with_label_values(&[role]).set(i64::from(ready));
    }

    /// All of them in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let families = self.registry.gather();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Buckets for times: a millisecond to half a minute.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("ride_promo")
}

/// Creating and registering fails only for names that are malformed or taken, and all of them are
/// constants of this file.
fn unwrap<T>(result: prometheus::Result<T>) -> T {
    result.expect("metric names are constant, well-formed and distinct")
}

struct Make(Registry);

impl Make {
    fn registered<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> C {
        unwrap(self.0.register(Box::new(collector.clone())));
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(unwrap(IntCounter::with_opts(opts(name, help))))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(unwrap(IntGauge::with_opts(opts(name, help))))
    }

    fn float(&self, name: &str, help: &str) -> Gauge {
        self.registered(unwrap(Gauge::with_opts(opts(name, help))))
    }

    fn floats(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        self.registered(unwrap(GaugeVec::new(opts(name, help), &[label])))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.registered(unwrap(IntGaugeVec::new(opts(name, help), &[label])))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.registered(unwrap(Histogram::with_opts(opts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_label_from_the_start_and_forgets_partitions() {
        let metrics = Metrics::new();
        metrics.ingest.judged.add(Verdict::Counted.as_str(), 3);
        metrics.ingest.partition(7).lag.set(12);
        metrics.api.observe(
            "api",
            "/v1/promotions/{promotion_id}/progress",
            &Method::GET,
            StatusCode::OK,
            Duration::from_millis(3),
        );
        let text = metrics.render();
        for line in [
            "ride_promo_rides_judged_total{verdict=\"COUNTED\"} 3",
            "ride_promo_rides_judged_total{verdict=\"DAILY_LIMIT_REACHED\"} 0",
            "ride_promo_rides_quarantined_total{reason=\"TOO_LARGE\"} 0",
            "ride_promo_expired_total{reason=\"REWARD_NOT_CLAIMED\"} 0",
            "ride_promo_sweep_held_back{cause=\"quarantine\"} 0",
            "ride_promo_ingest_lag{partition=\"7\"} 12",
            "ride_promo_http_requests_total{listener=\"api\",method=\"GET\",route=\"/v1/promotions/{promotion_id}/progress\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n--\n{text}");
        }
        metrics.ingest.forget_partition(7);
        metrics.ingest.forget_partition(8);
        assert!(!metrics.render().contains("partition=\"7\""));
    }
}
