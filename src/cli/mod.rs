//! The commands.

mod create_admin;
mod doctor;
mod serve;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::changes::MailQueued;
use crate::clock::Clock;
use crate::config::{Complaints, Config, Pooler, SmtpAccess, VARIABLES, development_secret};
use crate::limits::Limits;
use crate::local_postgres::{Durability, LocalPostgres};
use crate::machine::hashing_threads;
use crate::mail::{self, Mailer, SmtpSettings};
use crate::metrics::Metrics;
use crate::security::password::{Hasher, production_params};
use crate::security::{random_secret, token::TokenKeys};
use crate::session_cache::SessionCache;
use crate::state::{AppState, Readiness, Shared};
use crate::store::db::Db;
use crate::store::logins::Logins;
use crate::{router, telemetry};

/// Sign-up, login, sessions, roles and e-mail verification for frontend apps.
///
/// Settings come from the environment or from `.env`; `.env.example` explains each. Without `DATABASE_URL` a private
/// PostgreSQL is started under .doorward/ and everything works on this machine alone.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests. Migrates the database first and sends the mails too (unless WORKER=off)
    Serve,
    /// Send the mails that wait in the outbox and remove old rows, as a process of its own
    Worker,
    /// Bring the database up to date and exit; several at once wait for each other
    Migrate,
    /// Create an admin with a verified address
    CreateAdmin(create_admin::Arguments),
    /// Check every setting, the database and the mail server, and say how to mend what is wrong
    Doctor(doctor::Arguments),
    /// Print the OpenAPI 3.1 document
    Openapi,
    /// Exit with 0 if a service answers on HOST and PORT of this machine, for images without an HTTP client
    Healthcheck,
}

/// Why a command did not do what it was asked to; the text says how to mend it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // The process's environment wins over the file. A file that cannot be read is an error, not ignored.
    let file = dotenvy::dotenv();
    let command = Cli::parse().command;
    let outcome = match file {
        Err(error) if !error.not_found() => Err(unreadable(&error)),
        _ => run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "doorward: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with `.env`. The library's own words would show the line, and a line may hold a password.
fn unreadable(error: &dotenvy::Error) -> Failure {
    let what = match error {
        dotenvy::Error::LineParse(line, _) => {
            let name = line.split('=').next().unwrap_or_default();
            let name = name.trim().trim_start_matches("export ").trim_start();
            let line = if VARIABLES.contains(&name) { name } else { "a line" };
            format!(
                "{line} is not NAME=value, a value with spaces has no quotes, or a quote is not closed"
            )
        }
        error => error.to_string(),
    };
    format!(".env cannot be read: {what}").into()
}

fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            // Looks at a configuration that may not be usable.
            Command::Doctor(arguments) => doctor::doctor(&arguments).await,
            Command::Serve => {
                let (config, mailer) = start()?;
                serve::serve(config, mailer).await
            }
            Command::Worker => {
                let (config, mailer) = start()?;
                serve::worker(config, mailer).await
            }
            Command::Migrate => {
                with_state(async |state| {
                    migrate(&state).await?;
                    tracing::info!("the schema is up to date");
                    Ok(())
                })
                .await
            }
            Command::CreateAdmin(arguments) => {
                with_state(async |state| {
                    migrate(&state).await?;
                    create_admin::create_admin(&state, arguments).await
                })
                .await
            }
            Command::Openapi => {
                let (config, _) = start()?;
                let document =
                    router::openapi_document(&config.public_url, config.min_password_length);
                match writeln!(std::io::stdout(), "{document:#}") {
                    // Whoever reads it has seen enough.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                    written => Ok(written?),
                }
            }
            Command::Healthcheck => {
                let (config, _) = start()?;
                healthcheck((config.host, config.port).into())
            }
        }
    })
}

/// The configuration and the mailer, with logging as the configuration wants it.
fn start() -> Result<(Config, Mailer), Complaints> {
    let (config, mailer) = load()?;
    telemetry::init(&config.log, config.is_production());
    if !telemetry::is_filter(&config.log) {
        tracing::warn!("LOG cannot be read and counts as info: see .env.example");
    }
    Ok((config, mailer))
}

/// The configuration and the mailer that it asks for, or every complaint about the two.
fn load() -> Result<(Config, Mailer), Complaints> {
    let (config, mut complaints) = Config::read(|name| std::env::var(name).ok());
    let mailer = mailer(&config, &mut complaints);
    if complaints.is_empty() { Ok((config, mailer)) } else { Err(Complaints(complaints)) }
}

fn mailer(config: &Config, complaints: &mut Vec<String>) -> Mailer {
    let settings = match &config.smtp {
        Some(SmtpAccess::Url(url)) => SmtpSettings::parse(url.expose_secret()),
        Some(SmtpAccess::Gmail { address, app_password }) => {
            Ok(SmtpSettings::gmail(address, app_password.expose_secret()))
        }
        None if config.is_production() => return Mailer::Off,
        None => return Mailer::folder(Config::data_folder().join("mailbox")),
    };
    let settings =
        settings.map_err(|complaint| complaints.push(format!("SMTP_URL {complaint}"))).ok();
    // If it is missing, the configuration has complained.
    let from = config.mail_from.as_deref().and_then(|raw| {
        let from = mail::sender(raw);
        if from.is_none() {
            let unreadable = "MAIL_FROM must be a sender such as Doorward <no-reply@example.com>.";
            complaints.push(unreadable.to_owned());
        }
        from
    });
    let (Some(settings), Some(from)) = (settings, from) else { return Mailer::Off };
    Mailer::smtp(&settings, from, config.extra_certificates.as_deref()).unwrap_or_else(
        |complaint| {
            complaints.push(format!("SSL_CERT_FILE: {complaint}"));
            Mailer::Off
        },
    )
}

