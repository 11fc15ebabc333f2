//! People, and what they do with their own account.

mod activity;
mod change_password;
pub mod deletion;
mod export;
mod me;
mod me_email;
mod register;
mod register_email;
mod register_fields;
mod sessions;
mod verify_email;
