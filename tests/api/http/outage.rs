//! The database that is not there yet, not there any more, or not there for everybody.

use std::time::{Duration, Instant};

use axum::http::Method;
use doorward::clock::Clock;
use doorward::store::db::{Db, is_hopeless, is_unavailable};
use futures_util::future::{join_all, try_join_all};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, until_the_pooler_asks_again};
use crate::harness::cluster::{cluster, new_database};
use crate::harness::machine::free_port;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::tcp_proxy::TcpProxy;
use crate::harness::wait::{eventually, lock_waits};

const ME: &str = "/api/v1/users/me";

async fn starting() -> TestApp {
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    TestApp::starting(&new_database().await, &[], clock).await
}

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    answer.assert_error(503, "database_unavailable");
    let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
}

/// Runs a statement as the cluster's owner, beside the test's own database.
async fn run_outside(sql: String) {
    let pool = PgPool::connect_with(cluster().await.connect_options("postgres")).await.unwrap();
    sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    pool.close().await;
}

async fn name_of(app: &TestApp) -> String {
    sqlx::query_scalar("select current_database()::text").fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn before_the_database_is_ready_the_api_asks_to_wait() {
    // Each process becomes ready by itself.
    let app = starting().await.alone();
    let stranger = app.anonymous();
    let form = json!({ "username": "ada", "email": email_of("ada"), "password": PASSWORD });
    assert_unavailable(&stranger.post("/api/v1/users", &form).await);
    assert_unavailable(&stranger.post("/api/v1/users/", &json!({})).await);
    assert_unavailable(&stranger.log_in("ada", PASSWORD).await);
    for path in [ME, "/api/v1/users", "/api/v1/confirm?token=x", "/api/v1/users/x/"] {
        assert_unavailable(&stranger.get(path).await);
    }
    assert_unavailable(&stranger.call(Method::POST, "/api/v1/logout").send().await);
    assert_unavailable(&stranger.get("/readyz").await);
    for path in ["/healthz", "/", "/.well-known/jwks.json", "/openapi.json", "/docs"] {
        assert_eq!(stranger.get(path).await.status, 200, "{path}");
    }
    stranger.get("/nowhere").await.assert_error(404, "not_found");

    app.state.readiness.set_ready();
    stranger.get("/readyz").await.assert_ok(200);
    stranger.post("/api/v1/users", &form).await.assert_ok(201);
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn ready_means_that_the_database_has_been_migrated() {
    let app = starting().await;
    app.state.readiness.set_ready();
    let sql =
        "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    assert_unavailable(&app.anonymous().get("/readyz").await);
    sqlx::query("drop table _sqlx_migrations").execute(&app.pool).await.unwrap();
    assert_unavailable(&app.anonymous().get("/readyz").await);
}

#[tokio::test]
async fn a_crowd_that_asks_whether_it_is_ready_takes_one_connection() {
    let app = TestApp::start().await.alone();
    let (.., most) = app.state.db.connections();
    let connections =
        async |number: u32| try_join_all((0..number).map(|_| app.state.db.acquire())).await;
    drop(connections(most).await.unwrap());
    let mut held = app.pool.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations").execute(&mut *held).await.unwrap();
    let asking = tokio::spawn({
        let stranger = app.anonymous();
        async move { join_all((0..50).map(|_| stranger.get("/readyz"))).await }
    });
    lock_waits(&app.pool, 1).await;
    let others = timeout(Duration::from_secs(1), connections(most - 1)).await;
    drop(others.expect("they are free").unwrap());
    lock_waits(&app.pool, 1).await;
    held.rollback().await.unwrap();
    for answer in asking.await.unwrap() {
        answer.assert_ok(200);
    }
    sqlx::query("drop table _sqlx_migrations").execute(&app.pool).await.unwrap();
    assert_unavailable(&app.anonymous().get("/readyz").await);
}

#[tokio::test]
async fn nor_does_it_take_more_where_the_answer_comes_too_late_or_nobody_waits_for_it() {
    let app = TestApp::start().await.alone();
    let stranger = app.anonymous();
    let mut held = app.pool.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations").execute(&mut *held).await.unwrap();
    for _ in 0..10 {
        let hung_up = timeout(Duration::from_millis(5), stranger.get("/readyz")).await;
        assert!(hung_up.is_err(), "it waits for the lock");
    }
    for answer in join_all((0..50).map(|_| stranger.get("/readyz"))).await {
        assert_unavailable(&answer);
    }
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert!(waiting <= 1, "{waiting}");
    held.rollback().await.unwrap();
    stranger.get("/readyz").await.assert_ok(200);
}

#[tokio::test]
async fn whoever_is_about_to_end_is_not_ready_and_finishes_what_it_is_given() {
    let app = TestApp::start().await.alone();
    let ada = app.user("ada").await;
    app.state.readiness.set_draining();
    app.anonymous().get("/readyz").await.assert_error(503, "busy");
    app.anonymous().get("/healthz").await.assert_ok(200);
    ada.get(ME).await.assert_ok(200);
    ada.put(ME, &json!({ "first_name": "Ada" })).await.assert_ok(200);
    // Nobody comes back from there.
    app.state.readiness.set_ready();
    app.anonymous().get("/readyz").await.assert_error(503, "busy");
}

/// Every kind of call is told within seconds that the database is gone.
async fn assert_gone(app: &TestApp, person: &Person) {
    let form = json!({ "username": "bob", "email": email_of("bob"), "password": PASSWORD });
    let names = json!({ "first_name": "Ada" });
    let started = Instant::now();
    let (list, me, update, register, login, readyz) = tokio::join!(
        person.get("/api/v1/users"),
        person.get(ME),
        person.put(ME, &names),
        person.post("/api/v1/users", &form),
        person.log_in("boss", PASSWORD),
        person.get("/readyz"),
    );
    for answer in [list, me, update, register, login, readyz] {
        assert_unavailable(&answer);
    }
    assert_unavailable(&person.refresh_with(person.refresh.as_deref().unwrap()).await);
    app.anonymous().get("/healthz").await.assert_ok(200);
    app.anonymous().get("/nowhere").await.assert_error(404, "not_found");
    // Who has no good token is told so without the database.
    app.anonymous().get(ME).await.assert_error(401, "token_missing");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_database_that_is_gone_is_no_fault_of_the_service_and_may_come_back() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let name = name_of(&app).await;
    app.pool.close().await;
    run_outside(format!("alter database {name} allow_connections false")).await;
    run_outside(format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    ))
    .await;
    assert_gone(&app, &boss).await;
    run_outside(format!("alter database {name} allow_connections true")).await;
    until_the_pooler_asks_again(&app).await;
    boss.get(ME).await.assert_ok(200);
    boss.put(ME, &json!({ "first_name": "Back" })).await.assert_ok(200);
    app.anonymous().get("/readyz").await.assert_ok(200);

    run_outside(format!("drop database {name} with (force)")).await;
    assert_gone(&app, &boss).await;
}

#[tokio::test]
async fn a_connection_that_broke_while_idle_is_replaced_unnoticed() {
    let app = TestApp::start().await;
    let mut boss = app.admin().await;
    let name = name_of(&app).await;
    for _ in 0..3 {
        run_outside(format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        ))
        .await;
        let (one, two) = tokio::join!(boss.get(ME), boss.get("/api/v1/users"));
        one.assert_ok(200);
        two.assert_ok(200);
        for way in ["refresh", "login"] {
            run_outside(format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
            ))
            .await;
            match way {
                "refresh" => boss.refresh().await.assert_ok(200),
                _ => app.anonymous().log_in("boss", PASSWORD).await.assert_ok(200),
            };
        }
    }
}

