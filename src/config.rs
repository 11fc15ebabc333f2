//! Every setting, read once from the environment; all complaints at once.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// Every variable that [`Config::from_vars`] reads. `.env.example` explains the same ones, and a test compares.
pub const VARIABLES: &[&str] = &[
    "ACCESS_TOKEN_MINUTES",
    "ADMIN_EMAIL",
    "ADMIN_PASSWORD",
    "ADMIN_USERNAME",
    "CONFIRM_REDIRECT_URL",
    "CORS_ORIGINS",
    "DATABASE_CONNECTIONS",
    "DATABASE_DIRECT_URL",
    "DATABASE_POOLER",
    "DATABASE_READ_URL",
    "DATABASE_URL",
    "DOORWARD_ENV",
    "GMAIL_ADDRESS",
    "GMAIL_APP_PASSWORD",
    "HOST",
    "KEEP_ALIVE_SECONDS",
    "LOG",
    "MAIL_FROM",
    "METRICS_TOKEN",
    "MIN_PASSWORD_LENGTH",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SERVICE_NAME",
    "PORT",
    "PUBLIC_URL",
    "RATE_LIMITS",
    "SECRET_KEY",
    "SECRET_KEY_PREVIOUS",
    "SESSION_CACHE",
    "SHUTDOWN_DELAY_SECONDS",
    "SMTP_URL",
    "SSL_CERT_FILE",
    "TRUSTED_PROXY_HOPS",
    "WORKER",
];

/// The fewest bytes of a `SECRET_KEY`.
pub const MIN_SECRET_BYTES: usize = 32;
/// The fewest characters of a `METRICS_TOKEN`.
const MIN_METRICS_TOKEN_CHARS: usize = 16;

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

/// Which browser origins may call the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    None,
    /// `localhost`, `127.0.0.1` and `[::1]` on any port.
    Localhost,
    List(Vec<String>),
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
    /// `None`: a private PostgreSQL under [`Config::folder`].
    pub database_url: Option<SecretString>,
    /// The database past the pooler, where one stands before it.
    pub database_direct_url: Option<SecretString>,
    /// A streaming standby of the database.
    pub database_read_url: Option<SecretString>,
    pub database_connections: u32,
    pub database_pooler: Pooler,
    /// `None` in development only: then a generated one is kept under [`Config::folder`].
    pub secret_key: Option<SecretString>,
    pub secret_key_previous: Option<SecretString>,
    pub access_token_lifetime: TimeDelta,
    pub min_password_length: usize,
    pub cors_origins: CorsOrigins,
    pub trusted_proxy_hops: usize,
    /// Off for load tests alone.
    pub rate_limits: bool,
    /// Whether answers that only show may come from memory.
    pub session_cache: bool,
    pub smtp: Option<SmtpAccess>,
    pub mail_from: Option<String>,
    /// A PEM file of certificate authorities to trust for SMTP beside the public ones.
    pub extra_certificates: Option<PathBuf>,
    pub confirm_redirect_url: Option<Url>,
    /// Whether `serve` sends the letters too.
    pub worker_inside: bool,
    pub first_admin: Option<FirstAdmin>,
    /// What `GET /metrics` has to be asked with; without it there is no such path.
    pub metrics_token: Option<SecretString>,
    /// How long a connection may wait for the next request, and the head of one be on its way.
    pub keep_alive: Duration,
    /// How long to go on answering after SIGTERM, no longer ready: until then the balancer has noticed.
    pub shutdown_delay: Duration,
    /// Where traces are sent, if they are; OpenTelemetry's own library reads the rest.
    pub traces_to: Option<Url>,
    pub service_name: String,
    /// A filter in tracing's syntax.
    pub log: String,
}

/// What is wrong with the configuration: one line a setting, each with how to mend it.
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
    pub fn folder() -> &'static Path {
        Path::new(".doorward")
    }

    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// The host of the public URL: what people know the service by.
    pub fn site(&self) -> &str {
        let authority = self.public_url.split("://").nth(1).unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        // The colons of an IPv6 address stand in brackets; the one before a port does not.
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// Whether browsers reach the service over TLS.
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

/// At a desk every request is of interest; in production a read that went well is not worth its line.
fn default_log(production: bool) -> &'static str {
    if production { "info" } else { "info,doorward::http=debug" }
}

