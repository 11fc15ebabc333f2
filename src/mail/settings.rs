//! Where the mail server is, who we are there, and how long it is waited for.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;

use crate::network::is_loopback;

pub(super) const GMAIL: &str = "smtp.gmail.com";

/// How the connection is protected. There is no form that begins with TLS and falls back to plain
/// text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// Plain for the greeting, then STARTTLS or nothing.
    StartTls,
    /// No TLS: a server on this machine, or, without a login, one that the operator trusts the way to.
    Plain,
}

/// How long to wait for a mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For each step: an address to connect, TLS, a command with all of its answer.
    pub command: Duration,
    /// For a letter, all in all: longer than for a command, as the answer to the letter itself gets at
    /// least as long as that.
    pub letter: Duration,
}

impl Deadlines {
    pub const USUAL: Self =
        Self { command: Duration::from_secs(30), letter: Duration::from_secs(90) };
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
    /// Gmail with an app password: the same as
    /// `smtps://you%40gmail.com:app-password@smtp.gmail.com:465`.
    pub fn gmail(address: &str, app_password: &str) -> Self {
        Self {
            host: GMAIL.to_owned(),
            port: 465,
            security: Security::Tls,
            login: Some((address.trim().to_owned(), without_spaces(app_password).into())),
            deadlines: Deadlines::USUAL,
            hello: String::new(),
        }
    }

    /// Whether letters, and the links in them, cross a network in the clear.
    pub fn is_exposed(&self) -> bool {
        self.security == Security::Plain && !is_loopback(&self.host)
    }
}

/// Google shows an app password in groups of four, with spaces (and not only ordinary ones) that
/// are not part of it.
pub(super) fn without_spaces(password: &str) -> String {
    password.split_whitespace().collect()
}
