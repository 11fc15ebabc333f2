//! `script/bench`: the service under load, beside the least that a program on the same libraries
//! does.
//!
//! The load generator runs on the same processors as what it asks, and other things may run there
//! too. So every contestant of a scenario is measured for a short slice, one after the other, and
//! that in several rounds: what counts is the median of the ratios within a round.

#![expect(clippy::print_stdout, reason = "its result, and how far it has come")]
#![expect(clippy::print_stderr, reason = "why it failed")]
#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]

mod fleet;
mod measure;
mod old_rows;
mod process;
mod report;
mod requests;
mod scenarios;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::{Check, Row};
use crate::requests::Used;
use crate::scenarios::{SCENARIOS, Scenario, Target};
use crate::stage::{Failure, Stage};

/// Starts a private PostgreSQL, the service (release build, settings of production, no limits) and
/// a floor to measure it against, and measures them by turns. Writes target/bench/report.md and
/// report.svg.
///
/// Exits with 1 if any answer had another status than expected. A goal that is missed is told, and
/// no failure.
#[derive(Debug, Parser)]
#[command(name = "script/bench", max_term_width = 100)]
struct Options {
    /// One connection count, two rounds of a second: about a minute, and rough
    #[arg(long)]
    quick: bool,
    /// These scenarios alone
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Seconds of a slice
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    duration: Option<u64>,
    /// Rounds: the medians are taken of so many slices
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=50))]
    rounds: Option<u64>,
    /// People in the database
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    users: u64,
    /// Sessions in the database; two for each of the people unless told
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000..=5_000_000))]
    sessions: Option<u64>,
    /// Old rows in the audit log, for the scenario `audit`
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    audit_rows: u64,
    /// List the scenarios
    #[arg(long)]
    list: bool,
}

