//! The signals that end a command.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry;

/// In a container the command is process 1, and of that a signal without a handler is kept away:
/// nothing but SIGKILL would end it. Elsewhere the system ends it, even at a prompt.
pub fn end_on_signal() {
    async fn end_on(kind: SignalKind) {
        if let Ok(mut signal) = signal(kind) {
            signal.recv().await;
            telemetry::flush_log();
            std::process::exit(128 + kind.as_raw_value());
        }
    }
    if std::process::id() == 1 {
        tokio::spawn(end_on(SignalKind::terminate()));
        tokio::spawn(end_on(SignalKind::interrupt()));
        if !is_hang_up_ignored() {
            tokio::spawn(end_on(SignalKind::hangup()));
        }
    }
}

/// The signals that ask a service to stop.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` under nohup: a handler would undo what that is for.
    hang_up: Option<Signal>,
}

impl StopSignals {
    pub fn listen() -> std::io::Result<Self> {
        let hang_up = if is_hang_up_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up,
        })
    }

    /// The first SIGTERM, SIGINT, or SIGHUP of a terminal that was closed; its name.
    pub async fn first(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hang_up => "SIGHUP",
        }
    }

    /// The next SIGINT. Another signal that is heard and not read is ignored.
    pub async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }
}

/// Whether we were started with SIGHUP ignored, as nohup does. Where the system has no `/proc`,
/// nohup shows in that no terminal hears the log.
fn is_hang_up_ignored() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return !std::io::stderr().is_terminal();
    };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0)
}