#[tokio::test]
async fn whoever_gets_no_connection_is_told_so_within_seconds() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(app.state.db.begin().await.unwrap());
    }
    let started = Instant::now();
    assert_unavailable(&boss.get(ME).await);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    drop(held);
    boss.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn connections_that_lead_nowhere_give_their_places_back() {
    let (database, port) = (new_database().await, free_port());
    let proxy = TcpProxy::open(port).await;
    let url = format!("postgres://doorward@127.0.0.1:{port}/{database}?sslmode=disable");
    let db = Db::new(url.parse::<sqlx::postgres::PgConnectOptions>().unwrap(), 2);
    let mut held = [db.begin().await.unwrap(), db.begin().await.unwrap()];
    proxy.swallow(true);
    for tx in &mut held {
        // Half way, as a request is whose time is over.
        let asked = sqlx::query("select 1").execute(&mut **tx);
        assert!(tokio::time::timeout(Duration::from_millis(100), asked).await.is_err());
    }
    drop(held);
    proxy.swallow(false);
    eventually("there is room again", async || db.acquire().await.is_ok()).await;
}

#[tokio::test]
async fn a_connection_that_takes_no_writes_is_not_kept() {
    let name = new_database().await;
    for in_transaction in [true, false] {
        let set = format!("alter database {name} set default_transaction_read_only = on");
        run_outside(set).await;
        let db = Db::new(cluster().await.connect_options(&name), 1);
        let write = async || {
            let delete = "delete from limits";
            if in_transaction {
                let mut tx = db.begin().await?;
                tx.execute(delete).await?;
                return tx.commit().await;
            }
            db.write(|conn| conn.execute(delete)).await.map(drop)
        };
        assert!(is_unavailable(&write().await.unwrap_err()));
        // What was connected meanwhile stays read-only for as long as it lasts.
        run_outside(format!("alter database {name} reset default_transaction_read_only")).await;
        eventually("it takes writes again", async || write().await.is_ok()).await;
    }
}

