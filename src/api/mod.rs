//! HTTP: the client API, the admin API and the probes.

pub mod admin;
pub mod auth;
pub mod extract;
pub mod limit;
pub mod probes;
pub mod problem;
pub mod server;

use crate::config::Config;
use crate::kafka::Cluster;
use crate::readiness::*;
use crate::store::Store;
use crate::telemetry::Metrics;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
/// x
#[allow(missing_docs)]
pub struct Api {
    pub config: Config,
    pub store: Store,
    pub cluster: Cluster,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub outbox_wake: watch::Sender<()>,
}
impl Api {
    /// x
    pub async fn run(
        self,
        _with_api: bool,
        _stop: CancellationToken,
        stop_listeners: CancellationToken,
    ) -> anyhow::Result<()> {
        let r = Arc::clone(&self.readiness);
        let m = Arc::clone(&self.metrics);
        let app = axum::Router::new()
            .route(
                "/readyz",
                axum::routing::get(move || {
                    let r = Arc::clone(&r);
                    async move {
                        let s = r.snapshot();
                        let ok = s.iter().all(|(role, x)| *role == Role::Api || x.is_ok());
                        (
                            if ok {
                                axum::http::StatusCode::OK
                            } else {
                                axum::http::StatusCode::SERVICE_UNAVAILABLE
                            },
                            format!("{s:?}"),
                        )
                    }
                }),
            )
            .route(
                "/metrics",
                axum::routing::get(move || {
                    let m = Arc::clone(&m);
                    async move { m.render() }
                }),
            );
        let l = tokio::net::TcpListener::bind(self.config.admin.listen).await?;
        axum::serve(l, app)
            .with_graceful_shutdown(async move { stop_listeners.cancelled().await })
            .await?;
        Ok(())
    }
}
