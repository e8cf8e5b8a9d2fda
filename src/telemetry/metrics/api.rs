//! The metrics of HTTP and of the read model.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use crate::telemetry::metrics::register::{Family, Make, SECONDS, opts, unwrap};

/// Labels: the outcomes of checking a token.
const TOKEN_RESULTS: [&str; 4] = ["cached", "verified", "refused", "unavailable"];

/// Labels: the APIs whose tokens are checked.
const APIS: [&str; 2] = ["client", "admin"];

/// Labels: the outcomes of an accept.
const ACCEPT_RESULTS: [&str; 5] = ["rewarded", "repeated", "refused", "unavailable", "failed"];

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
    pub(super) fn new(make: &Make) -> Self {
        Self {
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
            rate_limited: make.counter("rate_limited_total", "Requests refused by the rate limit"),
            accepts: make.family("accepts_total", "Accepts", "result", &ACCEPT_RESULTS),
            tokens: make.family("tokens_total", "Tokens checked", "result", &TOKEN_RESULTS),
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
        }
    }

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

impl ModelMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
            entries: make.gauge("model_entries", "Participations the read model holds"),
            fresh: make.gauge("model_fresh", "1 while the read model is shown to be fresh"),
            tail_lag: make.gauge(
                "model_tail_lag",
                "Records between the read model and the status topic's end",
            ),
        }
    }
}
