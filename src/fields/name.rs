//! First and last names.

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema};

const MAX_NAME_CHARS: usize = 100;

/// A first or last name: at most 100 characters, no control characters; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        let name = raw.trim();
        if name.chars().count() > MAX_NAME_CHARS {
            return Err(FieldError::too_long(MAX_NAME_CHARS));
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
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}
