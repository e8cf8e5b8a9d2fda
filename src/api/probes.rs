//! Liveness, readiness and metrics: for machines, without a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::problem::{Problem, Result};
use super::query::Params;
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::telemetry::Metrics;

/// The state that the probes report.
#[derive(Clone, Debug)]
pub struct ProbeState {
    /// The reports of the roles.
    pub readiness: Arc<Readiness>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// For the state of its pool.
    pub store: Store,
}

/// `/livez`, `/readyz`, `/metrics`.
pub fn router(state: ProbeState) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn ready(State(state): State<ProbeState>, uri: Uri) -> Result<Response> {
    let mut roles = state.readiness.snapshot();
    // Other parameters, which a prober adds to bypass caches, are ignored.
    if let Some(asked) = Params::of(&uri).text("role") {
        let runs_here = |role: &Role| role.as_str() == asked;
        roles.retain(|role, _| runs_here(role));
        if roles.is_empty() {
            return Err(Problem::invalid_field(
                "role",
                "must be a role of this process",
            ));
        }
    }
    let status = if roles.values().all(std::result::Result::is_ok) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let roles: BTreeMap<&str, String> = roles
        .into_iter()
        .map(|(role, state)| {
            let state = state.err().unwrap_or_else(|| "ok".to_owned());
            (role.as_str(), state)
        })
        .collect();
    Ok((status, Json(json!({ "roles": roles }))).into_response())
}

async fn metrics(State(state): State<ProbeState>) -> Response {
    let (size, idle) = state.store.pool_size();
    state.metrics.pool.size.set(i64::from(size));
    let idle = i64::try_from(idle).unwrap_or(i64::MAX);
    state.metrics.pool.idle.set(idle);
    for (role, said) in state.readiness.snapshot() {
        state.metrics.role_ready(role.as_str(), said.is_ok());
    }
    let content_type = (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], state.metrics.render()).into_response()
}
