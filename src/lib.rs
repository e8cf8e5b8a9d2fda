//! Ride Promo: turns completed rides into progress towards a loan.

pub mod clock;
pub mod config;
pub mod domain;
pub mod import;
pub mod input;
pub mod progress;
pub mod readiness;
pub mod store;
pub mod telemetry;
pub mod wire;
