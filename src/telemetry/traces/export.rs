//! Sends spans to the collector, and counts and logs how that goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanProcessor};

use crate::telemetry::Metrics;
use crate::telemetry::traces::EXPORT_TIMEOUT;

/// The HTTP client for the collector. It is the blocking one, because spans are sent on a thread of
/// their own, where an asynchronous client would find no runtime, and silently send nothing.
#[derive(Debug)]
pub(super) struct Client {
    inner: reqwest::blocking::Client,
    /// Why the last request failed; the exporter only says that it failed.
    pub(super) failure: Arc<Mutex<Option<String>>>,
}

impl Client {
    pub(super) fn new() -> anyhow::Result<Self> {
        // It has a runtime of its own, which must not be created within another.
        let made = std::thread::spawn(|| {
            reqwest::blocking::Client::builder()
                .timeout(EXPORT_TIMEOUT)
                .build()
        });
        let inner = made
            .join()
            .map_err(|_| anyhow::anyhow!("the thread died"))
            .and_then(|made| Ok(made?))
            .context("making the client of the collector")?;
        Ok(Self {
            inner,
            failure: Arc::default(),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.inner.send_bytes(request).await;
        if let Err(error) = &answer {
            let mut why = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                why = format!("{why}: {error}");
                cause = error.source();
            }
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        answer
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        self.send(request).boxed()
    }
}

/// Logs when the collector rejects spans, and when it accepts them again; counts both.
#[derive(Debug)]
pub(super) struct ReportingExporter {
    pub(super) exporter: SpanExporter,
    pub(super) failure: Arc<Mutex<Option<String>>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for ReportingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = opentelemetry_sdk::trace::SpanExporter::export(&self.exporter, batch).await;
        let failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) => {
                self.metrics.traces.sent.add("exported", spans);
                if failing {
                    tracing::info!("the collector accepts spans again");
                }
            }
            Err(error) => {
                self.metrics.traces.sent.add("failed", spans);
                let why = self
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if !failing {
                    let error = why.unwrap_or_else(|| error.to_string());
                    tracing::warn!(
                        error,
                        "the collector does not accept spans; they are dropped until it does"
                    );
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        opentelemetry_sdk::trace::SpanExporter::shutdown_with_timeout(&self.exporter, timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut self.exporter, resource);
    }
}

/// Counts the spans that end. Spans that are neither sent nor waiting did not fit into the queue.
#[derive(Debug)]
pub(super) struct CountingProcessor {
    pub(super) batches: BatchSpanProcessor,
    pub(super) metrics: Arc<Metrics>,
}

impl SpanProcessor for CountingProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.metrics.traces.ended.inc();
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}
