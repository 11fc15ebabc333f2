//! The service from outside: the production router on a real PostgreSQL, and the real binary.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod admin;
mod auth;
mod docs;
#[path = "../harness/mod.rs"]
mod harness;
mod http;
mod input;
mod limits;
mod mail;
mod process;
mod session_cache;
mod store;
mod telemetry;
mod tokens;
mod users;
