//! Finding PostgreSQL's server programs, which most systems keep out of PATH.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::LocalPostgresError;

/// Where packages put the server's programs: parent, start of the folder's name, folder inside.
const PLACES: [(&str, &str, &str); 9] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian
    ("/usr", "pgsql-", "bin"),                  // postgresql.org's RPMs
    ("/usr/lib64/pgsql", "postgresql-", "bin"), // Fedora
    ("/usr/libexec", "postgresql", ""),         // Alpine
    ("/usr/lib", "postgresql", "bin"),          // openSUSE
    ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew, on three platforms
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The folder with `initdb` and `postgres`: of the highest version, or of the one that an existing
/// cluster (its major version and its data) was made with, as no other can open it. `command` runs a
/// program as the account that the server has.
pub(super) fn server_programs(
    cluster: Option<(&str, &Path)>,
    command: impl Fn(&Path) -> Command,
) -> Result<PathBuf, LocalPostgresError> {
    let (trusted, passed_over) = candidates();
    let version = |bin: &Path| major_version(command(&bin.join("postgres")));
    let installed = trusted.into_iter().filter_map(|bin| Some((version(&bin)?, bin)));
    let Some((wanted, data)) = cluster else {
        let newest = installed.max_by_key(|(version, _)| *version);
        return newest.map(|(_, bin)| bin).ok_or(LocalPostgresError::NotInstalled { passed_over });
    };
    let mut same = installed.filter(|(version, _)| version.to_string() == wanted);
    same.next().map(|(_, bin)| bin).ok_or_else(|| LocalPostgresError::VersionGone {
        version: wanted.to_owned(),
        data: data.to_owned(),
    })
}

/// The folders that hold the programs: those whose programs may be run, and one that is passed over.
fn candidates() -> (Vec<PathBuf>, Option<PathBuf>) {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path).collect();
    for (parent, prefix, bin) in PLACES {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let versions = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        found.extend(versions.map(|entry| entry.path().join(bin)));
    }
    // A relative folder is another one wherever the process starts.
    found.retain(|bin| bin.is_absolute() && bin.join("initdb").is_file());
    let (trusted, mut others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|bin| ["initdb", "postgres"].iter().all(|name| is_trusted(&bin.join(name))));
    (trusted, others.pop())
}

/// The folders of PATH in which nobody but root and this user can put a program: the server's
/// supervisor takes its `rm` and `sleep` from them.
pub(super) fn trusted_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_closed =
        |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.mode() & 0o002 == 0);
    let folders = env::split_paths(&path)
        .filter(|folder| folder.is_absolute() && is_closed(folder) && is_trusted(folder));
    env::join_paths(folders).expect("what was split at colons holds none")
}

/// Whether nobody but root and this user can have put a program, or a folder of them, where it is, by
/// its own name and by the one that links lead to: it would run with our rights, or read the
/// database.
fn is_trusted(program: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let root = root_id();
    let is_ours = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| {
            // In a folder such as /tmp (sticky) nobody replaces what is another user's.
            let is_open =
                found.mode() & 0o002 != 0 && (found.is_file() || found.mode() & 0o1000 == 0);
            [user, root].contains(&found.uid()) && !is_open
        })
    };
    let all_ours = |path: &Path| path.ancestors().all(is_ours);
    all_ours(program) && program.canonicalize().is_ok_and(|real| all_ours(&real))
}

/// How root's files look from here: in a user namespace that has no root, as those of nobody.
fn root_id() -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_root = map.lines().any(|line| line.split_whitespace().next() == Some("0"));
    if map.is_empty() || has_root {
        return 0;
    }
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    overflow.trim().parse().unwrap_or(0)
}

fn major_version(mut postgres: Command) -> Option<u32> {
    let output = postgres.arg("--version").output().ok()?;
    parse_major_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major_version(text: &str) -> Option<u32> {
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_major_version;

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(parse_major_version(debian), Some(15));
        assert_eq!(parse_major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major_version("bash: postgres: not found"), None);
    }
}
