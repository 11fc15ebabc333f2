//! What admins do with the accounts of others.

pub mod ban;
mod ban_races;
mod bulk;
mod edit;
mod list;
mod list_cost;
mod pages;
mod send;
pub mod staff;
pub mod users;
mod users_races;
