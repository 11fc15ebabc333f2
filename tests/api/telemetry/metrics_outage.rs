//! `GET /metrics` while the database is away, not there yet, or large.

use std::time::{Duration, Instant};

use doorward::clock::Clock;
use sqlx::PgPool;

use crate::harness::app::TestApp;
use crate::harness::cluster::{cluster, new_database};
use crate::harness::wait::eventually;
use crate::telemetry::metrics::{ME, REQUESTS, TOKEN, measured, scrape};

/// Of what the database knows nothing is shown, and the rest is, within a second.
async fn assert_without_database(app: &TestApp) {
    let started = Instant::now();
    let page = scrape(app).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    page.assert("doorward_database_up", &[], 0);
    for name in ["doorward_users", "doorward_sessions", "doorward_outbox_waiting"] {
        assert!(!page.families.contains_key(name), "{name}");
    }
    assert!(page.get(REQUESTS, &[]) > 0.0);
    page.get("process_resident_memory_bytes", &[]);
}

#[tokio::test]
async fn it_answers_within_a_second_while_the_database_does_not() {
    let app = measured().await;
    app.user("ada").await;
    scrape(&app).await.assert("doorward_database_up", &[], 1);

    // All connections are taken.
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(app.state.db.begin().await.unwrap());
    }
    assert_without_database(&app).await;
    drop(held);
    // A migration holds a table.
    let mut tx = app.pool.begin().await.unwrap();
    sqlx::query("lock table users").execute(&mut *tx).await.unwrap();
    assert_without_database(&app).await;
    tx.rollback().await.unwrap();
    eventually("it is back", async || {
        scrape(&app).await.find("doorward_database_up", &[]) == Some(1.0)
    })
    .await;

    // Gone.
    let name: String =
        sqlx::query_scalar("select current_database()::text").fetch_one(&app.pool).await.unwrap();
    app.pool.close().await;
    let pool = PgPool::connect_with(cluster().await.connect_options("postgres")).await.unwrap();
    let sql = format!("drop database {name} with (force)");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    assert_without_database(&app).await;
}

#[tokio::test]
async fn it_answers_before_the_database_is_ready() {
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let on = [("METRICS_TOKEN", TOKEN)];
    let app = TestApp::starting(&new_database().await, &on, clock).await.alone();
    app.anonymous().get(ME).await.assert_error(503, "database_unavailable");
    assert_without_database(&app).await;
    app.state.readiness.set_ready();
    scrape(&app).await.assert("doorward_database_up", &[], 1);
}

#[tokio::test]
async fn many_rows_are_estimated_and_letters_that_wait_are_found_by_an_index() {
    let app = measured().await;
    let sql = "insert into users (id, username, email, password_hash, created_at, modified_at)
            select gen_random_uuid(), 'u' || n, 'u' || n || '@example.com', '', now(), now()
            from generate_series(1, 12000) n;
        insert into sessions (id, user_id, created_at, expires_at, ends_at, ended_at)
            select gen_random_uuid(), id, now(), now() + '1 day', now() + '1 day',
                case when username like '%7' then now() end
            from users;
        insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at, sent_at)
            select gen_random_uuid(), id, 'confirmation', email, now(), now(), now() from users;
        insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at)
            select gen_random_uuid(), id, 'confirmation', email, now(), now() from users limit 20;
        analyze;";
    sqlx::raw_sql(sql).execute(&app.pool).await.unwrap();
    let page = scrape(&app).await;
    for (name, count) in [("doorward_users", 12_000.0), ("doorward_sessions", 10_800.0)] {
        let found = page.get(name, &[]);
        assert!((found - count).abs() < count / 20.0, "{name}: {found}");
    }
    page.assert("doorward_outbox_waiting", &[], 20);
    let scans = "select sum(idx_scan)::bigint from pg_stat_user_indexes where indexrelname = 'outbox_due_idx'";
    eventually("PostgreSQL says that it used the index", async || {
        let scans: i64 = sqlx::query_scalar(scans).fetch_one(&app.pool).await.unwrap();
        scrape(&app).await;
        scans > 0
    })
    .await;
}
