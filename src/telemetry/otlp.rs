//! Spans, sent by OTLP over HTTP. With the feature `otlp` and `OTEL_EXPORTER_OTLP_ENDPOINT`.
//!
//! Straight to OpenTelemetry and not by way of `tracing`: a span then holds what is put into it
//! here and nothing that a library may say, and the log has the filter that it has without. What
//! else OpenTelemetry lets be set (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` ...) its own
//! library reads.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

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
        tracing::warn!(%error, "traces: the last ones were not sent");
    }
}

/// Makes spans; `None` where traces are not set.
pub fn tracer() -> Option<&'static SdkTracer> {
    EXPORT.get().map(|(_, tracer)| tracer)
}
