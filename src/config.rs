//! Every setting, read once from the environment; all complaints at once.

mod account;
mod color;
mod data_folder;
pub mod database_url;
pub mod limits;
mod origins;
mod public;
mod secret_file;
mod secrets;
pub mod sender;
mod settings;
mod vars;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use url::Url;

pub use account::AccountSettings;
pub use color::Color;
pub use data_folder::prepare_data_folder;
use limits::{Allowances, RateLimits};
pub use origins::Origins;
pub use public::is_loopback_url;
pub use secret_file::development_secret;
pub use settings::{SETTINGS, Setting, VARIABLES, meant_by};
use vars::Vars;

/// The fewest bytes of a `SECRET_KEY`.
pub const MIN_SECRET_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    Development,
    Production,
}

/// How to log in to an SMTP server, as it was set; the mailer knows what the parts mean.
#[derive(Clone, Debug)]
pub enum SmtpAccess {
    Url(SecretString),
    Gmail { address: String, app_password: SecretString },
}

/// How access tokens are signed. The keys of both are published, and tokens of both accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// ECDSA with P-256: what every library can verify.
    Es256,
    /// Ed25519: smaller and faster.
    EdDsa,
}

/// Whether a connection pooler in transaction mode (PgBouncer) stands before the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooler {
    /// Find out at start.
    Detect,
    Present,
    Absent,
}

/// The first admin, made at start when there is none yet.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    pub email: String,
    pub username: Option<String>,
    pub password: SecretString,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub environment: Environment,
    pub host: IpAddr,
    pub port: u16,
    /// Without a slash at its end: the start of every link, and the tokens' issuer and audience.
    pub public_url: String,
    /// `None`: a private PostgreSQL under [`Config::data_folder`].
    pub database_url: Option<SecretString>,
    /// The database past the pooler, where one stands before it.
    pub database_direct_url: Option<SecretString>,
    /// A streaming standby of the database.
    pub database_read_url: Option<SecretString>,
    pub database_connections: u32,
    pub database_pooler: Pooler,
    /// `None` in development only: then a generated one is kept under [`Config::data_folder`].
    pub secret_key: Option<SecretString>,
    pub secret_key_previous: Option<SecretString>,
    pub token_algorithm: TokenAlgorithm,
    pub access_token_lifetime: TimeDelta,
    pub min_password_length: usize,
    pub cors_origins: Origins,
    pub trusted_proxy_hops: usize,
    pub rate_limits: RateLimits,
    pub allowances: Allowances,
    /// Whether reads of the caller may come from memory.
    pub session_cache: bool,
    pub smtp: Option<SmtpAccess>,
    pub mail_from: Option<String>,
    /// What people know the service by: in letters and on pages.
    pub app_name: String,
    /// Of the buttons in letters and on pages.
    pub app_color: Color,
    /// Where people get help, as it was set: shown in letters.
    pub support_email: Option<String>,
    /// A folder of the operator's own letters.
    pub letters_dir: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust for SMTP besides the public ones.
    pub extra_certificates: Option<PathBuf>,
    /// Where every end of the confirmation's page leads.
    pub confirm_redirect_url: Option<Url>,
    /// The frontend's page that confirms by itself: the link in letters leads there.
    pub confirm_url: Option<Url>,
    /// Where the link to reset a password leads, in place of our own page.
    pub password_reset_url: Option<Url>,
    pub account: AccountSettings,
    /// Whether `serve` sends the letters too.
    pub worker_inside: bool,
    pub first_admin: Option<FirstAdmin>,
    /// How long rows of the audit log are kept.
    pub audit_log_kept_for: TimeDelta,
    /// The bearer token of `GET /metrics`; without it there is no such path.
    pub metrics_token: Option<SecretString>,
    /// How long a connection may wait for the complete head of its next request.
    pub keep_alive: Duration,
    /// How long to go on answering after SIGTERM while not ready: until balancers have noticed.
    pub shutdown_delay: Duration,
    /// Where traces are sent, if they are; OpenTelemetry's own library reads the rest.
    pub traces_to: Option<Url>,
    pub service_name: String,
    /// A filter in tracing's syntax.
    pub log: String,
}

