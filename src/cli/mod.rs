//! The commands.

mod compose;
mod create_admin;
mod doctor;
mod dotenv;
mod healthcheck;
mod serve;
mod trouble;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Complaints, Config};
use crate::mail::Mailer;
use crate::state::AppState;
use crate::{router, telemetry};

/// Sign-up, login, sessions, roles and e-mail verification for frontend apps.
///
/// Settings come from the environment or from `.env`; `.env.example` explains each. Without
/// `DATABASE_URL` a private PostgreSQL is started under .doorward/ and everything works on this
/// machine alone.
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
    /// Check every setting, the database and the mail server, and say how to fix what is wrong
    Doctor(doctor::Arguments),
    /// Print the OpenAPI 3.1 document
    Openapi,
    /// Exit with 0 if a service answers on HOST and PORT of this machine, for images without an
    /// HTTP client
    Healthcheck,
}

/// Why a command did not do what it was asked to; the text says how to fix it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = dotenv::load().and_then(|()| run(command));
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

fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if !matches!(command, Command::Serve | Command::Worker) {
            end_on_signal();
        }
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
                    compose::migrate(&state).await?;
                    tracing::info!("the schema is up to date");
                    Ok(())
                })
                .await
            }
            Command::CreateAdmin(arguments) => {
                with_state(async |state| {
                    compose::migrate(&state).await?;
                    create_admin::create_admin(&state, arguments).await
                })
                .await
            }
            Command::Openapi => {
                let (config, _) = start()?;
                let document =
                    router::openapi_document(&config.public_url, config.min_password_length);
                match writeln!(std::io::stdout(), "{document:#}") {
                    // The reader of the pipe has seen enough.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                    written => Ok(written?),
                }
            }
            Command::Healthcheck => {
                let (config, _) = start()?;
                healthcheck::healthcheck((config.host, config.port).into())
            }
        }
    })
}

/// In a container the command is process 1, and of that a signal without a handler is kept away:
/// nothing but SIGKILL would end it. Elsewhere the system ends it, even at a prompt.
fn end_on_signal() {
    async fn end_on(kind: SignalKind) {
        if let Ok(mut signal) = signal(kind) {
            signal.recv().await;
            telemetry::flush_log();
            std::process::exit(128 + kind.as_raw_value());
        }
    }
    if std::process::id() == 1 {
        tokio::spawn(end_on(SignalKind::terminate()));
        tokio::spawn(end_on(SignalKind::interrupt()));
    }
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
    let mailer = compose::mailer(&config, &mut complaints);
    if complaints.is_empty() { Ok((config, mailer)) } else { Err(Complaints(complaints)) }
}

/// Runs a short command on the database, and closes what it opened.
async fn with_state(
    command: impl AsyncFnOnce(AppState) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (config, mailer) = start()?;
    let (db, server) = compose::open_database(&config).await?;
    let state = compose::state(config, db.clone(), mailer)?;
    let outcome = command(state).await;
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    outcome
}
