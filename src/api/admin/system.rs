//! The process that responds: its version, its roles, its configuration.

use axum::Json;
use axum::extract::State;

use super::AdminState;
use crate::api::auth::Admin;
use crate::api::problem::Result;
use crate::api::refusals::refusals;
use crate::wire::system::{RoleState, SettingView, System};

refusals!(GetSystemRefusals = admin);

/// Shows the process that responds
///
/// Returns its version, the reports of its roles, and the settings that were configured. Secret values
/// are `null`. The next call may reach another process.
#[utoipa::path(
    get,
    path = "/admin/v1/system",
    operation_id = "get_system",
    tag = "system",
    responses(
        GetSystemRefusals,
        (status = 200, description = "The process", body = System),
    ),
)]
pub async fn get(_: Admin, State(state): State<AdminState>) -> Result<Json<System>> {
    let roles = state.readiness.snapshot().into_iter();
    let settings = state.settings.iter();
    Ok(Json(System {
        version: env!("CARGO_PKG_VERSION"),
        roles: roles
            .map(|(role, said)| RoleState {
                role: role.as_str(),
                ready: said.is_ok(),
                reason: said.err(),
            })
            .collect(),
        settings: settings
            .map(|(key, setting)| SettingView {
                key: key.clone(),
                value: setting.value.clone(),
                variable: setting.variable.clone(),
            })
            .collect(),
    }))
}