/// What is wrong with the configuration: one line a setting, each with how to fix it.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaints(pub Vec<String>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The configuration is not usable:")?;
        self.0.iter().try_for_each(|complaint| writeln!(f, "  - {complaint}"))
    }
}

impl std::error::Error for Complaints {}

impl Config {
    /// Reads the settings from `lookup`; an empty value is the same as none.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Complaints> {
        let (config, complaints) = Self::read(lookup);
        if complaints.is_empty() { Ok(config) } else { Err(Complaints(complaints)) }
    }

    /// Reads what can be read, with the default in place of what cannot, and every complaint.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let mut vars = Vars { lookup: &lookup, complaints: Vec::new() };
        let config = vars.config();
        (config, vars.complaints)
    }

    /// Where development keeps its things: the private PostgreSQL, the generated key, the mailbox.
    pub fn data_folder() -> &'static Path {
        Path::new(".doorward")
    }

    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// The host of the public URL.
    pub fn site(&self) -> &str {
        public::site_of(&self.public_url)
    }

    /// Whether the public URL leads elsewhere than to the reader's own machine.
    pub fn is_public(&self) -> bool {
        public::is_public(&self.public_url)
    }

    /// Where our own pages come from, as a browser names it in `origin`.
    pub fn origin(&self) -> String {
        Url::parse(&self.public_url)
            .map(|url| url.origin().ascii_serialization())
            .unwrap_or_default()
    }

    /// Whether browsers reach the service over TLS.
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

