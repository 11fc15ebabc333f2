//! A span for each request, sent by OTLP over HTTP. With the feature `otlp` and `OTEL_EXPORTER_OTLP_ENDPOINT`.
//!
//! Straight to OpenTelemetry and not by way of `tracing`: a span then holds what is put into it here and nothing that
//! a library may say, and the log has the filter that it has without. What else OpenTelemetry lets be set
//! (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` ...) its own library reads.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::trace_context::{TraceContext, TraceId};

/// How long what was not sent yet may take at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// One for the process, as the log is.
static EXPORT: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// From now on sends spans, a batch every few seconds, by a thread of its own.
pub(super) fn start(service_name: &str) -> Result<(), String> {
    let exporter =
        SpanExporter::builder().with_http().build().map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(service_name.to_owned());
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.with_attribute(version).build())
        .build();
    let tracer = provider.tracer("doorward");
    // A second call (several tests in one process) changes nothing.
    let _ = EXPORT.set((provider, tracer));
    Ok(())
}

/// Sends what is left, and waits for that no longer than it may take. Blocks.
pub(super) fn finish() {
    let Some((provider, _)) = EXPORT.get() else { return };
    if let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// A request being answered. Its span ends when this is dropped, so one that was abandoned has an end, too.
pub struct RequestSpan(opentelemetry_sdk::trace::Span);

impl RequestSpan {
    /// A child of the caller's span, if there is one; `None` where nobody asked for spans.
    pub fn begin(
        method: &'static str,
        route: Option<&str>,
        caller: Option<TraceContext>,
    ) -> Option<Self> {
        let (_, tracer) = EXPORT.get()?;
        let parent = caller.map_or_else(Context::new, |caller| {
            let flags = if caller.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
            let trace_id = opentelemetry::trace::TraceId::from(caller.trace_id.0);
            let span_id = SpanId::from(caller.parent_id);
            let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
            Context::new().with_remote_span_context(remote)
        });
        // OpenTelemetry's conventions for HTTP: a name of few values, with the pattern and never the path.
        let name: Cow<'static, str> =
            route.map_or(method.into(), |route| format!("{method} {route}").into());
        let mut attributes = vec![KeyValue::new("http.request.method", method)];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
        let span = tracer.span_builder(name).with_kind(SpanKind::Server);
        Some(Self(span.with_attributes(attributes).start_with_context(tracer, &parent)))
    }

    /// The caller's, or a new one.
    pub fn trace_id(&self) -> TraceId {
        TraceId(u128::from_be_bytes(self.0.span_context().trace_id().to_bytes()))
    }

    pub fn answered(mut self, status: u16, code: Option<&'static str>) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(code) = code {
            self.0.set_attribute(KeyValue::new("error.type", code));
        }
        if status >= 500 {
            self.0.set_status(Status::error(""));
        }
    }
}
