//! How each setting is read, and what is complained about.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use url::Url;

use super::database_url::{Hosts, Role};
use super::limits::{Allowances, LIMITS, RateLimits};
use super::public::is_public;
use super::{
    Config, Environment, FirstAdmin, Origins, Pooler, SmtpAccess, TokenAlgorithm, VARIABLES,
};

/// What stands between two quotes of one kind.
fn without_quotes(value: &str) -> Option<&str> {
    let between = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    between('"').or_else(|| between('\''))
}

/// At a desk every request is of interest; in production a read that went well is not worth its
/// line.
fn default_log(production: bool) -> &'static str {
    if production { "info" } else { "info,doorward::http=debug" }
}

pub(super) struct Vars<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(super) complaints: Vec<String>,
}

impl Vars<'_> {
    pub(super) fn config(&mut self) -> Config {
        self.complain_about_quotes();
        let database_url = self.database_url("DATABASE_URL", Role::Primary);
        let environment = self.environment(database_url.is_some());
        let production = environment == Environment::Production;
        if production && database_url.is_none() {
            self.complain("DATABASE_URL is not set: production needs a PostgreSQL of its own.");
        }
        let by_platform = production && self.get("PORT").is_some();
        let port = self.number("PORT", 8000, 0..=u16::MAX);
        let host = self.host(by_platform);
        let public_url = self.public_url(production, port);
        self.complain_about_accidental_development(&public_url);
        let mail_from = self.get("MAIL_FROM").or_else(|| self.get("GMAIL_ADDRESS"));
        Config {
            environment,
            host,
            port,
            app_name: self.app_name(mail_from.as_deref(), &public_url),
            app_color: self.app_color(),
            support_email: self.get("SUPPORT_EMAIL"),
            letters_dir: self.get("LETTERS_DIR").map(PathBuf::from),
            public_url,
            database_url,
            database_direct_url: self.database_url("DATABASE_DIRECT_URL", Role::Primary),
            database_read_url: self.database_url("DATABASE_READ_URL", Role::Standby),
            database_connections: self.number("DATABASE_CONNECTIONS", 10, 2..=1000),
            database_pooler: self.pooler(),
            secret_key: self.secret_key("SECRET_KEY", production),
            secret_key_previous: self.secret_key("SECRET_KEY_PREVIOUS", false),
            token_algorithm: self.token_algorithm(),
            access_token_lifetime: TimeDelta::minutes(self.number(
                "ACCESS_TOKEN_MINUTES",
                30,
                1..=1440,
            )),
            min_password_length: self.number("MIN_PASSWORD_LENGTH", 8, 8..=64),
            cors_origins: self.cors_origins(production),
            trusted_proxy_hops: self.number("TRUSTED_PROXY_HOPS", 0, 0..=16),
            rate_limits: self.rate_limits(production),
            allowances: self.allowances(),
            session_cache: self.choice("SESSION_CACHE", true, &[("on", true), ("off", false)]),
            smtp: self.smtp(),
            mail_from,
            extra_certificates: self.get("SSL_CERT_FILE").map(PathBuf::from),
            confirm_redirect_url: self.url("CONFIRM_REDIRECT_URL"),
            confirm_url: self.page_for_links("CONFIRM_URL"),
            password_reset_url: self.page_for_links("PASSWORD_RESET_URL"),
            account: self.account(),
            worker_inside: self.choice("WORKER", true, &[("on", true), ("off", false)]),
            first_admin: self.first_admin(),
            audit_log_kept_for: TimeDelta::days(self.number("AUDIT_LOG_DAYS", 365, 1..=36_500)),
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

    fn pooler(&mut self) -> Pooler {
        let words = [("auto", Pooler::Detect), ("on", Pooler::Present), ("off", Pooler::Absent)];
        self.choice("DATABASE_POOLER", Pooler::Detect, &words)
    }

    fn token_algorithm(&mut self) -> TokenAlgorithm {
        let words = [("ES256", TokenAlgorithm::Es256), ("EdDSA", TokenAlgorithm::EdDsa)];
        self.choice("TOKEN_ALGORITHM", TokenAlgorithm::Es256, &words)
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        debug_assert!(VARIABLES.contains(&name), "{name} is missing in VARIABLES");
        self.raw(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A value as it was set, but for what stands around it by mistake: a line break at its
    /// end, which a secret made with `echo` has, and quotes, of which it is complained.
    pub(super) fn raw(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let value = value.trim_end_matches(['\r', '\n']);
        Some(without_quotes(value).unwrap_or(value).to_owned()).filter(|value| !value.is_empty())
    }

    /// `.env` and a shell take quotes away; Docker's `--env-file` and many platforms keep them.
    fn complain_about_quotes(&mut self) {
        for name in VARIABLES {
            if (self.lookup)(name).is_some_and(|value| without_quotes(value.trim()).is_some()) {
                self.complain(format!(
                    "{name} is in quotes, which are a part of its value here: write it without them."
                ));
            }
        }
    }

    pub(super) fn complain(&mut self, complaint: impl Into<String>) {
        self.complaints.push(complaint.into());
    }

    pub(super) fn number<T>(
        &mut self,
        name: &str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> T
    where
        T: Copy + PartialOrd + fmt::Display + std::str::FromStr,
    {
        let Some(raw) = self.get(name) else { return default };
        match raw.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.complain(format!(
                    "{name} must be a whole number from {} to {}.",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(raw) = self.get(name) else { return default };
        if let Some((_, value)) = choices.iter().find(|(word, _)| raw.eq_ignore_ascii_case(word)) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.complain(format!("{name} must be one of: {}.", words.join(", ")));
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

    fn host(&mut self, by_platform: bool) -> IpAddr {
        // A platform that hands out the port expects us on every interface; a person at a desk does
        // not, whose mailbox and private database are nobody else's.
        let default = if by_platform { "0.0.0.0" } else { "127.0.0.1" };
        let raw = self.get("HOST").unwrap_or_else(|| default.to_owned());
        let name = if raw == "localhost" { "127.0.0.1" } else { raw.trim_matches(['[', ']']) };
        name.parse().unwrap_or_else(|_| {
            self.complain(
                "HOST must be the IP address to listen on, such as 127.0.0.1 or 0.0.0.0.",
            );
            IpAddr::from([127, 0, 0, 1])
        })
    }

    /// A variable that a platform failed to fill is no wish for a private database, to which nobody
    /// returns after the next deploy.
    fn complain_about_accidental_development(&mut self, public_url: &str) {
        let is_empty = |name| (self.lookup)(name).is_some_and(|value| value.trim().is_empty());
        if is_empty("DATABASE_URL") && self.get("DOORWARD_ENV").is_none() && is_public(public_url) {
            self.complain(
                "DATABASE_URL is set and empty, while PUBLIC_URL is not this machine: set the database's URL, or \
                 DOORWARD_ENV=development if a private PostgreSQL is meant.",
            );
        }
    }

    fn database_url(&mut self, name: &str, role: Role) -> Option<SecretString> {
        let raw = self.get(name)?;
        if let Err(complaint) = Hosts::parse(&raw, role) {
            self.complain(format!("{name} {complaint}."));
        }
        Some(raw.into())
    }

    /// An absolute http(s) URL.
    pub(super) fn url(&mut self, name: &str) -> Option<Url> {
        let raw = self.get(name)?;
        match Url::parse(&raw) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
            _ => {
                self.complain(format!(
                    "{name} must be an absolute URL, such as https://example.com."
                ));
                None
            }
        }
    }

    fn traces_to(&mut self) -> Option<Url> {
        if !cfg!(feature = "otlp") {
            // It may be set for the whole platform, in a form that others read.
            return self.get("OTEL_EXPORTER_OTLP_ENDPOINT").and_then(|raw| Url::parse(&raw).ok());
        }
        let url = self.url("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        // A failed export is logged with its URL.
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            self.complain(
                "OTEL_EXPORTER_OTLP_ENDPOINT must hold no user, password or query: see OTEL_EXPORTER_OTLP_HEADERS.",
            );
        }
        Some(url)
    }

    fn cors_origins(&mut self, production: bool) -> Origins {
        match self.get("CORS_ORIGINS") {
            None if production => Origins::default(),
            None => Origins::loopback_alone(),
            Some(raw) => {
                let (origins, complaints) = Origins::parse(&raw, !production);
                self.complaints.extend(complaints);
                origins
            }
        }
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

    fn rate_limits(&mut self, production: bool) -> RateLimits {
        let default = if production { RateLimits::Everybody } else { RateLimits::OtherMachines };
        let choices = [("on", RateLimits::Everybody), ("off", RateLimits::Nobody)];
        self.choice("RATE_LIMITS", default, &choices)
    }

    fn allowances(&mut self) -> Allowances {
        let mut allowances = Allowances::default();
        for limit in LIMITS {
            let Some(raw) = self.get(limit.variable) else { continue };
            match limit.parse(&raw) {
                Ok(allowance) => allowances.set(limit, allowance),
                Err(complaint) => self.complain(complaint),
            }
        }
        allowances
    }

    fn first_admin(&mut self) -> Option<FirstAdmin> {
        match (self.get("ADMIN_EMAIL"), self.raw("ADMIN_PASSWORD")) {
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
