//! What a refresh and a login write in one statement: done once, whatever becomes of its connection
//! and of who waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use doorward::store::logins::{self, NewSession};
use doorward::store::refreshes::{self, Rotation};
use uuid::Uuid;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::PASSWORD;
use crate::harness::wait::{eventually, lock_waits};

async fn number(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

/// Ends the connections that wait for a lock, and then lets go of what they wait for.
async fn break_who_waits(app: &TestApp, held: sqlx::Transaction<'_, sqlx::Postgres>) {
    lock_waits(&app.pool, 1).await;
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    assert_eq!(number(app, sql).await, 1);
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn a_refresh_or_a_login_whose_connection_breaks_half_way_is_done_once() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    if app.state.db.is_behind_pooler() {
        return; // There it is a transaction, and the connection that breaks is the pooler's.
    }
    for round in 1..=3 {
        let mut held = app.pool.begin().await.unwrap();
        sqlx::query("select from sessions for update").execute(&mut *held).await.unwrap();
        let refresh = tokio::spawn(async move { (ada.refresh().await.status, ada) });
        break_who_waits(&app, held).await;
        let status;
        (status, ada) = refresh.await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(number(&app, "select max(counter) from sessions").await, round);

        let mut held = app.pool.begin().await.unwrap();
        sqlx::query("select from users for update").execute(&mut *held).await.unwrap();
        let person = app.anonymous();
        let login = tokio::spawn(async move { person.log_in("ada", PASSWORD).await.status });
        break_who_waits(&app, held).await;
        assert_eq!(login.await.unwrap(), 200);
        assert_eq!(number(&app, "select count(*) from sessions").await, 1 + round);
        let recorded = "select sum(count)::bigint from audit_log where event = 'login'";
        assert_eq!(number(&app, recorded).await, 1 + round);
    }
}

#[tokio::test]
async fn a_login_whose_outcome_was_lost_opens_no_second_session_and_gives_nothing_back_twice() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let ada = app.newcomer("ada").await;
    for _ in 0..3 {
        let answer = app.anonymous().log_in("ada", "wrong password").await;
        answer.assert_error(401, "invalid_credentials");
    }
    let sql = "select key from limits where level = 3 order by key";
    let counted: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
    assert_eq!(counted.len(), 2, "the address and, known there, the account");
    let hash = sqlx::query_scalar("select password_hash from users").fetch_one(&app.pool).await;
    let (hash, now): (String, _) = (hash.unwrap(), app.clock.now());
    let session = NewSession {
        device_hash: None,
        id: Uuid::now_v7(),
        user_id: ada.id().parse().unwrap(),
        password_hash: Some(hash.into()),
        created_at: now,
        expires_at: now + TimeDelta::days(30),
        ends_at: now + TimeDelta::days(90),
        ip: None,
        user_agent: Some("lost".to_owned()),
        request_id: None,
        counted,
    };
    let is_lost = Arc::new(AtomicBool::new(true));
    let open = || {
        app.state.db.write(|conn| {
            let (session, is_lost) = (session.clone(), Arc::clone(&is_lost));
            Box::pin(async move {
                let user = logins::open_all(conn, &[session]).await?.remove(0);
                if is_lost.swap(false, Ordering::SeqCst) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
                }
                Ok(user)
            })
        })
    };
    if app.state.db.is_behind_pooler() {
        // A transaction, and not repeated: the commit's answer is lost, and the login tried again.
        is_lost.store(false, Ordering::SeqCst);
        open().await.unwrap();
    }
    let user = open().await.unwrap();
    assert_eq!(user.expect("nothing has changed meanwhile").username, "ada");
    assert_eq!(number(&app, "select count(*) from sessions where user_agent = 'lost'").await, 1);
    let recorded = "select sum(count)::bigint from audit_log where event = 'login'";
    assert_eq!(number(&app, recorded).await, 2);
    assert_eq!(number(&app, "select count(*) from limits where level = 2").await, 2);
    assert_eq!(number(&app, "select count(*) from limits where level = 3").await, 0);

    let password_hash = Some("another".into());
    let other = NewSession { id: Uuid::now_v7(), password_hash, ..session.clone() };
    assert!(app.state.logins.open(other).await.unwrap().is_none());
    assert_eq!(number(&app, "select count(*) from sessions").await, 2);
    let recorded = "select sum(count)::bigint from audit_log where event = 'login'";
    assert_eq!(number(&app, recorded).await, 2);
    assert_eq!(number(&app, "select count(*) from limits where level = 2").await, 2);
}