const START: &str = "start";

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for scenario in SCENARIOS {
            println!("{:<10} {}", scenario.name, scenario.about);
        }
        println!("{START:<10} time to the first answer, idle memory, size of the binary");
        return ExitCode::SUCCESS;
    }
    let is_known =
        |name: &String| name == START || SCENARIOS.iter().any(|known| known.name == name);
    if let Some(unknown) = options.only.iter().find(|name| !is_known(name)) {
        eprintln!("script/bench: there is no scenario {unknown}: see --list");
        return ExitCode::from(2);
    }
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be heard");
    let outcome = tokio::select! {
        outcome = bench(&options) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    };
    match outcome {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                eprintln!("script/bench: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("script/bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What failed.
async fn bench(options: &Options) -> Result<Vec<String>, Failure> {
    let sessions = options.sessions.unwrap_or(options.users * 2);
    println!(
        "Seeding {} users and {sessions} sessions; RATE_LIMITS=off, PostgreSQL without fsync ...",
        options.users
    );
    let mut stage = Stage::open(options.users, sessions, options.audit_rows).await?;
    let title = describe(&stage, options.users, sessions).await?;
    println!("{title}\n");

    let (mut rows, mut checks, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    // First, while the service is new.
    if wanted(START) {
        checks.extend(start(&mut stage).await?);
    }
    let mut used = Used::default();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        process::forget_peak(stage.program(Target::Doorward).pid);
        let measured = measure_all(&mut stage, &mut used, scenario, options).await?;
        for row in &measured {
            let failed: u64 = row.samples.iter().map(|sample| sample.failed).sum();
            if failed > 0 {
                failures.push(format!(
                    "{}, {}, {} connections: {failed} answers were not the expected ones",
                    scenario.name, row.contestant, row.connections
                ));
            }
        }
        checks.extend(report::checks(scenario, &measured));
        if scenario.name == "flood" {
            checks.push(peak(&stage)?);
        }
        rows.extend(measured);
    }

    let tables = report::tables(&rows, &checks);
    println!("\n{title}\n\n{tables}");
    std::fs::write(stage.results.join("report.md"), format!("{title}\n\n{tables}"))?;
    std::fs::write(stage.results.join("report.svg"), report::picture(&rows, &title))?;
    println!("The same is in target/bench/report.md, with a picture in report.svg.");
    stage.close().await;
    Ok(failures)
}

async fn measure_all(
    stage: &mut Stage,
    used: &mut Used,
    scenario: &Scenario,
    options: &Options,
) -> Result<Vec<Row>, Failure> {
    let (rounds, seconds) = if options.quick { (2, 1) } else { (7, 2) };
    let (rounds, seconds) = (options.rounds.unwrap_or(rounds), options.duration.unwrap_or(seconds));
    let mut rows: Vec<Row> = Vec::new();
    for &connections in scenario.connections {
        if options.quick && connections != 16 {
            continue;
        }
        for round in 1..=rounds {
            println!("{}, {connections} connections, round {round} of {rounds}", scenario.name);
            for contestant in scenario.contestants {
                for (name, sample) in
                    measure::run(stage, used, contestant, connections, seconds).await?
                {
                    println!("  {name:<32} {:>9.0}/s", sample.rate);
                    let same =
                        |row: &&mut Row| row.contestant == name && row.connections == connections;
                    match rows.iter_mut().find(same) {
                        Some(row) => row.samples.push(sample),
                        None => rows.push(Row {
                            scenario: scenario.name,
                            contestant: name,
                            connections,
                            samples: vec![sample],
                        }),
                    }
                }
            }
        }
    }
    Ok(rows)
}

/// From the start to the first answer, on a database that needs no migration; idle memory; the
/// binary.
async fn start(stage: &mut Stage) -> Result<Vec<Check>, Failure> {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(stage.restart(Target::Doorward).await?.as_secs_f64() * 1e3);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let milliseconds = report::median(times.into_iter()).unwrap_or(f64::NAN);
    let memory = process::memory(stage.program(Target::Doorward).pid);
    let binary = std::fs::metadata(env!("CARGO_BIN_EXE_doorward"))?.len() as f64 / 1e6;
    println!("start: {milliseconds:.0} ms, {memory:.1} MB idle, a binary of {binary:.1} MB");
    Ok(vec![
        at_most("start to the first 200 of /readyz, database migrated", milliseconds, "ms", 50.0),
        at_most("idle memory", memory, "MB", 20.0),
        Check {
            what: "release binary".to_owned(),
            found: format!("{binary:.1} MB"),
            by_cpu: None,
            goal: String::new(),
            met: None,
        },
    ])
}

/// What a flood may cost beyond the memory that the hashes themselves ask for.
fn peak(stage: &Stage) -> Result<Check, Failure> {
    let threads = std::thread::available_parallelism()?.get();
    let hashes = threads as f64 * 19_456.0 * 1024.0 / 1e6;
    let peak = process::peak_memory(stage.program(Target::Doorward).pid);
    let what = format!("peak memory under the flood, without {hashes:.1} MB for {threads} hashes");
    Ok(at_most(&what, peak - hashes, "MB", 20.0))
}

fn at_most(what: &str, value: f64, unit: &str, bound: f64) -> Check {
    Check {
        what: what.to_owned(),
        found: format!("{value:.1} {unit}"),
        by_cpu: None,
        goal: format!("at most {bound} {unit}"),
        met: Some(value <= bound),
    }
}

/// On what this was measured.
async fn describe(stage: &Stage, users: u64, sessions: u64) -> Result<String, Failure> {
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&stage.pool).await?;
    let processors = std::thread::available_parallelism()?;
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let model = model.unwrap_or("unknown").to_owned();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let version = version.split(' ').next().unwrap_or_default();
    Ok(format!(
        "{processors} processors ({model}) for the service, PostgreSQL {version} and wrk together, load {load} at the start; \
         {users} users, {sessions} sessions; RATE_LIMITS=off, no fsync."
    ))
}
