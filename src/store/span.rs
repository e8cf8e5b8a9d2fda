//! Spans of transactions, if their caller is traced.

use opentelemetry::trace::{
    FutureExt as _, Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};
use sqlx::postgres::PgConnectOptions;

use super::{Result, StoreError};

/// Runs a transaction of this name. It gets a span within the current one, if there is one and it is recorded.
pub(super) async fn traced<T>(
    name: &'static str,
    options: &PgConnectOptions,
    transaction: impl Future<Output = Result<T>>,
) -> Result<T> {
    let parent = Context::current();
    if !parent.span().span_context().is_sampled() {
        return transaction.await;
    }
    let summary = format!("transaction {name}");
    let tracer = global::tracer("ride-promo");
    let mut span = tracer
        .span_builder(summary.clone())
        .with_kind(SpanKind::Client)
        .with_attributes([
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new(
                "db.namespace",
                options.get_database().unwrap_or_default().to_owned(),
            ),
            KeyValue::new("db.query.summary", summary),
            KeyValue::new("server.address", options.get_host().to_owned()),
            KeyValue::new("server.port", i64::from(options.get_port())),
        ])
        .start_with_context(&tracer, &parent);
    let result = transaction.with_context(parent).await;
    if let Err(error) = &result {
        span.set_attribute(KeyValue::new("error.type", kind(error)));
        span.set_status(Status::error(error.to_string()));
    }
    span.end();
    result
}

fn kind(error: &StoreError) -> String {
    let without_code = if error.is_unavailable() {
        "unavailable"
    } else {
        "_OTHER"
    };
    error.code().unwrap_or_else(|| without_code.to_owned())
}
