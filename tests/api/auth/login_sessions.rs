//! `POST /login`: the session that it begins, and how many there may be.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use doorward::account::sessions::{MAX_SESSIONS, SURPLUS_REMOVAL};
use doorward::store::logins::{self, LoginLookup};
use serde_json::json;

use crate::auth::login::register;
use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;
use crate::harness::races::at_once;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_20_logins_at_once_has_a_session_of_its_own() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let answers = at_once(20, |_| {
        let person = app.anonymous();
        async move { person.log_in("ada", PASSWORD).await }
    })
    .await;
    let mut people = Vec::new();
    for answer in answers {
        let mut person = app.anonymous();
        person.access = answer.assert_ok(200)["token"].as_str().map(str::to_owned);
        people.push(person);
    }
    // Ending one ends no other.
    people[0].post("/api/v1/logout", &json!({})).await.assert_ok(200);
    people[0].get("/api/v1/users/me").await.assert_error(401, "session_ended");
    for person in &people[1..] {
        person.get("/api/v1/users/me").await.assert_ok(200);
    }
}

#[tokio::test]
async fn an_account_with_too_many_sessions_loses_those_not_used_for_the_longest_time() {
    let app = TestApp::start().await.alone();
    let mut ada = app.newcomer("ada").await;
    app.newcomer("bob").await;
    // Hers is the oldest, but refreshed. Of the others the last ones have ended.
    sqlx::query("update sessions set created_at = '2000-01-01'").execute(&app.pool).await.unwrap();
    ada.refresh().await.assert_ok(200);
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ended_at)
        select gen_random_uuid(), id, u.created_at - i * interval '1 second', 'infinity', 'infinity',
            case when i <= 100 then u.created_at end
        from generate_series(1, 50500) i, users u";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    let count = async |name: &str, which: &str| -> i64 {
        let sql = format!(
            "select count(*) from sessions s join users u on u.id = s.user_id
             where username = '{name}' and {which}"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&app.pool).await.unwrap()
    };
    let removed = async || -> Option<i64> {
        let sql = "select sum((details->>'count')::bigint)::bigint from audit_log where event = 'sessions_removed'";
        sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
    };
    let (mut logins, mut newest) = (1, ada.clone());
    while removed().await.is_none() {
        logins += 1;
        assert!(logins < 3_000, "one login in 128 looks");
        newest = app.log_in("ada", PASSWORD).await;
    }
    // Until that is done.
    drop(SURPLUS_REMOVAL.lock().await);
    let removed = removed().await.unwrap();
    let left = 50_500 + logins - removed;
    assert!((MAX_SESSIONS..MAX_SESSIONS + logins).contains(&left), "{left}");
    assert_eq!(count("ada", "true").await, left);
    assert_eq!(count("ada", "ended_at is null").await, left, "those that had ended went first");
    let oldest = 50_500 - (removed - 100);
    let kept = format!("s.created_at >= u.created_at - {oldest} * interval '1 second'");
    assert_eq!(count("ada", &kept).await, left - 1, "then those not used for the longest time");
    for person in [&ada, &newest] {
        person.get("/api/v1/users/me").await.assert_ok(200);
    }
    assert_eq!(count("bob", "true").await, 50_501, "nobody else's");
}

#[tokio::test]
async fn however_many_sessions_an_account_has_few_are_read_to_tell_whether_an_address_is_known() {
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip)
               select gen_random_uuid(), id, now(), now(), now(), '10.0.0.0'::inet + n
               from users, generate_series(1, 5000) n
               union all
               select gen_random_uuid(), id, now(), now(), now(), '2001:db8:1:2::ffff' from users";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    sqlx::query("analyze").execute(&app.pool).await.unwrap();
    let mut tx = app.state.db.begin().await.unwrap();
    let expected = [
        ("ada", "10.0.0.0", false),
        ("ada", "10.0.0.1", true),
        ("ada", "10.0.19.136", true),
        ("ada", "10.0.19.137", false),
        ("ada", "2001:db8:1:1:ffff:ffff:ffff:ffff", false),
        ("ada", "2001:db8:1:2::", true),
        ("ada", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
        ("ada", "2001:db8:1:3::", false),
        ("ada", "nowhere", false),
        ("nobody", "10.0.0.1", false),
    ];
    let claim = |(login, address, _): &(&str, &str, bool)| LoginLookup {
        login: (*login).to_owned(),
        address: address.parse().ok(),
        device: None,
    };
    let claims: Vec<LoginLookup> = expected.iter().map(claim).collect();
    let all = logins::find_all(&mut tx, &claims).await.unwrap();
    assert_eq!(all.len(), expected.len());
    for ((login, address, is_known), found) in expected.iter().zip(all) {
        let (user, found) = found.unwrap();
        assert_eq!((user.is_some(), found), (*login == "ada", *is_known), "{address}");
    }
    let sql = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
               from pg_stat_xact_user_tables where relname = 'sessions'";
    let read: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
    assert!(read <= 10, "{read}");
}

#[tokio::test]
async fn logins_of_one_account_from_one_address_in_a_minute_are_one_row_of_the_audit_log() {
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    app.newcomer("bob").await;
    // 54.322 seconds are left of the minute.
    let log_in = async |name: &str, from: &str| {
        let value = format!("Basic {}", STANDARD.encode(format!("{name}:{PASSWORD}")));
        let call = app.anonymous().call(Method::POST, "/api/v1/login").from(from);
        call.header("authorization", &value).send().await.assert_ok(200);
    };
    for _ in 0..4 {
        log_in("ada", "127.0.0.1").await;
        log_in("bob", "203.0.113.7").await;
        app.clock.advance(TimeDelta::seconds(13));
    }
    app.clock.advance(TimeDelta::seconds(10));
    log_in("ada", "127.0.0.1").await;
    let sql = "select username, host(ip), count, to_char(at at time zone 'UTC', 'MI:SS')
               from audit_log a join users u on u.id = a.user_id where event = 'login' order by a.id";
    let rows: Vec<(String, String, i32, String)> =
        sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
    let row = |name: &str, ip: &str, count, at: &str| {
        (name.to_owned(), ip.to_owned(), count, at.to_owned())
    };
    assert_eq!(
        rows,
        [
            row("ada", "127.0.0.1", 5, "04:05"),
            row("bob", "127.0.0.1", 1, "04:05"),
            row("bob", "203.0.113.7", 4, "04:05"),
            row("ada", "127.0.0.1", 1, "05:07"),
        ]
    );
}
