//! E-mail addresses.

use url::Host;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema, trimmed};

/// Longest address in bytes: RFC 5321's path without its angle brackets.
const MAX_EMAIL_BYTES: usize = 254;

/// One e-mail address, at most 254 bytes; kept as typed, unique without regard to case.
///
/// The grammar is RFC 5321's dot-atom in ASCII with a host name of at least two labels: no quoted
/// local parts, no address literals. A domain of another script is kept in its `xn--` form (UTS 46,
/// non-transitional).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let raw = trimmed(raw);
        let too_long = || {
            let message = format!("Use at most {MAX_EMAIL_BYTES} bytes.");
            FieldError::new("too_long", message)
        };
        if raw.len() > MAX_EMAIL_BYTES {
            return Err(too_long());
        }
        let invalid = |message: &str| FieldError::new("invalid_email", message);
        let no_address = "This is not a valid e-mail address.";
        let (local, domain) = raw.rsplit_once('@').ok_or_else(|| invalid(no_address))?;
        if !local.is_ascii() {
            return Err(invalid(
                "Before the @ only letters a to z, digits and marks of ASCII are possible.",
            ));
        }
        if local.len() > 64 || !local.split('.').all(is_atom) {
            let message = if local.contains(char::is_whitespace) {
                "There is a space before the @ of the e-mail address."
            } else {
                "This is not a valid e-mail address: see the part before the @."
            };
            return Err(invalid(message));
        }
        let ascii = ascii_domain(domain).filter(|domain| is_domain(domain)).ok_or_else(|| {
            invalid("This is not a valid e-mail address: the part after the @ is no domain.")
        })?;
        let email = format!("{local}@{ascii}");
        if email.len() > MAX_EMAIL_BYTES { Err(too_long()) } else { Ok(Self(email)) }
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

/// A domain as it is typed, or in its `xn--` form where it is of another script; `None` where it
/// has none.
pub(super) fn ascii_domain(domain: &str) -> Option<String> {
    if domain.is_ascii() {
        return Some(domain.to_owned());
    }
    // The parser of URLs decodes percent signs, which no domain has.
    match Host::parse(domain).ok().filter(|_| !domain.contains('%'))? {
        Host::Domain(ascii) => Some(ascii),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

/// Two labels or more, of which the last is no number.
fn is_domain(domain: &str) -> bool {
    let labels: Vec<&str> = domain.split('.').collect();
    labels.len() >= 2
        && labels.iter().all(|label| is_host_label(label))
        && !labels.last().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()))
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
            "a\0@x.com",
            "ä@example.com",
            "a@ü%41.example",
            "a@bücher",
            "a@١٢٧.٠.٠.١",
            "a@b ü.example",
            &long,
        ] {
            assert_eq!(code(Email::parse(bad)), "invalid_email", "{bad:?}");
        }
        assert_eq!(code(Email::parse(&format!("a@{}.com", "b.".repeat(130)))), "too_long");
        assert_eq!(code(Email::parse(&format!("a@{}example", "ü.".repeat(80)))), "too_long");
    }

    #[test]
    fn a_domain_of_another_script_is_kept_in_its_xn_form() {
        for (typed, kept) in [
            ("Ada@Bücher.Example", "Ada@xn--bcher-kva.example"),
            ("ada@bu\u{308}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@straße.example", "ada@xn--strae-oqa.example"),
            ("ada@例え。テスト", "ada@xn--r8jz45g.xn--zckzah"),
            ("ada@Example.COM", "ada@Example.COM"),
            (" ada@example.com\u{200b}", "ada@example.com"),
        ] {
            assert_eq!(Email::parse(typed).expect(typed).as_str(), kept);
        }
    }

    #[test]
    fn a_refusal_says_which_side_is_wrong() {
        let message = |raw: &str| Email::parse(raw).expect_err(raw).message;
        assert!(message("ä@example.com").starts_with("Before the @"));
        assert!(message("a b@example.com").contains("space before the @"));
        assert!(message("a..b@example.com").contains("the part before the @"));
        assert!(message("a@-x.com").contains("the part after the @"));
    }
}
