//! Strings that have been checked: past the request type no raw string travels.
//!
//! Each `parse` takes what a client sent and gives the checked value or a [`FieldError`] with a
//! stable code.

mod email;
mod name;
mod password;
mod role;
mod username;

pub use email::Email;
pub use name::Name;
pub use password::{Password, PasswordContext, parse_new_password};
pub use role::{Role, RoleName};
pub use username::Username;

/// What is wrong with one field. `code` is stable, `message` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub code: &'static str,
    pub message: String,
}

impl FieldError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
fn code<T: std::fmt::Debug>(result: Result<T, FieldError>) -> &'static str {
    result.expect_err("refused").code
}