/// The database that the configuration names, and the private server behind it where it names none.
async fn open_database(config: &Config) -> Result<(Db, Option<LocalPostgres>), Failure> {
    if let Some(url) = &config.database_url {
        let connections = config.database_connections;
        let mut db = Db::new(connect_options("DATABASE_URL", url)?, connections);
        if let Some(url) = &config.database_direct_url {
            db = db.with_direct(connect_options("DATABASE_DIRECT_URL", url)?);
        }
        if let Some(url) = &config.database_read_url {
            db = db.with_standby(connect_options("DATABASE_READ_URL", url)?, connections);
        }
        return Ok((db, None));
    }
    let server = LocalPostgres::start(Config::data_folder(), Durability::Durable).await?;
    server.ensure_database("doorward").await?;
    let db = Db::new(server.connect_options("doorward"), config.database_connections);
    Ok((db, Some(server)))
}

/// Reads a database's URL. Parameters that are for other clients (hosters add `channel_binding`) are left out. The log
/// shows neither their names nor their values: sqlx's own words would, and one may be `sslpassword`, or the rest of a
/// password that was not percent-encoded.
fn connect_options(variable: &str, url: &SecretString) -> Result<PgConnectOptions, Failure> {
    const KNOWN: [&str; 18] = [
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "password",
        "port",
        "ssl-ca",
        "ssl-cert",
        "ssl-key",
        "ssl-mode",
        "ssl-root-cert",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "statement-cache-capacity",
        "user",
    ];
    let mut url = Url::parse(url.expose_secret())?;
    let (known, unknown): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .into_owned()
        .partition(|(name, _)| KNOWN.contains(&&**name) || name.starts_with("options["));
    if !unknown.is_empty() {
        let understood = KNOWN.join(", ");
        tracing::warn!(variable, understood, "a parameter in a database's URL is left out");
    }
    url.set_query(None);
    if !known.is_empty() {
        url.query_pairs_mut().extend_pairs(known);
    }
    Ok(url.as_str().parse()?)
}

fn state(config: Config, db: Db, mailer: Mailer) -> Result<AppState, Failure> {
    let secret = match &config.secret_key {
        Some(secret) => secret.clone(),
        None => development_secret(Config::data_folder(), random_secret).map_err(|error| {
            format!("the generated key cannot be kept under .doorward/: {error}")
        })?,
    };
    let keys = TokenKeys::new(&secret, config.secret_key_previous.as_ref(), &config.public_url);
    let params = production_params();
    let threads = hashing_threads(u64::from(params.m_cost()) * 1024);
    Ok(AppState::new(Shared {
        clock: Clock::system(),
        logins: Logins::new(db.clone()),
        db,
        keys,
        hasher: Hasher::new(params, threads),
        limits: Limits::new(config.rate_limits, &secret),
        sessions: SessionCache::new(config.session_cache),
        mailer,
        readiness: Readiness::default(),
        metrics: Metrics::default(),
        mail_queued: MailQueued::default(),
        surplus_removal: tokio::sync::Mutex::default(),
        config,
    }))
}

/// Runs a short command on the database, and closes what it opened.
async fn with_state(
    command: impl AsyncFnOnce(AppState) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (config, mailer) = start()?;
    let (db, server) = open_database(&config).await?;
    let state = state(config, db.clone(), mailer)?;
    let outcome = command(state).await;
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    outcome
}

/// Finds out about a pooler, then migrates.
async fn migrate(state: &AppState) -> Result<(), sqlx::migrate::MigrateError> {
    let db = &state.db;
    match state.config.database_pooler {
        Pooler::Detect if !db.is_behind_pooler() && db.detect_pooler().await? => {
            tracing::info!("a pooler stands before the database: no prepared statements");
            db.assume_pooler();
        }
        Pooler::Detect if db.is_behind_pooler() => {}
        Pooler::Detect | Pooler::Absent => db.assume_direct(),
        Pooler::Present => db.assume_pooler(),
    }
    db.migrate().await
}

/// For images that have no other HTTP client.
fn healthcheck(address: SocketAddr) -> Result<(), Failure> {
    // A service that listens on every address is asked at the loopback's; on `::` it may have either.
    let hosts: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
        }
        host => &[host],
    };
    let addresses: Vec<_> = hosts.iter().map(|&host| (host, address.port()).into()).collect();
    let timeout = Duration::from_secs(3);
    let connect = |address: &SocketAddr| TcpStream::connect_timeout(address, timeout);
    let connected = addresses.iter().map(connect).reduce(Result::or).expect("one at least");
    let mut stream = connected.map_err(|error| format!("nothing answers on {address}: {error}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err("the service is not alive".into())
    }
}
