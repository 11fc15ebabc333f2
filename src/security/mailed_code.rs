//! Codes for letters: eight digits that a row and its purpose make, so that none is kept anywhere.

use aws_lc_rs::hmac;
use secrecy::SecretString;
use uuid::Uuid;

use super::{are_equal, derive_key};

const INFO: &str = "doorward/code/1";

/// Makes and compares them.
pub struct MailedCodes {
    /// Of the present secret, and of the one before.
    keys: Vec<hmac::Key>,
}

/// What a mailed code is for; with another purpose the same row has another code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodePurpose {
    Reset,
    Confirm,
}

impl CodePurpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Confirm => "confirm",
        }
    }
}

impl MailedCodes {
    pub fn new(secret: &SecretString, previous: Option<&SecretString>) -> Self {
        let secrets = [Some(secret), previous].into_iter().flatten();
        let key = |secret| {
            let key = derive_key(secret, INFO);
            hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())
        };
        Self { keys: secrets.map(key).collect() }
    }

    /// The code for a letter that is sent now.
    pub fn make(&self, purpose: CodePurpose, row: Uuid) -> String {
        digits(&self.keys[0], purpose, row)
    }

    /// Whether this is the row's code, however it was typed: all but the digits is dropped.
    pub fn matches(&self, purpose: CodePurpose, row: Uuid, typed: &str) -> bool {
        let typed: String = typed.chars().filter(char::is_ascii_digit).collect();
        // Every key is tried: which one it was shows in no time.
        self.keys.iter().fold(false, |found, key| {
            let code = digits(key, purpose, row);
            are_equal(code.as_bytes(), typed.as_bytes()) | found
        })
    }
}

fn digits(key: &hmac::Key, purpose: CodePurpose, row: Uuid) -> String {
    let mut message = purpose.as_str().as_bytes().to_vec();
    message.push(0);
    message.extend_from_slice(row.as_bytes());
    let tag = hmac::sign(key, &message);
    let first = tag.as_ref().first_chunk().expect("a tag has 32 bytes");
    format!("{:08}", u64::from_be_bytes(*first) % 100_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(fill: &str, previous: Option<&str>) -> MailedCodes {
        let secret = |fill: &str| SecretString::from(fill.repeat(40));
        MailedCodes::new(&secret(fill), previous.map(secret).as_ref())
    }

    #[test]
    fn a_code_is_taken_however_it_is_typed_and_no_other_is() {
        let (codes, row) = (codes("k", None), Uuid::from_u128(7));
        let code = codes.make(CodePurpose::Reset, row);
        assert_eq!(code.len(), 8);
        let (first, last) = code.split_at(4);
        for typed in [&code, &format!("{first} {last}"), &format!(" {first}-{last}\n")] {
            assert!(codes.matches(CodePurpose::Reset, row, typed), "{typed}");
        }
        let other = codes.make(CodePurpose::Reset, Uuid::from_u128(8));
        for typed in [&other, "", first, &format!("{code}0"), &format!("0{code}")] {
            assert!(!codes.matches(CodePurpose::Reset, row, typed), "{typed}");
        }
        assert!(!codes.matches(CodePurpose::Confirm, row, &code), "of another purpose");
    }

    #[test]
    fn a_code_of_the_secret_before_is_good_and_a_strangers_is_not() {
        let row = Uuid::from_u128(7);
        let before = codes("k", None).make(CodePurpose::Reset, row);
        assert!(codes("n", Some("k")).matches(CodePurpose::Reset, row, &before));
        assert!(!codes("n", None).matches(CodePurpose::Reset, row, &before));
    }
}
