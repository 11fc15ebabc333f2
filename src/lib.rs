//! Doorward: sign-up, login, sessions, roles and e-mail verification for frontend apps.
//!
//! The map: five floors, and a module uses only lower ones. `tests/api/docs/floors.rs` reads this
//! list and holds it.

// 5 FRONT: assembles, may use everything below
pub mod cli;
pub mod listener;
pub mod openapi;
pub mod router;

// 4 FEATURES: strangers to each other
pub mod admin;
pub mod auth;
pub mod health;
pub mod mailbox;
pub mod prometheus;
pub mod users;
pub mod worker;

// 3 SHARED: each may use those below it in this list
pub mod http;
// account knows no HTTP
pub mod account;
// what every request shares, the limits among it
pub mod state;

// what the database notifies of, for the cache and the worker
pub mod changes;
pub mod limits;
pub mod session_cache;

// 2 TOOLS: strangers to each other
pub mod mail;
pub mod security;
pub mod store;

// 1 GROUND: strangers to each other
pub mod clock;
pub mod config;
pub mod context;
pub mod fields;
pub mod local_postgres;
pub mod machine;
pub mod metrics;
pub mod network;
pub mod telemetry;
