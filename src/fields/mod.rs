//! Strings that have been checked: past the request type no raw string travels.
//!
//! Each `parse` takes what a client sent and gives the checked value or a [`FieldError`] with a
//! stable code. Each type also says in the OpenAPI document what `parse` accepts, from the same
//! constants: a request type that holds it repeats no limit. By hand, as utoipa's attributes take
//! literals alone.

mod email;
mod name;
mod password;
mod role;
mod username;

use utoipa::openapi::schema::{ObjectBuilder, Type};

pub use email::Email;
pub use name::Name;
pub use password::{NewPassword, Password, PasswordContext};
pub use role::{Role, RoleName};
pub use username::{MIN_USERNAME_CHARS, Username};

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

    pub fn too_short(min_chars: usize) -> Self {
        Self::new("too_short", format!("Use at least {min_chars} characters."))
    }

    pub fn too_long(max_chars: usize) -> Self {
        Self::new("too_long", format!("Use at most {max_chars} characters."))
    }
}

/// A string in the OpenAPI document, for a type to add its limits.
fn string_schema() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

#[cfg(test)]
fn code<T: std::fmt::Debug>(result: Result<T, FieldError>) -> &'static str {
    result.expect_err("refused").code
}
