//! The connections that many share: whatever becomes of those who use them, none is lost, none is
//! lent out half way, and nobody waits while one is at hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use doorward::store::db::{Db, is_unavailable};
use sqlx::{Executor as _, PgConnection, PgPool, Row as _};
use tokio::time::{sleep, timeout};

use crate::harness::cluster::{cluster, new_database};
use crate::harness::dice::Dice;
use crate::harness::wait::eventually;

const CONNECTIONS: u32 = 3;

/// What a server does in no time takes no longer than this, even on a busy machine.
const PROMPT: Duration = Duration::from_millis(1500);

/// A pool, and an eye on the server's side of it.
async fn pool() -> (Db, PgPool) {
    let options = cluster().await.connect_options(&new_database().await);
    (Db::new(options.clone(), CONNECTIONS), PgPool::connect_with(options).await.unwrap())
}

const OURS: &str = "from pg_stat_activity
    where application_name = 'doorward' and datname = current_database()";

async fn ask<T>(eye: &PgPool, what: &str) -> T
where
    T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
{
    let sql = sqlx::AssertSqlSafe(format!("select {what} {OURS}"));
    sqlx::query_scalar(sql).fetch_one(eye).await.unwrap()
}

/// Holds every connection there is at once, and lets go of them when they have been answered to the
/// end.
async fn fill(db: &Db) {
    let all = async {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(db.begin().await.unwrap());
        }
        for tx in held {
            tx.commit().await.unwrap();
        }
    };
    timeout(PROMPT, all).await.expect("every place can be had");
}

/// Whether nobody else's transaction is open on it.
async fn is_fresh(conn: &mut PgConnection) -> sqlx::Result<bool> {
    // The simple protocol: its one message begins both the statement and, where there is none yet,
    // the transaction.
    let row = conn.fetch_one("select now() = statement_timestamp() as fresh").await?;
    row.try_get("fresh")
}

async fn read(db: &Db) -> sqlx::Result<bool> {
    db.read(|conn| Box::pin(is_fresh(conn))).await
}

