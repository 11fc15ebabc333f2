//! From the configuration to the parts of a running process: mailer, database, state.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::MigrateError;
use tokio::time::timeout;

use super::Failure;
use crate::clock::Clock;
use crate::config::database_url::{Hosts, Role, ignored_parameters};
use crate::config::{Config, Pooler, SmtpAccess, development_secret, prepare_data_folder};
use crate::local_postgres::{Durability, LocalPostgres};
use crate::machine::hashing_threads;
use crate::mail::letters::Letters;
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

/// The letters that the configuration asks for; what is wrong with them is added to `complaints`.
pub fn letters(config: &Config, complaints: &mut Vec<String>) -> Letters {
    Letters::new(config).unwrap_or_else(|wrong| {
        complaints.extend(wrong);
        Letters::built_in(config)
    })
}

/// The database that the configuration names, and the private server behind it where it names
/// none.
pub async fn open_database(config: &Config) -> Result<(Db, Option<LocalPostgres>), Failure> {
    if let Some(url) = &config.database_url {
        let connections = config.database_connections;
        let mut db = Db::new(hosts("DATABASE_URL", url, Role::Primary)?, connections);
        if let Some(url) = &config.database_direct_url {
            db = db.with_direct(hosts("DATABASE_DIRECT_URL", url, Role::Primary)?);
        }
        if let Some(url) = &config.database_read_url {
            db = db.with_standby(hosts("DATABASE_READ_URL", url, Role::Standby)?, connections);
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

/// The servers of a database's URL. Parameters that are for other clients (hosters add
/// `channel_binding`) are left out, and the log tells of those that are missed.
fn hosts(variable: &str, url: &SecretString, role: Role) -> Result<Hosts, Failure> {
    let url = url.expose_secret();
    for (parameter, remedy) in ignored_parameters(url) {
        tracing::warn!(variable, parameter, remedy, "database: a parameter of the URL is left out");
    }
    let hosts = Hosts::parse(url, role);
    hosts.map_err(|complaint| format!("{variable} {complaint}").into())
}

/// The state of a process that runs on the system's clock, with the production cost of a hash.
pub fn state(
    config: Config,
    db: Db,
    mailer: Mailer,
    letters: Letters,
) -> Result<AppState, Failure> {
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
    Ok(AppState::compose(config, &secret, Clock::system(), db, mailer, letters, hasher))
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
