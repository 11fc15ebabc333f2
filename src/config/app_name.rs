//! What people know the service by: in the subjects of letters, in letters and on pages.

/// The most characters of one.
const MAX_CHARS: usize = 60;

pub(super) const COMPLAINT: &str =
    "APP_NAME must be at most 60 characters on one line, without control characters.";

/// The service's own name, else the sender's, else the host; that of the latter two as an error
/// where the own one would not do.
pub(super) fn choose(
    own: Option<String>,
    mail_from: Option<&str>,
    host: &str,
) -> Result<String, String> {
    let default = || mail_from.and_then(of_sender).unwrap_or_else(|| host.to_owned());
    match own {
        Some(own) if is_usable(&own) => Ok(own),
        Some(_) => Err(default()),
        None => Ok(default()),
    }
}

/// Whether it can be the name: nothing in it may end the line of a header, in a letter.
fn is_usable(name: &str) -> bool {
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    (1..=MAX_CHARS).contains(&name.chars().count()) && !name.contains(is_bad)
}

/// The display name of `Example <no-reply@example.com>`. One that would not do as the name is good
/// for the sender all the same.
fn of_sender(raw: &str) -> Option<String> {
    let sender: lettre::message::Mailbox = raw.parse().ok()?;
    sender.name.map(|name| name.trim().to_owned()).filter(|name| is_usable(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Complaints, Config};

    fn read(vars: &[(&str, &str)]) -> Result<Config, Complaints> {
        let value = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        Config::from_vars(|name| value(name).map(str::to_owned))
    }

    #[test]
    fn the_service_is_called_by_its_own_name_the_senders_or_its_host() {
        let name = |vars: &[(&str, &str)]| read(vars).expect("usable").app_name;
        let url = ("PUBLIC_URL", "https://example.com:8443/auth/");
        let from = ("MAIL_FROM", "Bücher & Söhne <no-reply@example.com>");
        assert_eq!(name(&[url]), "example.com");
        assert_eq!(name(&[url, from]), "Bücher & Söhne");
        assert_eq!(name(&[url, ("MAIL_FROM", "no-reply@example.com")]), "example.com");
        assert_eq!(name(&[url, from, ("APP_NAME", " Acme ")]), "Acme");
        assert_eq!(read(&[url]).expect("usable").public_path(), "/auth");
        assert_eq!(read(&[]).expect("usable").public_path(), "");
        let complaints =
            read(&[("APP_NAME", "Acme\r\nBcc: eve@example.com")]).expect_err("refused");
        assert!(complaints.0[0].starts_with("APP_NAME must be"), "{complaints}");
    }

    #[test]
    fn a_name_is_one_short_line() {
        for good in ["A", "Bücher & Söhne", &"ä".repeat(MAX_CHARS)] {
            assert!(is_usable(good), "{good}");
        }
        let long = "x".repeat(MAX_CHARS + 1);
        for bad in
            ["", "a\nb", "a\r\nBcc: b", "a\tb", "a\0b", "a\u{7f}", "a\u{85}b", "a\u{2028}b", &long]
        {
            assert!(!is_usable(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_senders_name_is_taken_where_it_has_one() {
        let cases = [
            ("Acme <a@example.com>", Some("Acme")),
            ("\"Acme, Inc.\" <a@example.com>", Some("Acme, Inc.")),
            ("a@example.com", None),
            ("<a@example.com>", None),
            ("nonsense", None),
        ];
        for (raw, name) in cases {
            assert_eq!(of_sender(raw).as_deref(), name, "{raw}");
        }
        assert_eq!(of_sender(&format!("{} <a@example.com>", "x".repeat(MAX_CHARS + 1))), None);
    }
}
