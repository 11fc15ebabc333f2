//! Strings that have been checked: past the door no raw string travels.
//!
//! Each `parse` takes what a client sent and gives the checked value or a [`FieldError`] with a stable code.

mod password;

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

pub use password::{Password, PasswordContext, parse_new_password};

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

/// 3 to 64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit; kept as typed, unique without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

/// Names that could be taken for a part of the service, or for nobody.
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
    /// A name that somebody chose for themselves.
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let name = Self::parse_reserved_too(raw)?;
        if RESERVED_USERNAMES.contains(&name.key().as_str()) {
            return Err(FieldError::new("reserved", "This username is reserved."));
        }
        Ok(name)
    }

    /// A name that the operator chose: reserved words do not bind them.
    pub fn parse_reserved_too(raw: &str) -> Result<Self, FieldError> {
        if raw.chars().count() < 3 {
            return Err(FieldError::new("too_short", "Use at least 3 characters."));
        }
        if raw.chars().count() > 64 {
            return Err(FieldError::new("too_long", "Use at most 64 characters."));
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

/// One e-mail address, at most 254 bytes; kept as typed, unique without regard to case.
///
/// The grammar is RFC 5321's dot-atom in ASCII with a host name of at least two labels: no quoted local parts, no
/// address literals. An international domain is written in its `xn--` form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        if raw.len() > 254 {
            return Err(FieldError::new("too_long", "Use at most 254 bytes."));
        }
        let invalid = || FieldError::new("invalid_email", "This is not a valid e-mail address.");
        let (local, domain) = raw.rsplit_once('@').ok_or_else(invalid)?;
        let labels: Vec<&str> = domain.split('.').collect();
        let valid = local.len() <= 64
            && local.split('.').all(is_atom)
            && labels.len() >= 2
            && labels.iter().all(|label| is_host_label(label))
            && !labels.last().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
        if valid { Ok(Self(raw.to_owned())) } else { Err(invalid()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }
}

/// RFC 5322 `atext`, at least one.
fn is_atom(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
}

/// RFC 1123: 1 to 63 letters, digits and inner hyphens.
fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A first or last name: at most 100 characters, no control characters; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let name = raw.trim();
        if name.chars().count() > 100 {
            return Err(FieldError::new("too_long", "Use at most 100 characters."));
        }
        if name.chars().any(is_unprintable) {
            return Err(FieldError::new(
                "invalid_characters",
                "Control characters are not allowed.",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, and those that break lines or change the direction of the text around them (as in a "Trojan
/// source"): none belongs in a name that others will read in a list.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: fmt::Debug>(result: Result<T, FieldError>) -> &'static str {
        result.expect_err("refused").code
    }

    #[test]
    fn usernames_are_plain_and_keep_their_case() {
        assert_eq!(Username::parse("Ada.Love-lace_1").expect("valid").as_str(), "Ada.Love-lace_1");
        assert_eq!(code(Username::parse("ab")), "too_short");
        assert_eq!(code(Username::parse(&"a".repeat(65))), "too_long");
        for bad in [".ada", "-ada", "_ada", "a da", "ada@x", "ädä", "ada\0", "ada\n"] {
            assert_eq!(code(Username::parse(bad)), "invalid_characters", "{bad:?}");
        }
        assert_eq!(code(Username::parse("NULL")), "reserved");
        assert!(Username::parse_reserved_too("admin").is_ok());
    }

    #[test]
    fn emails_are_one_plain_address() {
        for good in [
            "ada@example.com",
            "a.b+c@x-y.example",
            "o'neil@sub.example.museum",
            "a@xn--bcher-kva.example",
        ] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "a b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a..b@example.com",
            "a@-x.com",
            "a@x-.com",
            "a@x..com",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "\"a\"@example.com",
            "a@example.com,b@example.com",
            "a@b@example.com",
            "Ada <a@example.com>",
            "a@example.com\n",
            "a\0@x.com",
            "ä@example.com",
            "a@bücher.example",
            &long,
        ] {
            assert_eq!(code(Email::parse(bad)), "invalid_email", "{bad:?}");
        }
        assert_eq!(code(Email::parse(&format!("a@{}.com", "b.".repeat(130)))), "too_long");
    }
}
