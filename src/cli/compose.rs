//! From the configuration to the parts of a running process: mailer, database, state.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use url::Url;

use super::Failure;
use crate::clock::Clock;
use crate::config::{Config, Pooler, SmtpAccess, development_secret, prepare_data_folder};
use crate::local_postgres::{Durability, LocalPostgres};
use crate::machine::hashing_threads;
use crate::mail::{self, Mailer, SmtpSettings};
use crate::security::password::{Hasher, production_params};
use crate::security::random_secret;
use crate::state::AppState;
use crate::store::db::Db;

/// The mailer that the configuration asks for; what is wrong with it is added to `complaints`.
pub fn mailer(config: &Config, complaints: &mut Vec<String>) -> Mailer {
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
    let (Some(mut settings), Some(from)) = (settings, from) else { return Mailer::Off };
    config.site().clone_into(&mut settings.hello);
    Mailer::smtp(&settings, from, config.extra_certificates.as_deref()).unwrap_or_else(
        |complaint| {
            complaints.push(format!("SSL_CERT_FILE: {complaint}"));
            Mailer::Off
        },
    )
}

/// The database that the configuration names, and the private server behind it where it names
/// none.
pub async fn open_database(config: &Config) -> Result<(Db, Option<LocalPostgres>), Failure> {
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
    prepare_folder()?;
    let start = LocalPostgres::start(Config::data_folder(), Durability::Durable);
    let server = say_while("private PostgreSQL: starting it", start).await?;
    let database = server.ensure_database("doorward");
    say_while("private PostgreSQL: making the database", database).await?;
    tracing::info!("private PostgreSQL: running");
    let db = Db::new(server.connect_options("doorward"), config.database_connections);
    Ok((db, Some(server)))
}

fn prepare_folder() -> Result<(), Failure> {
    let folder = Config::data_folder();
    prepare_data_folder(folder)
        .map_err(|error| format!("{} cannot be used: {error}", folder.display()).into())
}

/// Reads a database's URL. Parameters that are for other clients (hosters add `channel_binding`)
/// are left out. The log shows neither their names nor their values: sqlx's own words would, and
/// one may be `sslpassword`, or the rest of a password that was not percent-encoded.
fn connect_options(variable: &str, url: &SecretString) -> Result<PgConnectOptions, Failure> {
    let mut url = Url::parse(url.expose_secret())?;
    let (known, unknown): (Vec<_>, Vec<_>) =
        url.query_pairs().into_owned().partition(|(name, _)| is_known(name));
    if !unknown.is_empty() {
        let understood = KNOWN.join(", ");
        tracing::warn!(variable, understood, "database: a parameter of the URL is left out");
    }
    url.set_query(None);
    if !known.is_empty() {
        url.query_pairs_mut().extend_pairs(known);
    }
    Ok(url.as_str().parse()?)
}

/// The parameters of a database's URL that are read.
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

fn is_known(parameter: &str) -> bool {
    KNOWN.contains(&parameter) || parameter.starts_with("options[")
}

/// Parameters that other clients read, and what to write in place of each. Those that lose nothing
/// where they are left out are not among them, such as `channel_binding` and `connect_timeout`.
const OF_OTHER_CLIENTS: [(&str, &str); 12] = [
    ("ssl", "write sslmode=require"),
    ("sslaccept", "write sslmode=verify-full, with sslrootcert"),
    ("sslcrl", "revoked certificates are not asked for: remove it"),
    ("sslnegotiation", "remove it"),
    ("schema", "write options=-csearch_path%3D and the schema's name"),
    ("currentSchema", "write options=-csearch_path%3D and the schema's name"),
    ("search_path", "write options=-csearch_path%3D and the schema's name"),
    ("target_session_attrs", "name the one address that leads to the primary"),
    ("connection_limit", "set DATABASE_CONNECTIONS"),
    ("pool_max_conns", "set DATABASE_CONNECTIONS"),
    ("pgbouncer", "set DATABASE_POOLER=on, or remove it: a pooler is noticed"),
    ("pool_mode", "it is a setting of the pooler: remove it"),
];

/// The parameters of a database's URL that are left out to a loss, each with what to do. Any other
/// name that is not known is not repeated: it may be the rest of a password.
pub fn ignored_parameters(url: &SecretString) -> Vec<(&'static str, &'static str)> {
    // By then it has been complained about.
    let Ok(url) = Url::parse(url.expose_secret()) else { return Vec::new() };
    let is_harmless = |name: &str| {
        [
            "channel_binding",
            "connect_timeout",
            "gssencmode",
            "keepalives",
            "sslsni",
            "fallback_application_name",
        ]
        .contains(&name)
    };
    let unknown = url.query_pairs().filter(|(name, _)| !is_known(name) && !is_harmless(name));
    let told = unknown.map(|(name, _)| {
        OF_OTHER_CLIENTS.iter().find(|(known, _)| *known == name).copied().unwrap_or((
            "a parameter",
            "remove it; if it is a part of the password, percent-encode that",
        ))
    });
    told.collect()
}

/// The state of a process that runs on the system's clock, with the production cost of a hash.
pub fn state(config: Config, db: Db, mailer: Mailer) -> Result<AppState, Failure> {
    if !config.is_production() {
        prepare_folder()?;
    }
    let secret = match &config.secret_key {
        Some(secret) => secret.clone(),
        None => development_secret(Config::data_folder(), random_secret).map_err(|error| {
            format!("the generated key cannot be kept under .doorward/: {error}")
        })?,
    };
    let params = production_params();
    let threads = hashing_threads(u64::from(params.m_cost()) * 1024);
    let hasher = Hasher::new(params, threads);
    Ok(AppState::compose(config, &secret, Clock::system(), db, mailer, hasher))
}

/// Finds out about a pooler, then migrates.
pub async fn migrate(state: &AppState) -> Result<(), MigrateError> {
    let db = &state.db;
    let migrated = async {
        match state.config.database_pooler {
            Pooler::Detect if !db.is_behind_pooler() && db.detect_pooler().await? => {
                tracing::info!("database: a pooler stands in front: no prepared statements");
                db.assume_pooler();
            }
            Pooler::Detect if db.is_behind_pooler() => {}
            Pooler::Detect | Pooler::Absent => db.assume_direct(),
            Pooler::Present => db.assume_pooler(),
        }
        db.migrate().await
    };
    say_while("database: bringing the schema up to date", migrated).await
}

/// How long people wait without a word, and how often they hear the same one again.
const SILENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);

/// Does the work, and says what is being waited for where it takes long.
async fn say_while<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut patience = SILENCE;
    loop {
        if let Ok(done) = timeout(patience, &mut work).await {
            return done;
        }
        tracing::info!("{what} takes a while");
        patience = AGAIN;
    }
}