/// The host of `host:port`. The colons of an IPv6 address stand in brackets; the one before a port
/// does not.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, Complaints> {
        let vars: Vec<(String, String)> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::from_vars(move |name| {
            vars.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        })
    }

    const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    #[test]
    fn nothing_set_is_development_on_loopback() {
        let config = read(&[]).expect("usable");
        assert!(!config.is_production());
        assert_eq!((config.host, config.port), (IpAddr::from([127, 0, 0, 1]), 8000));
        assert_eq!(config.public_url, "http://127.0.0.1:8000");
        assert_eq!(config.site(), "127.0.0.1");
        assert_eq!(config.cors_origins, Origins::loopback_alone());
    }

    #[test]
    fn a_platform_that_gives_the_port_is_answered_on_every_interface_and_a_desk_is_not() {
        let production = [
            ("DATABASE_URL", "postgres://localhost/x"),
            ("SECRET_KEY", KEY),
            ("PUBLIC_URL", "https://auth.example.com"),
            ("PORT", "5000"),
        ];
        assert_eq!(read(&production).expect("usable").host, IpAddr::from([0, 0, 0, 0]));
        assert_eq!(read(&production[..3]).expect("usable").host, IpAddr::from([127, 0, 0, 1]));
        let desk = [("PORT", "5000")];
        assert_eq!(read(&desk).expect("usable").host, IpAddr::from([127, 0, 0, 1]));
        let open = [("PORT", "5000"), ("HOST", "0.0.0.0")];
        assert_eq!(read(&open).expect("usable").host, IpAddr::from([0, 0, 0, 0]));
    }

    #[test]
    fn an_empty_database_beside_a_public_url_is_no_development() {
        let public = ("PUBLIC_URL", "https://auth.example.com");
        for empty in ["", " "] {
            let complaints = read(&[("DATABASE_URL", empty), public]).expect_err("refused").0;
            assert!(complaints[0].starts_with("DATABASE_URL is set and empty"), "{complaints:?}");
            let meant = [("DATABASE_URL", empty), public, ("DOORWARD_ENV", "development")];
            assert!(read(&meant).is_ok());
            for here in ["http://localhost:8000", "http://127.0.0.1:8000"] {
                assert!(read(&[("DATABASE_URL", empty), ("PUBLIC_URL", here)]).is_ok());
            }
        }
        assert!(read(&[public]).is_ok(), "a tunnel to a desk");
    }

    #[test]
    fn a_database_makes_it_production_and_production_asks_for_a_key_and_a_url() {
        let complaints =
            read(&[("DATABASE_URL", "postgres://localhost/x")]).expect_err("refused").0;
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let complaints = read(&[("DOORWARD_ENV", "production")]).expect_err("refused").0;
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        let config = read(&[
            ("DATABASE_URL", "postgresql://localhost/x?sslmode=require"),
            ("SECRET_KEY", KEY),
            ("PUBLIC_URL", "https://auth.example.com/"),
        ])
        .expect("usable");
        assert!(config.is_production() && config.is_https());
        assert_eq!(config.site(), "auth.example.com");
        assert_eq!(config.public_url, "https://auth.example.com");
        assert!(config.cors_origins.is_empty());
    }

    #[test]
    fn all_complaints_come_at_once_and_none_repeats_a_secret() {
        let complaints = read(&[
            ("DATABASE_URL", "mysql://user:hunter22@localhost/x"),
            ("SECRET_KEY", "hunter22"),
            ("SECRET_KEY_PREVIOUS", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            ("PUBLIC_URL", "auth.example.com"),
            ("PORT", "70000"),
            ("HOST", "example.com"),
            ("CORS_ORIGINS", "*, https://ok.example, https://x.example/path"),
            ("GMAIL_ADDRESS", "a@gmail.com"),
            ("WORKER", "maybe"),
            ("ADMIN_PASSWORD", "hunter22"),
            ("METRICS_TOKEN", "hunter22"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter22@127.0.0.1:4318"),
            ("ACCESS_TOKEN_MINUTES", "0"),
        ])
        .expect_err("refused");
        // That of OTEL_EXPORTER_OTLP_ENDPOINT only where traces can be sent.
        let expected = 13 + usize::from(cfg!(feature = "otlp"));
        assert_eq!(complaints.0.len(), expected, "{complaints}");
        assert!(!complaints.to_string().contains("hunter22"));
    }

    #[test]
    fn a_key_that_is_plainly_made_up_ends_the_start() {
        for made_up in ["let-me-in-1-let-me-in-1-let-me-in-1-", "abcdefgh".repeat(5).as_str()] {
            let complaints = read(&[("SECRET_KEY", made_up)]).expect_err(made_up).0;
            assert!(complaints[0].contains("too weak"), "{complaints:?}");
        }
        assert!(read(&[("SECRET_KEY", KEY)]).is_ok());
    }

    #[test]
    fn the_key_is_the_strings_own_bytes_but_for_a_line_break_at_its_end() {
        let key = format!(" {KEY} ");
        for end in ["", "\n", "\r\n"] {
            let config = read(&[("SECRET_KEY", &format!("{key}{end}"))]).expect("usable");
            assert_eq!(config.secret_key.expect("set").expose_secret(), key);
        }
    }

    #[test]
    fn quotes_around_any_value_are_a_complaint_that_says_so() {
        for name in VARIABLES {
            for quoted in ["'some value'", "\"some value\"", " 'x'\n"] {
                let complaints = read(&[(name, quoted)]).expect_err(name).0;
                let words = format!("{name} is in quotes");
                assert!(complaints.iter().any(|it| it.starts_with(&words)), "{complaints:?}");
            }
        }
        // A quote inside, or at one end alone, is a part of the value.
        for value in ["it's", "'tis a long one", "5'"] {
            let admin = [("ADMIN_EMAIL", "a@example.com"), ("ADMIN_PASSWORD", value)];
            assert!(read(&admin).is_ok(), "{value}");
        }
    }
}
