//! All SQL: one file per table; plain functions on a connection. Logins touch four tables and share
//! their statements, so they have a file of their own; so have refreshes, lists, and what spans
//! several tables. Queries are checked at compile time. `db/` is the connection's machinery.

pub mod activity;
pub mod admins;
pub mod audit;
pub mod audit_list;
pub mod challenges;
pub mod db;
pub mod exports;
pub mod invitations;
pub mod keyset;
pub mod letter_list;
pub mod limits;
pub mod logins;
pub mod new_devices;
pub mod not_me;
pub mod outbox;
pub mod purges;
pub mod refreshes;
pub mod session_list;
pub mod sessions;
pub mod standing;
pub mod user_list;
pub mod users;
