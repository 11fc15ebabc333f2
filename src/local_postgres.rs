//! A private PostgreSQL for development and tests, for when no `DATABASE_URL` is given.
//!
//! It listens on a Unix socket that only its owner may open, and lives under one folder. The
//! process that holds the lock file there owns the server and restarts it when it dies; any other
//! process joins through the same socket, and becomes the owner if the first one goes away. The
//! server runs under a small `sh` that waits for the end of its standard input, so it stops with
//! its owner even when that one is killed; and that `sh` (or `initdb`) holds the lock too, so that
//! no process starts a second server before the first is down.

mod error;
mod programs;
mod server;
mod site;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _};

pub use self::error::LocalPostgresError;
use self::server::{Server, last_words};
use self::site::Site;

const USER: &str = "doorward";
const PORT: u16 = 5432;

/// How often the server is looked after, and the longest pause after failures.
const WATCH: Duration = Duration::from_millis(500);
const WATCH_AT_MOST: Duration = Duration::from_secs(10);

/// How long a start may take: another process may still be creating the cluster, or stopping it.
const PATIENCE: Duration = Duration::from_secs(45);

/// What PostgreSQL says while its predecessor is not quite gone: waiting helps.
const LEFTOVERS: [&str; 2] = ["lock file", "still in use"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What was committed stays, whatever happens: for development.
    Durable,
    /// Fast and without fsync; removed at stop, and never reused. It belongs to the process that
    /// started it, so it wants a folder of its own.
    Throwaway,
}

/// A PostgreSQL that runs until this is stopped or dropped, or the process ends in any way.
#[derive(Debug)]
pub struct LocalPostgres {
    sockets: PathBuf,
    /// Dropping this tells the monitor to stop the server.
    stopping: mpsc::Sender<()>,
    monitor: JoinHandle<()>,
}

