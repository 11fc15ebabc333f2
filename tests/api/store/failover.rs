//! The primary dies while people work, and its standby takes over: three instances behind HAProxy,
//! with PgBouncer before the database, as the README has it. Nothing that was acknowledged is lost,
//! and everybody goes on with what they hold.
//!
//! `DOORWARD_FAILOVERS` is the number of fail-overs (none unless set). Every second one is without
//! synchronous replication: then what is lost is told, and whoever is affected logs in again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::harness::app::{PUBLIC_URL, SECRET_KEY};
use crate::harness::balancer::Balancer;
use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::postgres::Postgres;
use crate::harness::process::Process;
use crate::harness::wait::eventually;
use crate::store::failover_people::{Door, Record, Witness, come, list};
use crate::store::pooler::twenty_people_live_in;

const PEOPLE: usize = 12;
/// How long people work before the primary dies, and after the first of them could write again.
const CALM: Duration = Duration::from_secs(1);
/// No answer may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// When the primary was gone, the standby took writes, and PgBouncer was told.
struct Operation {
    killed: Instant,
    promoted: Instant,
    moved: Instant,
}

async fn fail_over(primary: &mut Postgres, standby: &Postgres, bouncer: &PgBouncer) -> Operation {
    let killed = Instant::now();
    primary.kill_9();
    standby.promote().await;
    let promoted = Instant::now();
    bouncer.lead_to(&standby.address());
    Operation { killed, promoted, moved: Instant::now() }
}

/// Whether somebody who asked after the primary's death has written.
fn can_write_again(records: &[Record], operation: &Operation) -> bool {
    let mut own = records.iter().filter(|record| record.is_write && record.is_ok());
    own.any(|record| record.start > operation.killed)
}

fn report(records: &[Record], operation: &Operation) -> String {
    let since = |instant: Instant| (instant - operation.killed).as_secs_f64();
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for record in records {
        let kind = if record.is_write { "write" } else { "read" };
        let outcome = record.status.map_or("cut off".to_owned(), |status| status.to_string());
        *counts.entry((kind, outcome)).or_default() += 1;
    }
    let slowest = records.iter().map(|record| record.end - record.start).max().unwrap_or_default();
    let longest_without = |is_write: bool| {
        let own = records.iter().filter(|record| record.is_write == is_write && record.is_ok());
        let mut ends: Vec<_> = own.map(|record| record.end).collect();
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default().as_secs_f64()
    };
    format!(
        "promoted after {:.2} s, PgBouncer told after {:.2} s; longest without a write {:.2} s, without a read {:.2} s; \
         slowest answer {:.2} s; {counts:?}",
        since(operation.promoted),
        since(operation.moved),
        longest_without(true),
        longest_without(false),
        slowest.as_secs_f64()
    )
}

/// What everybody may be told, and how late; before and after, nobody notices anything.
fn assert_bearable(records: &[Record], operation: &Operation, is_synchronous: bool) {
    for Record { start, end, status, .. } in records {
        assert!(*end - *start < PATIENCE, "an answer took {:?}", *end - *start);
        // Whoever has lost something may be told so.
        assert!(matches!(status, Some(200 | 201 | 503)) || !is_synchronous, "{status:?}");
        assert!(matches!(status, Some(200 | 201)) || *end > operation.killed, "{status:?}");
    }
}

/// Three instances behind a balancer, on a primary behind PgBouncer, with a standby behind another
/// one.
struct Site {
    primary: Postgres,
    standby: Postgres,
    bouncer: PgBouncer,
    _before_standby: PgBouncer,
    _homes: [Home; 3],
    services: Vec<Process>,
    balancer: Balancer,
    /// Everybody's way in.
    front: Home,
}

