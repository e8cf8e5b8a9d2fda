//! Metrics, in Prometheus' text format; docs/metrics.md lists them.
//!
//! They are handles that are resolved once, so counting costs an atomic add. Never build a label
//! per message. Names start with `ride_promo_`; times are in seconds.

mod api;
mod database;
mod register;
mod roles;

use std::sync::Arc;

use prometheus::{Encoder as _, IntCounter, IntGaugeVec, Registry, TextEncoder};

use self::register::{Make, opts, unwrap};

pub use self::api::{ApiMetrics, ModelMetrics};
pub use self::database::{BudgetGauge, BudgetMetrics, DatabaseMetrics, PoolMetrics};
pub use self::register::Family;
pub use self::roles::{IngestMetrics, PartitionMetrics, RelayMetrics, SweepMetrics};

/// Labels: the outcome of spans that left the queue.
const SPAN_RESULTS: [&str; 2] = ["exported", "failed"];

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

/// Spans, while traces are on. Ended ones that are neither sent nor waiting did not fit into the
/// queue.
#[derive(Debug)]
pub struct TraceMetrics {
    /// Spans that ended.
    pub ended: IntCounter,
    /// Spans sent to the collector, by outcome.
    pub sent: Family<IntCounter>,
}

impl TraceMetrics {
    fn new(make: &Make) -> Self {
        Self {
            ended: make.counter("trace_spans_ended_total", "Spans that ended"),
            sent: make.family(
                "trace_spans_sent_total",
                "Spans sent to the collector",
                "result",
                &SPAN_RESULTS,
            ),
        }
    }
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
        Arc::new(Self {
            ingest: IngestMetrics::new(&make),
            relay: RelayMetrics::new(&make),
            sweep: SweepMetrics::new(&make),
            api: ApiMetrics::new(&make),
            model: ModelMetrics::new(&make),
            pool: PoolMetrics::new(&make),
            database: DatabaseMetrics::new(&make),
            budget: BudgetMetrics::new(&make),
            traces: TraceMetrics::new(&make),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Method, StatusCode};

    use super::*;
    use crate::domain::promotion::Verdict;

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
