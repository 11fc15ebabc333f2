//! `serve` and `worker`: the long-running commands.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::compose::{migrate, open_database, state};
use super::{Failure, create_admin};
use crate::config::Config;
use crate::config::limits::RateLimits;
use crate::mail::Mailer;
use crate::state::AppState;
use crate::store::db;
use crate::{changes, listener, router, telemetry, worker};

/// How long to wait before the database is asked again.
const RETRY: Duration = Duration::from_secs(1);

pub async fn serve(config: Config, mailer: Mailer) -> Result<(), Failure> {
    raise_descriptor_limit();
    let address = (config.host, config.port);
    let port = listener::open(address.into()).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrNotAvailable => "Set HOST to an address of this machine, or 0.0.0.0.",
            ErrorKind::PermissionDenied => "Set PORT to one above 1023.",
            _ => "Set PORT to another one.",
        };
        format!("cannot listen on {}: {error}. {remedy}", SocketAddr::from(address))
    })?;
    if config.traces_to.is_some() {
        telemetry::export_traces(&config.service_name);
    }
    let (db, server) = open_database(&config).await?;
    let state = state(config, db.clone(), mailer)?;
    announce(&state, &port);

    let (stop, stopped) = watch::channel(false);
    let on_signal = tokio::spawn(stop_on_signal(state.clone(), stop.clone()));
    let background = tokio::spawn(prepare_and_work(state.clone(), stopped.clone()));
    let app = router::app(state.clone());
    let serving = tokio::spawn(listener::serve(port, app, stopped, state.clone()));

    let outcome = background.await.unwrap_or_else(|panic| Err(panic.into()));
    if outcome.is_err() {
        // A database that cannot be migrated is not fixed by waiting: better to end and be seen.
        let _ = stop.send(true);
    }
    serving.await?;
    tokio::task::spawn_blocking(telemetry::flush_traces).await?;
    let outcome = outcome.map(drop);
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    on_signal.abort();
    tracing::info!("stopped");
    outcome
}

pub async fn worker(config: Config, mailer: Mailer) -> Result<(), Failure> {
    let (db, server) = open_database(&config).await?;
    let state = state(config, db.clone(), mailer)?;
    let (stop, stopped) = watch::channel(false);
    let on_signal = tokio::spawn(stop_on_signal(state.clone(), stop));
    let outcome = prepare(&state, stopped.clone()).await;
    if outcome.is_ok() {
        let shared = state.clone();
        let mut following = JoinSet::new();
        following.spawn(async move {
            let letters = Some(&shared.mail_queued).filter(|_| !shared.mailer.is_off());
            changes::follow(&shared.db, None, letters).await;
        });
        worker::run(state, stopped).await;
    }
    db.close().await;
    if let Some(server) = server {
        server.stop().await;
    }
    on_signal.abort();
    outcome
}

/// Many systems hand out 1,024 descriptors unless asked, which is fewer than the connections that
/// we take.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::debug!(%error, "open files: the limit could not be raised");
    }
}

fn announce(state: &AppState, port: &TcpListener) {
    let config = &state.config;
    if let Ok(address) = port.local_addr() {
        tracing::info!(%address, public_url = config.public_url, "listening");
    }
    if let Mailer::Folder(_) = state.mailer {
        tracing::info!("development: letters are kept, see {}/dev/mailbox", config.public_url);
        tracing::info!("the API, to read and to try: {}/docs", config.public_url);
    }
    if let Mailer::Smtp(smtp) = &state.mailer
        && smtp.settings().is_exposed()
    {
        tracing::warn!(
            "SMTP_URL: tls=none: letters and the links in them cross the network in the clear"
        );
    }
    match config.rate_limits {
        RateLimits::Everybody => {}
        RateLimits::OtherMachines => tracing::info!(
            "development: callers from this machine are not limited; RATE_LIMITS=on limits them too"
        ),
        RateLimits::Nobody => tracing::warn!(
            "RATE_LIMITS=off: passwords can be guessed as fast as they can be hashed"
        ),
    }
    if config.is_production() && !config.is_https() {
        tracing::warn!("PUBLIC_URL is not https: passwords and tokens travel in the clear");
    }
    if config.is_production() && config.is_https() && config.trusted_proxy_hops == 0 {
        tracing::warn!(
            "TRUSTED_PROXY_HOPS is 0: if the proxy in front adds x-forwarded-for, all clients share its address and limits"
        );
    }
}

/// Prepares the database, then sends letters for as long as the service runs. Returns the task that
/// follows changes, to be dropped once the last request was answered.
async fn prepare_and_work(
    state: AppState,
    mut stopped: watch::Receiver<bool>,
) -> Result<JoinSet<()>, Failure> {
    let mut following = JoinSet::new();
    following.spawn(telemetry::tell_of_dropped_lines());
    prepare(&state, stopped.clone()).await?;
    if *stopped.borrow() {
        return Ok(following);
    }
    let shared = state.clone();
    following.spawn(async move {
        let cache = Some(&shared.session_cache);
        let letters = shared.config.worker_inside.then_some(&shared.mail_queued);
        changes::follow(&shared.db, cache, letters.filter(|_| !shared.mailer.is_off())).await;
    });
    state.readiness.set_ready();
    tracing::info!("ready");
    if state.config.worker_inside {
        worker::run(state, stopped).await;
    } else {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
    Ok(following)
}

/// Waits for the database, migrates it, and makes the first admin. Fails only where waiting would
/// not help.
async fn prepare(state: &AppState, mut stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    while !*stopped.borrow() {
        let migrated = tokio::select! {
            migrated = migrate(state) => migrated,
            // What is in progress is rolled back.
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        match migrated {
            Ok(()) => match create_admin::first_admin(state).await {
                Err(error) if error.downcast_ref().is_some_and(db::is_unavailable) => {
                    tracing::warn!(%error, "waiting for the database");
                }
                outcome => return outcome,
            },
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if db::is_unavailable(&error) =>
            {
                let error = db::describe(&error);
                tracing::warn!(error, "waiting for the database");
            }
            Err(error) => return Err(not_migrated(&error)),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
    Ok(())
}

fn not_migrated(error: &MigrateError) -> Failure {
    let code = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            error.as_database_error().and_then(DatabaseError::code)
        }
        MigrateError::Source(why) => return why.to_string().into(),
        _ => None,
    };
    if code.is_some_and(|code| code == "42501") {
        return format!(
            "the schema is not of this release, and the role of DATABASE_URL may not change it: run `doorward migrate` \
             as the role that owns the tables ({error})"
        )
        .into();
    }
    format!("the database cannot be migrated: {error}").into()
}

/// The first SIGTERM or SIGINT asks to finish. A SIGINT after that, from a keyboard, ends the
/// process at once; another SIGTERM does not: platforms may send several (Heroku does), and have
/// SIGKILL for when they would wait no longer.
async fn stop_on_signal(state: AppState, stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("no signal handler could be installed: end the process by force");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: finishing the requests in flight");
    state.readiness.set_draining();
    let _ = stop.send(true);
    // A SIGTERM that is heard and not read is ignored.
    interrupt.recv().await;
    tracing::warn!("interrupted while stopping: ending at once");
    telemetry::flush_log();
    std::process::exit(1);
}
