//! The span of a batch, and the spans of its messages.

use std::borrow::Cow;

use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::telemetry::traces::{MAX_MESSAGES, TRACER, parse, remote, traceparent};

/// Work on many messages at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rides are applied.
    Process,
    /// Status changes are published.
    Send,
}

/// A batch of messages: its span, and the spans of those messages whose traces are recorded. All of
/// them end with [`SpanBatch::end`].
#[derive(Debug)]
pub struct SpanBatch {
    tracer: &'static SdkTracer,
    operation: Operation,
    topic: String,
    context: Context,
    messages: Vec<Span>,
}

impl SpanBatch {
    /// Begins the span of a batch, in a trace of its own; `None` if traces are off.
    pub fn begin(
        operation: Operation,
        topic: &str,
        messages: usize,
        more: impl IntoIterator<Item = KeyValue>,
    ) -> Option<Self> {
        let tracer = TRACER.get()?;
        let (name, kind) = match operation {
            Operation::Process => ("process", SpanKind::Consumer),
            // Each message's own span has the kind of a producer.
            Operation::Send => ("send", SpanKind::Client),
        };
        let mut attributes = messaging(name, topic);
        attributes.push(KeyValue::new(
            "messaging.batch.message_count",
            i64::try_from(messages).unwrap_or(i64::MAX),
        ));
        attributes.extend(more);
        let span = tracer
            .span_builder(format!("{name} {topic}"))
            .with_kind(kind)
            .with_attributes(attributes)
            .start_with_context(tracer, &Context::new());
        Some(Self {
            tracer,
            operation,
            topic: topic.to_owned(),
            context: Context::new().with_span(span),
            messages: Vec::new(),
        })
    }

    /// The parent of the batch's own spans.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// Gives a message with this `traceparent` a span in its trace, and returns the `traceparent`
    /// to carry on instead: the same trace, with that span as the parent. `None` if the trace is
    /// not recorded or the batch has enough spans; then it is carried on unchanged.
    pub fn carry(
        &mut self,
        traceparent: &str,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Option<String> {
        if self.messages.len() >= MAX_MESSAGES {
            return None;
        }
        let parent = parse(traceparent).filter(SpanContext::is_sampled)?;
        let (name, kind) = match self.operation {
            Operation::Process => ("process", SpanKind::Consumer),
            Operation::Send => ("send", SpanKind::Producer),
        };
        let batch = self.context.span();
        // A span that is not recorded cannot be found.
        let links = if batch.span_context().is_sampled() {
            vec![Link::with_context(batch.span_context().clone())]
        } else {
            Vec::new()
        };
        let mut shown = messaging(name, &self.topic);
        shown.extend(attributes);
        let span = self
            .tracer
            .span_builder(format!("{name} {}", self.topic))
            .with_kind(kind)
            .with_attributes(shown)
            .with_links(links)
            .start_with_context(self.tracer, &remote(Some(parent.clone())));
        let context = span.span_context().clone();
        // A received message was created elsewhere; a sent message is created here.
        batch.add_link(
            match self.operation {
                Operation::Process => parent,
                Operation::Send => context.clone(),
            },
            Vec::new(),
        );
        self.messages.push(span);
        Some(self::traceparent(&context))
    }

    /// Ends all of its spans; `failure` says why the batch had no effect.
    pub fn end(self, failure: Option<String>) {
        // The reason has no error class of its own, so the status has its text.
        let error = KeyValue::new("error.type", "_OTHER");
        let status = failure.map(Status::error);
        for mut span in self.messages {
            if let Some(status) = &status {
                span.set_attribute(error.clone());
                span.set_status(status.clone());
            }
            span.end();
        }
        let span = self.context.span();
        if let Some(status) = status {
            span.set_attribute(error);
            span.set_status(status);
        }
        span.end();
    }
}

/// The attributes of every span about messages. Operations are named like their types.
pub(super) fn messaging(operation: &'static str, topic: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new(
            "messaging.destination.name",
            Cow::<str>::Owned(topic.to_owned()),
        ),
    ]
}
