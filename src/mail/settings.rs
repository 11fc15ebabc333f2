//! The mail server's address, as the operator writes it in `SMTP_URL`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

use crate::network::is_loopback;

const GMAIL: &str = "smtp.gmail.com";

const FORMS: &str = "write smtps://user:password@host:465 (TLS) or \
                     smtp://user:password@host:587?tls=required (STARTTLS)";

/// How the connection is protected. There is no form that begins with TLS and falls back to plain
/// text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// Plain for the greeting, then STARTTLS or nothing.
    StartTls,
    /// No TLS: only for a server on this machine.
    Plain,
}

/// How long to wait for a mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For each answer; twice that to be connected.
    pub command: Duration,
    /// For a letter, all in all.
    pub letter: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { command: Duration::from_secs(10), letter: Duration::from_secs(45) }
    }
}

/// Where the mail server is and who we are there.
#[derive(Clone)]
pub struct SmtpSettings {
    /// A name in ASCII, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// User and password.
    pub login: Option<(String, SecretString)>,
    pub deadlines: Deadlines,
    /// The host that we say we are: a domain, or an IP address with or without brackets. A name
    /// without a dot, or none, counts as an address of this machine.
    pub hello: String,
}

/// Shows neither the password nor the user, who is a mail address more often than not.
impl fmt::Debug for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

impl SmtpSettings {
    /// Reads an `SMTP_URL`. User and password are percent-encoded where they must be. Without a
    /// port: 465 for `smtps`, 587 for STARTTLS, 25 for a plain local server.
    ///
    /// The error is a sentence without a subject that says what to write instead. It repeats
    /// nothing of the URL: a password in the wrong place could stand anywhere in it.
    pub fn parse(raw: &str) -> Result<Self, String> {
        let url = Url::parse(raw.trim()).map_err(|_| format!("is not a URL: {FORMS}"))?;
        if !matches!(url.scheme(), "smtps" | "smtp") {
            return Err(format!("does not begin with smtps:// or smtp://: {FORMS}"));
        }
        if url.fragment().is_some() || !matches!(url.path(), "" | "/") {
            return Err(
                "has something after the host: in the password, write % as %25, # as %23, / as %2F, ? as %3F, @ as %40"
                    .to_owned(),
            );
        }
        let host = host(&url)?;
        let security = security(&url, &host)?;
        let default_port = match security {
            Security::Tls => 465,
            Security::StartTls => 587,
            Security::Plain => 25,
        };
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return Err(format!("has port 0: leave the port out for {default_port}"));
        }
        let login = login(&url, &host)?;
        Ok(Self {
            host,
            port,
            security,
            login,
            deadlines: Deadlines::default(),
            hello: String::new(),
        })
    }

    /// Gmail with an app password: the same as
    /// `smtps://you%40gmail.com:app-password@smtp.gmail.com:465`.
    pub fn gmail(address: &str, app_password: &str) -> Self {
        Self {
            host: GMAIL.to_owned(),
            port: 465,
            security: Security::Tls,
            login: Some((address.trim().to_owned(), without_spaces(app_password).into())),
            deadlines: Deadlines::default(),
            hello: String::new(),
        }
    }
}

fn host(url: &Url) -> Result<String, String> {
    let raw = url.host_str().unwrap_or_default();
    let bare = raw.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    match Host::parse(raw) {
        Ok(Host::Domain(name)) => Ok(name),
        _ => Err(format!("names no host that can be used: {FORMS}")),
    }
}

fn security(url: &Url, host: &str) -> Result<Security, String> {
    let parameters: Vec<_> = url.query_pairs().collect();
    let tls_required = match parameters.as_slice() {
        [] => false,
        [(name, value)] if name == "tls" && value == "required" => true,
        _ => {
            return Err(format!(
                "has a parameter that is not tls=required (TLS is never optional): {FORMS}"
            ));
        }
    };
    match (url.scheme() == "smtps", tls_required) {
        (true, false) => Ok(Security::Tls),
        (true, true) => {
            Err("asks for both kinds of TLS: take smtps:// alone, or smtp:// with ?tls=required"
                .to_owned())
        }
        (false, true) => Ok(Security::StartTls),
        (false, false) if is_loopback(host) => Ok(Security::Plain),
        (false, false) => {
            Err(format!("would send the password and the mail in the clear: {FORMS}"))
        }
    }
}

fn login(url: &Url, host: &str) -> Result<Option<(String, SecretString)>, String> {
    let decode = |raw: &str| {
        let decoded = percent_decode_str(raw).decode_utf8();
        decoded
            .map(String::from)
            .map_err(|_| "has a user or password that is not UTF-8 once percent-decoded".to_owned())
    };
    let user = decode(url.username())?;
    let password = decode(url.password().unwrap_or_default())?;
    match (user.is_empty(), password.is_empty()) {
        (true, true) => Ok(None),
        (false, false) if host == GMAIL => Ok(Some((user, without_spaces(&password).into()))),
        (false, false) => Ok(Some((user, password.into()))),
        (false, true) => Err("has a user and no password".to_owned()),
        (true, false) => Err("has a password and no user".to_owned()),
    }
}

