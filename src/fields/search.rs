//! What a list is searched for.

use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use super::{FieldError, login_key, trimmed};

const MAX_SEARCH_CHARS: usize = 254;
/// Each part is one more condition on every row.
const MAX_PARTS: usize = 10;

/// Parts, each of which has to be found; or an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// In NFC, at least one.
    pub parts: Vec<String>,
    /// The id that the whole of it is.
    pub id: Option<Uuid>,
}

impl Search {
    /// Reads words between spaces and commas (`Lovelace, Ada`); `None` of white space alone.
    pub fn parse(raw: &str) -> Result<Option<Self>, FieldError> {
        if raw.chars().count() > MAX_SEARCH_CHARS {
            return Err(FieldError::too_long(MAX_SEARCH_CHARS));
        }
        let whole: String = trimmed(raw).nfc().collect();
        if whole.is_empty() {
            return Ok(None);
        }
        let words = whole.split(|c: char| c.is_whitespace() || c == ',').map(trimmed);
        let mut parts: Vec<String> =
            words.filter(|word| !word.is_empty()).map(in_kept_form).collect();
        if parts.is_empty() {
            parts.push(whole.clone());
        }
        if parts.len() > MAX_PARTS {
            let message = format!("Use at most {MAX_PARTS} words.");
            return Err(FieldError::new("too_long", message));
        }
        Ok(Some(Self { parts, id: Uuid::try_parse(&whole).ok() }))
    }
}

/// An address in the form in which it is kept.
fn in_kept_form(word: &str) -> String {
    if word.contains('@') && !word.is_ascii() { login_key(word) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    fn parts(raw: &str) -> Vec<String> {
        Search::parse(raw).expect(raw).map(|search| search.parts).unwrap_or_default()
    }

    #[test]
    fn a_search_is_words_and_their_order_does_not_matter() {
        assert_eq!(parts(" Lovelace, Ada\u{200b}"), ["Lovelace", "Ada"]);
        assert_eq!(parts("zoe\u{308}"), ["zo\u{eb}"]);
        assert_eq!(Search::parse(" \u{feff}"), Ok(None));
        // Not everybody.
        assert_eq!(parts(" , "), [","]);
        assert_eq!(code(Search::parse(&"a ".repeat(11))), "too_long");
        assert_eq!(code(Search::parse(&"a".repeat(255))), "too_long");
        let id = Uuid::now_v7();
        assert_eq!(Search::parse(&format!(" {id} ")).expect("short").and_then(|s| s.id), Some(id));
    }
}
