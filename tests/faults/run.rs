//! One fault, from the start of its world to the last check.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::check::{self, Letters};
use crate::faults::Fault;
use crate::history::{Invariant, Outcome};
use crate::load::Load;
use crate::report::Report;
use crate::resources::Resources;
use crate::virtual_user::VirtualUser;
use crate::world::World;

/// How long people live after the fault.
const AFTER: Duration = Duration::from_secs(2);
/// How long whoever has begun something may take to end it.
const ENDING: Duration = Duration::from_mins(1);
/// How long memory and descriptors may take to return.
const RETURN: Duration = Duration::from_secs(10);
/// How long one run may take at most.
const LONGEST: Duration = Duration::from_mins(5);

/// Runs a fault to its end, or to the panic that says that it could not be had.
pub async fn guarded(name: &'static str, run: impl Future<Output = Report>) -> Report {
    let start = Instant::now();
    let mut report = match AssertUnwindSafe(timeout(LONGEST, run)).catch_unwind().await {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => {
            Report { failed: Some(format!("not within {LONGEST:?}")), ..Report::default() }
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
            Report { failed: Some(said.unwrap_or_default()), ..Report::default() }
        }
    };
    report.name = name;
    report.took = start.elapsed();
    report
}

pub async fn run(fault: &Fault) -> Report {
    let mut world = World::build(&fault.setup).await;
    world.start(&fault.setup).await;
    let load = world.load(fault.setup.excused);
    let people = World::people(&load, fault.setup.phones);
    sleep(fault.setup.before).await;
    let before = resources(&world);

    let hurt = Instant::now();
    (fault.harm)(&mut world, &load).await;
    let over = Instant::now();
    if let Err(how) = world.recovered().await {
        load.broken(Invariant::Recovery, how);
    }
    sleep(AFTER).await;
    load.end();
    let mut lived = Vec::new();
    if let Ok(people) = timeout(ENDING, people.join_all()).await {
        lived.extend(people.into_iter().flatten());
    } else {
        load.broken(Invariant::Recovery, "people do not come to an end");
    }

    // Whoever restarts an instance behind a balancer waits until nobody is led to it any more.
    let unanswered = load.history.count(Outcome::Unknown);
    if fault.setup.cluster && unanswered > 0 {
        load.broken(
            Invariant::OnlyUnavailable,
            format!("{unanswered} calls had no answer of ours"),
        );
    }
    let letters = prove(&world, &load, &mut lived).await;
    returned(&world, &before, &load).await;
    for home in &world.homes {
        let log = std::fs::read_to_string(home.folder().join("serve.log")).unwrap_or_default();
        let panicked = log.lines().filter(|line| line.contains("panicked")).take(1);
        // What it was that became a 500.
        let failed = log.lines().filter(|line| line.contains(r#""code":"internal""#)).take(2);
        for line in panicked.chain(failed) {
            load.broken(Invariant::OnlyUnavailable, line);
        }
    }
    let history = &load.history;
    Report {
        calls_a_second: history.calls_a_second(hurt),
        without_a_write: history.longest_without_a_write(hurt),
        done: history.count(Outcome::Done),
        refused: history.count(Outcome::Refused),
        put_off: history.count(Outcome::PutOff),
        unknown: history.count(Outcome::Unknown),
        slowest: history.slowest(),
        first_done: history.first_done_after(over),
        letters,
        broken: history.all_broken(),
        ..Report::default()
    }
}

/// For this long a token that was replaced is still good.
const GRACE: Duration = Duration::from_secs(20);

/// Holds what people were told, and hold, against what is there.
pub async fn prove(world: &World, load: &Load, people: &mut [VirtualUser]) -> Letters {
    let pool = world.pool().await;
    join_all(people.iter_mut().map(VirtualUser::go_on)).await;
    let letters = check::letters(&pool, &world.sink, &load.history).await;
    check::database(&pool, people, &load.history).await;
    pool.close().await;
    tokio::time::sleep(GRACE).await;
    join_all(people.iter_mut().map(VirtualUser::steal)).await;
    letters
}

fn resources(world: &World) -> Vec<Option<Resources>> {
    let services = world.services.iter();
    services.map(|service| service.as_ref().and_then(Resources::of)).collect()
}

async fn returned(world: &World, before: &[Option<Resources>], load: &Load) {
    let start = Instant::now();
    loop {
        let now = resources(world);
        let pairs = before.iter().zip(&now);
        let has_returned = |(before, now): (&Option<Resources>, &Option<Resources>)| {
            before.zip(*now).is_none_or(|(before, now)| now.has_returned_to(before))
        };
        if pairs.into_iter().all(has_returned) {
            return;
        }
        if start.elapsed() > RETURN {
            let said = format!("before: {before:?}, after: {now:?}");
            return load.broken(Invariant::Resources, said);
        }
        sleep(Duration::from_millis(500)).await;
    }
}
