//! One slice of a contestant: the load generator runs, and what it and the processes say about it
//! is put together.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::process;
use crate::requests::{self, Used};
use crate::scenarios::{Contestant, Requests, Run, Target};
use crate::stage::{Failure, SESSION_ID, Stage};

/// What came out of one slice. What a tool does not tell is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Answers a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Microseconds of processor time a request.
    pub program_cpu: Option<f64>,
    pub postgres_cpu: Option<f64>,
    /// Megabytes, at the end.
    pub program_memory: Option<f64>,
    pub postgres_memory: Option<f64>,
    /// Answers with another status than expected, and connections that broke.
    pub failed: u64,
}

/// Sessions that the service is given to remove for each second that it is watched, and for two
/// more, in which the load generator gets under way: more than it removes.
const OLD_ROWS_A_SECOND: u64 = 20_000;

const WRK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/requests.lua");

/// Measures a contestant, and the one beside it.
pub async fn run(
    stage: &mut Stage,
    used: &mut Used,
    contestant: &'static Contestant,
    connections: u32,
    seconds: u64,
) -> Result<Vec<(&'static str, Sample)>, Failure> {
    if let Some(old) = contestant.cleaning_up {
        stage.begin_cleaning_up(old, OLD_ROWS_A_SECOND * (seconds + 2)).await?;
    }
    if let Run::Ask(target, _) = contestant.run
        && !stage.prepare(target).await?
    {
        let why = match target {
            Target::Previous => "DOORWARD_PREVIOUS names no program",
            _ => "HAProxy or PgBouncer is not installed",
        };
        println!("  {}: {why}", contestant.name);
        return Ok(vec![(contestant.name, Sample { rate: f64::NAN, ..Sample::default() })]);
    }
    let mut failed_before = 0;
    if let Run::Ask(target, _) = contestant.run
        && contestant.is_renewed
    {
        stage.restart(target).await?;
        // The first hashes make room for themselves.
        failed_before = measure(stage, used, contestant, connections, 1).await?.failed;
    }
    let mut samples = Vec::new();
    let sample = if let Some(beside) = contestant.beside {
        // A second more than the other, half of it before: it is under way while that one runs.
        let mut other_used = Used::default();
        let (sample, other) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                measure(stage, used, contestant, connections, seconds).await
            },
            measure(stage, &mut other_used, beside, connections, seconds + 1),
        );
        // Who of the two took how much of the processors' time, nobody can tell.
        let untold = |sample| Sample { program_cpu: None, postgres_cpu: None, ..sample };
        samples.push((beside.name, untold(other?)));
        untold(sample?)
    } else {
        measure(stage, used, contestant, connections, seconds).await?
    };
    let sample = Sample { failed: sample.failed + failed_before, ..sample };
    samples.insert(0, (contestant.name, sample));
    if let Some(old) = contestant.cleaning_up {
        match stage.old_rows(old).await? {
            0 => println!("  (all old rows were gone before the end: the next line says too much)"),
            left => println!("  ({left} old rows are left)"),
        }
        stage.end_cleaning_up(old).await?;
    }
    // What was asked for and not waited for comes to its end.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(samples)
}

/// Measures a contestant alone, whatever is to run beside it.
async fn measure(
    stage: &Stage,
    used: &mut Used,
    contestant: &Contestant,
    connections: u32,
    seconds: u64,
) -> Result<Sample, Failure> {
    match contestant.run {
        Run::Ask(target, requests) => {
            ask(stage, used, contestant, (target, requests), connections, seconds).await
        }
        Run::Hash { plain } => hash(plain, connections, seconds).await,
        Run::Select => select(stage, connections, seconds).await,
    }
}

/// Microseconds of processor time of a program and of PostgreSQL.
fn cpu(pid: u32, postmaster: u32) -> [f64; 2] {
    [process::cpu(pid), process::family_cpu(postmaster)]
}

