//! What admins do with the accounts of others.

mod audit;
mod audit_cost;
mod audit_readers;
pub mod invitations;
mod invitations_list;
mod invitations_races;
mod list;
mod list_cost;
mod mails;
mod pages;
mod users;
mod users_races;
