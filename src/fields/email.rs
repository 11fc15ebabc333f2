//! E-mail addresses.

use utoipa::openapi::schema::{KnownFormat, SchemaFormat};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema};

/// Longest address in bytes: RFC 5321's path without its angle brackets.
const MAX_EMAIL_BYTES: usize = 254;

/// One e-mail address, at most 254 bytes; kept as typed, unique without regard to case.
///
/// The grammar is RFC 5321's dot-atom in ASCII with a host name of at least two labels: no quoted
/// local parts, no address literals. An international domain is written in its `xn--` form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        if raw.len() > MAX_EMAIL_BYTES {
            let message = format!("Use at most {MAX_EMAIL_BYTES} bytes.");
            return Err(FieldError::new("too_long", message));
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

impl PartialSchema for Email {
    fn schema() -> RefOr<Schema> {
        let schema = string_schema()
            .description(Some("Unique without regard to case."))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Email)))
            .max_length(Some(MAX_EMAIL_BYTES))
            .examples(["ada@example.com"]);
        schema.into()
    }
}

impl ToSchema for Email {}

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

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

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
