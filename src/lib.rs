//! Ride Promo: turns completed rides into progress towards a loan.

pub mod domain;
pub mod store;
pub mod wire;
