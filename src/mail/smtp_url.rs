//! `SMTP_URL`, as an operator writes it.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

use super::settings::{GMAIL, without_spaces};
use super::{Deadlines, Security, SmtpSettings};
use crate::network::is_loopback;

const FORMS: &str = "write smtps://user:password@host:465 (TLS) or \
                     smtp://user:password@host:587?tls=required (STARTTLS)";

impl SmtpSettings {
    /// Reads an `SMTP_URL`. User and password end at the last `@`, as nothing after it can have one,
    /// and the user at its first `:`; whatever else a password has in it may stand there as it is. It
    /// is taken for percent-encoded where each `%` of it begins a code (`%2F`). Without a port: 465
    /// for `smtps`, 587 for STARTTLS, 25 for a plain server.
    ///
    /// The error is a sentence without a subject that says what to write instead. It repeats
    /// nothing of the URL: a password in the wrong place could stand anywhere in it.
    pub fn parse(raw: &str) -> Result<Self, String> {
        let unknown = || format!("does not begin with smtps:// or smtp://: {FORMS}");
        let (scheme, rest) = raw.trim().split_once("://").ok_or_else(unknown)?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "smtps" | "smtp") {
            return Err(unknown());
        }
        let (credentials, server) = match rest.rsplit_once('@') {
            Some((credentials, server)) => (Some(credentials), server),
            None => (None, rest),
        };
        let url = Url::parse(&format!("{scheme}://{server}"))
            .map_err(|_| format!("names no host and port that can be used: {FORMS}"))?;
        if url.fragment().is_some() || !matches!(url.path(), "" | "/") {
            return Err(format!(
                "has something after the host that does not belong there: {FORMS}"
            ));
        }
        let host = host(&url)?;
        let login = credentials.map(|credentials| login(credentials, &host)).transpose()?.flatten();
        let security = security(&url, &host, login.is_some())?;
        let default_port = match security {
            Security::Tls => 465,
            Security::StartTls => 587,
            Security::Plain => 25,
        };
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return Err(format!("has port 0: leave the port out for {default_port}"));
        }
        let (deadlines, hello) = (Deadlines::USUAL, String::new());
        Ok(Self { host, port, security, login, deadlines, hello })
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

fn security(url: &Url, host: &str, has_login: bool) -> Result<Security, String> {
    let parameters: Vec<_> = url.query_pairs().collect();
    let tls = match parameters.as_slice() {
        [] => None,
        [(name, value)] if name == "tls" => Some(value.as_ref()),
        _ => return Err(format!("has a parameter that is not tls, or several: {CHOICES}")),
    };
    match (url.scheme(), tls) {
        ("smtps", None) => Ok(Security::Tls),
        ("smtps", Some("required")) => {
            Err("asks for both kinds of TLS: take smtps:// alone, or smtp:// with ?tls=required"
                .to_owned())
        }
        ("smtps", Some("none")) => {
            Err("asks for TLS and for none: take smtps:// alone, or smtp:// with ?tls=none"
                .to_owned())
        }
        (_, Some("required")) => Ok(Security::StartTls),
        (_, None | Some("none")) if is_loopback(host) => Ok(Security::Plain),
        (_, Some("none")) if has_login => Err(format!(
            "would send the password to another machine in the clear, which tls=none is not for: {FORMS}; or leave \
             user and password out, if the server takes letters from this machine without"
        )),
        (_, Some("none")) => Ok(Security::Plain),
        (_, Some(_)) => Err(format!("has a value for tls that is not known: {CHOICES}")),
        (_, None) => Err(format!(
            "would send {} in the clear: {FORMS}; tls=none allows it for a server without a login, behind a network of \
             your own",
            if has_login { "the password and the mail" } else { "the mail" }
        )),
    }
}

const CHOICES: &str = "smtp:// takes ?tls=required (STARTTLS) or ?tls=none (in the clear, without a login), smtps:// \
                       takes none of them";

fn login(credentials: &str, host: &str) -> Result<Option<(String, SecretString)>, String> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (user, password) = (decoded(user)?, decoded(password)?);
    match (user.is_empty(), password.is_empty()) {
        (true, true) => Ok(None),
        (false, false) if host == GMAIL => Ok(Some((user, without_spaces(&password).into()))),
        (false, false) => Ok(Some((user, password.into()))),
        (false, true) => Err("has a user and no password".to_owned()),
        (true, false) => Err("has a password and no user".to_owned()),
    }
}

