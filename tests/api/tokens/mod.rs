//! The tokens: what the contract says of them, and forged ones.

pub mod contract;
mod forged;
mod key_change;
mod primitives;
mod vectors;
