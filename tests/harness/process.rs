//! A process of the real binary, and its log.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::machine::note;
use super::wait::eventually;

/// How long a line of the log takes to be written.
const WRITTEN_WITHIN: Duration = Duration::from_millis(20);

/// A command that lasts; dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn new(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    /// What this command has said in this home so far: what it has logged before this call is
    /// written a moment later.
    pub fn log(&self) -> String {
        std::thread::sleep(WRITTEN_WITHIN);
        fs::read_to_string(&self.log).unwrap()
    }

    /// As [`log`](Self::log), and begins the log anew.
    pub fn take_log(&self) -> String {
        let log = self.log();
        File::create(&self.log).unwrap();
        log
    }

    pub async fn wait_for_log(&self, part: &str) {
        eventually(part, async || self.log().contains(part)).await;
    }

    /// Begins the log anew, so that what is looked for was not said before.
    pub fn forget_log(&self) {
        std::thread::sleep(WRITTEN_WITHIN);
        File::create(&self.log).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// What Ctrl-C sends.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// What a terminal sends that is closed.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        eventually("the process ends", async || !self.is_running()).await;
        self.child.wait().unwrap()
    }

    /// Asks it to end, which it has to do without a complaint; everything that it has said.
    pub async fn stop(mut self) -> String {
        self.terminate();
        let status = self.end().await;
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{status:?}: {log}");
        log
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Its folder may be gone already.
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            note(&format!("{}:\n{log}", self.log.display()));
        }
    }
}

/// Whether a process has a handler for a signal.
#[cfg(target_os = "linux")]
pub fn handles(process: Pid, signal: Signal) -> bool {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap_or("0").trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}
