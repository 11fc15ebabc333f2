//! How people find the service, and what they know it by in letters and on pages.

use url::{Host, Url};

use super::vars::Vars;
use super::{Color, Config, sender, without_port};

/// The most characters of an `APP_NAME`.
const MAX_CHARS: usize = 60;

const COMPLAINT: &str =
    "APP_NAME must be at most 60 characters on one line, without control characters.";

impl Config {
    /// The path of the public URL, without a slash at its end: what a proxy in front strips, and
    /// the start of every link on a page.
    pub fn public_path(&self) -> &str {
        let behind_scheme = self.public_url.split("://").nth(1).unwrap_or_default();
        behind_scheme.find('/').map_or("", |at| &behind_scheme[at..])
    }
}

impl Vars<'_> {
    pub(super) fn public_url(&mut self, production: bool, port: u16) -> String {
        let given = self.get("PUBLIC_URL").is_some();
        let url = self.url("PUBLIC_URL");
        if production && !given {
            self.complain("PUBLIC_URL is not set: the links in mails start with it, such as https://auth.example.com.");
        }
        if let Some(mut url) = url {
            if url.query().is_some()
                || url.fragment().is_some()
                || !url.username().is_empty()
                || url.password().is_some()
            {
                self.complain("PUBLIC_URL must not hold a user, query or fragment.");
                // It is shown, and a misplaced password must not be. On a URL with a host these
                // cannot fail.
                let _ = (url.set_username(""), url.set_password(None));
                url.set_query(None);
                url.set_fragment(None);
            }
            return url.as_str().trim_end_matches('/').to_owned();
        }
        format!("http://127.0.0.1:{port}")
    }

    /// A page of the frontend that a letter's link leads to.
    pub(super) fn page_for_links(&mut self, name: &str) -> Option<Url> {
        let url = self.url(name)?;
        if url.fragment().is_some() {
            self.complain(format!("{name} must hold no fragment: #token=... is added to it."));
        }
        Some(url)
    }

    pub(super) fn app_color(&mut self) -> Color {
        let Some(raw) = self.get("APP_COLOR") else { return Color::DEFAULT };
        Color::parse(&raw).unwrap_or_else(|| {
            self.complain("APP_COLOR must be # and six hexadecimal digits, such as #1d4ed8.");
            Color::DEFAULT
        })
    }

    pub(super) fn app_name(&mut self, mail_from: Option<&str>, public_url: &str) -> String {
        let host = site_of(public_url);
        let chosen = choose(self.get("APP_NAME"), mail_from, host);
        chosen.inspect_err(|_| self.complain(COMPLAINT)).unwrap_or_else(|name| name)
    }
}

pub(super) fn site_of(url: &str) -> &str {
    let authority = url.split("://").nth(1).unwrap_or_default();
    without_port(authority.split('/').next().unwrap_or_default())
}

/// Whether a URL leads a browser to its own machine. A name below `localhost` does: browsers
/// resolve it themselves.
pub fn is_loopback_url(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether a URL leads elsewhere than to the reader's own machine.
pub(super) fn is_public(url: &str) -> bool {
    !Url::parse(url).is_ok_and(|url| is_loopback_url(&url))
}

/// The service's own name, else the sender's, else the host; that of the latter two as an error
/// where the own one would not do.
fn choose(own: Option<String>, mail_from: Option<&str>, host: &str) -> Result<String, String> {
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
    let (name, _) = sender::parts(raw)?;
    name.filter(|name| is_usable(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Complaints;

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
            ("Acme, Inc. (Mail) <a@example.com>", Some("Acme, Inc. (Mail)")),
            ("a@example.com", None),
            ("<a@example.com>", None),
            ("nonsense", None),
        ];
        for (raw, name) in cases {
            assert_eq!(of_sender(raw).as_deref(), name, "{raw}");
        }
        assert_eq!(of_sender(&format!("{} <a@example.com>", "x".repeat(MAX_CHARS + 1))), None);
    }

    #[test]
    fn the_page_that_confirms_is_a_url_whose_fragment_is_ours() {
        let url = |raw| read(&[("CONFIRM_URL", raw)]).map(|config| config.confirm_url);
        let good = "https://app.example.com/confirm?from=mail";
        assert_eq!(url(good).expect("usable").expect("set").as_str(), good);
        for bad in ["app.example.com/confirm", "https://app.example.com/#/confirm", "javascript:1"]
        {
            assert_eq!(url(bad).expect_err("refused").0.len(), 1, "{bad}");
        }
    }

    #[test]
    fn names_below_localhost_are_this_machine_to_a_browser() {
        for here in ["http://app.localhost:3000", "http://[::1]", "http://127.8.0.1/auth"] {
            assert!(!is_public(here), "{here}");
        }
        for elsewhere in ["http://localhost.example", "http://10.0.0.1", "https://auth.example.com"]
        {
            assert!(is_public(elsewhere), "{elsewhere}");
        }
    }
}