#[tokio::test]
async fn a_refresh_takes_the_current_counter_or_a_later_one_and_leaves_every_other_session_alone() {
    let app = TestApp::on(&new_database().await, &[]).await;
    let ada: Uuid = app.newcomer("ada").await.id().parse().unwrap();
    let now = app.clock.now();
    let (idle, second) = (TimeDelta::days(30), TimeDelta::seconds(1));
    let rotation = Rotation { now, expires_at: now + idle, ip: None, most: Some(3) };
    // When the latest counters were replaced, in seconds before now, and whether that allows one
    // more, and how many are known afterwards.
    let lists: [(&[i64], bool, usize); 7] = [
        (&[], true, 1),
        (&[59, 30], true, 3),
        (&[60, 30, 1], true, 3),
        (&[59, 30, 1], false, 0),
        (&[90, 59, 30, 1], false, 0),
        (&[70, 61], true, 1),
        // A clock that was an hour ahead.
        (&[-3600, -3600, -3600], true, 3),
    ];
    for (list, is_allowed, known) in lists {
        for (ended_at, expires_at, ends_at) in [
            (None, now + second, now + idle * 3),
            (None, now + idle, now + TimeDelta::days(1)),
            (None, now, now + idle),
            (Some(now - second), now + idle, now + idle * 3),
        ] {
            for presented in 3..=7 {
                let id = Uuid::now_v7();
                let replaced_at: Vec<_> =
                    list.iter().map(|ago| now - second * (i32::try_from(*ago).unwrap())).collect();
                let sql = "insert into sessions (id, user_id, counter, rotated_at, replaced_at,
                               ended_at, created_at, expires_at, ends_at)
                           values ($1, $2, 5, $3, $4, $5, $6, $7, $8)";
                let insert = sqlx::query(sql).bind(id).bind(ada).bind(replaced_at.last().copied());
                let insert =
                    insert.bind(&replaced_at).bind(ended_at).bind(now - TimeDelta::days(1));
                insert.bind(expires_at).bind(ends_at).execute(&app.pool).await.unwrap();
                let mut tx = app.state.db.begin().await.unwrap();
                let renewed =
                    refreshes::renew(&mut tx, id, ada, presented, rotation).await.unwrap();
                tx.commit().await.unwrap();
                let is_living = ended_at.is_none() && expires_at > now;
                let is_due = is_living && presented >= 5 && is_allowed;
                assert_eq!(renewed.is_some(), is_due, "{list:?} {presented}");
                let sql = "select counter, expires_at, replaced_at from sessions where id = $1";
                let row: (i64, DateTime<Utc>, Vec<DateTime<Utc>>) =
                    sqlx::query_as(sql).bind(id).fetch_one(&app.pool).await.unwrap();
                if is_due {
                    // What was skipped was never current: the list begins anew.
                    let known = if presented == 5 { known } else { 1 };
                    assert_eq!((row.0, row.1), (presented + 1, ends_at.min(now + idle)));
                    assert_eq!((row.2.len(), row.2.last()), (known, Some(&now)), "{list:?}");
                } else {
                    assert_eq!(row, (5, expires_at, replaced_at));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_that_nobody_waits_for_any_more_is_logged_when_it_is_opened() {
    let app = TestApp::start().await.alone();
    app.newcomer("ada").await;
    let logged = || app.state.metrics.events.read(["login"])[0].1;
    assert_eq!(logged(), 1);
    let mut held = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *held).await.unwrap();
    let person = app.anonymous();
    let login = tokio::spawn(async move { person.log_in("ada", PASSWORD).await.status });
    lock_waits(&app.pool, 1).await;
    login.abort();
    assert!(login.await.unwrap_err().is_cancelled());
    held.rollback().await.unwrap();
    eventually("it is logged", async || logged() == 2).await;
    assert_eq!(number(&app, "select count(*) from sessions").await, 2);
}

#[tokio::test]
async fn no_call_that_comes_often_is_planned_anew_each_time() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await.alone();
    if app.state.db.is_behind_pooler() {
        return; // There nothing stays prepared.
    }
    let mut ada = app.newcomer("ada").await;
    // So many that the planner has something to choose from, and to be wrong about.
    for sql in [
        "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip)
         select gen_random_uuid(), users.id, at, at, at, '198.51.100.7'
         from users, now() as at, generate_series(1, 5000)",
        "insert into limits select sha256(n::text::bytea), 1, at, true, at from now() as at, generate_series(1, 5000) as n",
        "analyze",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    // The tenth connection makes all calls; it makes its first five plans for one call alone.
    let mut held = Vec::new();
    for _ in 0..9 {
        held.push(app.state.db.acquire().await.unwrap());
    }
    for _ in 0..12 {
        let right = format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")));
        let login = app.anonymous().call(Method::POST, "/api/v1/login").from("198.51.100.7");
        login.header("authorization", &right).send().await.assert_ok(200);
        app.clock.advance(TimeDelta::minutes(1));
        ada.refresh().await.assert_ok(200);
        ada.get("/api/v1/users/me").await.assert_ok(200);
    }
    let sql = "select statement, generic_plans, custom_plans from pg_prepared_statements";
    let mut conn = app.state.db.acquire().await.unwrap();
    let plans: Vec<(String, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut *conn).await.unwrap();
    let often: Vec<_> = plans.iter().filter(|(_, for_all, own)| for_all + own > 10).collect();
    assert!(often.len() >= 6, "{plans:#?}");
    for (statement, for_all, _) in often {
        assert!(*for_all > 0, "planned anew each time: {statement}");
    }
}
