//! One node: PostgreSQL under Patroni, and the proxies on its ways.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{Member, page};
use crate::harness::machine::{free_port, is_alive, kill_9, kill_9_with_children};
use crate::harness::postgres::{as_owner_of, own, owned_folder, programs};
use crate::harness::tcp_proxy::{TcpProxy, Upstream};
use crate::harness::wait::eventually;
use crate::server::SmallDisk;

/// Ends a program when the tests end, however they do, and a PostgreSQL that it leaves behind.
const SUPERVISOR: &str = r#"
    exec 3<&0; folder=$1 data=$2; shift 2
    "$@" </dev/null 3<&- & echo $! >"$folder.pid"
    read -r _ <&3; kill -9 $!
    postgres=$(sed -n 1p "$data/postmaster.pid" 2>/dev/null) && [ "$(readlink "/proc/$postgres/cwd")" = "$data" ] &&
        kill -QUIT "$postgres""#;

/// A program that ends when this is dropped.
pub struct Supervised {
    supervisor: Child,
    pid: PathBuf,
}

impl Supervised {
    /// With its log and its process id beside `name`; `data` is of the PostgreSQL that it starts.
    pub fn start(program: &Command, name: &Path, data: Option<&Path>) -> Self {
        let log =
            fs::File::options().create(true).append(true).open(name.with_extension("log")).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(name)
            .arg(data.unwrap_or(Path::new("/nowhere")));
        command.arg(program.get_program()).args(program.get_args()).current_dir("/");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        as_owner_of(name.parent().unwrap(), &mut command);
        // Else Ctrl-C in a terminal would end the supervisor before what it is there for.
        command.process_group(0);
        let pid = name.with_extension("pid");
        let _ = fs::remove_file(&pid);
        Self { supervisor: command.spawn().unwrap(), pid }
    }

    pub fn pid(&self) -> u32 {
        fs::read_to_string(&self.pid).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

pub struct Node {
    /// Before the folder, without which its PostgreSQL is not found.
    patroni: Option<Supervised>,
    name: String,
    /// Where clients reach it, HAProxy among them, and where Patroni answers.
    pub port: u16,
    pub api_port: u16,
    /// Its ways to etcd, and those of the other nodes to it.
    ways: Vec<TcpProxy>,
    is_cut_off: bool,
    client: Client,
    folder: TempDir,
    /// Beside which the log is.
    log: PathBuf,
}

impl Node {
    pub async fn new(
        number: usize,
        etcd: &[Member],
        logs: &Path,
        disk: Option<&SmallDisk>,
    ) -> Self {
        let folder = match disk {
            Some(disk) => disk.folder(),
            None => owned_folder().await,
        };
        own(folder.path()).await;
        let (port, api_port) = (free_port(), free_port());
        let (mut ways, mut doors) = (Vec::new(), Vec::new());
        for to in etcd.iter().map(|member| member.clients).chain([port, api_port]) {
            let door = free_port();
            ways.push(TcpProxy::open_to(door, Upstream::Port(to)).await);
            doors.push(door);
        }
        let name = page::node(number);
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().unwrap();
        let log = logs.join(&name);
        let node = Self {
            name,
            port,
            api_port,
            ways,
            is_cut_off: false,
            client,
            folder,
            log,
            patroni: None,
        };
        let settings = page::patroni(&node, &doors, &programs().await);
        fs::write(node.settings(), settings).unwrap();
        node
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn settings(&self) -> PathBuf {
        self.log.with_extension("yml")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts Patroni, which starts PostgreSQL.
    pub fn resume(&mut self) {
        let mut patroni = Command::new("/usr/bin/patroni");
        patroni.arg(self.settings());
        self.patroni = Some(Supervised::start(&patroni, &self.log, Some(&self.data())));
    }

    /// Ends Patroni in its own time, and with it PostgreSQL.
    pub async fn stop(&mut self) {
        let patroni = self.patroni.take().unwrap();
        let pid = patroni.pid();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
        eventually("Patroni ends", async || !is_alive(pid)).await;
    }

    /// The power fails.
    pub fn kill_9(&mut self) {
        let patroni = self.patroni.take().unwrap();
        kill_9(patroni.pid());
        let postgres = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        kill_9_with_children(postgres.lines().next().unwrap().parse().unwrap());
    }

    /// From now on no other node and no etcd is reached from here, nor this one from there.
    pub fn cut_off(&mut self, is_so: bool) {
        self.is_cut_off = is_so;
        self.ways.iter().for_each(|way| way.swallow(is_so));
    }

    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Whether it would let HAProxy's clients in.
    pub async fn leads(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/primary", self.api_port);
        self.client.get(url).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// As the superuser.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:SUPERUSER_PASSWORD@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// The answer to a question, if it gives one.
    pub async fn ask<T>(&self, sql: &'static str) -> Option<T>
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.ok()?;
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.ok()
    }

    /// The end of what Patroni and PostgreSQL have said.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log.with_extension("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        format!("\n{}:\n{}\n", self.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}
