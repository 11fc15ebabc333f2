//! Roles.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::FieldError;

/// What a user may do. An admin is staff too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Staff,
    Admin,
}

impl Role {
    /// Reads a role in any case.
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        [Self::User, Self::Staff, Self::Admin]
            .into_iter()
            .find(|role| role.as_str().eq_ignore_ascii_case(raw))
            .ok_or_else(|| FieldError::new("invalid_choice", "Use User, Staff or Admin."))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Staff => "staff",
            Self::Admin => "admin",
        }
    }

    pub fn is_staff(self) -> bool {
        self >= Self::Staff
    }

    pub fn is_admin(self) -> bool {
        self == Self::Admin
    }
}

/// A role as a client writes it: User, Staff or Admin, in any case.
#[derive(ToSchema)]
#[schema(
    pattern = "^([Uu][Ss][Ee][Rr]|[Ss][Tt][Aa][Ff][Ff]|[Aa][Dd][Mm][Ii][Nn])$",
    example = "Staff"
)]
#[expect(dead_code, reason = "describes a role in the OpenAPI document; `Role::parse` reads it")]
pub struct RoleName(String);

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Role {
    type Error = String;

    /// For roles read from the database, whose check constraint allows no other.
    fn try_from(raw: String) -> Result<Self, String> {
        Self::parse(&raw).map_err(|_| format!("unknown role {raw:?}"))
    }
}
