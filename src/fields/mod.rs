//! Strings that have been checked: past the request type no raw string travels.
//!
//! Each `parse` takes what a client sent and gives the checked value or a [`FieldError`] with a
//! stable code. Each type also says in the OpenAPI document what `parse` accepts, from the same
//! constants: a request type that holds it repeats no limit. By hand, as utoipa's attributes take
//! literals alone.

mod ban_reason;
pub mod device;
mod email;
mod instant;
mod name;
mod password;
mod role;
mod search;
mod username;

use utoipa::openapi::schema::{ObjectBuilder, Type};
use uuid::Uuid;

pub use ban_reason::BanReason;
pub use email::Email;
pub use instant::Instant;
pub use name::Name;
pub use password::{NewPassword, Password, PasswordContext};
pub use role::{Role, RoleName};
pub use search::Search;
pub use username::{MIN_USERNAME_CHARS, Username};

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

    pub fn too_short(min_chars: usize) -> Self {
        Self::new("too_short", format!("Use at least {min_chars} characters."))
    }

    pub fn too_long(max_chars: usize) -> Self {
        Self::new("too_long", format!("Use at most {max_chars} characters."))
    }
}

/// A name or an address without what copying put around it: white space, and the marks that address
/// books and chat programs add unseen.
pub fn trimmed(raw: &str) -> &str {
    raw.trim_matches(|c: char| c.is_whitespace() || is_invisible_mark(c))
}

/// Reads an id.
pub fn parse_uuid(raw: &str) -> Result<Uuid, FieldError> {
    let text = "Use an id such as 019a2e4c-7f00-7000-8000-000000000000.";
    Uuid::try_parse(trimmed(raw)).map_err(|_| FieldError::new("invalid_format", text))
}

/// The name or the address of a login, in the form in which it is unique.
pub fn login_key(raw: &str) -> String {
    let raw = trimmed(raw);
    let address = raw.rsplit_once('@').and_then(|(local, domain)| {
        let domain = email::ascii_domain(domain).filter(|_| !domain.is_ascii())?;
        Some(format!("{local}@{domain}"))
    });
    address.as_deref().unwrap_or(raw).to_ascii_lowercase()
}

/// Marks of direction and of width zero, and the byte order mark.
fn is_invisible_mark(c: char) -> bool {
    matches!(
        c,
        '\u{61C}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'
            | '\u{2066}'..='\u{2069}' | '\u{FEFF}'
    )
}

/// Characters that show nothing by themselves: the marks, fillers, and what only changes a
/// neighbour.
fn is_invisible(c: char) -> bool {
    is_invisible_mark(c)
        || matches!(
            c,
            '\u{AD}' | '\u{34F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
                | '\u{180B}'..='\u{180F}' | '\u{2061}'..='\u{2065}' | '\u{206A}'..='\u{206F}'
                | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FFA0}'
                | '\u{FFF9}'..='\u{FFFB}' | '\u{1D159}' | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0000}'..='\u{E0FFF}'
        )
}

/// A string in the OpenAPI document, for a type to add its limits.
fn string_schema() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

#[cfg(test)]
fn code<T: std::fmt::Debug>(result: Result<T, FieldError>) -> &'static str {
    result.expect_err("refused").code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copying_put_around_a_name_is_dropped_and_nothing_inside_it() {
        for around in
            [" ", "\n", "\u{a0}", "\u{3000}", "\u{200b}", "\u{feff}", "\u{202a}", "\u{61c}"]
        {
            assert_eq!(
                trimmed(&format!("{around}a{around}b{around}{around}")),
                format!("a{around}b")
            );
        }
        assert_eq!(trimmed("\u{200b} "), "");
    }

    #[test]
    fn a_login_is_looked_up_in_the_form_that_is_unique() {
        assert_eq!(login_key(" Ada\u{200b}"), "ada");
        assert_eq!(login_key("Ada@B\u{fc}cher.Example"), "ada@xn--bcher-kva.example");
        assert_eq!(login_key("Ada@Example.com\n"), "ada@example.com");
        assert_eq!(login_key("ada@\u{fc}%41"), "ada@\u{fc}%41");
    }
}
