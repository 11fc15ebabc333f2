//! First and last names.

use unicode_normalization::UnicodeNormalization;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, is_invisible, string_schema};

const MAX_NAME_CHARS: usize = 100;

/// A first or last name: at most 100 characters in NFC, no control characters, not of invisible
/// characters alone; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        // A request must not cause a megabyte to be normalised.
        if raw.len() > 16 * MAX_NAME_CHARS {
            return Err(FieldError::too_long(MAX_NAME_CHARS));
        }
        let name: String = raw.trim().nfc().collect();
        if name.chars().count() > MAX_NAME_CHARS {
            return Err(FieldError::too_long(MAX_NAME_CHARS));
        }
        if name.chars().any(is_unprintable) {
            return Err(FieldError::new(
                "invalid_characters",
                "Control characters are not allowed.",
            ));
        }
        if !name.is_empty() && name.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
            return Err(FieldError::new(
                "invalid_characters",
                "This name has no character that can be seen.",
            ));
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        let schema = string_schema()
            .description(Some("No control characters; the spaces around it are removed."))
            .max_length(Some(MAX_NAME_CHARS))
            .examples(["Ada"]);
        schema.into()
    }
}

impl ToSchema for Name {}

/// Control characters, and those that break lines or change the direction of the text around them
/// (as in a "Trojan source"): none belongs in a name that an admin reads in a list.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn a_name_is_kept_in_nfc_and_can_be_seen() {
        assert_eq!(Name::parse(" Zoe\u{308} ").expect("a name").as_str(), "Zo\u{eb}");
        assert_eq!(Name::parse("  ").expect("left out").as_str(), "");
        // A joiner inside a word is a part of how it is written.
        assert!(Name::parse("\u{645}\u{6cc}\u{200c}\u{62e}").is_ok());
        for unseen in ["\u{200b}", "\u{2800}\u{2800}", "\u{3164}", "\u{ad} \u{feff}", "\u{e0020}"] {
            assert_eq!(code(Name::parse(unseen)), "invalid_characters", "{unseen:?}");
        }
        assert_eq!(code(Name::parse(&"e\u{301}".repeat(101))), "too_long");
        assert!(Name::parse(&"e\u{301}".repeat(100)).is_ok());
    }
}
