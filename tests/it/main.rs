//! The integration tests: the real binary against a real Kafka and a real Postgres.
//!
//! It is one binary with one module per behaviour, so that all tests share one broker and one database cluster (see
//! [`harness`]).

#![expect(
    clippy::allow_attributes,
    reason = "the harness is compiled into the measurements too, which use other parts of it"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers are tests too: what cannot go on says so by panicking"
)]

mod access;
mod admin;
mod back_test;
mod budget;
mod claim;
mod completions;
mod console;
mod contracts;
mod credit;
mod demo;
mod desk;
mod doctor;
mod dry_run;
mod early_end;
mod eligibility;
mod erasure;
mod exactly_once;
mod expiry;
mod extensions;
mod failover;
mod frontend_guide;
mod goals;
mod guide;
mod harness;
mod history;
mod http;
mod import;
mod kafka_disk;
mod landing;
mod lists;
mod migrating;
mod observability;
mod operating;
mod pages;
mod partitions;
mod poison;
mod privileges;
mod progress;
mod quarantine;
mod races;
mod reconcile;
mod recovery;
mod refusals;
mod relaying;
mod reminders;
mod replay;
mod republish;
mod reversals;
mod revisions;
mod rides;
mod size;
mod smoke;
mod start;
mod supervisor;
mod time_zones;
mod tokens;
mod topics;
mod traces;
mod truncation;
mod upgrade;
mod verify;
mod words;
