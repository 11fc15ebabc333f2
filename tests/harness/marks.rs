//! Values that must not be found somewhere, and how they are looked for.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What must not be found.
#[derive(Default)]
pub struct Marks(BTreeSet<String>);

impl Marks {
    /// Takes note of it, and gives it back to be used.
    pub fn add(&mut self, mark: &str) -> String {
        assert!(mark.len() >= 8, "{mark} may stand in a log by chance");
        self.0.insert(mark.to_owned());
        mark.to_owned()
    }

    /// A token: the whole, and each part but the header, which all tokens share.
    pub fn add_token(&mut self, token: &str) -> String {
        for part in token.split('.').skip(1) {
            self.add(part);
        }
        self.add(token)
    }

    /// An answer of /login or /refresh.
    pub fn add_pair(&mut self, pair: Value) -> Value {
        for name in ["token", "refresh_token"] {
            self.add_token(pair[name].as_str().unwrap());
        }
        pair
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Fails if one of them is in the log, as it is or in other words.
    #[track_caller]
    pub fn assert_not_in(&self, log: &str) {
        let log = log.to_lowercase();
        for mark in &self.0 {
            for form in forms(mark) {
                if let Some(at) = log.find(&form.to_lowercase()) {
                    let line = log[..at].lines().count().saturating_sub(1);
                    panic!("{mark} is in the log: {:?}", log.lines().nth(line));
                }
            }
        }
    }
}

/// A value as it is, and as it looks in URLs, in headers and in dumps.
fn forms(mark: &str) -> Vec<String> {
    let mut forms = vec![
        mark.to_owned(),
        utf8_percent_encode(mark, NON_ALPHANUMERIC).to_string(),
        form_urlencoded::byte_serialize(mark.as_bytes()).collect(),
        format!("{:02x?}", mark.as_bytes()).replace(['[', ']', ',', ' '], ""),
        format!("{:?}", mark.as_bytes()).trim_matches(['[', ']']).to_owned(),
    ];
    // Inside of other text, three bytes begin at any of them: what does not depend on the
    // neighbours.
    for before in 0..3 {
        let text = [vec![b' '; before], mark.as_bytes().to_vec()].concat();
        for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            let encoded = encoded.trim_end_matches('=');
            forms.push(encoded[(before * 8).div_ceil(6)..encoded.len() - 1].to_owned());
        }
    }
    forms
}

#[test]
fn a_mark_is_found_in_every_disguise() {
    let mut marks = Marks::default();
    marks.add("päss word!");
    for before in ["", "a", "ab"] {
        let text = format!("{before}päss word!:more");
        for log in [
            text.clone(),
            text.to_uppercase(),
            STANDARD.encode(&text),
            URL_SAFE_NO_PAD.encode(&text),
        ] {
            let found = std::panic::catch_unwind(|| marks.assert_not_in(&format!("x\n {log}\n")));
            assert!(found.is_err(), "{log}");
        }
    }
    marks.assert_not_in("nothing of that: pass word");
}
