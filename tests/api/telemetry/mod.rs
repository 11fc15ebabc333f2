//! Logs, security events, metrics and traces.

mod forged_lines;
mod logs;
mod metrics;
mod metrics_names;
mod metrics_outage;
mod metrics_paths;
mod otlp;
mod refused_origins;
mod security_events;
mod stalled_reader;
mod traces;
mod unprinted;
