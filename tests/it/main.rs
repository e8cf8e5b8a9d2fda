//! The integration tests: the real binary against a real Kafka and a real Postgres.
//!
//! One binary with one module per behaviour, so that all tests share one broker and one database
//! cluster; [`harness`] says how.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers are tests too: what cannot go on says so by panicking"
)]

mod admin;
mod claim;
mod demo;
mod exactly_once;
mod expiry;
mod harness;
mod import;
mod landing;
mod pages;
mod progress;
mod quarantine;
mod recovery;
mod relaying;
mod replay;
mod rides;
mod smoke;
mod start;
mod topics;
