//! An OpenTelemetry collector that keeps what it is sent: OTLP over HTTP, protobuf.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::Span as Sent,
};
use prost::Message as _;
use tokio::net::TcpListener;

/// A running collector; ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Collector {
    address: String,
    state: Arc<Mutex<Received>>,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    refuse: bool,
}

/// A span as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// `SPAN_KIND_…` without the prefix.
    pub kind: String,
    /// In hex.
    pub trace_id: String,
    /// In hex.
    pub span_id: String,
    /// In hex; empty where it begins a trace.
    pub parent_id: String,
    /// Values as text.
    pub attributes: BTreeMap<String, String>,
    /// The span ids it is linked to, in hex.
    pub links: Vec<String>,
    /// Whether it failed.
    pub failed: bool,
    /// What the resource says that sent it.
    pub resource: BTreeMap<String, String>,
}

impl Collector {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(Received::default()));
        let app = Router::new()
            .route("/v1/traces", post(receive))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, state }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers 503 from now on, or takes spans again.
    pub fn refuse(&self, refuse: bool) {
        self.lock().refuse = refuse;
    }

    /// Every span received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.lock().spans.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Received> {
        self.state.lock().expect("not poisoned")
    }
}

async fn receive(State(state): State<Arc<Mutex<Received>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut state = state.lock().expect("not poisoned");
    if state.refuse {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    for resource_spans in request.resource_spans {
        let resource = resource_spans.resource.unwrap_or_default();
        let resource = attributes(resource.attributes);
        for scope in resource_spans.scope_spans {
            let spans = scope.spans.into_iter();
            state
                .spans
                .extend(spans.map(|span| Span::of(span, &resource)));
        }
    }
    StatusCode::OK
}

impl Span {
    fn of(span: Sent, resource: &BTreeMap<String, String>) -> Self {
        let kind = span.kind().as_str_name().replace("SPAN_KIND_", "");
        Self {
            kind,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: hex(&span.parent_span_id),
            attributes: attributes(span.attributes),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            failed: span.status.is_some_and(|status| status.code == 2),
            resource: resource.clone(),
            name: span.name,
        }
    }

    /// An attribute's value; empty where it has none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: any_value::Value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = pairs.into_iter().filter_map(|pair| {
        let value = pair.value?.value?;
        Some((pair.key, text(value)))
    });
    pairs.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
