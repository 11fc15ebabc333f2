//! PgBouncer in transaction mode, before the tests' cluster or another server.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::cluster::cluster;
use super::home::Home;
use super::machine::{free_port, note};
use super::postgres::{as_owner_of, owned_folder};
use super::wait::eventually;

pub const SETTINGS: &str = "pgbouncer.ini";
pub const SERVER_CONNECTIONS: usize = 3;

/// Ends PgBouncer when the tests end, however they do.
const SUPERVISOR: &str = r#"exec 3<&0; "$@" </dev/null 3<&- & read -r _ <&3; kill -9 $!"#;

/// A PgBouncer before the tests' cluster, or another server; dropping it kills it.
pub struct PgBouncer {
    supervisor: Child,
    port: u16,
    more: String,
    folder: TempDir,
}

impl PgBouncer {
    /// `None` where there is no such program. Where all checks have to run (`CI`), that is a
    /// failure.
    pub async fn start(more: &str) -> Option<Self> {
        let cluster = cluster().await.connect_options("postgres");
        let socket = cluster.get_socket().unwrap();
        Self::before(&format!("host={} port=5432", socket.display()), more).await
    }

    /// Before any server.
    pub async fn before(server: &str, more: &str) -> Option<Self> {
        let (folder, port) = (owned_folder().await, free_port());
        write_settings(folder.path(), port, server, more);
        Self::run(folder, port, more).await
    }

    /// With the settings in this folder, by which it listens on this port.
    pub async fn run(folder: TempDir, port: u16, more: &str) -> Option<Self> {
        let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
        let Some(program) = places.iter().find(|place| Path::new(place).exists()) else {
            assert!(std::env::var_os("CI").is_none(), "PgBouncer is not installed");
            note("left out: PgBouncer is not installed");
            return None;
        };
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISOR, "pgbouncer", program]).arg(folder.path().join(SETTINGS));
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // It refuses to run as root, and the cluster's socket is for PostgreSQL's account alone.
        as_owner_of(folder.path(), &mut command);
        let supervisor = command.spawn().unwrap();
        let bouncer = Self { supervisor, port, more: more.to_owned(), folder };
        eventually("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(bouncer)
    }

    /// From now on stands before another server: what an operator does after a fail-over.
    pub fn lead_to(&self, server: &str) {
        write_settings(self.folder.path(), self.port, server, &self.more);
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The way to a database through this.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://doorward@127.0.0.1:{}/{database}?sslmode=disable", self.port())
    }

    /// A home whose service reaches `database` through this.
    pub async fn home(&self, database: &str, settings: &[(&str, &str)]) -> Home {
        let mut home = Home::on(database, settings).await;
        home.set("DATABASE_URL", &self.url(database));
        home
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            note(&format!("PgBouncer:\n{}", self.log()));
        }
    }
}

fn write_settings(folder: &Path, port: u16, server: &str, more: &str) {
    let pid = folder.join("pid");
    let settings = format!(
        "[databases]\nlistening = {server} user=doorward dbname=doorward pool_mode=session\n* = {server} user=doorward\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\npidfile = {}\n{more}\n",
        pid.display()
    );
    fs::write(folder.join(SETTINGS), settings).unwrap();
}
