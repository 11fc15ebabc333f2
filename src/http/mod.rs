//! What every feature needs to speak HTTP.

pub mod client;
pub mod door;
pub mod error;
pub mod form;
pub mod gate;
pub mod limit;
pub mod page;
mod request_span;
pub mod session;
pub mod sliced;
pub mod user;
