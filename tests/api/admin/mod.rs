//! What admins do with the accounts of others.

mod audit;
mod audit_cost;
pub mod invitations;
mod invitations_races;
mod list;
mod list_cost;
mod mails;
mod pages;
mod users;
mod users_races;
