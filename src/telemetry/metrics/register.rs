//! Creates and registers metrics.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// Metrics of one name and one label with known values. They exist from the start at zero, so that
/// a rate over the first event is right.
#[derive(Debug)]
pub struct Family<M> {
    handles: Vec<(&'static str, M)>,
}

impl<M> Family<M> {
    pub(super) fn new(labels: &[&'static str], handle: impl Fn(&str) -> M) -> Self {
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

/// Buckets for times: a millisecond to half a minute.
pub(super) const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("ride_promo")
}

/// Creating and registering fails only for names that are malformed or taken, and all of them are
/// constants of this file.
pub(super) fn unwrap<T>(result: prometheus::Result<T>) -> T {
    result.expect("metric names are constant, well-formed and distinct")
}

pub(super) struct Make(pub(super) Registry);

impl Make {
    /// Counters by the values of one label, all of which are shown from the start.
    pub(super) fn family(
        &self,
        name: &str,
        help: &str,
        label: &str,
        labels: &[&'static str],
    ) -> Family<IntCounter> {
        let counters = self.registered(unwrap(IntCounterVec::new(opts(name, help), &[label])));
        Family::new(labels, |value| counters.with_label_values(&[value]))
    }

    pub(super) fn registered<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> C {
        unwrap(self.0.register(Box::new(collector.clone())));
        collector
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(unwrap(IntCounter::with_opts(opts(name, help))))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(unwrap(IntGauge::with_opts(opts(name, help))))
    }

    pub(super) fn float(&self, name: &str, help: &str) -> Gauge {
        self.registered(unwrap(Gauge::with_opts(opts(name, help))))
    }

    pub(super) fn floats(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        self.registered(unwrap(GaugeVec::new(opts(name, help), &[label])))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.registered(unwrap(IntGaugeVec::new(opts(name, help), &[label])))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.registered(unwrap(Histogram::with_opts(opts)))
    }
}
