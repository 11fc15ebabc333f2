//! The session cache: how old what it shows may be.

mod cut;
mod follower;
mod freshness;
mod idle;
mod model;
