//! A PostgreSQL of a test's own, and a streaming standby of it: what can be killed and promoted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use doorward::store::db::Db;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use crate::binary::{eventually, free_port, is_alive, kill_9, note, open_folder};
use crate::support::cluster;

/// Dropping it ends it.
pub struct Postgres {
    process: Child,
    port: u16,
    folder: TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// With a migrated database `doorward` on it.
    pub async fn primary(settings: &[&str]) -> Self {
        let (folder, programs) = (owned_folder().await, programs().await);
        let mut initdb = command(&programs.join("initdb"), folder.path());
        initdb.args([
            "-U",
            "doorward",
            "-A",
            "trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        run(initdb.arg("-D").arg(folder.path().join("data")));
        let primary = Self::start(folder, programs, settings).await;
        primary.sql("postgres", "create database doorward").await;
        let db = Db::new(primary.url("doorward").parse().unwrap(), 2);
        db.migrate().await.unwrap();
        db.close().await;
        primary
    }

    /// One that follows this one from now on.
    pub async fn standby(&self, settings: &[&str]) -> Self {
        let folder = owned_folder().await;
        let mut copy = command(&self.programs.join("pg_basebackup"), folder.path());
        copy.args(["-h", "127.0.0.1", "-U", "doorward", "--checkpoint=fast", "--no-sync", "-R"]);
        copy.args(["-p", &self.port.to_string(), "-D"]).arg(folder.path().join("data"));
        run(&mut copy);
        Self::start(folder, self.programs.clone(), settings).await
    }

    async fn start(folder: TempDir, programs: PathBuf, settings: &[&str]) -> Self {
        let port = free_port();
        let mut server = command(&programs.join("postgres"), folder.path());
        let port_text = port.to_string();
        server.args(["-h", "127.0.0.1", "-p", &port_text, "-k", "", "-D"]);
        server.arg(folder.path().join("data"));
        // A standby that has just lost its primary may not hear of its promotion before it would have tried again: 5 s.
        let common = ["fsync=off", "shared_buffers=32MB", "wal_retrieve_retry_interval=500ms"];
        server.args(common.iter().chain(settings).flat_map(|setting| ["-c", setting]));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = server.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { process, port, folder, programs };
        eventually("PostgreSQL answers", async || {
            let url = server.url("postgres");
            PgConnection::connect(&url).await.is_ok()
        })
        .await;
        server
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://doorward@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// For PgBouncer.
    pub fn address(&self) -> String {
        format!("host=127.0.0.1 port={}", self.port)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub async fn sql(&self, database: &str, sql: &str) {
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

    /// Takes writes from now on; back once it does.
    pub async fn promote(&self) {
        assert!(self.ask::<bool>("select pg_promote(true, 60)").await, "{}", self.log());
    }

    /// The power fails: every process of it is gone in the same moment.
    pub fn kill_9(&mut self) {
        let server = self.process.id();
        // Else those that are left would say goodbye to their clients.
        kill_process(Pid::from_child(&self.process), Signal::STOP).unwrap();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.filter(|pid| is_alive(*pid)).for_each(kill_9);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // QUIT: at once, with all of its processes.
        let _ = kill_process(Pid::from_child(&self.process), Signal::QUIT);
        let _ = self.process.wait();
        if std::thread::panicking() {
            note(&format!("PostgreSQL on {}:\n{}", self.port, self.log()));
        }
    }
}

/// The programs of the tests' cluster.
async fn programs() -> PathBuf {
    let options = cluster().await.connect_options("postgres");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let sql = "select setting from pg_config where name = 'BINDIR'";
    let folder: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    folder.into()
}

/// A folder of the account that the tests' cluster runs as: PostgreSQL refuses to be root.
pub async fn owned_folder() -> TempDir {
    let options = cluster().await.connect_options("postgres");
    let owner = fs::metadata(options.get_socket().unwrap().join(".s.PGSQL.5432")).unwrap();
    let folder = open_folder();
    if fs::metadata(folder.path()).unwrap().uid() != owner.uid() {
        chown(folder.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    folder
}

/// Runs as the owner of that folder.
pub fn as_owner_of(folder: &Path, command: &mut Command) {
    let owner = fs::metadata(folder).unwrap();
    if rustix::process::getuid().as_raw() != owner.uid() {
        command.uid(owner.uid()).gid(owner.gid());
    }
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    as_owner_of(folder, &mut command);
    // Else Ctrl-C in a terminal would end it before what uses it.
    command.process_group(0);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
