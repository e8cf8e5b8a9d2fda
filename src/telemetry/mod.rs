//! Logs, metrics and traces of the process.

mod logs;
mod metrics;
pub mod traces;

pub use logs::{init_logs, init_logs_to, say_failure};
pub use metrics::*;
