//! What admins do with the accounts of others.

mod list;
mod list_cost;
mod pages;
mod users;
mod users_races;
