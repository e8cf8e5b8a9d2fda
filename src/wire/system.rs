//! A process as operators see it.

use serde::Serialize;

/// The process that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct System {
    /// Its release.
    #[schema(value_type = String, example = "0.2.0")]
    pub version: &'static str,
    /// The roles that run in it.
    pub roles: Vec<RoleState>,
    /// What was configured, by key. What is not listed has its default.
    pub settings: Vec<SettingView>,
}

/// What a role says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RoleState {
    /// `api`, `ingest`, `relay` or `sweep`.
    #[schema(value_type = String, example = "ingest")]
    pub role: &'static str,
    /// Whether it can do its work.
    pub ready: bool,
    /// Why not; `null` where it can.
    #[schema(required)]
    pub reason: Option<String>,
}

/// A key of the configuration that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SettingView {
    /// Its name, as in `config.example.toml`.
    #[schema(example = "sweep.allowed_lateness")]
    pub key: String,
    /// As it was written; `null` where it is secret.
    #[schema(required, example = "PT10M")]
    pub value: Option<String>,
    /// The environment variable that set it; `null` where the file did.
    #[schema(required, example = "RIDE_PROMO__SWEEP__ALLOWED_LATENESS")]
    pub variable: Option<String>,
}
