//! The gauges that belong to no role.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::readiness::Role;
use crate::store::horizon::{HOLDERS, horizon};
use crate::store::schema::{missing_receipt_months, receipts_in_default_partition};
use crate::store::{Store, StoreError};
use crate::telemetry::{BudgetGauge, BudgetMetrics, DatabaseMetrics, Metrics};
use crate::wire::budget_use::Used;

/// How often they are set.
const INTERVAL: Duration = Duration::from_secs(5);

/// The database is examined once in this many rounds.
const DATABASE_ROUNDS: u64 = 6;

/// Sets them until it is aborted.
pub(super) async fn keep(store: Store, metrics: Arc<Metrics>, roles: Vec<Role>) {
    let mut tick = tokio::time::interval(INTERVAL);
    let mut budgets = BTreeSet::new();
    for round in 0_u64.. {
        tick.tick().await;
        let (size, idle) = store.pool_size();
        metrics.pool.size.set(i64::from(size));
        let idle = i64::try_from(idle).unwrap_or(i64::MAX);
        metrics.pool.idle.set(idle);
        if roles.contains(&Role::Relay)
            && let Ok((depth, oldest)) = store.outbox_depth().await
        {
            metrics.relay.outbox_depth.set(depth);
            metrics.relay.outbox_oldest_age_seconds.set(oldest);
        }
        if roles.contains(&Role::Api)
            && let Ok(last) = store.last_import().await
        {
            let at = last.map_or(0.0, |at| at.timestamp() as f64);
            metrics.relay.import_last_timestamp_seconds.set(at);
        }
        if roles.contains(&Role::Sweep)
            && let Ok(age) = store.reminders_due_age().await
        {
            metrics.sweep.reminders_due_age_seconds.set(age);
        }
        if roles.contains(&Role::Sweep)
            && round.is_multiple_of(DATABASE_ROUNDS)
            && let Err(error) = keep_database(&store, &metrics.database).await
        {
            tracing::debug!(%error, "the database could not be examined");
        }
        if roles.contains(&Role::Sweep)
            && let Err(error) = keep_budgets(&store, &metrics.budget, &mut budgets).await
        {
            tracing::debug!(%error, "the use of budgets was not read");
        }
    }
}

/// `shown` are the promotions that had gauges until now.
async fn keep_budgets(
    store: &Store,
    metrics: &BudgetMetrics,
    shown: &mut BTreeSet<String>,
) -> Result<(), StoreError> {
    let gauge = |used: Used| BudgetGauge {
        reserved: used.reserved,
        spent: used.spent,
        max: used.max,
    };
    let mut present = BTreeSet::new();
    for used in store.budget_uses().await? {
        let (participations, reward_cents) = (gauge(used.participations), gauge(used.reward_cents));
        metrics.show(&used.promotion_key, participations, reward_cents);
        present.insert(used.promotion_key);
    }
    for gone in shown.difference(&present) {
        metrics.forget(gone);
    }
    *shown = present;
    Ok(())
}

async fn keep_database(store: &Store, metrics: &DatabaseMetrics) -> Result<(), StoreError> {
    let mut connection = store.acquire().await?;
    let holders = horizon(&mut connection).await?;
    for kind in HOLDERS {
        let holder = holders.iter().find(|holder| holder.kind == kind);
        let seconds = holder.and_then(|holder| holder.seconds);
        metrics
            .horizon_seconds
            .set(kind, seconds.unwrap_or(0.0) as i64);
        let transactions = holder.map_or(0, |holder| holder.transactions);
        metrics.horizon_transactions.set(kind, transactions);
    }
    let stray = receipts_in_default_partition(&mut connection).await?;
    metrics.receipts_in_default_partition.set(stray);
    let missing = missing_receipt_months(&mut connection).await?.len();
    metrics
        .receipt_months_missing
        .set(i64::try_from(missing).unwrap_or(i64::MAX));
    Ok(())
}
