//! The process that responds: its version, its roles, its configuration; and the owners of partitions.

use std::time::Duration;

use axum::Json;
use axum::extract::State;

use super::AdminState;
use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::wire::system::{PartitionOwner, RoleState, SettingView, System};
/// The timeout of Kafka. The other figures are useful without Kafka's.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(2);

error_responses!(GetSystemErrors = admin);

/// Shows the process that responds
///
/// Returns its version, the reports of its roles, and the settings that were configured. Secret values
/// are `null`. The next call may reach another process.
/// `owners` are the consumers of the ride topic's partitions, in all processes.
#[utoipa::path(
    get,
    path = "/admin/v1/system",
    operation_id = "get_system",
    tag = "system",
    responses(
        GetSystemErrors,
        (status = 200, description = "The process", body = System),
    ),
)]
pub async fn get(_: Admin, State(state): State<AdminState>) -> Result<Json<System>> {
    let roles = state.readiness.snapshot().into_iter();
    let settings = state.settings.iter();
    let owners = owners(&state).await;
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
        owners,
    }))
}

async fn owners(state: &AdminState) -> Option<Vec<PartitionOwner>> {
    let kafka = &state.kafka;
    let owners = state
        .cluster
        .partition_owners(&kafka.group_id, &kafka.ride_topic);
    match tokio::time::timeout(KAFKA_TIMEOUT, owners).await {
        Ok(Ok(owners)) => {
            let owners = owners
                .into_iter()
                .map(|(partition, member)| PartitionOwner {
                    partition,
                    member_id: member.member_id,
                    host: member.host,
                });
            Some(owners.collect())
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "the owners of partitions are unknown");
            None
        }
        Err(_) => None,
    }
}
