//! The table of settings: `.env.example` explains the same ones, and a test compares.

/// One variable that [`Config::from_vars`](super::Config::from_vars) reads.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// What counts where nothing is set, as it would be set or in words.
    pub default: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// A password, a key or a URL with one in it: its value is never shown.
    pub is_secret: bool,
}

const fn open(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default, about, is_secret: false }
}

const fn secret(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default, about, is_secret: true }
}

/// Every setting, by name.
pub static SETTINGS: [Setting; TABLE.len()] = TABLE;

#[rustfmt::skip]
const TABLE: [Setting; 68] = [
    open("ACCESS_TOKEN_MINUTES", "30", "how long an access token is good, from 1 to 1440"),
    open("ADMIN_EMAIL", "none", "the address of the first admin, made at the first start"),
    secret("ADMIN_PASSWORD", "none", "the password of the first admin"),
    open("ADMIN_USERNAME", "made from ADMIN_EMAIL", "the username of the first admin"),
    open("APP_COLOR", "#1d4ed8", "the colour of buttons in letters and on pages"),
    open("APP_NAME", "that of MAIL_FROM, else the host of PUBLIC_URL", "what people know the service by"),
    open("AUDIT_LOG_DAYS", "365", "how long rows of audit_log are kept, from 1 to 36500 days"),
    open("CONFIRM_REDIRECT_URL", "none", "where a browser goes from the page behind a letter's link"),
    open("CONFIRM_URL", "our page", "a page of the frontend that letters link to"),
    open("CORS_ORIGINS", "none; in development any port of localhost", "the origins of the frontends, by commas"),
    open("DATABASE_CONNECTIONS", "10", "connections that one process holds at most, from 2 to 1000"),
    secret("DATABASE_DIRECT_URL", "DATABASE_URL", "the database past PgBouncer, or in its session mode"),
    open("DATABASE_POOLER", "auto", "whether PgBouncer stands in between: on, off or auto"),
    secret("DATABASE_READ_URL", "none", "a streaming standby, where lists of users are read"),
    secret("DATABASE_URL", "a private PostgreSQL, in development", "the database, postgres://user:password@host/name"),
    open("DELETION_DAYS", "30", "how long a deleted account can be restored, up to 365 days; 0: not at all"),
    open("DOORWARD_ENV", "production where DATABASE_URL is set, else development", "development or production"),
    open("GMAIL_ADDRESS", "none", "a Gmail account to send with, instead of SMTP_URL"),
    secret("GMAIL_APP_PASSWORD", "none", "an app password of that account"),
    open("HOST", "127.0.0.1; in production with PORT 0.0.0.0", "the IP address to listen on"),
    open("INVITE_URL", "our page", "a page of the frontend that invitations link to"),
    open("KEEP_ALIVE_SECONDS", "10", "how long a connection may wait for its next request, from 1 to 3600"),
    open("LETTERS_DIR", "none", "a folder of letters' templates in place of ours"),
    open("LIMIT_CODE_ACCOUNT", "20", "wrong codes a day of letters to one e-mail address"),
    open("LIMIT_EXPORT", "5", "exports a day of one user's own data"),
    open("LIMIT_INVITE", "200", "invitations a day by one admin"),
    open("LIMIT_LOGIN_ACCOUNT", "5/60", "failed logins to one account from one block of addresses"),
    open("LIMIT_LOGIN_ADDRESS", "30/4", "failed logins from one address"),
    open("LIMIT_LOGIN_NETWORK", "120/1", "failed logins from one IPv6 /48"),
    open("LIMIT_LOGIN_STRANGERS", "50", "failed logins an hour to one account from new clients"),
    open("LIMIT_LOGIN_SUCCESS_ACCOUNT", "600", "logins an hour to one account"),
    open("LIMIT_LOGIN_SUCCESS_ADDRESS", "2000", "logins an hour from one address"),
    open("LIMIT_MAIL_ADDRESS", "20", "letters an hour that calls from one address ask for"),
    open("LIMIT_MAIL_FIRST", "30", "first letters a day to one e-mail address"),
    open("LIMIT_MAIL_NETWORK", "100", "letters an hour for forgotten passwords that one IPv6 /48 asks for"),
    open("LIMIT_MAIL_RECIPIENT_DAY", "10", "letters a day to one e-mail address"),
    open("LIMIT_MAIL_RECIPIENT_HOUR", "3", "letters an hour to one e-mail address"),
    open("LIMIT_PASSWORD", "5", "wrong present passwords in 15 minutes of one session"),
    open("LIMIT_PASSWORD_USER", "15", "wrong present passwords in 15 minutes of one user"),
    open("LIMIT_PROFILE", "60", "changes an hour of one user's own data"),
    open("LIMIT_REFRESH", "30", "new pairs of tokens a minute of one session"),
    open("LIMIT_REGISTER_DAY", "300", "accounts a day from one address"),
    open("LIMIT_REGISTER_HOUR", "60", "accounts an hour from one address"),
    open("LIMIT_REGISTER_NETWORK", "300", "accounts an hour from one IPv6 /48"),
    open("LIMIT_REGISTER_TAKEN", "30", "taken names an hour that one address asks for"),
    open("LOG", "info; in development info,doorward::http=debug", "what is logged: a level, or one a module"),
    open("MAIL_FROM", "GMAIL_ADDRESS", "the sender of the letters; needed with SMTP_URL"),
    secret("METRICS_TOKEN", "none, and no /metrics", "what Prometheus sends as a bearer token"),
    open("MIN_PASSWORD_LENGTH", "8", "the shortest password that may be chosen, from 8 to 64"),
    open("NEW_DEVICE_LETTERS", "on", "whether a login from a new device is told of by a letter: on or off"),
    open("NOT_ME_URL", "our page", "a page of the frontend that \"this was not me\" links to"),
    open("OTEL_EXPORTER_OTLP_ENDPOINT", "none", "where traces are sent by OTLP over HTTP"),
    open("OTEL_SERVICE_NAME", "doorward", "as whose traces they are sent"),
    open("PASSWORD_RESET_URL", "our page", "a page of the frontend that letters for forgotten passwords link to"),
    open("PORT", "8000", "the port to listen on"),
    open("PUBLIC_URL", "http://127.0.0.1 and PORT, in development", "how browsers reach the service"),
    open("RATE_LIMITS", "on; in development not for this machine", "on, or off for load tests alone"),
    secret("SECRET_KEY", "a generated one, in development", "32 or more random bytes that every key comes from"),
    secret("SECRET_KEY_PREVIOUS", "none", "the key before, accepted during a rotation"),
    open("SESSION_CACHE", "on", "whether reads of the caller come from memory: on or off"),
    open("SHUTDOWN_DELAY_SECONDS", "3; in development 0", "how long to answer after SIGTERM, up to 20"),
    secret("SMTP_URL", "none", "the mail server, smtps://user:password@host:465"),
    open("SSL_CERT_FILE", "none", "a PEM file of authorities to trust for SMTP as well"),
    open("STEP_UP_MINUTES", "15", "how long a proof of who calls counts as fresh, from 1 to 1440"),
    open("SUPPORT_EMAIL", "none", "where people get help, shown in letters"),
    open("TOKEN_ALGORITHM", "ES256", "how access tokens are signed: ES256 or EdDSA"),
    open("TRUSTED_PROXY_HOPS", "0", "how many proxies in front add to x-forwarded-for, up to 16"),
    open("WORKER", "on", "whether serve sends the letters as well: on or off"),
];