async fn ask(
    stage: &Stage,
    used: &mut Used,
    contestant: &Contestant,
    (target, requests): (Target, Requests),
    connections: u32,
    seconds: u64,
) -> Result<Sample, Failure> {
    let connections = contestant.connections.unwrap_or(connections);
    let slice = requests::slice(stage, used, target, requests, seconds).await?;
    let file = stage.work.join(format!("{target:?}-{requests:?}"));
    tokio::fs::write(&file, slice.lines).await?;
    let program = stage.program(target);
    let before = cpu(program.pid, stage.postmaster);
    let output = Command::new("wrk")
        // One thread keeps up with two cores' worth of any of these programs, and leaves them the
        // rest.
        .args(["--threads=1", "--timeout=30s"])
        .args([format!("--connections={connections}"), format!("--duration={seconds}s")])
        .args(["--script", WRK, &format!("http://127.0.0.1:{}", program.port)])
        .env("REQUESTS", &file)
        .env("PAUSE", contestant.pause.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("wrk cannot be run: {error}"))?;
    let after = cpu(program.pid, stage.postmaster);
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<u64> =
        result.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    let [made, micros, p50, p99, refused, broken] = numbers[..] else {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("wrk does not say what it measured: {text}{errors}").into());
    };
    used.note(target, requests, made + u64::from(connections) + 1);
    if slice.at_most.is_some_and(|at_most| made + u64::from(connections) >= at_most) {
        return Err(format!("{}: more requests were made than there are", contestant.name).into());
    }
    let unexpected = match requests {
        Requests::LoginWrong => made - refused,
        Requests::LoginCrowd => 0,
        _ => refused,
    };
    // Of a crowd those alone count who were let in.
    let made = if requests == Requests::LoginCrowd { made - refused } else { made };
    // What stands behind a balancer is not told: its own processor time and memory say nothing.
    let is_one_process = !matches!(target, Target::OneOfFleet | Target::Fleet);
    let each = |number: usize| {
        (made > 0 && is_one_process).then(|| (after[number] - before[number]) / made as f64)
    };
    Ok(Sample {
        rate: made as f64 * 1e6 / micros as f64,
        p50: (made > 0).then_some(p50 as f64 / 1e3),
        p99: (made > 0).then_some(p99 as f64 / 1e3),
        program_cpu: each(0),
        postgres_cpu: each(1),
        program_memory: is_one_process.then(|| process::memory(program.pid)),
        postgres_memory: Some(process::family_memory(stage.postmaster)),
        // That nobody was answered is a failure, too.
        failed: unexpected + broken + u64::from(made == 0),
    })
}

/// As many hashes at once as there are connections, and no more than processors.
async fn hash(plain: bool, connections: u32, seconds: u64) -> Result<Sample, Failure> {
    let floor = std::env::var("FLOOR").map_err(|_| "run script/bench: FLOOR is unset")?;
    let processors = std::thread::available_parallelism()?.get();
    let threads = processors.min(usize::try_from(connections)?);
    let how = if plain { "plain" } else { "hasher" };
    let output = Command::new(floor)
        .args(["hash", how, &threads.to_string(), &seconds.to_string()])
        .kill_on_drop(true)
        .output()
        .await?;
    let numbers = String::from_utf8(output.stdout)?;
    let mut numbers = numbers.split_whitespace().map(str::parse::<f64>);
    let (Some(rate), Some(program_cpu)) = (numbers.next(), numbers.next()) else {
        return Err("the floor does not say how many passwords it hashed".into());
    };
    Ok(Sample { rate: rate?, program_cpu: Some(program_cpu?), ..Sample::default() })
}

/// pgbench is not everywhere where PostgreSQL is; without it the rate is unknown.
async fn select(stage: &Stage, connections: u32, seconds: u64) -> Result<Sample, Failure> {
    let script = stage.work.join("select.sql");
    let query = format!(
        "\\set n random(1, {})
         select s.counter, s.successor_used, s.expires_at, u.id, u.username, u.email, u.email_verified_at,
             u.pending_email, u.first_name, u.last_name, u.role, u.password_hash, u.created_at, u.modified_at
         from sessions s join users u on u.id = s.user_id
         where s.id = {} and s.ended_at is null and s.expires_at > now();",
        stage.users.min(1_000),
        SESSION_ID.replace("$1", ":n::bigint"),
    );
    // pgbench takes a line for a statement's end or a command's; a query ends with its semicolon.
    tokio::fs::write(&script, query).await?;
    let before = process::family_cpu(stage.postmaster);
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
        // As many as the pools hold.
        .arg(format!("--client={}", connections.min(10)))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .arg(stage.database_url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let Ok(output) = output else { return Ok(Sample { rate: f64::NAN, ..Sample::default() }) };
    let cpu = process::family_cpu(stage.postmaster) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split(' ').next()?.split('/').next()?.parse::<f64>().ok()
    };
    let (Some(rate), Some(made)) =
        (number("tps = "), number("number of transactions actually processed: "))
    else {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pgbench does not say what it measured: {text}{errors}").into());
    };
    Ok(Sample { rate, postgres_cpu: Some(cpu / made), ..Sample::default() })
}
