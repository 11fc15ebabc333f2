//! Usernames.

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema, trimmed};

pub const MIN_USERNAME_CHARS: usize = 3;
const MAX_USERNAME_CHARS: usize = 64;

/// 3 to 64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit; kept as typed, unique without
/// regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

/// Names that a reader could take for a part of the service, or for the absence of a user.
const RESERVED_USERNAMES: &[&str] = &[
    "abuse",
    "account",
    "accounts",
    "admin",
    "administrator",
    "anonymous",
    "api",
    "auth",
    "billing",
    "confirm",
    "daemon",
    "docs",
    "doorward",
    "everyone",
    "guest",
    "health",
    "healthz",
    "help",
    "hostmaster",
    "info",
    "login",
    "logout",
    "mail",
    "me",
    "moderator",
    "nobody",
    "none",
    "noreply",
    "no-reply",
    "null",
    "official",
    "operator",
    "owner",
    "password",
    "postmaster",
    "readyz",
    "refresh",
    "register",
    "root",
    "security",
    "self",
    "session",
    "sessions",
    "settings",
    "signup",
    "staff",
    "support",
    "system",
    "sysadmin",
    "token",
    "undefined",
    "user",
    "users",
    "webmaster",
];

impl Username {
    /// A name that a user chose.
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let name = Self::parse_reserved_too(raw)?;
        if RESERVED_USERNAMES.contains(&name.key().as_str()) {
            return Err(FieldError::new("reserved", "This username is reserved."));
        }
        Ok(name)
    }

    /// A name that the operator chose: reserved words are allowed.
    pub fn parse_reserved_too(raw: &str) -> Result<Self, FieldError> {
        let raw = trimmed(raw);
        let chars = raw.chars().count();
        if chars < MIN_USERNAME_CHARS {
            return Err(FieldError::too_short(MIN_USERNAME_CHARS));
        }
        if chars > MAX_USERNAME_CHARS {
            return Err(FieldError::too_long(MAX_USERNAME_CHARS));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !raw.bytes().all(allowed) || !raw.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(FieldError::new(
                "invalid_characters",
                "Use letters a to z, digits, '.', '_' and '-', and start with a letter or a digit.",
            ));
        }
        Ok(Self(raw.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which two spellings of one name are equal.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialSchema for Username {
    fn schema() -> RefOr<Schema> {
        let description = format!(
            "{MIN_USERNAME_CHARS} to {MAX_USERNAME_CHARS} of `A-Z a-z 0-9 . _ -`, starting with a \
             letter or a digit; unique without regard to case."
        );
        let schema = string_schema()
            .description(Some(description))
            .min_length(Some(MIN_USERNAME_CHARS))
            .max_length(Some(MAX_USERNAME_CHARS))
            .pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]*$"))
            .examples(["ada"]);
        schema.into()
    }
}

impl ToSchema for Username {}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn usernames_are_plain_and_keep_their_case() {
        assert_eq!(Username::parse("Ada.Love-lace_1").expect("valid").as_str(), "Ada.Love-lace_1");
        assert_eq!(code(Username::parse("ab")), "too_short");
        assert_eq!(code(Username::parse(&"a".repeat(65))), "too_long");
        for bad in [".ada", "-ada", "_ada", "a da", "ada@x", "ädä", "ada\0", "a\u{200b}da"] {
            assert_eq!(code(Username::parse(bad)), "invalid_characters", "{bad:?}");
        }
        assert_eq!(Username::parse(" ada\n\u{200b}").expect("valid").as_str(), "ada");
        assert_eq!(code(Username::parse("NULL")), "reserved");
        assert!(Username::parse_reserved_too("admin").is_ok());
    }
}