struct Vars<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    complaints: Vec<String>,
}

impl Vars<'_> {
    fn config(&mut self) -> Config {
        let database_url = self.database_url("DATABASE_URL");
        let environment = self.environment(database_url.is_some());
        let production = environment == Environment::Production;
        if production && database_url.is_none() {
            self.complain("DATABASE_URL is not set: production needs a PostgreSQL of its own.");
        }
        let port_given = self.get("PORT").is_some();
        let port = self.number("PORT", 8000, 0..=u16::MAX);
        let host = self.host(port_given);
        Config {
            environment,
            host,
            port,
            public_url: self.public_url(production, port),
            database_url,
            database_direct_url: self.database_url("DATABASE_DIRECT_URL"),
            database_read_url: self.database_url("DATABASE_READ_URL"),
            database_connections: self.number("DATABASE_CONNECTIONS", 10, 2..=1000),
            database_pooler: self.choice(
                "DATABASE_POOLER",
                Pooler::Detect,
                &[("auto", Pooler::Detect), ("on", Pooler::Present), ("off", Pooler::Absent)],
            ),
            secret_key: self.secret_key("SECRET_KEY", production),
            secret_key_previous: self.secret_key("SECRET_KEY_PREVIOUS", false),
            access_token_lifetime: TimeDelta::minutes(self.number(
                "ACCESS_TOKEN_MINUTES",
                30,
                1..=1440,
            )),
            min_password_length: self.number("MIN_PASSWORD_LENGTH", 8, 8..=64),
            cors_origins: self.cors_origins(production),
            trusted_proxy_hops: self.number("TRUSTED_PROXY_HOPS", 0, 0..=16),
            rate_limits: self.choice("RATE_LIMITS", true, &[("on", true), ("off", false)]),
            session_cache: self.choice("SESSION_CACHE", true, &[("on", true), ("off", false)]),
            smtp: self.smtp(),
            mail_from: self.get("MAIL_FROM").or_else(|| self.get("GMAIL_ADDRESS")),
            extra_certificates: self.get("SSL_CERT_FILE").map(PathBuf::from),
            confirm_redirect_url: self.url("CONFIRM_REDIRECT_URL"),
            worker_inside: self.choice("WORKER", true, &[("on", true), ("off", false)]),
            first_admin: self.first_admin(),
            metrics_token: self.metrics_token(),
            keep_alive: Duration::from_secs(self.number("KEEP_ALIVE_SECONDS", 10, 1..=3600)),
            shutdown_delay: Duration::from_secs(self.number(
                "SHUTDOWN_DELAY_SECONDS",
                if production { 3 } else { 0 },
                0..=20,
            )),
            traces_to: self.traces_to(),
            service_name: self.get("OTEL_SERVICE_NAME").unwrap_or_else(|| "doorward".to_owned()),
            log: self.get("LOG").unwrap_or_else(|| default_log(production).to_owned()),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        debug_assert!(VARIABLES.contains(&name), "{name} is missing in VARIABLES");
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn complain(&mut self, complaint: impl Into<String>) {
        self.complaints.push(complaint.into());
    }

    fn number<T>(&mut self, name: &str, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + fmt::Display + std::str::FromStr,
    {
        let Some(raw) = self.get(name) else { return default };
        match raw.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.complain(format!(
                    "{name} is a whole number from {} to {}.",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    fn choice<T: Copy>(&mut self, name: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(raw) = self.get(name) else { return default };
        if let Some((_, value)) = choices.iter().find(|(word, _)| raw.eq_ignore_ascii_case(word)) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.complain(format!("{name} is one of: {}.", words.join(", ")));
        default
    }

    fn environment(&mut self, has_database: bool) -> Environment {
        let default = if has_database { Environment::Production } else { Environment::Development };
        self.choice(
            "DOORWARD_ENV",
            default,
            &[("development", Environment::Development), ("production", Environment::Production)],
        )
    }

    fn host(&mut self, port_given: bool) -> IpAddr {
        // A platform that hands out the port expects us on every interface; a person at a desk does not.
        let default = if port_given { "0.0.0.0" } else { "127.0.0.1" };
        let raw = self.get("HOST").unwrap_or_else(|| default.to_owned());
        let name = if raw == "localhost" { "127.0.0.1" } else { raw.trim_matches(['[', ']']) };
        name.parse().unwrap_or_else(|_| {
            self.complain("HOST is the IP address to listen on, such as 127.0.0.1 or 0.0.0.0.");
            IpAddr::from([127, 0, 0, 1])
        })
    }

    fn database_url(&mut self, name: &str) -> Option<SecretString> {
        let raw = self.get(name)?;
        if !(raw.starts_with("postgres://") || raw.starts_with("postgresql://")) {
            self.complain(format!("{name} starts with postgres:// or postgresql://."));
        } else if raw.parse::<sqlx::postgres::PgConnectOptions>().is_err() {
            self.complain(format!(
                "{name} is not a URL: percent-encode what is special in the user and the password."
            ));
        }
        Some(raw.into())
    }

    fn secret_key(&mut self, name: &str, required: bool) -> Option<SecretString> {
        // Not trimmed: the key is the string's own bytes.
        let raw = (self.lookup)(name).filter(|raw| !raw.is_empty());
        let distinct = |raw: &str| raw.bytes().collect::<std::collections::BTreeSet<_>>().len();
        match &raw {
            None if required => self.complain(format!(
                "{name} is not set: it signs every token. Make one with `openssl rand -base64 48`."
            )),
            Some(raw) if raw.len() < MIN_SECRET_BYTES || distinct(raw) < 8 => self.complain(format!(
                "{name} is too weak: {MIN_SECRET_BYTES} or more random bytes. Make one with `openssl rand -base64 48`."
            )),
            _ => {}
        }
        raw.map(SecretString::from)
    }

    fn metrics_token(&mut self) -> Option<SecretString> {
        let raw = self.get("METRICS_TOKEN")?;
        // It travels in a header, where other characters cannot, or mean something.
        if raw.len() < MIN_METRICS_TOKEN_CHARS || !raw.bytes().all(|b| b.is_ascii_graphic()) {
            self.complain(format!(
                "METRICS_TOKEN is too weak: {MIN_METRICS_TOKEN_CHARS} or more random characters, without spaces. Make \
                 one with `openssl rand -hex 24`."
            ));
        }
        Some(raw.into())
    }

    /// An absolute http(s) URL.
    fn url(&mut self, name: &str) -> Option<Url> {
        let raw = self.get(name)?;
        match Url::parse(&raw) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
            _ => {
                self.complain(format!("{name} is an absolute URL, such as https://example.com."));
                None
            }
        }
    }

    fn traces_to(&mut self) -> Option<Url> {
        if !cfg!(feature = "otlp") {
            // Set for everything on the platform, perhaps, and in a form that others read.
            return self.get("OTEL_EXPORTER_OTLP_ENDPOINT").and_then(|raw| Url::parse(&raw).ok());
        }
        let url = self.url("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        // What cannot be sent is logged with its address.
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            self.complain(
                "OTEL_EXPORTER_OTLP_ENDPOINT has no user, password or query: put a key into OTEL_EXPORTER_OTLP_HEADERS.",
            );
        }
        Some(url)
    }

    fn public_url(&mut self, production: bool, port: u16) -> String {
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
                self.complain("PUBLIC_URL has no user, query or fragment.");
                // It is shown, and a password in the wrong place need not be. A URL with a host takes all of these.
                let _ = (url.set_username(""), url.set_password(None));
                url.set_query(None);
                url.set_fragment(None);
            }
            return url.as_str().trim_end_matches('/').to_owned();
        }
        format!("http://127.0.0.1:{port}")
    }

    fn cors_origins(&mut self, production: bool) -> CorsOrigins {
        let Some(raw) = self.get("CORS_ORIGINS") else {
            return if production { CorsOrigins::None } else { CorsOrigins::Localhost };
        };
        let mut origins = Vec::new();
        for part in raw.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let part = part.trim_end_matches('/');
            match Url::parse(part) {
                Ok(url) if url.origin().is_tuple() && url.origin().ascii_serialization() == part => {
                    origins.push(part.to_owned());
                }
                _ => self.complain(format!(
                    "CORS_ORIGINS holds {part:?}: list exact origins, such as https://app.example.com, separated by \
                     commas; there is no wildcard."
                )),
            }
        }
        CorsOrigins::List(origins)
    }

    fn smtp(&mut self) -> Option<SmtpAccess> {
        let url = self.get("SMTP_URL").map(|url| SmtpAccess::Url(url.into()));
        let gmail = match (self.get("GMAIL_ADDRESS"), self.get("GMAIL_APP_PASSWORD")) {
            (Some(address), Some(password)) => {
                Some(SmtpAccess::Gmail { address, app_password: password.into() })
            }
            (None, None) => None,
            _ => {
                self.complain("GMAIL_ADDRESS and GMAIL_APP_PASSWORD go together.");
                None
            }
        };
        if url.is_some() && gmail.is_some() {
            self.complain("Set either SMTP_URL or GMAIL_ADDRESS and GMAIL_APP_PASSWORD, not both.");
        }
        if url.is_some() && self.get("MAIL_FROM").is_none() {
            self.complain("MAIL_FROM is not set: the sender of the mails, such as Doorward <no-reply@example.com>.");
        }
        url.or(gmail)
    }

    fn first_admin(&mut self) -> Option<FirstAdmin> {
        match (
            self.get("ADMIN_EMAIL"),
            (self.lookup)("ADMIN_PASSWORD").filter(|password| !password.is_empty()),
        ) {
            (Some(email), Some(password)) => Some(FirstAdmin {
                email,
                username: self.get("ADMIN_USERNAME"),
                password: password.into(),
            }),
            (None, None) => None,
            _ => {
                self.complain("ADMIN_EMAIL and ADMIN_PASSWORD go together.");
                None
            }
        }
    }
}

/// The key of a development machine: made once, kept in `folder/secret_key` for its owner alone.
pub fn development_secret(
    folder: &Path,
    random: impl FnOnce() -> String,
) -> std::io::Result<SecretString> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::create_dir_all(folder)?;
    // Of two processes that start together the second takes the first one's key: else each would sign with its own.
    let locked = std::fs::File::open(folder)?;
    locked.lock()?;
    let path = folder.join("secret_key");
    match std::fs::read_to_string(&path) {
        Ok(kept) if kept.len() >= MIN_SECRET_BYTES => return Ok(kept.into()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let secret = SecretString::from(random());
    // Written aside and renamed: a key that was cut off half way would be another key.
    let draft = folder.join(format!("secret_key.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(secret.expose_secret().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(config.cors_origins, CorsOrigins::Localhost);
    }

    #[test]
    fn a_platform_that_gives_the_port_is_answered_on_every_interface() {
        assert_eq!(read(&[("PORT", "5000")]).expect("usable").host, IpAddr::from([0, 0, 0, 0]));
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
        assert_eq!(config.cors_origins, CorsOrigins::None);
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
    fn processes_that_start_together_keep_one_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("new");
        let start = std::sync::Barrier::new(8);
        let keys = std::thread::scope(|scope| {
            let one = |number| {
                let (start, folder) = (&start, &folder);
                scope.spawn(move || {
                    start.wait();
                    let random = || format!("{KEY}{number}");
                    let key = development_secret(folder, random).expect("a key");
                    key.expose_secret().to_owned()
                })
            };
            let threads: Vec<_> = (0..8).map(one).collect();
            threads.into_iter().map(|thread| thread.join().expect("a key")).collect::<Vec<_>>()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 1);
    }

    #[test]
    fn the_key_is_the_strings_own_bytes() {
        let key = format!(" {KEY}\n");
        let config = read(&[("SECRET_KEY", &key)]).expect("usable");
        assert_eq!(config.secret_key.expect("set").expose_secret(), key);
    }
}
