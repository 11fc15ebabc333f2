//! What admins do with the accounts of others.

mod audit;
mod audit_cost;
pub mod ban;
mod ban_races;
mod bulk;
mod edit;
pub mod invitations;
mod invitations_races;
mod list;
mod list_cost;
mod mails;
mod pages;
mod send;
pub mod staff;
pub mod users;
mod users_races;
