//! Passes librdkafka's log lines to our log.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// The context of a client that reports nothing but its log lines. Contexts of other kinds delegate
/// their `log` and `error` to [`log_line`] and [`log_error`].
#[derive(Clone, Copy, Debug)]
pub struct LogContext {
    /// Which of the process' clients it is, such as `relay`.
    pub role: &'static str,
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(self.role, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(self.role, &error, reason);
    }
}

impl ConsumerContext for LogContext {}

/// Writes one of librdkafka's log lines, at its level. A failed connection is a warning, because
/// the library tries again.
pub fn log_line(role: &'static str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", client = role, facility, "{message}");
        }
    }
}

/// Writes an error of a client as a whole. The caller of a call handles its result, so this is a
/// warning. Failed connections are log lines already, and come here once more for every connection
/// and every attempt.
pub fn log_error(role: &'static str, error: &KafkaError, reason: &str) {
    use RDKafkaErrorCode as Code;

    match error.rdkafka_error_code() {
        Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
            tracing::debug!(target: "librdkafka", client = role, %error, "{reason}");
        }
        // An event of a partition, not an error.
        Some(Code::PartitionEOF) => {}
        _ => tracing::warn!(target: "librdkafka", client = role, %error, "{reason}"),
    }
}
