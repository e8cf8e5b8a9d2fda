//! The admin API (contract 6).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;

use super::auth::AdminAuth;
use crate::config::KafkaConfig;
use crate::store::Store;
use crate::telemetry::Metrics;

/// What the admin calls work with.
#[derive(Clone, Debug, FromRef)]
pub struct AdminState {
    /// Checks operators' tokens; the extractor [`super::auth::Admin`] needs it.
    pub auth: AdminAuth,
    /// The database.
    pub store: Store,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Where rides come from.
    #[from_ref(skip)]
    pub kafka: Arc<KafkaConfig>,
    /// Longest silence within the body of an import.
    #[from_ref(skip)]
    pub import_body_timeout: Duration,
}

/// The routes to which the request timeout does not apply: they bound their own time.
pub const UNTIMED: &[&str] = &["/admin/v1/pre-offers:import"];

/// Every admin call.
pub fn router() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new()
}
