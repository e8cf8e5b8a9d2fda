//! Ride Promo: turns completed rides into progress towards a loan.

pub mod api;
pub mod clock;
pub mod config;
pub mod domain;
pub mod readiness;
pub mod store;
pub mod telemetry;
pub mod wire;
