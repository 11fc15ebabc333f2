//! What every feature needs to speak HTTP.

pub mod admission;
pub mod answer;
pub mod body;
pub mod client;
pub mod cors;
pub mod credentials;
pub mod cursor;
pub mod error;
pub mod html;
pub mod input;
pub mod middleware;
pub mod ndjson;
pub mod profile_changes;
mod request_span;
pub mod routes;
pub mod session;
pub mod session_list;
mod small_frames;
pub mod static_file;
mod strict_json;
pub mod taken;
pub mod user;
