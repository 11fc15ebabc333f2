//! Logs: readable on a desk, JSON in production, always to standard error.

#[cfg(feature = "otlp")]
pub mod otlp;

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging once for the process. `filter` is a level, or levels by target
/// (`info,doorward=debug`); one that cannot be read counts as `info`.
pub fn init(filter: &str, json: bool) {
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let filter = filter.parse().ok().filter(|_| is_filter(filter)).unwrap_or_else(info);
    // Separate from the filter, in which a more specific directive (`hyper::proto=trace`) would
    // win.
    let ours = filter_fn(|metadata| is_for_the_log(metadata.target(), *metadata.level()));
    let registry = tracing_subscriber::registry().with(filter).with(ours);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call (several tests in one process) changes nothing.
    let _ = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry
            .with(layer.with_target(false).with_ansi(std::io::stderr().is_terminal()))
            .try_init()
    };
}

/// Sends traces to where `OTEL_EXPORTER_OTLP_ENDPOINT` leads, or says that it cannot.
pub fn export_traces(service_name: &str) {
    #[cfg(feature = "otlp")]
    match otlp::start(service_name) {
        Ok(()) => tracing::info!(service_name, "traces: sent by OTLP"),
        Err(error) => tracing::error!(error, "traces: they cannot be sent"),
    }
    #[cfg(not(feature = "otlp"))]
    tracing::warn!(
        service_name,
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no traces are sent: build with --features otlp"
    );
}

/// Sends the traces that are left, within a bound. Blocks.
pub fn flush_traces() {
    #[cfg(feature = "otlp")]
    otlp::finish();
}

/// Whether `filter` can be read. A word by itself is a level: tracing would take it for a module of
/// that name, and log nothing else.
pub fn is_filter(filter: &str) -> bool {
    let mut words = filter.split(',').map(str::trim).filter(|part| !part.contains('='));
    words.all(|word| word.parse::<LevelFilter>().is_ok()) && filter.parse::<Targets>().is_ok()
}

/// Whether the filter is consulted at all. Only our own modules may log below warnings: libraries
/// log what passes through them (hyper whole heads with passwords and tokens, sqlx statements, axum
/// the bodies that it refuses), and no setting may bring that out.
fn is_for_the_log(target: &str, level: Level) -> bool {
    let module = target.split("::").next().unwrap_or_default();
    level <= Level::WARN || ["doorward", "security"].contains(&module)
}
