//! Strings that have been checked: past the door no raw string travels.
//!
//! Each `parse` takes what a client sent and gives the checked value or a [`FieldError`] with a stable code.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use utoipa::ToSchema;

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

/// Control characters, and the ones that break lines or turn the direction of the text around them (as in a
/// "Trojan source"): none belongs into a name that others will read in a list.
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

/// A password that somebody claims to have: normalised (NFC), not judged.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

impl Password {
    pub fn claimed(raw: &str) -> Self {
        Self(SecretString::from(raw.nfc().collect::<String>()))
    }

    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

/// Longest password in bytes, after NFC.
const MAX_PASSWORD_BYTES: usize = 1024;
/// Longest password in code points, after NFC.
const MAX_PASSWORD_CHARS: usize = 256;

/// Passwords of 8 and more characters that everybody tries first: lower case, one a line, sorted by bytes.
static COMMON_PASSWORDS: &str = include_str!("common_passwords.txt");

/// A password that may be set: NIST SP 800-63B's rules, that is a length, a list of what attackers try first,
/// nothing that the account itself gives away, and no rules of composition.
pub fn parse_new_password(
    raw: &str,
    min_chars: usize,
    context: &PasswordContext<'_>,
) -> Result<Password, FieldError> {
    // Checked before normalising too, so that nobody makes us normalise a megabyte.
    let too_long = || FieldError::new("too_long", "Use at most 256 characters.");
    if raw.len() > 4 * MAX_PASSWORD_BYTES {
        return Err(too_long());
    }
    let password: String = raw.nfc().collect();
    let chars = password.chars().count();
    if chars < min_chars {
        return Err(FieldError::new("too_short", format!("Use at least {min_chars} characters.")));
    }
    if chars > MAX_PASSWORD_CHARS || password.len() > MAX_PASSWORD_BYTES {
        return Err(too_long());
    }
    let folded = password.to_lowercase();
    if let Some(refusal) = context.refusal(&folded) {
        return Err(refusal);
    }
    if is_common(&folded) {
        return Err(FieldError::new(
            "too_common",
            "This password is on the list of common passwords.",
        ));
    }
    Ok(Password(SecretString::from(password)))
}

/// What the account says about itself, so that a password may not repeat it. Empty parts are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct PasswordContext<'a> {
    pub username: &'a str,
    pub email: &'a str,
    pub first_name: &'a str,
    pub last_name: &'a str,
}

impl PasswordContext<'_> {
    fn refusal(&self, folded: &str) -> Option<FieldError> {
        let same = |part: &str| {
            !part.is_empty() && part.nfc().collect::<String>().to_lowercase() == folded
        };
        let local_part = self.email.rsplit_once('@').map_or("", |(local, _)| local);
        let full_name =
            |separator: &str| format!("{}{separator}{}", self.first_name, self.last_name);
        let refuse =
            |code, what| Some(FieldError::new(code, format!("The password must not be {what}.")));
        if same(self.username) {
            refuse("same_as_username", "your username")
        } else if same(self.email) || same(local_part) {
            refuse("same_as_email", "your e-mail address")
        } else if same(self.first_name)
            || same(self.last_name)
            || same(&full_name(""))
            || same(&full_name(" "))
        {
            refuse("same_as_name", "your name")
        } else if same("doorward") {
            refuse("same_as_service", "the name of this service")
        } else {
            None
        }
    }
}

/// Binary search over the embedded text itself: no table to build, nothing beside it in memory.
fn is_common(folded: &str) -> bool {
    let list = COMMON_PASSWORDS.as_bytes();
    let (mut low, mut high) = (0, list.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = list[..middle].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let end =
            list[middle..].iter().position(|&b| b == b'\n').map_or(list.len(), |at| middle + at);
        match list[start..end].cmp(folded.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: fmt::Debug>(result: Result<T, FieldError>) -> &'static str {
        result.expect_err("refused").code
    }

    #[test]
    fn every_common_password_is_found_and_their_neighbours_are_not() {
        let mut count = 0;
        for line in COMMON_PASSWORDS.lines() {
            assert!(is_common(line), "{line}");
            assert!(!is_common(&format!("{line}\u{7f}~")), "{line}");
            count += 1;
        }
        assert_eq!(count, 16_290);
        assert!(!is_common("") && !is_common("\u{10ffff}") && !is_common("!"));
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

    #[test]
    fn passwords_have_no_rules_but_sense() {
        let context = PasswordContext {
            username: "AdaLove88",
            email: "ada.lovelace@example.com",
            first_name: "Augusta",
            last_name: "Lovelace",
        };
        let parse = |raw: &str| parse_new_password(raw, 8, &context);
        assert!(parse("correct horse").is_ok());
        assert_eq!(code(parse("1234567")), "too_short");
        assert_eq!(code(parse(&"x".repeat(257))), "too_long");
        assert!(parse(&"x".repeat(256)).is_ok());
        assert_eq!(code(parse("PassWord1")), "too_common");
        assert_eq!(code(parse("adalove88")), "same_as_username");
        assert_eq!(code(parse("ADA.LOVELACE@example.com")), "same_as_email");
        assert_eq!(code(parse("ada.lovelace")), "same_as_email");
        assert_eq!(code(parse("augusta lovelace")), "same_as_name");
        assert_eq!(code(parse("Doorward")), "same_as_service");
        // 8 code points that NFC composes into 4.
        assert_eq!(code(parse("e\u{301}e\u{301}e\u{301}e\u{301}")), "too_short");
    }

    #[test]
    fn one_password_typed_on_two_keyboards_is_one_password() {
        assert_eq!(
            Password::claimed("caf\u{e9}").expose(),
            Password::claimed("cafe\u{301}").expose()
        );
    }
}