/// What is told as 503 and may be tried again, as against what would fail each time.
#[tokio::test]
async fn the_servers_own_trouble_is_told_from_a_statement_that_is_wrong() {
    let db = Db::new(cluster().await.connect_options(&new_database().await), 1);
    let raised = async |code: &str| {
        let sql = format!("do $$ begin raise exception using errcode = '{code}'; end $$");
        let mut conn = db.acquire().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.unwrap_err()
    };
    for code in ["53100", "53200", "53300", "58030", "40001", "55P03"] {
        assert!(is_unavailable(&raised(code).await), "{code}");
    }
    // Rights, a schema or tables that somebody takes away, and gives back.
    for code in ["3F000", "42501", "42703", "42804", "42883", "42P01"] {
        let error = raised(code).await;
        assert!(is_unavailable(&error) && is_hopeless(&error), "{code}");
    }
    for code in ["22P02", "23505", "23514", "42601", "0A000", "P0001", "XX000", "XX001"] {
        assert!(!is_unavailable(&raised(code).await), "{code}");
    }
}

/// A server whose disk is full may answer so to whoever connects.
#[tokio::test]
async fn who_is_not_let_in_because_of_the_servers_own_trouble_may_try_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let start_up = client.read_u32().await.unwrap();
            client.read_exact(&mut vec![0; start_up as usize - 4]).await.unwrap();
            let fields = b"SFATAL\0VFATAL\0CXX000\0Mcould not write init file\0\0";
            client.write_u8(b'E').await.unwrap();
            client.write_u32(4 + u32::try_from(fields.len()).unwrap()).await.unwrap();
            client.write_all(fields).await.unwrap();
        }
    });
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port);
    let db = Db::new(options.username("doorward").ssl_mode(PgSslMode::Disable), 1);
    let error = db.acquire().await.unwrap_err();
    assert!(error.to_string().contains("could not write init file"), "{error}");
    assert!(is_unavailable(&error));
    server.abort();
}

/// Else what it has locked stays locked for as long as the server believes in a connection that
/// leads nowhere.
#[tokio::test]
async fn a_transaction_that_nobody_goes_on_with_is_ended_by_the_server() {
    let db = Db::new(cluster().await.connect_options(&new_database().await), 1);
    db.assume_direct();
    for pooler in [false, true] {
        if pooler {
            db.assume_pooler();
        }
        let mut tx = db.begin().await.unwrap();
        let limit = sqlx::query_scalar("show idle_in_transaction_session_timeout");
        let limit: String = limit.fetch_one(&mut *tx).await.unwrap();
        assert_eq!(limit, "10s");
        sqlx::query("set idle_in_transaction_session_timeout = 1").execute(&mut *tx).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let ended = sqlx::query("select 1").execute(&mut *tx).await.unwrap_err();
        assert!(is_unavailable(&ended), "{ended}");
    }
}
