//! Roles.

use std::fmt;

use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema};

/// What a user may do. An admin is staff too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Staff,
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::User, Self::Staff, Self::Admin];

    /// Reads a role in any case.
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        Self::ALL
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

/// A role as a client writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleName(pub Role);

impl RoleName {
    /// Reads a role in any case.
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        Role::parse(raw).map(Self)
    }
}

impl PartialSchema for RoleName {
    fn schema() -> RefOr<Schema> {
        let in_any_case = |role: Role| -> String {
            let letters = role.as_str().chars();
            letters.flat_map(|c| ['[', c.to_ascii_uppercase(), c, ']']).collect()
        };
        let schema = string_schema()
            .description(Some("User, Staff or Admin, in any case."))
            .pattern(Some(format!("^({})$", Role::ALL.map(in_any_case).join("|"))))
            .examples(["Staff"]);
        schema.into()
    }
}

impl ToSchema for RoleName {}

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
