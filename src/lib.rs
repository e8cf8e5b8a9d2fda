//! Ride Promo: turns completed rides into progress towards a loan.

pub mod clock;
pub mod config;
pub mod domain;
pub mod ingest;
pub mod kafka;
pub mod readiness;
pub mod relay;
pub mod store;
pub mod sweep;
pub mod telemetry;
pub mod wire;