/// Google shows an app password in groups of four, with spaces (and not only ordinary ones) that
/// are not part of it.
fn without_spaces(password: &str) -> String {
    password.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    /// Everything of the settings in one line.
    fn shown(settings: &SmtpSettings) -> String {
        let SmtpSettings { host, port, security, login, .. } = settings;
        let login =
            login.as_ref().map(|(user, password)| (user.as_str(), password.expose_secret()));
        format!("{security:?} {host} {port} {login:?}")
    }

    #[test]
    fn every_good_url_is_understood() {
        let table = [
            (
                "smtps://you%40gmail.com:app-password@smtp.gmail.com:465",
                r#"Tls smtp.gmail.com 465 Some(("you@gmail.com", "app-password"))"#,
            ),
            (
                "smtps://you%40gmail.com:abcd efgh%20ijkl\u{a0}mnop@smtp.gmail.com",
                r#"Tls smtp.gmail.com 465 Some(("you@gmail.com", "abcdefghijklmnop"))"#,
            ),
            (
                "smtps://you@gmail.com:abcd@SMTP.Gmail.com",
                r#"Tls smtp.gmail.com 465 Some(("you@gmail.com", "abcd"))"#,
            ),
            ("smtps://u:a%20b@mail.example", r#"Tls mail.example 465 Some(("u", "a b"))"#),
            ("smtps://mail.example:2465/", "Tls mail.example 2465 None"),
            ("smtps://u:p@bücher.example", r#"Tls xn--bcher-kva.example 465 Some(("u", "p"))"#),
            (
                "smtp://u:p%2F%23%3F%25%3A%C3%A4@mail.example:587?tls=required",
                r#"StartTls mail.example 587 Some(("u", "p/#?%:ä"))"#,
            ),
            (
                "smtp://u:p:q@mail.example?tls=required",
                r#"StartTls mail.example 587 Some(("u", "p:q"))"#,
            ),
            ("  smtp://localhost:1025\n", "Plain localhost 1025 None"),
            ("smtp://LOCALHOST", "Plain localhost 25 None"),
            ("smtp://u:p@127.8.8.8", r#"Plain 127.8.8.8 25 Some(("u", "p"))"#),
            ("smtp://[::1]:2525", "Plain ::1 2525 None"),
            ("smtp://[::1]?tls=required", "StartTls ::1 587 None"),
        ];
        for (url, expected) in table {
            let settings =
                SmtpSettings::parse(url).unwrap_or_else(|complaint| panic!("{url} {complaint}"));
            assert_eq!(shown(&settings), expected, "{url}");
        }
    }

    #[test]
    fn every_bad_url_is_refused_with_a_reason_and_without_the_password() {
        let table = [
            ("", "is not a URL"),
            ("smtp.gmail.com", "is not a URL"),
            ("you:hunter2@mail.example", "does not begin with"),
            ("https://you:hunter2@mail.example", "does not begin with"),
            ("smtps://you:hunt#er2@mail.example", "is not a URL"),
            ("smtps://you:1#hunter2@mail.example", "has something after the host"),
            ("smtps://you:1/hunter2@mail.example", "has something after the host"),
            ("smtps://you:1?hunter2@mail.example", "has a parameter"),
            ("smtps://you:hunter2@", "is not a URL"),
            ("smtps:hunter2", "has something after the host"),
            ("smtps://", "names no host"),
            ("smtps://you:hunter2@mail.example:0", "has port 0"),
            ("smtps://you:hunter2@mail.example:99999", "is not a URL"),
            ("smtps://you@mail.example", "no password"),
            ("smtps://:hunter2@mail.example", "no user"),
            ("smtps://you:hunter2%FF@mail.example", "not UTF-8"),
            ("smtps://you:hunter2@mail.example?tls=required", "both kinds"),
            ("smtp://you:hunter2@mail.example", "in the clear"),
            ("smtp://you:hunter2@127.0.0.1.mail.example", "in the clear"),
            ("smtp://you:hunter2@localhost.mail.example", "in the clear"),
            ("smtp://you:hunter2@10.0.0.1", "in the clear"),
            ("smtp://you:hunter2@mail.example?tls=opportunistic", "tls=required"),
            ("smtp://you:hunter2@localhost?tls=opportunistic", "tls=required"),
            ("smtp://you:hunter2@mail.example?tls=required&tls=none", "tls=required"),
            ("smtp://you:hunter2@mail.example?TLS=required", "tls=required"),
        ];
        for (url, reason) in table {
            let complaint =
                SmtpSettings::parse(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(complaint.contains(reason), "{url}: {complaint}");
            assert!(
                !complaint.contains("hunt") && !complaint.contains("er2"),
                "{url}: {complaint}"
            );
        }
    }

    #[test]
    fn the_complaint_about_plain_text_names_both_safe_forms() {
        let complaint = SmtpSettings::parse("smtp://mail.example").err().unwrap_or_default();
        assert!(complaint.contains("smtps://user:password@host:465"));
        assert!(complaint.contains("smtp://user:password@host:587?tls=required"));
    }

    #[test]
    fn gmail_is_short_for_its_url() {
        let url = "smtps://you%40gmail.com:abcdefghijklmnop@smtp.gmail.com:465";
        let parsed = SmtpSettings::parse(url).map(|settings| shown(&settings));
        let gmail = SmtpSettings::gmail(" you@gmail.com", "abcd efgh ijkl mnop");
        assert_eq!(parsed, Ok(shown(&gmail)));
    }

    #[test]
    fn settings_print_neither_user_nor_password() {
        let printed = format!("{:?}", SmtpSettings::gmail("you@gmail.com", "hunter2"));
        assert!(!printed.contains("hunter2") && !printed.contains("you@"), "{printed}");
    }
}
