//! Who is not let in, though the password is right: what is told, to whom, and in which order.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;

async fn set(pool: &PgPool, columns: &str) {
    sqlx::query(sqlx::AssertSqlSafe(format!("update users set {columns}")))
        .execute(pool)
        .await
        .unwrap();
}

async fn restorable(pool: &PgPool) {
    let sql = "insert into challenges (id, kind, user_id, created_at, expires_at)
        select gen_random_uuid(), 'restore', id, '2026-01-01', '2026-02-01' from users";
    sqlx::query(sql).execute(pool).await.unwrap();
}

#[tokio::test]
async fn only_a_right_password_is_told_what_keeps_an_account_out() {
    let app = TestApp::start().await;
    app.user("ada").await;
    restorable(&app.pool).await;
    let stranger = app.anonymous();
    let wrong = stranger.log_in("ada", "not it").await;
    for (columns, code) in [
        ("reset_required_at = '2026-01-01'", "reset_required"),
        ("banned_at = '2026-01-01'", "banned"),
        ("deleted_at = '2026-01-01', purge_at = '2026-02-01'", "account_deleted"),
    ] {
        // Each stands before those that were set earlier.
        set(&app.pool, columns).await;
        for login in ["ada", "ADA@example.com"] {
            stranger.log_in(login, PASSWORD).await.assert_error(403, code);
            let refused = stranger.log_in(login, "not it").await;
            refused.assert_error(401, "invalid_credentials");
            assert_eq!(refused.headers.len(), wrong.headers.len());
        }
    }
    let sessions: i64 = sqlx::query_scalar("select count(*) from sessions where ended_at is null")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(sessions, 1, "that of before");
}

#[tokio::test]
async fn a_ban_holds_until_its_end_by_the_clock_of_the_database() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let stranger = app.anonymous();
    set(&app.pool, "banned_at = now(), banned_until = now() + interval '1 hour'").await;
    // The clock of an instance may be wrong.
    app.clock.advance(TimeDelta::days(3000));
    let refused = stranger.log_in("ada", PASSWORD).await;
    refused.assert_error(403, "banned");
    let until: DateTime<Utc> = refused.json["until"].as_str().unwrap().parse().unwrap();
    let stored: DateTime<Utc> =
        sqlx::query_scalar("select banned_until from users").fetch_one(&app.pool).await.unwrap();
    assert_eq!(until.timestamp_millis(), stored.timestamp_millis());
    set(&app.pool, "banned_until = now()").await;
    stranger.log_in("ada", PASSWORD).await.assert_ok(200);
    set(&app.pool, "banned_at = now(), banned_until = null").await;
    let refused = stranger.log_in("ada", PASSWORD).await;
    refused.assert_error(403, "banned");
    assert!(refused.json.get("until").is_none(), "{}", refused.text);
}

#[tokio::test]
async fn a_deleted_account_is_as_good_as_gone_once_it_cannot_be_restored() {
    let app = TestApp::start().await;
    app.user("ada").await;
    restorable(&app.pool).await;
    set(&app.pool, "deleted_at = '2026-01-01', purge_at = '2026-01-03'").await;
    let refused = app.anonymous().log_in("ada", PASSWORD).await;
    refused.assert_error(403, "account_deleted");
    assert_eq!(refused.json["restore_until"], "2026-01-03T00:00:00.000Z");
    assert!(refused.json["restore_token"].as_str().unwrap().len() > 100);
    app.clock.advance(TimeDelta::days(1));
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn a_ban_that_comes_while_a_password_is_checked_leaves_no_session() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let before: i64 =
        sqlx::query_scalar("select count(*) from sessions").fetch_one(&app.pool).await.unwrap();
    let mut tx = app.pool.begin().await.unwrap();
    let ban = "update users set banned_at = now() where id = $1::uuid";
    sqlx::query(ban).bind(ada.id()).execute(&mut *tx).await.unwrap();
    let stranger = app.anonymous();
    let login = tokio::spawn(async move { stranger.log_in("ada", PASSWORD).await });
    // The login has checked the password, and waits for the row.
    let waits = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    crate::harness::wait::eventually("the login waits", async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&app.pool).await.unwrap();
        waiting > 0
    })
    .await;
    tx.commit().await.unwrap();
    login.await.unwrap().assert_error(403, "banned");
    let after: i64 =
        sqlx::query_scalar("select count(*) from sessions").fetch_one(&app.pool).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_right_password_that_lets_nobody_in_is_counted_as_a_login() {
    let settings = [("RATE_LIMITS", "on"), ("LIMIT_LOGIN_SUCCESS_ACCOUNT", "4")];
    let app = TestApp::with(&settings).await;
    app.user("ada").await;
    set(&app.pool, "banned_at = now()").await;
    for _ in 0..3 {
        app.anonymous().log_in("ada", PASSWORD).await.assert_error(403, "banned");
    }
    let refused = app.anonymous().log_in("ada", PASSWORD).await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "login_success_account");
}

/// As the release before opens one for a banned account, or as a statement by hand leaves it.
#[tokio::test]
async fn a_session_of_an_account_that_may_not_get_in_is_none() {
    for columns in [
        "banned_at = now()",
        "deleted_at = now(), purge_at = now()",
        "reset_required_at = '2020-01-01'",
    ] {
        let app = TestApp::start().await;
        let mut ada = app.user("ada").await;
        set(&app.pool, columns).await;
        let change = serde_json::json!({ "first_name": "Ada" });
        ada.put("/api/v1/users/me", &change).await.assert_error(401, "session_ended");
        ada.refresh().await.assert_error(401, "session_ended");
    }
}

#[tokio::test]
async fn an_account_that_was_restored_while_its_password_was_checked_is_asked_once_more() {
    let app = TestApp::start().await;
    app.user("ada").await;
    // No row that could be restored by.
    set(&app.pool, "deleted_at = '2026-01-01', purge_at = '2026-02-01'").await;
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
}