impl LocalPostgres {
    /// Starts or joins the cluster under `folder`, creating it when it is missing; returns once it
    /// accepts connections.
    pub async fn start(
        folder: &Path,
        durability: Durability,
    ) -> Result<LocalPostgres, LocalPostgresError> {
        let folder = folder.to_owned();
        let site = blocking(move || Site::survey(&folder, durability)).await?;
        let (log, sockets) = (site.log(), site.sockets.clone());
        let mut keeper = Keeper { site, lock: None, server: None };

        let answers = async {
            let options = connect_options(&sockets, "postgres");
            let (mut failures, mut told) = (0, false);
            loop {
                let (state, kept) = blocking(move || (keeper.tend(), keeper)).await;
                keeper = kept;
                let state = state?;
                if matches!(state, State::Joined) && !told {
                    told = true;
                    tracing::info!(
                        "private PostgreSQL: joining the one that another process keeps"
                    );
                }
                if let State::Restarted { last_words } = state {
                    failures += 1;
                    let passing = LEFTOVERS.iter().any(|sign| last_words.contains(sign));
                    if failures >= 3 && !passing {
                        blocking(move || drop(keeper)).await;
                        return Err(LocalPostgresError::NoAnswer { log: log.clone(), last_words });
                    }
                }
                if let Ok(connection) = PgConnection::connect_with(&options).await {
                    // It answered: how the connection ends does not matter.
                    let _ = connection.close().await;
                    return Ok(keeper);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let Ok(answered) = tokio::time::timeout(PATIENCE, answers).await else {
            let last_words = last_words(&log, 0);
            return Err(LocalPostgresError::NoAnswer { log, last_words });
        };
        let keeper = answered?;

        // A thread, not a task: it must outlive the runtime of the one test that came first.
        let (stopping, stop) = mpsc::channel();
        let monitor = thread::Builder::new()
            .name("local-postgres".to_owned())
            .spawn(move || keeper.keep(&stop))
            .expect("a process that runs a server and a runtime may start one more thread");
        Ok(LocalPostgres { sockets, stopping, monitor })
    }

    /// Options to connect as the cluster's superuser over its Unix socket.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.sockets, database)
    }

    /// The same as `postgres://...`, for sqlx and libpq alike, to hand to another process.
    pub fn url(&self, database: &str) -> String {
        let encode = |text: &[u8]| {
            form_urlencoded::byte_serialize(text).collect::<String>().replace('+', "%20")
        };
        let (database, host) =
            (encode(database.as_bytes()), encode(self.sockets.as_os_str().as_encoded_bytes()));
        format!("postgres://{USER}@localhost:{PORT}/{database}?host={host}&sslmode=disable")
    }

    /// Creates the database unless it is there.
    ///
    /// After the owner of the server was killed, the one that answered our start may be the old
    /// one, which is about to go: then this waits for the next one, as long as a start may take.
    pub async fn ensure_database(&self, name: &str) -> sqlx::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.create_database(name).await {
                Err(error) if is_passing(&error) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn create_database(&self, name: &str) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect_with(&self.connect_options("postgres")).await?;
        let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
        let created = sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await;
        connection.close().await?;
        match created {
            // duplicate_database, or unique_violation when two create it at once.
            Err(sqlx::Error::Database(error))
                if matches!(error.code().as_deref(), Some("42P04" | "23505")) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Stops the server and waits until it is down. A drop stops it too, but does not wait.
    pub async fn stop(self) {
        let LocalPostgres { stopping, monitor, .. } = self;
        drop(stopping);
        if blocking(move || monitor.join()).await.is_err() {
            tracing::error!("the local PostgreSQL's thread panicked");
        }
    }
}

/// Whether this is what clients meet while one server goes and the next one comes.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // 57P01 to 57P03: shutting down, crashed, starting up.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

fn connect_options(sockets: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(sockets)
        .port(PORT)
        .username(USER)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("no work given here panics, and only the end of the runtime cancels it")
}

/// What one look at the server found or did.
enum State {
    Running,
    Joined,
    Restarted { last_words: String },
}

/// The part of a process in keeping the server alive.
struct Keeper {
    site: Site,
    lock: Option<File>,
    server: Option<Server>,
}

impl Keeper {
    /// Becomes the owner if there is none, and starts the server if it is ours and not running.
    fn tend(&mut self) -> Result<State, LocalPostgresError> {
        let lock = match &self.lock {
            Some(lock) => lock,
            None => match self.site.try_lock()? {
                Some(lock) => {
                    self.site.create_cluster(&lock)?;
                    self.lock.insert(lock)
                }
                None => return Ok(State::Joined),
            },
        };
        let mut state = State::Running;
        if let Some(server) = &mut self.server {
            if matches!(server.supervisor.try_wait(), Ok(None)) {
                return Ok(State::Running);
            }
            state = State::Restarted { last_words: last_words(&self.site.log(), server.log_start) };
        }
        // Dropped first: if the supervisor alone was killed, this stops the server it left behind.
        self.server = None;
        self.server = Some(self.site.spawn(lock)?);
        Ok(state)
    }

    /// Tends the server until the other end of `stop` is dropped, then stops it
    /// by its own drop.
    fn keep(mut self, stop: &mpsc::Receiver<()>) {
        let mut pause = WATCH;
        while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let longer = (pause * 2).min(WATCH_AT_MOST);
            pause = match self.tend() {
                Ok(State::Running | State::Joined) => WATCH,
                Ok(State::Restarted { last_words }) => {
                    tracing::warn!(
                        "the local PostgreSQL died and was started again:\n{last_words}"
                    );
                    longer
                }
                Err(error) => {
                    tracing::error!("the local PostgreSQL cannot be started again: {error}");
                    longer
                }
            };
        }
    }
}

/// Waits until the server is down, as its files may be removed or used again right afterwards.
impl Drop for Keeper {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.server = None;
            self.site.remove_if_throwaway();
        }
    }
}
