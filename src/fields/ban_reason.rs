//! Why somebody is banned.

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::name::is_unprintable;
use super::{FieldError, is_invisible, string_schema};

const MAX_REASON_CHARS: usize = 500;

/// What staff read of a ban: 1 to 500 characters without the white space around them. Lines may be
/// broken, and other control characters are not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanReason(String);

impl BanReason {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let reason = raw.trim();
        if reason.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
            return Err(FieldError::new("required", "Say why."));
        }
        if reason.chars().count() > MAX_REASON_CHARS {
            return Err(FieldError::too_long(MAX_REASON_CHARS));
        }
        let is_break = |c| matches!(c, '\n' | '\r' | '\t');
        if reason.chars().any(|c| is_unprintable(c) && !is_break(c)) {
            let message = "Control characters other than breaks of lines are not allowed.";
            return Err(FieldError::new("invalid_characters", message));
        }
        Ok(Self(reason.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialSchema for BanReason {
    fn schema() -> RefOr<Schema> {
        let schema = string_schema()
            .description(Some("For staff: the user is not told."))
            .min_length(Some(1))
            .max_length(Some(MAX_REASON_CHARS))
            .examples(["Sent advertisements to strangers."]);
        schema.into()
    }
}

impl ToSchema for BanReason {}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn a_reason_says_something_in_at_most_500_characters() {
        assert_eq!(BanReason::parse(" spam \n").expect("a reason").as_str(), "spam");
        assert!(BanReason::parse("spam:\r\n\tlinks").is_ok());
        assert!(BanReason::parse(&"\u{eb}".repeat(500)).is_ok());
        for empty in ["", " \n", "\u{200b}", "\u{2800}"] {
            assert_eq!(code(BanReason::parse(empty)), "required", "{empty:?}");
        }
        assert_eq!(code(BanReason::parse(&"x".repeat(501))), "too_long");
        for bad in ["a\u{7}", "a\u{202e}b", "a\u{2028}b", "\u{1b}[31m"] {
            assert_eq!(code(BanReason::parse(bad)), "invalid_characters", "{bad:?}");
        }
    }
}
