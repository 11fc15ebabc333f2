//! `doctor`: what is wrong with a set-up, in plain words, one line a check, each with how to mend it.

use std::fmt;
use std::io::Write;

use clap::Args;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Failure, mailer, open_database};
use crate::clock::Clock;
use crate::config::{Config, CorsOrigins, Pooler, SmtpAccess};
use crate::mail::{Mailer, message};
use crate::store::{Db, ServerFacts};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Send a letter to this address, too
    #[arg(long, value_name = "ADDRESS")]
    send_to: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What one check has found. A warning works, but not as well as it should; a failure does not work.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level}  {:<11} {}", self.check, self.message)
    }
}

/// The oldest PostgreSQL that the tests run on.
const OLDEST_POSTGRES: i32 = 130_000;
/// How far the database's clock may be from ours before somebody should look, in seconds.
const CLOCK_TOLERANCE: i64 = 5;
/// Connections that should be left for others.
const SPARE_CONNECTIONS: i64 = 10;

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, level: Level, message: impl Into<String>) {
        self.0.push(Finding { check, level, message: message.into() });
    }

    /// `Ok` if `good`, else a warning with another text.
    fn warn_unless(&mut self, check: &'static str, good: bool, ok: &str, warning: &str) {
        let (level, message) = if good { (Level::Ok, ok) } else { (Level::Warn, warning) };
        self.add(check, level, message);
    }
}

/// Checks everything, prints what was found, and fails if anything does not work.
pub async fn doctor(arguments: &Arguments) -> Result<(), Failure> {
    let findings = examine(arguments).await.0;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
    }
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err("one check failed".into()),
        failed => Err(format!("{failed} checks failed").into()),
    }
}

async fn examine(arguments: &Arguments) -> Findings {
    let mut findings = Findings::default();
    let (config, mut complaints) = Config::read(|name| std::env::var(name).ok());
    let mailer = mailer(&config, &mut complaints);
    let mode = if config.is_production() { "production" } else { "development" };
    findings.add("settings", Level::Ok, format!("this is {mode}"));
    for complaint in &complaints {
        findings.add("settings", Level::Fail, complaint);
    }
    settings(&config, &mut findings);
    database(&config, &mut findings).await;
    mail(&config, &mailer, arguments.send_to.as_deref(), &mut findings).await;
    findings
}

fn settings(config: &Config, findings: &mut Findings) {
    match (&config.secret_key, &config.secret_key_previous) {
        (Some(key), Some(previous)) if key.expose_secret() == previous.expose_secret() => {
            let message =
                "SECRET_KEY_PREVIOUS is SECRET_KEY itself: remove it, or set the key before.";
            findings.add("secret", Level::Warn, message);
        }
        (Some(_), Some(_)) => {
            findings.add("secret", Level::Ok, "two keys are accepted: a rotation is under way");
        }
        (Some(_), None) => findings.add("secret", Level::Ok, "SECRET_KEY is set"),
        (None, _) if config.is_production() => {}
        (None, _) => findings.add("secret", Level::Ok, "a generated key is kept under .doorward/"),
    }
    findings.warn_unless(
        "public url",
        config.is_https() || !config.is_production(),
        &format!("{} starts every link", config.public_url),
        "PUBLIC_URL is not https: passwords and tokens travel in the clear. Put TLS in front.",
    );
    let origins = match &config.cors_origins {
        CorsOrigins::None => {
            "no browser app of another origin may call: set CORS_ORIGINS if one is to".to_owned()
        }
        CorsOrigins::Localhost => "any page on this machine may call".to_owned(),
        CorsOrigins::List(list) => format!("these may call: {}", list.join(", ")),
    };
    findings.add("cors", Level::Ok, origins);
    let hops = config.trusted_proxy_hops;
    findings.warn_unless(
        "proxies",
        hops > 0 || !config.is_https(),
        &format!("TRUSTED_PROXY_HOPS is {hops}"),
        "TRUSTED_PROXY_HOPS is 0, yet somebody ends TLS in front of us: all clients then share one \
         address. Behind Heroku it is 1.",
    );
}

