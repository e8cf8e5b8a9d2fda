//! Traces: spans to an OpenTelemetry collector, over OTLP/HTTP. They are off unless an endpoint is
//! configured; then every call here costs one look at a static.
//!
//! One trace leads from the `traceparent` of a ride or of a request to that of the status change it
//! causes. A batch joins rides of many traces, so it has a span in a trace of its own. A ride that
//! changes something has a span in its own trace, and links join the two. The number of such spans
//! per batch is bounded; above it a `traceparent` is carried on unchanged. docs/tracing.md lists
//! the spans.
//!
//! Names are those of the semantic conventions for HTTP, messaging and databases. Spans hold ids
//! and counts, but no bodies, tokens or query strings.

mod batch;
mod export;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{Method, StatusCode};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue, global};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
};

use self::batch::messaging;
use self::export::{Client, CountingProcessor, ReportingExporter};
use super::Metrics;
use crate::config::TracesConfig;
use crate::wire::traceparent::is_traceparent;

pub use self::batch::{Operation, SpanBatch};

/// Most messages of a batch that get a span of their own. A batch has as many links.
pub const MAX_MESSAGES: usize = 128;

/// How long spans wait for others to be sent with.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long the collector may take for one request, attempts and pauses together.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the last spans may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The service's name in traces, unless `OTEL_SERVICE_NAME` is set.
const SERVICE_NAME: &str = "ride-promo";

/// Set once traces are on; they stay on for the whole process.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The provider, which sends the spans to the collector.
#[derive(Debug)]
#[must_use]
pub struct TraceExport(SdkTracerProvider);

/// Turns traces on if an endpoint is configured. It connects only when there are spans.
pub fn start(config: &TracesConfig, metrics: &Arc<Metrics>) -> anyhow::Result<Option<TraceExport>> {
    let Some(base) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let client = Client::new()?;
    let failure = Arc::clone(&client.failure);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/v1/traces"))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .context("reading traces.otlp_endpoint")?;
    let exporter = ReportingExporter {
        exporter,
        failure,
        metrics: Arc::clone(metrics),
        failing: AtomicBool::new(false),
    };
    let limits = BatchConfigBuilder::default()
        .with_max_queue_size(config.max_queue)
        .with_scheduled_delay(EXPORT_INTERVAL)
        .build();
    let batches = BatchSpanProcessor::builder(exporter)
        .with_batch_config(limits)
        .build();
    let ratio = Sampler::TraceIdRatioBased(config.sample_ratio);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource())
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_max_links_per_span(MAX_MESSAGES as u32)
        .with_span_processor(CountingProcessor {
            batches,
            metrics: Arc::clone(metrics),
        })
        .build();
    // The store's transactions use the global provider.
    global::set_tracer_provider(provider.clone());
    if TRACER.set(provider.tracer(SERVICE_NAME)).is_err() {
        tracing::warn!(
            "traces keep the first configuration of this process; the later one is ignored"
        );
    }
    tracing::info!(
        endpoint = base,
        sample_ratio = config.sample_ratio,
        "traces are exported"
    );
    Ok(Some(TraceExport(provider)))
}

impl TraceExport {
    /// Sends the remaining spans, within a bound.
    pub async fn finish(self) {
        let flushed = tokio::task::spawn_blocking(move || {
            let result = self.0.shutdown_with_timeout(FLUSH_TIMEOUT);
            drop(self);
            result
        })
        .await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// The resource: what the standard variables say, and our defaults for the rest.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let named = Resource::builder()
        .build()
        .get(&name)
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new(
            "service.instance.id",
            uuid::Uuid::new_v4().hyphenated().to_string(),
        ),
    ]);
    if named {
        resource.build()
    } else {
        resource.with_service_name(SERVICE_NAME).build()
    }
}

/// The context that a `traceparent` names; `None` if it does not have the form.
fn parse(traceparent: &str) -> Option<SpanContext> {
    if !is_traceparent(traceparent) {
        return None;
    }
    Some(SpanContext::new(
        TraceId::from_hex(traceparent.get(3..35)?).ok()?,
        SpanId::from_hex(traceparent.get(36..52)?).ok()?,
        TraceFlags::new(u8::from_str_radix(traceparent.get(53..55)?, 16).ok()?),
        true,
        TraceState::default(),
    ))
}

