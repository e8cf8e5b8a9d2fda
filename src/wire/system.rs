//! A process of the service, as operators see it.

use serde::Serialize;

/// The process that responds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct System {
    /// Its release.
    #[schema(value_type = String, example = "0.2.0")]
    pub version: &'static str,
    /// The roles that run in it.
    pub roles: Vec<RoleState>,
    /// The settings that were configured, by key. A key that is not listed has its default.
    pub settings: Vec<SettingView>,
    /// The consumers that own the ride topic's partitions, by partition; `null` while Kafka does not
    /// answer or the group is rebalancing.
    #[schema(required)]
    pub owners: Option<Vec<PartitionOwner>>,
}

/// The consumer that owns a partition of the ride topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PartitionOwner {
    /// The partition.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// The consumer's member id in the consumer group.
    #[schema(example = "ride-promo-5f0d3c1e-6d1b-4b53-9f0e-2f0c8f7a3c55")]
    pub member_id: String,
    /// The address that it connects from, as the broker sees it.
    #[schema(example = "10.2.0.17")]
    pub host: String,
}

/// The report of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RoleState {
    /// `api`, `ingest`, `relay` or `sweep`.
    #[schema(value_type = String, example = "ingest")]
    pub role: &'static str,
    /// Whether it can do its work.
    pub ready: bool,
    /// Why it is not ready; `null` if it is.
    #[schema(required)]
    pub reason: Option<String>,
}

/// A key of the configuration that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SettingView {
    /// Its name, as in `config.example.toml`.
    #[schema(example = "sweep.allowed_lateness")]
    pub key: String,
    /// The value as it was written; `null` if it is secret.
    #[schema(required, example = "PT10M")]
    pub value: Option<String>,
    /// The environment variable that set it; `null` if the file did.
    #[schema(required, example = "RIDE_PROMO__SWEEP__ALLOWED_LATENESS")]
    pub variable: Option<String>,
}
