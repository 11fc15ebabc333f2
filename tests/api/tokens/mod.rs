//! The tokens: what the contract says of them, and forged ones.

pub mod contract;
mod forged;
mod primitives;
mod vectors;
