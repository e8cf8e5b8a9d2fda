//! HTTP: the client API, the admin API and the probes.

pub mod admin;
pub mod auth;
pub mod extract;
pub mod limit;
pub mod probes;
pub mod problem;
pub mod server;
