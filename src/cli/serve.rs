//! `serve` and `worker`: the long-running commands.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sqlx::migrate::MigrateError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::compose::{migrate, open_database, state};
use super::signals::StopSignals;
use super::trouble::{advice, not_migrated};
use super::{Failure, create_admin};
use crate::config::Config;
use crate::config::limits::RateLimits;
use crate::mail::Mailer;
use crate::mail::letters::Letters;
use crate::state::AppState;
use crate::store::db;
use crate::{changes, listener, router, telemetry, worker};

/// How long to wait before the database is asked again.
const RETRY: Duration = Duration::from_secs(1);

pub async fn serve(config: Config, mailer: Mailer, letters: Letters) -> Result<(), Failure> {
    raise_descriptor_limit();
    let address = (config.host, config.port);
    let port =
        listener::open(address.into()).map_err(|error| cannot_listen(address.into(), &error))?;
    if config.traces_to.is_some() {
        telemetry::export_traces(&config.service_name);
    }
    let (db, server) = open_database(&config).await?;
    let state = state(config, db.clone(), mailer, letters)?;
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

pub async fn worker(config: Config, mailer: Mailer, letters: Letters) -> Result<(), Failure> {
    let (db, server) = open_database(&config).await?;
    let state = state(config, db.clone(), mailer, letters)?;
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

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::AddrNotAvailable => {
            "Set HOST to an address of this machine, or 0.0.0.0 for all of them"
        }
        ErrorKind::AddrInUse => "Set PORT to another one, or end the process that listens there",
        ErrorKind::PermissionDenied if address.port() < 1024 => {
            "A port below 1024 is for root, or needs CAP_NET_BIND_SERVICE: set PORT to one above 1023"
        }
        ErrorKind::PermissionDenied => "The system's policy forbids it: set PORT to another one",
        // An address family that the system does not have.
        _ if address.is_ipv6() => "This machine may have no IPv6: set HOST to 127.0.0.1 or 0.0.0.0",
        _ => "Set HOST and PORT to what this machine has",
    };
    format!("cannot listen on {address}: {error}. {remedy} (or --host and --port).").into()
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
        if let Mailer::Folder(_) = state.mailer {
            announce_development(config, address);
        }
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

/// The pages of a desk, by an address that leads here from this machine.
fn announce_development(config: &Config, address: SocketAddr) {
    let mut here = address;
    if address.ip().is_unspecified() {
        here.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    if config.is_public() {
        let folder = Config::data_folder().display();
        tracing::info!(
            "development: letters are kept in {folder}/mailbox, and not shown, as PUBLIC_URL is not this machine"
        );
    } else if here.ip().is_loopback() {
        tracing::info!("development: letters are kept, see http://{here}/dev/mailbox");
    } else {
        tracing::info!(
            "development: letters are kept, and shown to this machine alone: set HOST to 127.0.0.1 or 0.0.0.0"
        );
    }
    tracing::info!("the API, to read and to try: {}/docs", config.public_url);
}

/// Prepares the database, then sends letters for as long as the service runs. Returns the task that
/// follows changes, to be dropped once the last request was answered.
async fn prepare_and_work(
    state: AppState,
    mut stopped: watch::Receiver<bool>,
) -> Result<JoinSet<()>, Failure> {
    let mut following = JoinSet::new();
    following.spawn(telemetry::tell_of_dropped_lines());
    tracing::info!("database: connecting, and migrating where that is due");
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
                Err(error) => match error.downcast_ref() {
                    Some(error) if db::is_unavailable(error) => waiting(error),
                    _ => return Err(error),
                },
                Ok(()) => return Ok(()),
            },
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if db::is_unavailable(&error) && !db::is_hopeless(&error) =>
            {
                waiting(&error);
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

fn waiting(error: &sqlx::Error) {
    let (error, advice) = (db::describe(error), advice(error));
    tracing::warn!(error, advice, "waiting for the database");
}

/// The first SIGTERM, SIGINT or SIGHUP asks to finish. A SIGINT after that, from a keyboard, ends the
/// process at once; another SIGTERM does not: platforms may send several (Heroku does), and have
/// SIGKILL for when they would wait no longer.
async fn stop_on_signal(state: AppState, stop: watch::Sender<bool>) {
    let Ok(mut signals) = StopSignals::listen() else {
        tracing::error!("no signal handler could be installed: end the process by force");
        return;
    };
    let signal = signals.first().await;
    tracing::info!(signal, "stopping: finishing the requests in flight");
    state.readiness.set_draining();
    let _ = stop.send(true);
    signals.interrupt().await;
    tracing::warn!("interrupted while stopping: ending at once");
    telemetry::flush_log();
    std::process::exit(1);
}
