//! `POST /login`: the hash behind it. It is renewed, raced for, and bounded.

use std::time::{Duration, Instant};

use argon2::Params;
use axum::http::StatusCode;
use doorward::security::password::Hasher;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

const NEW_PASSWORD: &str = "battery staple correct";

/// One more instance on `database`, with Argon2 at another price.
async fn instance(database: &str, like: &TestApp, params: (u32, u32), threads: usize) -> TestApp {
    let params = Params::new(params.0, params.1, 1, Some(32)).unwrap();
    TestApp::hashing(database, &[], like.clock.clone(), Hasher::new(params, threads)).await
}

async fn hash_of(app: &TestApp, name: &str) -> String {
    let sql = "select password_hash from users where username = $1";
    sqlx::query_scalar(sql).bind(name).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn a_login_renews_a_hash_that_was_made_with_other_parameters() {
    let database = new_database().await;
    let old = TestApp::on(&database, &[]).await;
    let new = instance(&database, &old, (16, 1), 1).await;
    let ada = old.newcomer("ada").await;
    let before = hash_of(&old, "ada").await;
    assert!(before.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{before}");

    old.clock.advance(chrono::TimeDelta::minutes(1));
    old.log_in("ada", PASSWORD).await;
    assert_eq!(hash_of(&old, "ada").await, before, "the same parameters are left alone");
    new.anonymous().log_in("ada", "wrong password").await.assert_error(401, "invalid_credentials");
    assert_eq!(hash_of(&old, "ada").await, before, "only the right password can be hashed anew");

    let renewed = new.log_in("ada", PASSWORD).await;
    let after = hash_of(&new, "ada").await;
    assert!(after.starts_with("$argon2id$v=19$m=16,t=1,p=1$"), "{after}");
    // The user has changed nothing, and nobody is logged out.
    assert_eq!(renewed.user, ada.user);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    for app in [&new, &old] {
        app.anonymous().log_in("ada", PASSWORD).await.assert_ok(200);
        let wrong = app.anonymous().log_in("ada", "wrong password").await;
        wrong.assert_error(401, "invalid_credentials");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_race_to_renew_a_hash_all_get_in() {
    let database = new_database().await;
    let old = TestApp::on(&database, &[]).await;
    let params = Params::new(16, 1, 1, Some(32)).unwrap();
    let on = [("RATE_LIMITS", "on")];
    let new = TestApp::hashing(&database, &on, old.clock.clone(), Hasher::new(params, 2)).await;
    for round in 0..10 {
        let name = format!("user{round}");
        old.newcomer(&name).await;
        let answers = at_once(10, |_| {
            let (person, name) = (new.anonymous(), name.clone());
            async move { person.log_in(&name, PASSWORD).await }
        })
        .await;
        for answer in &answers {
            answer.assert_ok(200);
        }
        assert!(hash_of(&new, &name).await.contains("$m=16,"));
        new.anonymous().log_in(&name, PASSWORD).await.assert_ok(200);
    }
    // Nor does any of them count as a failure: as logins, of ten accounts and from one address.
    let sql = "select count(*) from limits where level > 0";
    let counted: i64 = sqlx::query_scalar(sql).fetch_one(&new.pool).await.unwrap();
    assert_eq!(counted, 10 + 1);
}

fn change(person: &Person, old: &str, new: &str) -> impl Future<Output = u16> + Send + use<> {
    let (person, body) = (person.clone(), json!({ "old_password": old, "new_password": new }));
    async move { person.put("/api/v1/users/me/change_password", &body).await.status.as_u16() }
}

fn log_in(app: &TestApp, password: &str) -> impl Future<Output = Option<Person>> + Send + use<> {
    let (app, password) = (app.clone(), password.to_owned());
    async move {
        let answer = app.anonymous().log_in("ada", &password).await;
        if answer.status == StatusCode::UNAUTHORIZED {
            answer.assert_error(401, "invalid_credentials");
            return None;
        }
        let mut person = app.anonymous();
        person.access = answer.assert_ok(200)["token"].as_str().map(str::to_owned);
        person.refresh = answer.json["refresh_token"].as_str().map(str::to_owned);
        Some(person)
    }
}

/// Both calls have checked the old password and wait for the user's row, in this order.
async fn meet_at_the_row(login_first: bool) -> (TestApp, Option<Person>, u16) {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut row = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *row).await.unwrap();
    let (login, changed);
    if login_first {
        login = tokio::spawn(log_in(&app, PASSWORD));
        lock_waits(&app.pool, 1).await;
        changed = tokio::spawn(change(&ada, PASSWORD, NEW_PASSWORD));
    } else {
        changed = tokio::spawn(change(&ada, PASSWORD, NEW_PASSWORD));
        lock_waits(&app.pool, 1).await;
        login = tokio::spawn(log_in(&app, PASSWORD));
    }
    lock_waits(&app.pool, 2).await;
    row.rollback().await.unwrap();
    let (login, changed) = (login.await.unwrap(), changed.await.unwrap());
    ada.get("/api/v1/users/me").await.assert_ok(200);
    app.anonymous().log_in("ada", NEW_PASSWORD).await.assert_ok(200);
    (app, login, changed)
}

#[tokio::test]
async fn a_login_just_before_the_password_changes_is_ended_by_the_change() {
    let (_, login, changed) = meet_at_the_row(true).await;
    assert_eq!(changed, 200);
    let login = login.expect("the old password was still the password");
    login.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    login.clone().refresh().await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn a_login_just_after_the_password_changed_is_refused() {
    let (app, login, changed) = meet_at_the_row(false).await;
    assert_eq!(changed, 200);
    assert!(login.is_none(), "the old password was no longer the password");
    let sql = "select count(*) from sessions where ended_at is null";
    let living: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(living, 2, "the one that changed it, and the login with the new one");
}

#[tokio::test]
async fn a_login_that_renews_the_hash_does_not_make_the_right_password_wrong() {
    let database = new_database().await;
    let old = TestApp::on(&database, &[]).await;
    let new = instance(&database, &old, (16, 1), 1).await;
    let ada = old.newcomer("ada").await;
    let mut row = old.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *row).await.unwrap();
    let login = tokio::spawn(log_in(&new, PASSWORD));
    lock_waits(&old.pool, 1).await;
    let changed = tokio::spawn(change(&ada, PASSWORD, NEW_PASSWORD));
    lock_waits(&old.pool, 2).await;
    row.rollback().await.unwrap();
    let login = login.await.unwrap().expect("the password was right");
    assert_eq!(changed.await.unwrap(), 200);
    login.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    old.log_in("ada", NEW_PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_of_the_old_password_outlives_its_change() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut passwords = [PASSWORD, NEW_PASSWORD];
    for round in 0_u64..200 {
        let [old, new] = passwords;
        let delayed = |delay: u64| async move {
            // Where the two meet is up to two processes: only real time moves one against the
            // other.
            tokio::time::sleep(Duration::from_micros(delay * 300)).await;
        };
        let (login, other) = (log_in(&app, old), log_in(&app, new));
        let change = change(&ada, old, new);
        let (login, other, changed) = tokio::join!(
            async {
                delayed(round % 8).await;
                tokio::spawn(login).await.unwrap()
            },
            async {
                delayed(round % 11).await;
                tokio::spawn(other).await.unwrap()
            },
            async {
                delayed(round % 7).await;
                tokio::spawn(change).await.unwrap()
            },
        );
        assert_eq!(changed, 200);
        if let Some(login) = login {
            login.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        }
        if let Some(other) = other {
            other.get("/api/v1/users/me").await.assert_ok(200);
        }
        assert!(log_in(&app, old).await.is_none());
        passwords.reverse();
    }
    ada.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_queue_a_login_is_told_so_at_once_and_other_calls_stay_fast() {
    let database = new_database().await;
    let cheap = TestApp::on(&database, &[]).await;
    let mut ada = cheap.newcomer("ada").await;
    // About a second a hash, so that the queue cannot empty while the test looks at it.
    let slow = instance(&database, &cheap, (19_456, 80), 1).await;
    ada.app = slow.clone();
    let mut logins = JoinSet::new();
    for number in 0..120 {
        let (person, name) = (slow.anonymous(), format!("user{number}"));
        logins.spawn(async move { person.log_in(&name, PASSWORD).await });
    }
    // One at work and 64 in the queue, and none of these has an answer yet: whoever comes after
    // them does not wait.
    for _ in 0..50 {
        let answer = logins.join_next().await.unwrap().unwrap();
        answer.assert_error(503, "busy");
        assert_eq!(answer.header("retry-after"), Some("2"));
        assert_eq!(answer.header("www-authenticate"), None);
    }
    let asked = Instant::now();
    ada.get("/api/v1/users/me").await.assert_ok(200);
    ada.refresh().await.assert_ok(200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

    // Whoever has hung up is skipped: the whole queue would take a minute.
    logins.shutdown().await;
    let mut answer = slow.anonymous().log_in("ada", PASSWORD).await;
    while answer.code() == "busy" {
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = slow.anonymous().log_in("ada", PASSWORD).await;
    }
    answer.assert_ok(200);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}
