//! Ride Promo: turns completed rides into progress towards a loan.

pub mod api;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod domain;
pub mod healthcheck;
pub mod import;
pub mod ingest;
pub mod input;
pub mod kafka;
pub mod positions;
pub mod progress;
pub mod readiness;
pub mod relay;
pub mod replay;
pub mod ride_file;
pub mod serve;
pub mod store;
pub mod supervisor;
pub mod sweep;
pub mod telemetry;
pub mod token;
pub mod wire;
