//! The metrics of the database and of budgets.

use prometheus::{IntGauge, IntGaugeVec};

use crate::telemetry::metrics::register::{Family, Make, opts, unwrap};

/// Labels: what keeps Postgres from removing dead rows.
const HORIZON_HOLDERS: [&str; 4] = ["session", "prepared", "slot", "standby"];

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

impl PoolMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
            size: make.gauge("db_pool_size", "Open database connections"),
            idle: make.gauge("db_pool_idle", "Database connections not in use"),
            max: make.gauge("db_pool_max", "Database connections there may be"),
        }
    }
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

impl DatabaseMetrics {
    pub(super) fn new(make: &Make) -> Self {
        Self {
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
        }
    }
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
    pub(super) fn new(make: &Make) -> Self {
        Self {
            participations: make.registered(unwrap(IntGaugeVec::new(
                opts(
                    "budget_participations",
                    "Participations of a promotion's budget",
                ),
                &["promotion", "state"],
            ))),
            reward_cents: make.registered(unwrap(IntGaugeVec::new(
                opts("budget_reward_cents", "Cents of a promotion's budget"),
                &["promotion", "state"],
            ))),
        }
    }

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