async fn mark(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("insert into marks values ($1) on conflict do nothing")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

async fn write(db: &Db, id: i64) -> sqlx::Result<()> {
    db.write(|conn| Box::pin(mark(conn, id))).await
}

/// What one of many did.
#[derive(Debug, Default)]
struct Story {
    written: BTreeSet<i64>,
    never: BTreeSet<i64>,
    longest: Duration,
}

/// Uses the pool in every way, and leaves often before it is done.
async fn use_it(db: Db, ids: Arc<AtomicI64>, seed: u64, until: Instant) -> Story {
    let (mut dice, mut story) = (Dice(seed), Story::default());
    while Instant::now() < until {
        let (id, began) = (ids.fetch_add(1, Ordering::SeqCst), Instant::now());
        let a_moment = Duration::from_micros(dice.roll(4000));
        match dice.roll(8) {
            0 => assert!(read(&db).await.unwrap(), "lent out in a transaction"),
            1 => {
                write(&db, id).await.unwrap();
                story.written.insert(id);
            }
            2 => {
                let mut tx = db.begin().await.unwrap();
                mark(&mut tx, id).await.unwrap();
                tx.commit().await.unwrap();
                story.written.insert(id);
            }
            // Never committed, in order or head over heels.
            3 => {
                let mut tx = db.begin().await.unwrap();
                story.never.insert(id);
                mark(&mut tx, id).await.unwrap();
            }
            4 => {
                let mut tx = db.begin().await.unwrap();
                story.never.insert(id);
                let _ = timeout(a_moment, async {
                    mark(&mut tx, id).await.unwrap();
                    tx.execute("select pg_sleep(0.005)").await
                })
                .await;
            }
            // What comes of it nobody knows.
            5 => {
                let (db, task_db) = (&db, db.clone());
                let task = tokio::spawn(async move { write(&task_db, id).await });
                sleep(a_moment).await;
                task.abort();
                let _ = timeout(a_moment, read(db)).await;
            }
            6 => {
                let mut conn = db.acquire().await.unwrap();
                assert!(is_fresh(&mut conn).await.unwrap(), "lent out in a transaction");
                let _ = timeout(a_moment, conn.execute("select pg_sleep(0.005)")).await;
            }
            _ => {
                // Refused by the server: a transaction that cannot go on.
                let error = db.write(|conn| conn.execute("select 1 / 0")).await.unwrap_err();
                assert!(!is_unavailable(&error), "{error}");
            }
        }
        story.longest = story.longest.max(began.elapsed());
    }
    story
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_break_off_half_way_nobody_takes_a_place_along_and_nobody_waits_for_long() {
    let (db, eye) = pool().await;
    eye.execute("create table marks (id bigint primary key)").await.unwrap();
    let (ids, until) = (Arc::new(AtomicI64::new(0)), Instant::now() + Duration::from_millis(1500));
    let users: Vec<_> = (0..50)
        .map(|seed| tokio::spawn(use_it(db.clone(), Arc::clone(&ids), seed, until)))
        .collect();
    let mut most = 0;
    while Instant::now() < until {
        most = most.max(ask::<i64>(&eye, "count(*)").await);
        sleep(Duration::from_millis(10)).await;
    }
    let mut story = Story::default();
    for user in users {
        let one = user.await.expect("no call fails for want of a connection");
        story.written.extend(one.written);
        story.never.extend(one.never);
        story.longest = story.longest.max(one.longest);
    }
    assert!(story.longest < PROMPT, "{:?}", story.longest);
    assert_eq!(most, i64::from(CONNECTIONS));
    fill(&db).await;
    eventually("nothing is left half way", async || {
        ask::<i64>(&eye, "count(*) filter (where state <> 'idle' or xact_start is not null)").await
            == 0
    })
    .await;
    assert_eq!(ask::<i64>(&eye, "count(*)").await, i64::from(CONNECTIONS));
    let marks = sqlx::query_scalar("select id from marks").fetch_all(&eye).await.unwrap();
    let marks: BTreeSet<i64> = marks.into_iter().collect();
    assert!(story.written.len() > 20 && story.never.len() > 20, "{story:?}");
    assert!(story.written.is_subset(&marks), "what was committed is there");
    assert!(story.never.is_disjoint(&marks), "what was broken off never was");
}

#[tokio::test]
async fn a_connection_that_is_still_busy_for_nobody_keeps_no_one_from_those_at_hand() {
    let (db, eye) = pool().await;
    let mut held = Vec::new();
    for _ in 1..CONNECTIONS {
        held.push(db.begin().await.unwrap());
    }
    let mut left = db.begin().await.unwrap();
    let long = left.execute("select pg_sleep(4)");
    assert!(timeout(Duration::from_millis(50), long).await.is_err());
    // The server works on for somebody who has gone.
    drop(left);
    let waiting = tokio::spawn({
        let db = db.clone();
        async move {
            let began = Instant::now();
            (read(&db).await, began.elapsed())
        }
    });
    sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "there is none to be had");
    for tx in held {
        tx.commit().await.unwrap();
    }
    let (outcome, waited) = waiting.await.unwrap();
    assert!(outcome.unwrap());
    assert!(waited < PROMPT, "{waited:?}");
    assert_eq!(ask::<i64>(&eye, "count(*)").await, i64::from(CONNECTIONS));
}

#[tokio::test]
async fn connections_whose_processes_were_ended_are_replaced_unnoticed() {
    let (db, eye) = pool().await;
    eye.execute("create table marks (id bigint primary key)").await.unwrap();
    for way in 0..4 {
        fill(&db).await;
        let ended: i64 = ask(&eye, "count(pg_terminate_backend(pid))").await;
        assert_eq!(ended, i64::from(CONNECTIONS));
        eventually("they are gone", async || ask::<i64>(&eye, "count(*)").await == 0).await;
        match way {
            0 => assert!(read(&db).await.unwrap()),
            1 => write(&db, way).await.unwrap(),
            2 => db.begin().await.unwrap().commit().await.unwrap(),
            _ => assert!(is_fresh(&mut db.acquire().await.unwrap()).await.unwrap()),
        }
    }
    fill(&db).await;
    assert_eq!(ask::<i64>(&eye, "count(*)").await, i64::from(CONNECTIONS));
}

#[tokio::test]
async fn what_has_been_at_hand_for_a_second_is_asked_when_the_next_one_comes_back() {
    let (db, eye) = pool().await;
    let began = Instant::now();
    fill(&db).await;
    // Whatever a process is asked, though it be nothing, is the last thing that it did.
    let last_asked = async || {
        let asked: Option<DateTime<Utc>> = ask(&eye, "min(state_change)").await;
        asked.unwrap()
    };
    let filled = last_asked().await;
    assert!(read(&db).await.unwrap());
    sleep(Duration::from_millis(200)).await;
    let then = last_asked().await;
    if began.elapsed() < Duration::from_secs(1) {
        assert_eq!(then, filled, "a young one is not asked");
    }
    sleep(Duration::from_millis(900)).await;
    assert!(read(&db).await.unwrap());
    eventually("the others have been asked", async || last_asked().await > then).await;
    fill(&db).await;
    assert_eq!(ask::<i64>(&eye, "count(*)").await, i64::from(CONNECTIONS));
}

#[tokio::test]
async fn a_pool_that_closes_waits_for_those_who_use_it_and_lets_nobody_in() {
    let (db, eye) = pool().await;
    eye.execute("create table marks (id bigint primary key)").await.unwrap();
    // Young ones: what is old is the inner pool's, which closes it with the last one.
    while timeout(Duration::from_millis(500), fill(&db)).await.is_err() {}
    let mut held = Vec::new();
    for _ in 1..CONNECTIONS {
        held.push(db.begin().await.unwrap());
    }
    // One is at hand, the others are in use.
    let closing = tokio::spawn({
        let db = db.clone();
        async move { db.close().await }
    });
    let in_use = i64::from(CONNECTIONS) - 1;
    eventually("what was at hand is closed", async || ask::<i64>(&eye, "count(*)").await == in_use)
        .await;
    assert!(matches!(read(&db).await, Err(sqlx::Error::PoolClosed)));
    assert!(!closing.is_finished());
    for (mut tx, id) in held.into_iter().zip(0..) {
        mark(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
    }
    timeout(PROMPT, closing).await.expect("the last one is back").unwrap();
    eventually("all are closed", async || ask::<i64>(&eye, "count(*)").await == 0).await;
    let marks: i64 =
        sqlx::query_scalar("select count(*) from marks").fetch_one(&eye).await.unwrap();
    assert_eq!(marks, in_use);
}

#[test]
fn a_connection_may_outlive_its_runtime() {
    let start = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (outer, inner) = (start(), start());
    let options = outer.block_on(async { cluster().await.connect_options(&new_database().await) });
    let (db, conn, tx) = inner.block_on(async {
        let db = Db::new(options, CONNECTIONS);
        fill(&db).await;
        let (conn, tx) = (db.acquire().await.unwrap(), db.begin().await.unwrap());
        (db, conn, tx)
    });
    drop(inner);
    drop((conn, tx, db));
}