/// A text with a `%` that begins no code was not encoded, so that none of it is.
fn decoded(raw: &str) -> Result<String, String> {
    let is_code =
        |after: &str| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !raw.split('%').skip(1).all(is_code) {
        return Ok(raw.to_owned());
    }
    percent_decode_str(raw).decode_utf8().map(String::from).map_err(|_| {
        "has a % in the user or the password that is followed by two digits and still no code: write it as %25"
            .to_owned()
    })
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
            // What has to be encoded elsewhere may stand as it is.
            (
                "smtps://you@mail.example:a/b?tls=none#c@d:e@mail.example:465",
                r#"Tls mail.example 465 Some(("you@mail.example", "a/b?tls=none#c@d:e"))"#,
            ),
            (
                "smtp://u:1#a/b?c[d]e\\f|g@mail.example?tls=required",
                r#"StartTls mail.example 587 Some(("u", "1#a/b?c[d]e\\f|g"))"#,
            ),
            ("smtps://u:100%@mail.example", r#"Tls mail.example 465 Some(("u", "100%"))"#),
            ("smtps://u:%zz%41@mail.example", r#"Tls mail.example 465 Some(("u", "%zz%41"))"#),
            (
                "smtps://u%40x:5%25%ä@mail.example",
                r#"Tls mail.example 465 Some(("u@x", "5%25%ä"))"#,
            ),
            ("smtps://u:a%2525@mail.example", r#"Tls mail.example 465 Some(("u", "a%25"))"#),
            ("SMTPS://u:p@mail.example", r#"Tls mail.example 465 Some(("u", "p"))"#),
            ("smtp://mail.example?tls=none", "Plain mail.example 25 None"),
            ("smtp://mailpit:1025/?tls=none", "Plain mailpit 1025 None"),
            ("smtp://u:p@localhost?tls=none", r#"Plain localhost 25 Some(("u", "p"))"#),
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
            ("", "does not begin with"),
            ("smtp.gmail.com", "does not begin with"),
            ("you:hunter2@mail.example", "does not begin with"),
            ("https://you:hunter2@mail.example", "does not begin with"),
            ("smtps://mail.example#hunter2", "has something after the host"),
            ("smtps://mail.example/hunter2", "has something after the host"),
            ("smtps://you:hunter2@mail.example/x", "has something after the host"),
            ("smtps://you:hunter2", "names no host and port"),
            ("smtps://you:hunter2@", "names no host"),
            ("smtps:hunter2", "does not begin with"),
            ("smtps://", "names no host"),
            ("smtps://you:hunter2@mail.example:0", "has port 0"),
            ("smtps://you:hunter2@mail.example:99999", "names no host and port"),
            ("smtps://you:hunter2@mail.example:smtp", "names no host and port"),
            ("smtps://you@mail.example", "no password"),
            ("smtps://:hunter2@mail.example", "no user"),
            ("smtps://you:hunter2%FF@mail.example", "write it as %25"),
            ("smtps://you:hunter2@mail.example?tls=required", "both kinds"),
            ("smtp://you:hunter2@mail.example", "in the clear"),
            ("smtp://you:hunter2@127.0.0.1.mail.example", "in the clear"),
            ("smtp://you:hunter2@localhost.mail.example", "in the clear"),
            ("smtp://you:hunter2@10.0.0.1", "in the clear"),
            ("smtps://you:hunter2@mail.example?tls=none", "for TLS and for none"),
            ("smtp://you:hunter2@mail.example?tls=none", "the password to another machine"),
            ("smtp://mail.example", "the mail in the clear"),
            (
                "smtp://you:hunter2@mail.example?tls=hunter2",
                "?tls=required (STARTTLS) or ?tls=none",
            ),
            ("smtps://mail.example?tls=yes", "smtps:// takes none of them"),
            ("smtp://you:hunter2@localhost?tls=opportunistic", "value for tls that is not known"),
            ("smtp://mail.example?tls=required&tls=none", "or several"),
            ("smtp://mail.example?TLS=required", "?tls=required (STARTTLS) or ?tls=none"),
            ("smtp://mail.example?hunter2", "a parameter that is not tls"),
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