const NAMES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TABLE[at].name;
        at += 1;
    }
    names
};

/// The names of [`SETTINGS`].
pub const VARIABLES: &[&str] = &NAMES;

/// The most letters by which a mistyped name differs.
const NEAR: usize = 2;

/// The setting that a name which is none was meant for. A short name has many neighbours: it may
/// differ by one letter alone.
pub fn meant_by(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let distance = |known: &&&str| strsim::osa_distance(known, &name);
    let nearest = *VARIABLES.iter().min_by_key(distance)?;
    let near = if nearest.len().min(name.len()) < 7 { 1 } else { NEAR };
    (distance(&&nearest) <= near).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_default_in_the_table_is_the_one_that_counts() {
        let read = |name: &str, value: &str| {
            let value = value.to_owned();
            let (config, complaints) = Config::read(|asked| (asked == name).then(|| value.clone()));
            assert_eq!(complaints, [""; 0], "{name}");
            format!("{config:?}")
        };
        let unset = read("", "");
        let mut compared = 0;
        for Setting { name, default, .. } in &SETTINGS {
            let is_word = |default: &str| !default.contains([' ', ';']) && default != "none";
            if is_word(default) && !VARIABLES.contains(default) {
                assert_eq!(read(name, default), unset, "{name}");
                compared += 1;
            }
        }
        assert!(compared > 25, "{compared}");
    }

    /// Whose value is text of one's own, or is read by others than [`Config`].
    const FREE: [&str; 10] = [
        "APP_NAME",
        "LETTERS_DIR",
        "LOG",
        "MAIL_FROM",
        "OTEL_SERVICE_NAME",
        "SMTP_URL",
        "SSL_CERT_FILE",
        "SUPPORT_EMAIL",
        "ADMIN_USERNAME",
        if cfg!(feature = "otlp") { "" } else { "OTEL_EXPORTER_OTLP_ENDPOINT" },
    ];

    #[test]
    fn a_bad_value_is_one_line_that_names_its_setting_and_shows_no_secret() {
        for Setting { name, is_secret, .. } in &SETTINGS {
            let value = |asked: &str| match asked {
                asked if asked == *name => Some("no such thing".to_owned()),
                "DOORWARD_ENV" => Some("development".to_owned()),
                // What goes with it.
                "MAIL_FROM" if *name == "SMTP_URL" => Some("a@example.com".to_owned()),
                _ => None,
            };
            let complaints = Config::read(value).1;
            let expected = usize::from(!FREE.contains(name));
            assert_eq!(complaints.len(), expected, "{name}: {complaints:?}");
            for complaint in complaints {
                assert!(complaint.contains(name) && !complaint.contains('\n'), "{complaint}");
                assert!(!is_secret || !complaint.contains("no such thing"), "{complaint}");
            }
        }
    }

    #[test]
    fn settings_stand_in_order_once_each_on_a_line_that_fits() {
        assert!(VARIABLES.is_sorted_by(|a, b| a < b));
        for Setting { name, default, about, .. } in &SETTINGS {
            assert!(about.len() + default.len() < 100, "{name}");
            assert!(!about.ends_with('.') && !default.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_mistyped_name_is_understood_and_a_name_of_others_is_not() {
        for (typed, meant) in [
            ("SMTP_ULR", "SMTP_URL"),
            ("CORS_ORIGIN", "CORS_ORIGINS"),
            ("database_url", "DATABASE_URL"),
            ("SECRETKEY", "SECRET_KEY"),
            ("PUBLIC_URI", "PUBLIC_URL"),
            ("LIMIT_REGISTRE_DAY", "LIMIT_REGISTER_DAY"),
            ("PROT", "PORT"),
        ] {
            assert_eq!(meant_by(typed), Some(meant), "{typed}");
        }
        for other in [
            "HOSTNAME",
            "PATH",
            "HOME",
            "SSL_CERT_DIR",
            "PGHOST",
            "POSTGRES_PASSWORD",
            "LANG",
            "SMTP_HOST",
            "",
        ] {
            assert_eq!(meant_by(other), None, "{other}");
        }
    }
}
