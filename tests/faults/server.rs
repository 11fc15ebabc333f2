//! A PostgreSQL of one fault's own, on a TCP port: it is restarted, copied, filled up and killed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::binary::{free_port, open_folder};
use crate::support::cluster;

/// Whom the service is to the server: not its superuser, who may do what others are refused.
const SERVICE: &str = "service";

/// PostgreSQL's programs, and the account that they run as where we are root, whom they refuse.
struct Programs {
    folder: PathBuf,
    account: Option<(u32, u32)>,
    /// A cluster to copy, which is faster than making one.
    template: PathBuf,
}

static PROGRAMS: OnceCell<Programs> = OnceCell::const_new();

/// To be called at the very end.
pub fn clean_up() {
    if let Some(programs) = PROGRAMS.get() {
        let _ = fs::remove_dir_all(&programs.template);
    }
}

impl Programs {
    /// Those that the tests' own cluster was started with.
    async fn find() -> &'static Self {
        PROGRAMS
            .get_or_init(async || {
                let options = cluster().await.connect_options("postgres");
                let socket = options.get_socket().unwrap().clone();
                let owner = fs::metadata(socket.join(".s.PGSQL.5432")).unwrap();
                let mut connection = PgConnection::connect_with(&options).await.unwrap();
                let sql = "select setting from pg_config where name = 'BINDIR'";
                let folder: String =
                    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
                let is_root = rustix::process::getuid().is_root();
                let account = is_root.then(|| (owner.uid(), owner.gid()));
                let template = open_folder().keep();
                let programs = Self { folder: folder.into(), account, template };
                programs.own(&programs.template);
                let data = programs.template.join("data");
                let mut initdb = programs.command("initdb");
                initdb.arg("-D").arg(&data).args(["-U", "doorward", "-A", "trust", "-E", "UTF8"]);
                // Small pieces of log, so that a small disk holds a cluster.
                run(initdb.args(["--locale=C", "--no-sync", "--wal-segsize=1"]));
                programs
            })
            .await
    }

    fn own(&self, folder: &Path) {
        if let Some((uid, gid)) = self.account {
            chown(folder, Some(uid), Some(gid)).unwrap();
        }
    }

    fn command(&self, program: &str) -> Command {
        self.run_as(Command::new(self.folder.join(program)))
    }

    fn run_as(&self, mut command: Command) -> Command {
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How to stop a server.
#[derive(Clone, Copy)]
pub enum Stop {
    /// Everybody is disconnected, and everything is written.
    Fast,
    /// At once: it recovers when it is started again.
    Immediate,
}

pub struct Postgres {
    pub port: u16,
    programs: &'static Programs,
    /// Also a disk of its own, where there is one.
    folder: TempDir,
    disk: Option<Disk>,
    server: Option<Child>,
    settings: Vec<String>,
}

impl Postgres {
    pub async fn start(settings: &[&str]) -> Self {
        Self::build(settings, false).await
    }

    /// On a small disk of its own, which only root can have.
    pub async fn on_small_disk() -> Self {
        Self::build(&["max_wal_size=4MB", "min_wal_size=2MB"], true).await
    }

    async fn build(settings: &[&str], small_disk: bool) -> Self {
        let programs = Programs::find().await;
        let folder = open_folder();
        let disk = small_disk.then(|| Disk::mount(folder.path()));
        programs.own(folder.path());
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres =
            Self { port: free_port(), programs, folder, disk, server: None, settings };
        let mut copy = programs.run_as(Command::new("cp"));
        run(copy.arg("-a").arg(programs.template.join("data")).arg(postgres.data()));
        postgres.resume().await;
        for sql in [
            format!("create role {SERVICE} login"),
            format!("create database doorward owner {SERVICE}"),
        ] {
            postgres.execute("postgres", &sql).await;
        }
        postgres
    }

    /// A streaming standby; from when it is there, nothing is committed before it has it too.
    pub async fn standby(&self) -> Self {
        let folder = open_folder();
        self.programs.own(folder.path());
        let mut standby = Self {
            port: free_port(),
            programs: self.programs,
            folder,
            disk: None,
            server: None,
            settings: self.settings.clone(),
        };
        let port = self.port.to_string();
        let mut copy = self.programs.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &port, "-U", "doorward", "-c", "fast", "-R", "-X"]);
        copy.arg("stream").arg("--no-sync").arg("-D").arg(standby.data());
        tokio::task::spawn_blocking(move || run(&mut copy)).await.unwrap();
        standby.resume().await;
        self.execute("postgres", "alter system set synchronous_standby_names = '*'").await;
        self.execute("postgres", "select pg_reload_conf()").await;
        let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        self.until(sql, 1).await;
        standby
    }

    /// From now on a server in its own right.
    pub async fn promote(&self) {
        self.execute("postgres", "select pg_promote()").await;
    }

    /// Starts the server again, and waits until it answers.
    pub async fn resume(&mut self) {
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        let own = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"];
        for setting in own.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        // Else Ctrl-C in a terminal would end it before whoever uses it.
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            let is_running =
                self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_none());
            if !is_running {
                self.server = Some(command.spawn().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if PgConnection::connect_with(&self.options("postgres")).await.is_ok() {
                return;
            }
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(self.log()).unwrap());
    }

    pub fn stop(&mut self, how: Stop) {
        let Some(mut server) = self.server.take() else { return };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        // It may have died by itself.
        let _ = kill_process(Pid::from_child(&server), signal);
        server.wait().unwrap();
    }

    /// The way of the service to its database, through whatever stands at this port.
    pub fn url_through(port: u16) -> String {
        format!("postgres://{SERVICE}@127.0.0.1:{port}/doorward?sslmode=disable")
    }

    /// As the superuser, past everything.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        self.options_of("doorward", database)
    }

    fn options_of(&self, user: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(user)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// A connection to the service's database as the service has them.
    pub async fn connect_as_service(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.options_of(SERVICE, "doorward")).await
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options("doorward")).await.unwrap()
    }

    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(3).connect_lazy_with(self.options("doorward"))
    }

    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = PgConnection::connect_with(&self.options(database)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    }

    /// Ends every connection that the service has; whether there was any.
    pub async fn cut_service(&self) -> bool {
        let sql = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity
                   where application_name = 'doorward'";
        sqlx::query_scalar(sql).fetch_one(&mut self.connect().await).await.unwrap()
    }

    async fn until(&self, sql: &'static str, count: i64) {
        let mut connection = self.connect().await;
        crate::binary::eventually(sql, async || {
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap() == count
        })
        .await;
    }

    /// Fills the small disk to its last byte; what is dropped makes room again.
    pub fn fill_disk(&self) -> Ballast {
        let path = self.folder.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let zeroes = [0; 4096];
        while std::io::Write::write_all(&mut file, &zeroes).is_ok() {}
        Ballast(path)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        // Before the folder that it lies on.
        self.disk = None;
    }
}

pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A disk in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=96m,mode=0755", "doorward-faults"]).arg(folder);
        run(&mut mount);
        Self(folder.to_owned())
    }

    fn is_possible() -> bool {
        let folder = open_folder();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "doorward-faults"]).arg(folder.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted && Command::new("umount").arg(folder.path()).status().is_ok()
    }
}

pub fn can_have_small_disk() -> bool {
    cfg!(target_os = "linux") && Disk::is_possible()
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