/// The `traceparent` of what happens within a span.
fn traceparent(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

/// The `traceparent` of the current span (see [`request`]); `None` if there is none, or if it is
/// not recorded.
pub fn current() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let current = span.span_context();
        (current.is_valid() && current.is_sampled()).then(|| traceparent(current))
    })
}

/// Links the current span to the context that caused the change in the response.
pub fn link_current(cause: &SpanContext) {
    Context::map_current(|context| context.span().add_link(cause.clone(), Vec::new()));
}

/// The span of a request, as the context to handle it in; `None` if traces are off.
pub fn request(
    method: &Method,
    route: Option<&str>,
    path: &str,
    traceparent: Option<&str>,
) -> Option<Context> {
    let tracer = TRACER.get()?;
    let known = matches!(
        method.as_str(),
        "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT"
    );
    let (shown, named) = if known {
        (method.as_str(), method.as_str())
    } else {
        ("_OTHER", "HTTP")
    };
    let mut attributes = vec![
        KeyValue::new("http.request.method", shown.to_owned()),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", path.to_owned()),
    ];
    let name = match route {
        Some(route) => {
            attributes.push(KeyValue::new("http.route", route.to_owned()));
            format!("{named} {route}")
        }
        None => named.to_owned(),
    };
    let parent = remote(traceparent.and_then(parse));
    let span = tracer
        .span_builder(name)
        .with_kind(SpanKind::Server)
        .with_attributes(attributes)
        .start_with_context(tracer, &parent);
    Some(parent.with_span(span))
}

/// Ends the span of a request with its response.
pub fn answered(context: &Context, status: StatusCode) {
    let span = context.span();
    span.set_attribute(KeyValue::new(
        "http.response.status_code",
        i64::from(status.as_u16()),
    ));
    if status.is_server_error() {
        span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
        span.set_status(Status::error(""));
    }
    span.end();
}

/// The trace id of a request, for the log: from its span, or else from its header.
pub fn trace_id(context: Option<&Context>, traceparent: Option<&str>) -> Option<TraceId> {
    context
        .map(|context| context.span().span_context().trace_id())
        .or_else(|| parse(traceparent?).map(|parent| parent.trace_id()))
}

fn remote(parent: Option<SpanContext>) -> Context {
    let root = Context::new();
    parent.map_or_else(
        || root.clone(),
        |parent| root.with_remote_span_context(parent),
    )
}

/// The span that a `traceparent` names, if traces are on and it is recorded.
pub fn recorded(traceparent: &str) -> Option<SpanContext> {
    TRACER.get()?;
    parse(traceparent).filter(SpanContext::is_sampled)
}

/// A message that is being applied, in the trace of its `traceparent`; `None` if traces are off or
/// that trace is not recorded. The span ends when it is dropped.
pub fn received(
    topic: &str,
    partition: i32,
    offset: i64,
    traceparent: &str,
) -> Option<ReceivedSpan> {
    let tracer = TRACER.get()?;
    let parent = recorded(traceparent)?;
    let mut attributes = messaging("process", topic);
    attributes.push(KeyValue::new(
        "messaging.destination.partition.id",
        partition.to_string(),
    ));
    attributes.push(KeyValue::new("messaging.kafka.offset", offset));
    let span = tracer
        .span_builder(format!("process {topic}"))
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes)
        .start_with_context(tracer, &remote(Some(parent)));
    Some(ReceivedSpan(span))
}

/// See [`received`].
#[derive(Debug)]
pub struct ReceivedSpan(Span);

impl ReceivedSpan {
    /// Its context, for links.
    pub fn context(&self) -> SpanContext {
        self.0.span_context().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIDE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn reads_and_writes_the_header() {
        let context = parse(RIDE).expect("good");
        assert!(context.is_valid() && context.is_sampled() && context.is_remote());
        assert_eq!(traceparent(&context), RIDE);
        let later = format!("cc{}-what-the-future-holds", &RIDE[2..]);
        assert_eq!(
            parse(&later).map(|context| traceparent(&context)),
            Some(RIDE.to_owned())
        );
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_is_done_while_traces_are_off() {
        assert!(request(&Method::GET, None, "/", Some(RIDE)).is_none());
        assert!(SpanBatch::begin(Operation::Send, "t", 1, []).is_none());
        assert!(received("t", 0, 0, RIDE).is_none());
        assert_eq!(current(), None);
        let id = trace_id(None, Some(RIDE)).map(|id| id.to_string());
        assert_eq!(id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    }
}
