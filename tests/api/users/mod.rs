//! People, and what they do with their own account.

mod change_password;
mod me;
mod me_email;
mod register;
mod register_email;
mod register_fields;
mod sessions;
mod verify_email;
