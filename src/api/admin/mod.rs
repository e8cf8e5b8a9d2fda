//! The admin API (contract 6).

mod audit;
mod budget_use;
mod cancel;
mod extensions;
mod funnel;
mod geo;
mod intervals;
mod me;
mod outages;
mod outcomes;
mod participations;
mod pre_offers;
mod products;
mod promotions;
mod quarantine;
mod reversals;
mod rides;
mod stats;
mod system;
mod users;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::AdminAuth;
use crate::config::{KafkaConfig, Setting};
use crate::kafka::Cluster;
use crate::readiness::Readiness;
use crate::store::Store;
use crate::telemetry::Metrics;

/// The state of the admin calls.
#[derive(Clone, FromRef)]
pub struct AdminState {
    /// Checks operators' tokens; the extractor [`super::auth::Admin`] needs it.
    pub auth: AdminAuth,
    /// The database.
    pub store: Store,
    /// The Kafka cluster.
    pub cluster: Cluster,
    /// Wakes the relay of this process after an event was written.
    pub outbox_wake: watch::Sender<()>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The topics.
    #[from_ref(skip)]
    pub kafka: Arc<KafkaConfig>,
    /// The reports of this process's roles.
    #[from_ref(skip)]
    pub readiness: Arc<Readiness>,
    /// The configured settings, without secret values.
    #[from_ref(skip)]
    pub settings: Arc<BTreeMap<String, Setting>>,
    /// The counts of participations.
    #[from_ref(skip)]
    pub counts: Arc<stats::RecentCounts>,
    /// How long after its end a ride may be published and still count.
    #[from_ref(skip)]
    pub allowed_lateness: Duration,
    /// The longest silence within the body of an import.
    #[from_ref(skip)]
    pub import_body_timeout: Duration,
}

/// The routes without the request timeout: they go through any number of lines or records, and bound
/// the time of each step.
pub const UNTIMED: &[&str] = &[
    pre_offers::IMPORT_PATH,
    quarantine::REPLAY_ALL_PATH,
    quarantine::DISMISS_ALL_PATH,
];

/// Every admin call.
pub fn router() -> OpenApiRouter<AdminState> {
    let router = OpenApiRouter::default()
        .routes(routes!(me::get))
        .routes(routes!(promotions::list, promotions::create))
        .routes(routes!(promotions::get, promotions::patch))
        .routes(routes!(funnel::get))
        .routes(routes!(outcomes::get))
        .routes(routes!(participations::list))
        .routes(routes!(participations::export))
        .routes(routes!(budget_use::get))
        .routes(routes!(budget_use::over_time))
        .routes(routes!(products::list))
        .routes(routes!(products::get, products::put))
        .routes(routes!(geo::list))
        .routes(routes!(geo::get, geo::put))
        .routes(routes!(pre_offers::import))
        .routes(routes!(users::get))
        .routes(routes!(rides::get))
        .routes(routes!(users::credit_ride))
        .routes(routes!(extensions::list, extensions::create))
        .routes(routes!(extensions::get))
        .routes(routes!(outages::list))
        .routes(routes!(quarantine::list))
        .routes(routes!(quarantine::replay))
        .routes(routes!(quarantine::dismiss))
        .routes(routes!(quarantine::replay_all))
        .routes(routes!(quarantine::dismiss_all))
        .routes(routes!(reversals::list))
        .routes(routes!(stats::get))
        .routes(routes!(system::get))
        .routes(routes!(audit::list));
    cancel::add_to(router)
}
