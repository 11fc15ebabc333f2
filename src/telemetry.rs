//! Logs: readable on a desk, JSON in production, always to standard error.

#[cfg(feature = "otlp")]
pub mod otlp;

use std::io::{BufWriter, IsTerminal};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for the reader of standard error, some 3 MB of them. What comes while so many
/// wait is dropped: a full pipe must not stop the service, its health check and its end.
const MAX_WAITING_LINES: usize = 10_000;

/// Writes out what waits when it is dropped.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How often it is looked whether lines were dropped.
const CHECK: Duration = Duration::from_secs(10);

/// Starts logging once for the process. `filter` is a level, or levels by target
/// (`info,doorward=debug`); one that cannot be read counts as `info`.
pub fn init(filter: &str, json: bool) {
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let filter = filter.parse().ok().filter(|_| is_filter(filter)).unwrap_or_else(info);
    // Separate from the filter, in which a more specific directive (`hyper::proto=trace`) would
    // win.
    let ours = filter_fn(|metadata| is_for_the_log(metadata.target(), *metadata.level()));
    let registry = tracing_subscriber::registry().with(filter).with(ours);
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .thread_name("log")
        .finish(BufWriter::new(std::io::stderr()));
    if DROPPED.set(writer.error_counter()).is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    // A second call (several tests in one process) changes nothing.
    let _ = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry
            .with(layer.with_target(false).with_ansi(std::io::stderr().is_terminal()))
            .try_init()
    };
}

/// Writes out what is still to be written, or gives up after a second: at the end of the process.
pub fn flush_log() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Lines of the log that were dropped since their reader did not keep up.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

/// Tells of dropped lines, once their reader keeps up again.
pub async fn tell_of_dropped_lines() {
    let (mut told, mut seen) = (0, 0);
    loop {
        tokio::time::sleep(CHECK).await;
        let dropped = dropped_lines();
        if dropped == seen && dropped > told {
            let lines = dropped - told;
            tracing::warn!(lines, "log: lines were dropped, as their reader did not keep up");
            told = dropped;
        }
        seen = dropped;
    }
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
