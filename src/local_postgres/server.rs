//! Running PostgreSQL's own programs: `initdb` once, then the server under its supervisor.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::at;
use super::programs::{server_programs, trusted_path};
use super::site::{Site, remove};
use super::{Durability, LocalPostgresError, PORT, USER};

const LOG_MAX: u64 = 10 * 1024 * 1024;

const SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "timezone=UTC",
    "log_timezone=UTC",
    "shared_buffers=32MB",
    // Only what concerns the server: the message of a failed statement quotes people's data.
    "log_min_messages=log",
];

/// Runs the server until it exits, or stops it once standard input ends. The watcher reads fd 3
/// because `sh` gives background commands `/dev/null`, and ignores TERM before it signals: the
/// kill that ends it after a crash must not make a wanted stop look like one. It signals again and
/// again: a server that has only just begun ignores the first. The lock file goes
/// last, for as long as it is there and locked no other process touches the rest.
const SUPERVISOR: &str = r#"
signal=$1 log=$2 home=$3 sockets=$4 lock=$5; shift 5
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
server=$!
(read -r line <&3; trap '' TERM; tries=0
while [ $tries -lt 100 ] && kill -s "$signal" "$server"; do tries=$((tries + 1)); sleep 0.1; done; exit 0) &
watcher=$!
wait "$server"
kill "$watcher"
wait "$watcher" || exit 1
if [ "$signal" = QUIT ]; then rm -rf "$home" "$sockets"; rm -f "$lock"; rmdir "${lock%/*}"
elif [ "$sockets" != "$home" ]; then rmdir "$sockets"; fi
"#;

pub(super) struct Server {
    /// Has the pipe whose end stops the server.
    pub(super) supervisor: Child,
    pub(super) log_start: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Closes the pipe first.
        if let Err(error) = self.supervisor.wait() {
            tracing::warn!("waiting for the local PostgreSQL to stop: {error}");
        }
    }
}

impl Site {
    /// Runs `initdb` unless the cluster is there. It appears by a rename when it is complete, so
    /// an `initdb` that was interrupted leaves nothing that looks like one.
    pub(super) fn create_cluster(&self, lock: &File) -> Result<(), LocalPostgresError> {
        if self.durability == Durability::Throwaway {
            remove(&self.home)?;
        }
        self.make_private(&self.home)?;
        let (data, unfinished) = (self.data(), self.home.join("data.new"));
        if data.exists() {
            return Ok(());
        }
        let initdb = server_programs(None, |program| self.command(program))?.join("initdb");
        tracing::info!(
            "private PostgreSQL: creating it once, in {}, with {}",
            self.home.display(),
            initdb.display()
        );
        let mut output = String::new();
        // Not every system knows C.UTF-8.
        for locale in ["C.UTF-8", "C"] {
            remove(&unfinished)?;
            let mut command = self.command(&initdb);
            command.arg("-D").arg(&unfinished).args(["-U", USER]);
            command.args(["--encoding=UTF8", "--locale", locale]);
            command.args(["--auth-local=trust", "--auth-host=reject"]);
            if self.durability == Durability::Throwaway {
                command.arg("--no-sync");
            }
            // It never reads the lock: it holds it, in case we are killed meanwhile.
            let lock = lock.try_clone().map_err(at(&self.lock))?;
            let done = command.stdin(lock).output().map_err(at(&initdb))?;
            if done.status.success() {
                fs::rename(&unfinished, &data).map_err(at(&data))?;
                let home = File::open(&self.home).map_err(at(&self.home))?;
                return home.sync_all().map_err(at(&self.home));
            }
            output = String::from_utf8_lossy(&done.stderr).into_owned();
        }
        Err(LocalPostgresError::Initdb { program: initdb, output })
    }

    pub(super) fn spawn(&self, lock: &File) -> Result<Server, LocalPostgresError> {
        self.make_private(&self.sockets)?;
        let (data, log) = (self.data(), self.log());
        let version = fs::read_to_string(data.join("PG_VERSION")).map_err(at(&data))?;
        let made_with = Some((version.trim(), &*data));
        let postgres =
            server_programs(made_with, |program| self.command(program))?.join("postgres");
        tracing::info!("private PostgreSQL: starting {}", postgres.display());
        let mut log_start = fs::metadata(&log).map_or(0, |log| log.len());
        if log_start > LOG_MAX {
            File::create(&log).map_err(at(&log))?;
            log_start = 0;
        }
        // INT: disconnect everyone, write everything, exit. QUIT: exit at once.
        let (signal, tuning): (_, &[&str]) = match self.durability {
            Durability::Durable => ("INT", &["max_connections=100"]),
            // Not synchronous_commit=off: it gains nothing over these, and a kill -9 of PostgreSQL
            // would lose rows that it had acknowledged.
            Durability::Throwaway => {
                let fast = &["max_connections=200", "fsync=off", "full_page_writes=off"];
                ("QUIT", fast)
            }
        };
        let mut command = self.command(Path::new("/bin/sh"));
        command.stderr(Stdio::null());
        command.args(["-c", SUPERVISOR, "doorward-postgres", signal]);
        command.args([&log, &self.home, &self.sockets, &self.lock, &postgres]);
        command.args([Path::new("-D"), &data, Path::new("-k"), &self.sockets]);
        command.args(["-p", &PORT.to_string()]);
        for setting in SETTINGS.iter().chain(tuning) {
            command.args(["-c", setting]);
        }
        let lock = lock.try_clone().map_err(at(&self.lock))?;
        command.stdin(Stdio::piped()).stdout(lock);
        // Else Ctrl-C in a terminal would stop the database before the service has drained.
        command.process_group(0);
        let supervisor = command.spawn().map_err(at(Path::new("/bin/sh")))?;
        Ok(Server { supervisor, log_start })
    }

    /// A command that runs as the account, in a folder it may enter, and sees none of our secrets
    /// and none of the `PG...` variables, which would reconfigure the server.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        command.env("PATH", trusted_path());
        for name in ["HOME", "LD_LIBRARY_PATH"] {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command
    }
}

/// The end of what the server wrote to its log from `start` on.
pub(super) fn last_words(log: &Path, start: u64) -> String {
    let mut written = Vec::new();
    let read = File::open(log).and_then(|mut log| {
        log.seek(SeekFrom::Start(start))?;
        log.read_to_end(&mut written)
    });
    match read {
        Ok(_) => {
            let written = String::from_utf8_lossy(&written);
            let lines: Vec<&str> = written.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        }
        Err(error) => format!("(no log: {error})"),
    }
}