async fn database(config: &Config, findings: &mut Findings) {
    if config.is_production() && config.database_url.is_none() {
        return;
    }
    let (db, server) = match open_database(config).await {
        Ok(opened) => opened,
        Err(error) => return findings.add("database", Level::Fail, error.to_string()),
    };
    if server.is_some() {
        findings.add("database", Level::Ok, "a private PostgreSQL under .doorward/");
    }
    if let Err(error) = reachable(config, &db, findings).await {
        let message = format!("DATABASE_URL does not lead to a PostgreSQL that serves us: {error}");
        findings.add("database", Level::Fail, message);
    }
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
}

async fn reachable(config: &Config, db: &Db, findings: &mut Findings) -> sqlx::Result<()> {
    if config.database_pooler == Pooler::Present || db.detect_pooler().await? {
        let message = "a transaction pooler stands in front: no prepared statements are used";
        findings.add("pooler", Level::Ok, message);
        db.assume_pooler();
    } else {
        findings.add("pooler", Level::Ok, "none in front");
    }
    let facts = db.describe_server().await?;
    server(config, &facts, findings);
    findings.warn_unless(
        "migrations",
        db.is_migrated().await?,
        "the schema is up to date",
        "the schema is not up to date: `doorward migrate`, or start `doorward serve`",
    );
    Ok(())
}

fn server(config: &Config, facts: &ServerFacts, findings: &mut Findings) {
    let version = format!("PostgreSQL {}", facts.version);
    if facts.version_number < OLDEST_POSTGRES {
        findings.add("database", Level::Fail, format!("{version} is too old: use 13 or later"));
    } else if facts.is_standby {
        let message = format!("{version} is a standby and takes no writes: use the primary's URL");
        findings.add("database", Level::Fail, message);
    } else {
        let how = if facts.is_encrypted { "over TLS" } else { "without TLS" };
        findings.add("database", Level::Ok, format!("{version} answers, {how}"));
    }
    let seconds = (facts.now - Clock::system().now()).num_seconds();
    findings.warn_unless(
        "clock",
        seconds.abs() <= CLOCK_TOLERANCE,
        "the database's clock agrees with ours",
        &format!("the database's clock is {seconds} s ahead of ours: set both by NTP"),
    );
    let left = facts.max_connections - facts.connections;
    let wanted = i64::from(config.database_connections);
    findings.warn_unless(
        "connections",
        left >= wanted + SPARE_CONNECTIONS,
        &format!("{left} of {} are left, {wanted} are ours at most", facts.max_connections),
        &format!(
            "only {left} of {} are left, and DATABASE_CONNECTIONS is {wanted}: lower it, or put \
             PgBouncer in front",
            facts.max_connections
        ),
    );
}

async fn mail(config: &Config, mailer: &Mailer, send_to: Option<&str>, findings: &mut Findings) {
    match mailer {
        Mailer::Smtp(_) => {}
        Mailer::Off if config.smtp.is_some() => return,
        Mailer::Off => {
            let message = "no mail server is set and letters wait: set SMTP_URL and MAIL_FROM, or \
                           GMAIL_ADDRESS and GMAIL_APP_PASSWORD";
            return findings.add("mail", Level::Warn, message);
        }
        Mailer::Folder(_) | Mailer::Memory(_) => {
            return findings.add("mail", Level::Ok, "letters are kept, see /dev/mailbox");
        }
    }
    let name = match &config.smtp {
        Some(SmtpAccess::Gmail { .. }) => "Gmail: an app password is needed, not the account's own",
        _ => "check host, port, user and password in SMTP_URL",
    };
    if let Err(error) = mailer.check().await {
        return findings.add(
            "mail",
            Level::Fail,
            format!("the mail server is no use: {error} ({name})"),
        );
    }
    findings.add("mail", Level::Ok, "the mail server answers and lets us in");
    let Some(to) = send_to else { return };
    let message_id = format!("<{}@{}>", uuid::Uuid::now_v7(), config.site());
    let letter = message::test(&message_id, to, config.site());
    match mailer.send(&letter).await {
        Ok(()) => {
            findings.add("mail", Level::Ok, "the letter was taken: look for it in the mailbox");
        }
        Err(error) => {
            findings.add("mail", Level::Fail, format!("the letter was not taken: {error}"));
        }
    }
}
