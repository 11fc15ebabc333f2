//! The commands.

mod compose;
mod create_admin;
mod doctor;
mod dotenv;
mod healthcheck;
mod letters;
mod serve;
mod settings;
mod signals;
mod sources;
mod trouble;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::sources::Sources;

use crate::config::{Complaints, Config};
use crate::mail::Mailer;
use crate::mail::letters::Letters;
use crate::state::AppState;
use crate::{router, telemetry};

/// Sign-up, login, sessions, roles and e-mail verification for frontend apps.
///
/// Settings come from the environment or from `.env` in the current folder; `doorward settings`
/// lists them, and `.env.example` explains each. Without `DATABASE_URL` a private PostgreSQL is
/// started under .doorward/ and everything works on this machine alone.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests. Migrates the database first and sends the mails too (unless WORKER=off)
    #[command(after_help = SERVE_SETTINGS)]
    Serve(Address),
    /// Send the mails that wait in the outbox and remove old rows, as a process of its own
    Worker,
    /// Bring the database up to date and exit; several at once wait for each other
    Migrate,
    /// Create an admin with a verified address
    CreateAdmin(create_admin::Arguments),
    /// Check every setting, the database and the mail server, and say how to fix what is wrong
    Doctor(doctor::Arguments),
    /// Write every letter with made-up values into a folder, to be looked at
    Letters(letters::Arguments),
    /// List every setting: its default, what it is, and where its present value comes from
    Settings,
    /// Print the OpenAPI 3.1 document
    Openapi,
    /// Exit with 0 if a service answers on HOST and PORT of this machine, for images without an
    /// HTTP client
    Healthcheck(Address),
}

/// What wins over HOST and PORT.
#[derive(Debug, Args)]
struct Address {
    /// The IP address to listen on, in place of HOST
    #[arg(long)]
    host: Option<String>,
    /// The port to listen on, in place of PORT
    #[arg(long)]
    port: Option<String>,
}

const SERVE_SETTINGS: &str = "\
Settings that matter in production, from the environment or .env:
  DATABASE_URL        the PostgreSQL; without it this is development, with one of its own
  SECRET_KEY          32 or more random bytes, such as `openssl rand -base64 48` prints
  PUBLIC_URL          how browsers reach the service, https://auth.example.com
  SMTP_URL, MAIL_FROM the mail server and the sender; without them letters wait
  CORS_ORIGINS        the frontends' origins, separated by commas
  TRUSTED_PROXY_HOPS  how many proxies in front add to x-forwarded-for
  HOST, PORT          127.0.0.1 and 8000; in production 0.0.0.0 where only PORT is set
`doorward settings` lists all, and `doorward doctor` checks them.";

/// Why a command did not do what it was asked to; the text says how to fix it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = Sources::read(command.settings()).and_then(|sources| run(command, &sources));
    telemetry::flush_log();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let failure = trouble::explained(failure);
            let _ = writeln!(std::io::stderr(), "doorward: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    /// The settings that stand on the command line.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let (Self::Serve(address) | Self::Healthcheck(address)) = self else { return Vec::new() };
        let Address { host, port } = address;
        let given = [("HOST", host), ("PORT", port)].into_iter();
        given.filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

fn run(command: Command, sources: &Sources) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if !matches!(command, Command::Serve(_) | Command::Worker) {
            signals::end_on_signal();
        }
        match command {
            // These two look at a configuration that may not be usable.
            Command::Doctor(arguments) => doctor::doctor(&arguments, sources).await,
            Command::Settings => settings::settings(sources),
            Command::Serve(_) => {
                let (config, mailer, letters) = start_with_letters(sources)?;
                serve::serve(config, mailer, letters).await
            }
            Command::Worker => {
                let (config, mailer, letters) = start_with_letters(sources)?;
                serve::worker(config, mailer, letters).await
            }
            Command::Letters(arguments) => {
                let (config, _, letters) = start_with_letters(sources)?;
                letters::letters(&letters, config.letters_dir.as_deref(), &arguments)
            }
            Command::Migrate => {
                with_state(sources, async |state| {
                    compose::migrate(&state).await?;
                    tracing::info!("the schema is up to date");
                    Ok(())
                })
                .await
            }
            Command::CreateAdmin(arguments) => {
                with_state(sources, async |state| {
                    compose::migrate(&state).await?;
                    create_admin::create_admin(&state, arguments).await
                })
                .await
            }
            Command::Openapi => {
                let (config, _) = start(sources)?;
                let document =
                    router::openapi_document(&config.public_url, config.min_password_length);
                print(&format!("{document:#}\n"))
            }
            Command::Healthcheck(_) => {
                let (config, _) = start(sources)?;
                healthcheck::healthcheck((config.host, config.port).into())
            }
        }
    })
}

/// Prints what a command was asked for.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader of the pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// The configuration and the mailer, with logging as the configuration wants it.
fn start(sources: &Sources) -> Result<(Config, Mailer), Complaints> {
    let (config, mailer, complaints) = read(sources);
    refuse(complaints, sources)?;
    log(&config, sources);
    Ok((config, mailer))
}

/// The same with the letters, where they are needed: a template that was broken while the service
/// runs does not make its health check fail.
fn start_with_letters(sources: &Sources) -> Result<(Config, Mailer, Letters), Complaints> {
    let (config, mailer, mut complaints) = read(sources);
    let letters = compose::letters(&config, &mut complaints);
    refuse(complaints, sources)?;
    log(&config, sources);
    for remark in letters.remarks() {
        tracing::warn!("LETTERS_DIR: {remark}");
    }
    Ok((config, mailer, letters))
}

fn log(config: &Config, sources: &Sources) {
    telemetry::init(&config.log, config.is_production());
    if !telemetry::is_filter(&config.log) {
        tracing::warn!("LOG cannot be read and counts as info: see .env.example");
    }
    for remark in sources.remarks() {
        tracing::warn!("settings: {remark}");
    }
}

/// The configuration and the mailer that it asks for, with every complaint about the two.
fn read(sources: &Sources) -> (Config, Mailer, Vec<String>) {
    let (config, mut complaints) = Config::read(|name| sources.value(name));
    let mailer = compose::mailer(&config, &mut complaints);
    (config, mailer, complaints)
}

/// What may have been meant by another name comes with the complaints: it may be the cause.
fn refuse(mut complaints: Vec<String>, sources: &Sources) -> Result<(), Complaints> {
    if complaints.is_empty() {
        return Ok(());
    }
    complaints.extend(sources.remarks());
    Err(Complaints(complaints))
}

/// Runs a short command on the database, and closes what it opened.
async fn with_state(
    sources: &Sources,
    command: impl AsyncFnOnce(AppState) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (config, mailer) = start(sources)?;
    let (db, server) = compose::open_database(&config).await?;
    let letters = Letters::built_in(&config);
    let state = compose::state(config, db.clone(), mailer, letters)?;
    let outcome = command(state).await;
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    outcome
}
