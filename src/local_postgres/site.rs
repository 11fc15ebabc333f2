//! Where a cluster's files are, who owns them, and who holds its lock.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest;

use super::error::at;
use super::{Durability, LocalPostgresError, PORT};

/// `sockaddr_un` holds 108 bytes on Linux and 104 on macOS, the last of them zero.
const SOCKET_PATH_MAX: usize = 103;

/// Where a cluster's files are, and as whom its programs run.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) durability: Durability,
    pub(super) folder: PathBuf,
    pub(super) lock: PathBuf,
    /// Data, server log and (mostly) the socket. Not always inside `folder`: see `survey`.
    pub(super) home: PathBuf,
    pub(super) sockets: PathBuf,
    /// Whom PostgreSQL runs as when we are root, which it refuses.
    pub(super) account: Option<Account>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Site {
    pub(super) fn survey(
        folder: &Path,
        durability: Durability,
    ) -> Result<Site, LocalPostgresError> {
        let is_new = !folder.exists();
        fs::create_dir_all(folder).map_err(at(folder))?;
        let folder = folder.canonicalize().map_err(at(folder))?;
        // Two names, so that a throw-away cluster never meets, and never removes, a durable one.
        let name = match durability {
            Durability::Durable => "postgres",
            Durability::Throwaway => "throwaway",
        };
        let mut home = folder.join(name);
        let hash = short_hash(&home);
        let in_tmp = PathBuf::from(format!("/tmp/doorward-{hash}"));

        let mut account = None;
        if rustix::process::getuid().is_root() {
            let in_var = PathBuf::from(format!("/var/lib/doorward/{hash}"));
            let found = Account::of_cluster(&[&home, &in_var]);
            account = Some(found);
            if is_new && durability == Durability::Throwaway {
                // So that the supervisor may empty it.
                chown(&folder, Some(found.uid), Some(found.gid)).map_err(at(&folder))?;
            }
            if !found.may_enter(&folder) {
                let durable = durability == Durability::Durable;
                home = if durable && found.may_enter(&var_lib()) { in_var } else { in_tmp.clone() };
                tracing::info!(
                    "{} is closed to PostgreSQL, which cannot run as root: its files are in {}",
                    folder.display(),
                    home.display()
                );
            }
        }
        let socket = home.join(format!(".s.PGSQL.{PORT}"));
        // A comma would separate two folders, to PostgreSQL and to libpq.
        let fits = socket.to_str().is_some_and(|s| s.len() <= SOCKET_PATH_MAX && !s.contains(','));
        let sockets = if fits { home.clone() } else { in_tmp };
        let lock = folder.join(format!("{name}.lock"));
        Ok(Site { durability, folder, lock, home, sockets, account })
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub(super) fn try_lock(&self) -> Result<Option<File>, LocalPostgresError> {
        let lock = match OpenOptions::new().create(true).append(true).open(&self.lock) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
                return Ok(None);
            }
            Err(error) => return Err(at(&self.lock)(error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(at(&self.lock)(error)),
        }
        // The end of a throw-away cluster removes the file: a lock on a removed file guards
        // nothing.
        let held = lock.metadata().map_err(at(&self.lock))?;
        if !self.is_ours(&held) {
            return Err(at(&self.lock)(others(&held)));
        }
        let there = fs::metadata(&self.lock);
        Ok(there.is_ok_and(|there| there.ino() == held.ino()).then_some(lock))
    }

    /// Makes a folder that only the server's account may enter. One that another account put there
    /// first (anyone may write to /tmp) is refused.
    pub(super) fn make_private(&self, path: &Path) -> Result<(), LocalPostgresError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at(path)(error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(path).map_err(at(path))?;
        if !found.is_dir() || !self.is_ours(&found) {
            return Err(at(path)(others(&found)));
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(at(path))?;
        match self.account {
            Some(to) => chown(path, Some(to.uid), Some(to.gid)).map_err(at(path)),
            None => Ok(()),
        }
    }

    /// Whether something is this user's, or the server's account's.
    fn is_ours(&self, found: &Metadata) -> bool {
        let ours = [Some(rustix::process::getuid().as_raw()), self.account.map(|a| a.uid)];
        ours.contains(&Some(found.uid()))
    }

    /// What the supervisor could not remove because it does not run as root. We hold the lock.
    pub(super) fn remove_if_throwaway(&self) {
        if self.durability == Durability::Throwaway {
            // Mostly they are gone already; the folder stays if other files are in it.
            let _ = remove(&self.home);
            let _ = fs::remove_file(&self.lock);
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl Account {
    /// The owner of an existing cluster, else `postgres`, else `nobody`.
    fn of_cluster(homes: &[&PathBuf]) -> Account {
        let found = homes.iter().find_map(|home| fs::metadata(home).ok());
        if let Some(found) = found.filter(|found| found.uid() != 0) {
            return Account { uid: found.uid(), gid: found.gid() };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let named = |name: &str| {
            passwd.lines().find_map(|line| {
                let mut fields = line.strip_prefix(name)?.strip_prefix(':')?.split(':').skip(1);
                let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
                Some(Account { uid, gid })
            })
        };
        let (uid, gid) = (65_534, 65_534);
        named("postgres").or_else(|| named("nobody")).unwrap_or(Account { uid, gid })
    }

    pub(super) fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    fn may_enter(self, folder: &Path) -> bool {
        let mut probe = Command::new("/bin/sh");
        probe.args(["-c", r#"cd "$1""#, "sh"]).arg(folder);
        self.run(probe.current_dir("/").stderr(Stdio::null()));
        probe.status().is_ok_and(|status| status.success())
    }
}

fn others(found: &Metadata) -> io::Error {
    let owner = found.uid();
    io::Error::other(format!(
        "it belongs to user {owner}, and not to this one: run as its owner, chown it, or move it away"
    ))
}

/// Made for all to pass through, though each cluster in it is closed.
fn var_lib() -> PathBuf {
    let path = PathBuf::from("/var/lib/doorward");
    // Where this fails the account cannot enter it, and the caller takes another folder.
    let _ = fs::create_dir(&path);
    let _ = fs::set_permissions(&path, Permissions::from_mode(0o755));
    path
}

/// Names what belongs to a path but lies elsewhere. The same in every release of Doorward and of
/// Rust, else an upgrade would lose sight of the data.
fn short_hash(path: &Path) -> String {
    let digest = digest::digest(&digest::SHA256, path.as_os_str().as_encoded_bytes());
    digest.as_ref()[..8].iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

pub(super) fn remove(folder: &Path) -> Result<(), LocalPostgresError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(folder)(error)),
        _ => Ok(()),
    }
}
