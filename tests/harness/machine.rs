//! What a test has from the machine: folders, ports, processes by their ids, and where it says
//! something.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust sources below a folder, which need not be there.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let nested =
        entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

/// A folder that any user may pass through, as a checkout usually is: run as root, PostgreSQL has
/// another account.
pub fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("doorward-test-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A port that nobody uses, outside the range from which the system picks for outgoing connections:
/// between this look and the start of whoever will listen there, no other process gets it by the
/// way.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() * 97 % 18_000;
    loop {
        let offset = start + u32::from(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = 10_000 + u16::try_from(offset % 20_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// For whoever runs a test by hand, with `--nocapture`, or reads why it failed.
#[expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]
pub fn note(what: &str) {
    println!("{what}");
}

pub fn kill_9(pid: u32) {
    kill_process(as_pid(pid), Signal::KILL).unwrap();
}

/// Ends a process and its children in the same moment.
pub fn kill_9_with_children(pid: u32) {
    // Else the children that are left would say goodbye to their clients.
    kill_process(as_pid(pid), Signal::STOP).unwrap();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    children.filter(|pid| is_alive(*pid)).for_each(kill_9);
    kill_9(pid);
}

pub fn is_alive(pid: u32) -> bool {
    // A zombie is as dead: nobody reaps in some containers.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(as_pid(pid)).is_ok() && !stat.contains(") Z ")
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
