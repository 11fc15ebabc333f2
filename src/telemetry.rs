//! Logs: readable on a desk, JSON in production, always to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging once for the process. `filter` is in tracing's syntax; one that cannot be read counts as `info`.
///
/// sqlx and lettre log statements and SMTP dialogues, with addresses in them: they stay silent below warnings
/// whatever the filter says.
pub fn init(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let quiet = ["sqlx=warn", "lettre=warn", "hyper=warn", "h2=warn"].into_iter().fold(
        filter,
        |filter, directive| {
            filter.add_directive(directive.parse().expect("a constant directive is valid"))
        },
    );
    let registry = tracing_subscriber::registry().with(quiet);
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
