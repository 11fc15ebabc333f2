//! Secrets that have to be random: what is too short or was never meant to be one is refused.

use std::collections::BTreeSet;

use secrecy::SecretString;

use super::MIN_SECRET_BYTES;
use super::vars::Vars;

/// The fewest characters of a `METRICS_TOKEN`.
const MIN_METRICS_TOKEN_CHARS: usize = 16;

/// What examples and templates say in place of a key, in small letters and without what stands
/// between words. Of 8 letters or more, which no random key has by chance: 32 bytes in Base64 hold
/// one of these once in a billion keys.
#[rustfmt::skip]
const PLACEHOLDERS: [&str; 16] = [
    "changeit", "changeme", "changethis", "generateone", "insertkey", "insertsecret", "insertyour", "keygoeshere",
    "opensslrand", "placeholder", "putyour", "replaceme", "replacethis", "replacewith", "secretgoeshere", "yoursecret",
];

/// What a key may begin with, where something random follows.
#[rustfmt::skip]
const NAMES: [&str; 10] = [
    "examplekey", "examplesecret", "mysecret", "notasecret", "notsecret", "randombytes", "secretkey", "supersecret",
    "topsecret", "verysecret",
];

/// The fewest characters that may be the random part of a key that has a name before it.
const MIN_RANDOM_CHARS: usize = 16;

/// The longest run of one character in a random key: 12 zeros in a row come once in a million
/// million keys in hexadecimal.
const LONGEST_RUN: usize = 11;

impl Vars<'_> {
    pub(super) fn secret_key(&mut self, name: &str, required: bool) -> Option<SecretString> {
        // Not trimmed: the key is the string's own bytes.
        let raw = self.raw(name);
        match &raw {
            None if required => self.complain(format!(
                "{name} is not set: it signs every token. Make one with `openssl rand -base64 48`."
            )),
            Some(raw) if is_placeholder(raw) => self.complain(format!(
                "{name} holds the placeholder of an example, which everybody knows: make one with `openssl rand \
                 -base64 48`."
            )),
            Some(raw) if raw.len() < MIN_SECRET_BYTES || is_monotonous(raw) => self.complain(format!(
                "{name} is too weak: {MIN_SECRET_BYTES} or more random bytes. Make one with `openssl rand -base64 48`."
            )),
            _ => {}
        }
        raw.map(SecretString::from)
    }

    pub(super) fn metrics_token(&mut self) -> Option<SecretString> {
        let raw = self.get("METRICS_TOKEN")?;
        if is_placeholder(&raw) {
            self.complain(
                "METRICS_TOKEN holds the placeholder of an example, which everybody knows: make one with `openssl rand \
                 -hex 24`.",
            );
        } else if raw.len() < MIN_METRICS_TOKEN_CHARS || !raw.bytes().all(|b| b.is_ascii_graphic())
        {
            // It travels in a header, where other characters cannot, or mean something.
            self.complain(format!(
                "METRICS_TOKEN is too weak: {MIN_METRICS_TOKEN_CHARS} or more random characters, without spaces. Make \
                 one with `openssl rand -hex 24`."
            ));
        }
        Some(raw.into())
    }
}

/// Whether a value is what an example or a template has in its place.
fn is_placeholder(raw: &str) -> bool {
    let letters: String = raw.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.to_ascii_lowercase();
    let is_bracketed = [("<", ">"), ("{{", "}}"), ("${", "}"), ("$(", ")"), ("[", "]")]
        .iter()
        .any(|(start, end)| raw.trim().starts_with(start) && raw.trim().ends_with(end));
    let is_named = |name: &&str| {
        let rest = letters.find(*name).map(|at| letters.len() - at - name.len());
        rest.is_some_and(|rest| rest < MIN_RANDOM_CHARS)
    };
    is_bracketed
        || letters == "secret"
        || PLACEHOLDERS.iter().any(|known| letters.contains(known))
        || NAMES.iter().any(is_named)
}

/// Whether a text has few different bytes, one many times in a row, or is a piece of up to 12 bytes
/// again and again.
fn is_monotonous(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    let repeats =
        (1..=12.min(bytes.len())).any(|piece| bytes[piece..] == bytes[..bytes.len() - piece]);
    let longest_run = bytes.chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap_or_default();
    bytes.iter().collect::<BTreeSet<_>>().len() < 8 || longest_run > LONGEST_RUN || repeats
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn complaints(name: &str, value: &str) -> Vec<String> {
        Config::read(|asked| (asked == name).then(|| value.to_owned())).1
    }

    #[test]
    fn the_placeholder_of_an_example_is_refused_with_how_to_make_a_key() {
        for name in ["SECRET_KEY", "SECRET_KEY_PREVIOUS", "METRICS_TOKEN"] {
            for placeholder in [
                "change-me",
                "CHANGE_ME_to_something_long_and_random_0123456789",
                "please-change-this-key-in-production-42",
                "secret",
                "your-secret-key",
                "your_super_secret_key_of_32_bytes_or_more",
                "<32 or more random bytes, made by you>",
                "{{ doorward.signing_material.of_32_bytes }}",
                "$(openssl rand -base64 48)",
                "${DOORWARD_SIGNING_MATERIAL_FROM_VAULT}",
                "replace with the output of: openssl rand -base64 48",
            ] {
                let said = complaints(name, placeholder);
                assert_eq!(said.len(), 1, "{name} {placeholder}: {said:?}");
                assert!(said[0].starts_with(&format!("{name} holds the placeholder")), "{said:?}");
                assert!(
                    said[0].contains("`openssl rand -") && !said[0].contains(placeholder),
                    "{said:?}"
                );
            }
        }
    }

    #[test]
    fn a_key_of_few_or_repeated_characters_is_too_weak() {
        for weak in [
            "xxxx",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "xxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxx",
            "sk_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "aB3dE6gH0000000000000000000000000000000000",
            "...",
        ] {
            let said = complaints("SECRET_KEY", weak);
            assert!(
                said.len() == 1 && said[0].starts_with("SECRET_KEY is too weak"),
                "{weak}: {said:?}"
            );
        }
    }

    #[test]
    fn keys_as_people_make_them_are_taken() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state >> 56).expect("8 bits")
        };
        for _ in 0..2000 {
            let bytes: [u8; 48] = std::array::from_fn(|_| random());
            let hex = format!("{:02x?}", &bytes[..16]).replace(['[', ']', ',', ' '], "");
            for key in [STANDARD.encode(bytes), hex] {
                assert_eq!(complaints("SECRET_KEY", &key), [""; 0]);
            }
        }
        for own in [
            "seven angry xylophones quarrel over one secret lemon",
            "my-app-secret-key-9f86d081884c7d659a2feaa0c55ad015",
        ] {
            assert_eq!(complaints("SECRET_KEY", own), [""; 0]);
        }
    }
}
