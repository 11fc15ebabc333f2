//! Logs, security events, metrics and traces.

mod forged_lines;
mod logs;
mod metrics;
mod otlp;
mod security_events;
mod traces;
