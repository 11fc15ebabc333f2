//! Passwords: as they are claimed, and as they may be chosen.

use std::sync::LazyLock;

use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema};

/// Longest password in bytes, after NFC.
const MAX_PASSWORD_BYTES: usize = 1024;
/// Longest password in code points, after NFC.
const MAX_PASSWORD_CHARS: usize = 256;

/// Passwords of 8 and more characters that attackers try first: lower case, one a line, sorted by
/// bytes.
static COMMON_PASSWORDS: &str = include_str!("common_passwords.txt");

/// Those of the documentation, which some reader keeps.
const EXAMPLES: [&str; 2] = [EXAMPLE, "correct-horse-battery-staple"];
const EXAMPLE: &str = "correct horse battery staple";

/// A password as given for a check: normalised (NFC), not validated.
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

impl PartialSchema for Password {
    fn schema() -> RefOr<Schema> {
        let schema = string_schema()
            .description(Some("The present password."))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
            .examples([EXAMPLE]);
        schema.into()
    }
}

impl ToSchema for Password {}

/// A password that may be set.
#[derive(Clone, Debug)]
pub struct NewPassword(Password);

impl NewPassword {
    /// By NIST SP 800-63B's rules, that is a length, a list of what attackers try first, nothing
    /// that the account itself gives away, and no rules of composition.
    pub fn parse(
        raw: &str,
        min_chars: usize,
        context: &PasswordContext<'_>,
    ) -> Result<Self, FieldError> {
        // Checked before normalising too: a request must not cause a megabyte to be normalised.
        if raw.len() > 4 * MAX_PASSWORD_BYTES {
            return Err(FieldError::too_long(MAX_PASSWORD_CHARS));
        }
        let password: String = raw.nfc().collect();
        let chars = password.chars().count();
        if chars < min_chars {
            return Err(FieldError::too_short(min_chars));
        }
        if chars > MAX_PASSWORD_CHARS || password.len() > MAX_PASSWORD_BYTES {
            return Err(FieldError::too_long(MAX_PASSWORD_CHARS));
        }
        let folded = password.to_lowercase();
        if let Some(refusal) = context.refusal(&folded) {
            return Err(refusal);
        }
        if is_common(&folded) {
            let message = "This password is on the list of common passwords.";
            return Err(FieldError::new("too_common", message));
        }
        Ok(Self(Password(SecretString::from(password))))
    }
}

impl From<NewPassword> for Password {
    fn from(new: NewPassword) -> Self {
        new.0
    }
}

impl PartialSchema for NewPassword {
    /// Without the least length, which is a setting: the document adds it.
    fn schema() -> RefOr<Schema> {
        let description = "Not a common password, and nothing that the account itself says. The \
                           length is counted after NFC.";
        let schema = string_schema()
            .description(Some(description))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
            .max_length(Some(MAX_PASSWORD_CHARS))
            .examples([EXAMPLE]);
        schema.into()
    }
}

impl ToSchema for NewPassword {}

/// What the account says about itself, so that a password may not repeat it. Empty parts are
/// skipped.
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
        } else if core(folded) == "doorward" {
            refuse("same_as_service", "the name of this service")
        } else {
            None
        }
    }
}

/// At most so many digits and marks at its ends make of a common password no other one: with more
/// it is long enough by them alone.
const MAX_ENDS: usize = 10;
/// A common word of fewer letters says nothing.
const MIN_CORE: usize = 4;

/// Whether attackers try it first: as it is, or with other digits and marks at its ends.
fn is_common(folded: &str) -> bool {
    /// 260 KB each from the first new password on, so that a search is one line.
    static LINES: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let lines = COMMON_PASSWORDS.lines().chain(EXAMPLES);
        sorted(lines.flat_map(|line| [line, without_marks(line)]))
    });
    static CORES: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let cores = COMMON_PASSWORDS.lines().map(core);
        sorted(cores.filter(|core| core.len() >= MIN_CORE))
    });
    let is_line = |text: &str| LINES.binary_search(&text).is_ok();
    let core = core(folded);
    let ends = folded.chars().count() - core.chars().count();
    is_line(folded)
        || is_line(without_marks(folded))
        || is_line(core)
        || (ends <= MAX_ENDS && CORES.binary_search(&core).is_ok())
}

fn sorted<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Without the marks at its ends.
fn without_marks(folded: &str) -> &str {
    folded.trim_matches(|c: char| !c.is_alphanumeric())
}

/// Without the digits and marks at its ends.
fn core(folded: &str) -> &str {
    folded.trim_matches(|c: char| !c.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn every_common_password_is_found_and_their_neighbours_are_not() {
        let mut count = 0;
        for line in COMMON_PASSWORDS.lines() {
            assert!(is_common(line), "{line}");
            let is_marks = !line.chars().any(char::is_alphanumeric);
            assert!(is_marks || is_common(&format!("{line}!")), "{line}");
            let is_word = line.chars().any(char::is_alphabetic);
            assert!(!is_word || !is_common(&format!("{line} and more")), "{line}");
            count += 1;
        }
        assert_eq!(count, 16_290);
        assert!(!is_common("") && !is_common("\u{10ffff}") && !is_common("!"));
        for pattern in ["password2024!", "!!welcome99", "12345678#", "qwerty!2026", "--sunshine--"]
        {
            assert!(is_common(pattern), "{pattern}");
        }
        // Digits enough to be a password by themselves, and words that are not common.
        assert!(!is_common("welcome-8351-9027-4416") && !is_common("zinnober2026"));
    }

    #[test]
    fn passwords_have_no_rules_but_sense() {
        let context = PasswordContext {
            username: "AdaLove88",
            email: "ada.lovelace@example.com",
            first_name: "Augusta",
            last_name: "Lovelace",
        };
        let parse = |raw: &str| NewPassword::parse(raw, 8, &context);
        assert!(parse("correct horse").is_ok());
        assert_eq!(code(parse("1234567")), "too_short");
        assert_eq!(code(parse(&"x".repeat(257))), "too_long");
        assert!(parse(&"x".repeat(256)).is_ok());
        assert_eq!(code(parse("PassWord1")), "too_common");
        assert_eq!(code(parse("adalove88")), "same_as_username");
        assert_eq!(code(parse("ADA.LOVELACE@example.com")), "same_as_email");
        assert_eq!(code(parse("ada.lovelace")), "same_as_email");
        assert_eq!(code(parse("augusta lovelace")), "same_as_name");
        for name in ["Doorward", "doorward2026", "!Doorward99"] {
            assert_eq!(code(parse(name)), "same_as_service");
        }
        assert_eq!(code(parse("Correct Horse Battery Staple")), "too_common");
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
