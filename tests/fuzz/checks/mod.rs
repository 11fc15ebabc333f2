//! What must be true of whatever a stranger sends, for any bytes at all. One file for each thing
//! that reads them; each check panics where it does not hold.
//!
//! The fuzz targets beside this call them, and so does `tests/api/input/fuzzed.rs`, for which no
//! nightly compiler is needed.

pub mod basic;
pub mod fields;
pub mod forwarded;
pub mod json;
pub mod query;
pub mod tokens;
