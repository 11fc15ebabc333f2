//! Rules about accounts that have more than one caller. Knows no HTTP.

pub mod attempts;
pub mod client;
pub mod letters;
pub mod sessions;
