//! A PostgreSQL of a test's own on a TCP port, and a streaming standby of it: what can be stopped,
//! killed and promoted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doorward::store::db::Db;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use super::cluster::cluster;
use super::machine::{free_port, kill_9_with_children, note, open_folder};
use super::wait::PATIENCE;

/// A standby that has just lost its primary may not hear of its promotion before it would have
/// tried again: 5 s.
const SETTINGS: [&str; 3] =
    ["fsync=off", "shared_buffers=32MB", "wal_retrieve_retry_interval=500ms"];

/// Dropping it ends it.
pub struct Postgres {
    pub port: u16,
    folder: TempDir,
    programs: PathBuf,
    settings: Vec<String>,
    server: Option<Child>,
}

impl Postgres {
    /// With a migrated database `doorward` on it.
    pub async fn primary(settings: &[&str]) -> Self {
        let primary = Self::start(settings).await;
        primary.execute("postgres", "create database doorward").await;
        let db = Db::new(
            primary.url("doorward").parse::<sqlx::postgres::PgConnectOptions>().unwrap(),
            2,
        );
        db.migrate().await.unwrap();
        db.close().await;
        primary
    }

    /// With nothing on it yet.
    pub async fn start(settings: &[&str]) -> Self {
        Self::create(open_folder(), &[], settings).await
    }

    /// In this folder, with more options of initdb.
    pub async fn create(folder: TempDir, initdb: &[&str], settings: &[&str]) -> Self {
        own(folder.path()).await;
        let mut postgres = Self::at(folder, programs().await, settings);
        let mut create = postgres.command("initdb");
        create.args(["-U", "doorward", "-A", "trust", "--encoding=UTF8", "--locale=C"]);
        create.arg("--no-sync").args(initdb).arg("-D").arg(postgres.data());
        run(create).await;
        postgres.resume().await;
        postgres
    }

    /// One that follows this one from now on.
    pub async fn standby(&self, settings: &[&str]) -> Self {
        let mut standby = Self::at(owned_folder().await, self.programs.clone(), settings);
        let mut copy = self.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "doorward"]);
        copy.args(["--checkpoint=fast", "--no-sync", "-R", "-D"]).arg(standby.data());
        run(copy).await;
        standby.resume().await;
        standby
    }

    fn at(folder: TempDir, programs: PathBuf, settings: &[&str]) -> Self {
        let settings = SETTINGS.iter().chain(settings).map(|&setting| setting.to_owned()).collect();
        Self { port: free_port(), folder, programs, settings, server: None }
    }

    /// Starts the server, again where it has ended, and waits until it answers.
    pub async fn resume(&mut self) {
        let mut command = self.command("postgres");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", "", "-D"]);
        command.arg(self.data()).args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let is_running =
                self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_none());
            if !is_running {
                self.server = Some(command.spawn().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if PgConnection::connect(&self.url("postgres")).await.is_ok() {
                return;
            }
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    /// With INT the server disconnects everybody and writes everything; with QUIT it ends at once,
    /// and recovers at its next start.
    pub fn stop(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        // It may have died by itself.
        let _ = kill_process(Pid::from_child(&server), signal);
        server.wait().unwrap();
    }

    /// The power fails: every process of it is gone in the same moment.
    pub fn kill_9(&mut self) {
        let mut server = self.server.take().unwrap();
        kill_9_with_children(server.id());
        server.wait().unwrap();
    }

    /// Takes writes from now on; back once it does.
    pub async fn promote(&self) {
        assert!(self.ask::<bool>("select pg_promote(true, 60)").await, "{}", self.log());
    }

    /// As the superuser, past everything.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://doorward@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// For PgBouncer.
    pub fn address(&self) -> String {
        format!("host=127.0.0.1 port={}", self.port)
    }

    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = PgConnection::connect(&self.url(database)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The answer to a question on the database `doorward`.
    pub async fn ask<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        let mut connection = PgConnection::connect(&self.url("doorward")).await.unwrap();
        let answer = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        answer
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        as_owner_of(self.folder.path(), &mut command);
        // Else Ctrl-C in a terminal would end it before what uses it.
        command.process_group(0);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Signal::QUIT);
        if std::thread::panicking() {
            note(&format!("PostgreSQL on {}:\n{}", self.port, self.log()));
        }
    }
}

async fn run(mut command: Command) {
    let run = move || (command.output().unwrap(), command);
    let (output, command) = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The programs of the tests' cluster.
pub async fn programs() -> PathBuf {
    let options = cluster().await.connect_options("postgres");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let sql = "select setting from pg_config where name = 'BINDIR'";
    let folder: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    folder.into()
}

/// A folder of the account that the tests' cluster runs as.
pub async fn owned_folder() -> TempDir {
    let folder = open_folder();
    own(folder.path()).await;
    folder
}

/// Gives a folder to the account that the tests' cluster runs as: PostgreSQL refuses to be root.
pub async fn own(folder: &Path) {
    let options = cluster().await.connect_options("postgres");
    let owner = fs::metadata(options.get_socket().unwrap().join(".s.PGSQL.5432")).unwrap();
    if fs::metadata(folder).unwrap().uid() != owner.uid() {
        chown(folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

/// Runs as the owner of that folder.
pub fn as_owner_of(folder: &Path, command: &mut Command) {
    let owner = fs::metadata(folder).unwrap();
    if rustix::process::getuid().as_raw() != owner.uid() {
        command.uid(owner.uid()).gid(owner.gid());
    }
}
