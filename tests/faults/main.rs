//! The fault matrix: things break while people use the real binary, and afterwards what they were
//! told is held against what is there. `script/faults --help` says how to run it; `cargo test`
//! passes it over.

#![expect(clippy::unwrap_used, reason = "a panic is how a fault fails that cannot be had")]

mod admins;
mod check;
mod cluster;
mod faults;
#[path = "../harness/mod.rs"]
#[expect(dead_code, reason = "shared with tests/api, which uses the rest")]
mod harness;
mod history;
mod load;
mod report;
mod resources;
mod run;
mod self_check;
mod server;
mod virtual_user;
mod world;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::faults::Fault;
use crate::harness::machine::note;
use crate::report::{Report, table};

/// Breaks things while people use Doorward: the real binary, with a PostgreSQL and a mail server of
/// its own for each fault. What they were told is recorded, and held against what is there
/// afterwards.
///
/// The table at the end has one line a fault. The operations of the people: `ok` done; `refused`
/// with a 4xx, as it has to be; `put off` with a 503; `unknown` where no answer came. `calls/s` were
/// made before the fault; `no write` is the longest time in which nothing was written. `slowest` is
/// the longest that anybody waited; `first ok` is the time from the end of the fault to the first
/// operation that was done; `letters` were sent, and `copies` more of them came. The exit code is 1
/// if an invariant was broken.
///
/// `DOORWARD_PREVIOUS` names the program of an older release, for the fault `upgrade`;
/// `DOORWARD_BINARY` one to take in place of the debug build.
#[derive(Parser)]
#[command(name = "script/faults", max_term_width = 100)]
struct Arguments {
    /// The faults to run; all of them unless any is named
    names: Vec<String>,
    /// Say which there are
    #[arg(long)]
    list: bool,
    /// Only the few that are run before every merge
    #[arg(long)]
    short: bool,
    /// Only those of a cluster under Patroni, which no other run has unless they are named
    #[arg(long)]
    cluster: bool,
    /// How often to run each
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    times: usize,
}

fn main() -> ExitCode {
    // `cargo test` starts it too, with arguments that are not for it.
    if std::env::var_os("DOORWARD_FAULTS").is_none() {
        note("left out: script/faults runs it");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        // What was started is stopped when it is dropped, which a signal by itself would not do.
        tokio::select! {
            outcome = run_all(&arguments) => outcome,
            _ = tokio::signal::ctrl_c() => ExitCode::from(130),
            _ = terminate.recv() => ExitCode::from(143),
        }
    })
}

async fn run_all(arguments: &Arguments) -> ExitCode {
    let mut faults = faults::all();
    if arguments.list {
        for Fault { name, about, .. } in faults {
            note(&format!("{name:22} {about}"));
        }
        return ExitCode::SUCCESS;
    }
    let is_known =
        |name: &String| name == self_check::NAME || faults.iter().any(|fault| fault.name == name);
    if let Some(name) = arguments.names.iter().find(|name| !is_known(name)) {
        note(&format!("there is no fault {name}; --list says which there are"));
        return ExitCode::from(2);
    }
    let is_wanted = |name: &str| {
        arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name)
    };
    let is_named = !arguments.names.is_empty();
    faults.retain(|fault| {
        is_wanted(fault.name)
            && (fault.is_short || !arguments.short)
            && (is_named || fault.setup.cluster == arguments.cluster)
    });

    let start = std::time::Instant::now();
    let mut reports = Vec::new();
    if is_wanted(self_check::NAME) && !arguments.cluster {
        reports.push(run::guarded(self_check::NAME, Box::pin(self_check::run())).await);
        reports.last().unwrap().tell(1, 1);
    }
    let all = faults.len() * arguments.times;
    for round in 0..arguments.times {
        for (number, fault) in faults.iter().enumerate() {
            let report = match fault.is_left_out() {
                Some(why) => Report::left_out(fault.name, why),
                None => run::guarded(fault.name, Box::pin(run::run(fault))).await,
            };
            report.tell(round * faults.len() + number + 1, all);
            reports.push(report);
        }
    }
    note(&table(&reports));
    let broken = reports.iter().filter(|report| !report.is_good()).count();
    note(&format!(
        "{} runs in {:.0?}, {broken} with something broken",
        reports.len(),
        start.elapsed()
    ));
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