impl Site {
    /// `None` where a program is missing.
    async fn start(is_synchronous: bool) -> Option<Self> {
        let primary = Postgres::primary(&[]).await;
        let standby = primary.standby(&[]).await;
        if is_synchronous {
            primary.execute("doorward", "alter system set synchronous_standby_names = '*'").await;
            primary.execute("doorward", "select pg_reload_conf()").await;
        }
        // As the README has it.
        let more = "max_client_conn = 1000\ndefault_pool_size = 20\nserver_login_retry = 1\nquery_wait_timeout = 5";
        let bouncer = PgBouncer::before(&primary.address(), more).await?;
        let before_standby = PgBouncer::before(&standby.address(), more).await?;
        let settings = [
            ("DATABASE_URL", &*bouncer.url("doorward")),
            ("DATABASE_POOLER", "on"),
            ("DATABASE_DIRECT_URL", &*bouncer.url("listening")),
            ("DATABASE_READ_URL", &*before_standby.url("doorward")),
            ("SECRET_KEY", SECRET_KEY),
            ("PUBLIC_URL", PUBLIC_URL),
            ("TRUSTED_PROXY_HOPS", "1"),
        ];
        let homes = [(); 3].map(|()| Home::new(&settings));
        let services = join_all(homes.iter().map(Home::start)).await;
        let balancer = Balancer::start(&homes).await?;
        let front = Home::new(&settings).through(balancer.port());
        Some(Self {
            primary,
            standby,
            bouncer,
            _before_standby: before_standby,
            _homes: homes,
            services,
            balancer,
            front,
        })
    }

    /// Every instance hears of changes from the standby, now the primary, by the same way as
    /// before.
    async fn everybody_listens(&self) {
        let listening = "select count(*) from pg_stat_activity where query like 'LISTEN %'";
        eventually("every instance hears of changes", async || {
            self.standby.ask::<i64>(listening).await == 3
        })
        .await;
    }
}

/// One fail-over; what was acknowledged and is lost. `None` where a program is missing.
async fn survive(is_synchronous: bool) -> Option<Vec<String>> {
    let mut site = Site::start(is_synchronous).await?;
    // Lists come from the standby, and show each of them what they have just written.
    twenty_people_live_in(&site.front).await;
    for service in &site.services {
        let log = service.log();
        assert!(!log.contains("standby cannot be used"), "{log}");
    }

    let before = Door::new(&site.balancer);
    let people = (0..PEOPLE).map(|number| Witness::new(&before, number));
    let mut people = join_all(people).await;
    let boss = before.log_in("boss").await.unwrap();
    let (door, enough) = (Door::new(&site.balancer), AtomicBool::new(false));
    let operate = async {
        tokio::time::sleep(CALM).await;
        let operation = fail_over(&mut site.primary, &site.standby, &site.bouncer).await;
        while !can_write_again(&door.records.lock().unwrap(), &operation) {
            assert!(operation.killed.elapsed() < Duration::from_mins(1), "nobody can write again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(CALM).await;
        enough.store(true, Ordering::SeqCst);
        operation
    };
    let (operation, newcomers, (), _) = tokio::join!(
        operate,
        come(&door, &enough),
        list(&door, &boss, &enough),
        join_all(people.iter_mut().map(|person| person.work(&door, &enough))),
    );
    let records = door.records.into_inner().unwrap();
    let how = if is_synchronous { "synchronous" } else { "asynchronous" };
    note(&format!("{how}: {}", report(&records, &operation)));
    assert_bearable(&records, &operation, is_synchronous);

    site.balancer.sees_all().await;
    let after = Door::new(&site.balancer);
    let mut lost = join_all(people.iter().map(|person| person.losses(&after))).await.concat();
    for name in &newcomers {
        if after.log_in(name).await.is_none() {
            lost.push(format!("{name}: the account"));
        }
    }
    note(&format!("{} newcomers; lost: {lost:?}", newcomers.len()));
    let letters = "select count(*) from users u where role = 'user' and not exists
                   (select from outbox o where o.user_id = u.id)";
    assert_eq!(site.standby.ask::<i64>(letters).await, 0, "somebody has no letter");
    site.everybody_listens().await;
    join_all(site.services.drain(..).map(Process::stop)).await;
    Some(lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_under_load_and_nothing_acknowledged_is_lost() {
    let rounds = std::env::var("DOORWARD_FAILOVERS").map_or(0, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let is_synchronous = round % 2 == 0;
        let Some(lost) = survive(is_synchronous).await else { return };
        assert!(lost.is_empty() || !is_synchronous, "{lost:#?}");
    }
}
