//! The letter that tells of a login from a device that was not seen before.

use axum::http::Method;
use chrono::{DateTime, TimeDelta};
use doorward::mail::Letter;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;

const FIREFOX: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0";
const PHONE: &str = "a-phone_of-adas-0123456789";

async fn log_in(app: &TestApp, ip: &str, headers: &[(&str, &str)]) -> Answer {
    let body = json!({ "username": "ada", "password": PASSWORD });
    let mut call = app.anonymous().call(Method::POST, "/api/v1/login").from(ip);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    let answer = call.json(&body).send().await;
    answer.assert_ok(200);
    answer
}

/// The letters that tell of a new device, sent now.
async fn told(app: &TestApp) -> Vec<Letter> {
    let mut letters = app.deliver_mail().await;
    letters.retain(|letter| letter.subject.contains("new device"));
    letters
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn a_login_from_elsewhere_is_told_once_and_what_was_seen_is_not() {
    let app = TestApp::start().await;
    app.user("ada").await;
    log_in(&app, "203.0.113.7", &[("user-agent", FIREFOX)]).await;
    let [letter] = told(&app).await.try_into().unwrap();
    assert_eq!(letter.to, email_of("ada"));
    assert_eq!(letter.subject, "A new device has signed in to your account at auth.example.com");
    let where_from = "It was Firefox on Windows, on 2 January 2026, 03:04 UTC, from the address \
                      203.0.113.7.";
    assert!(letter.text.contains(where_from), "{}", letter.text);
    assert!(letter.text.contains("This was not me:"), "{}", letter.text);
    assert!(!letter.text.contains("more new device"), "{}", letter.text);
    // The same address, its neighbours, and where she was before.
    for ip in ["203.0.113.7", "203.0.113.250", "::ffff:203.0.113.9", "127.0.0.1"] {
        log_in(&app, ip, &[]).await;
        assert_eq!(told(&app).await, [], "{ip}");
    }
    log_in(&app, "203.0.112.7", &[]).await;
    assert_eq!(told(&app).await.len(), 1, "the next block");
    log_in(&app, "2001:db8:1:1::1", &[]).await;
    assert_eq!(told(&app).await.len(), 1);
    log_in(&app, "2001:db8:1:ffff::1", &[]).await;
    assert_eq!(told(&app).await, [], "one line at home");
}

#[tokio::test]
async fn a_device_that_names_itself_is_seen_wherever_it_calls_from() {
    let app = TestApp::start().await;
    app.user("ada").await;
    log_in(&app, "127.0.0.1", &[("x-device-id", PHONE)]).await;
    log_in(&app, "203.0.113.7", &[("x-device-id", PHONE)]).await;
    assert_eq!(told(&app).await, []);
    log_in(&app, "198.51.100.7", &[("x-device-id", "another-one-0123456789")]).await;
    assert_eq!(told(&app).await.len(), 1);
    // Only a hash of it rests.
    let rows: Vec<Value> = sqlx::query_scalar("select to_jsonb(s) from sessions s")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    let dump = serde_json::to_string(&rows).unwrap();
    assert!(!dump.contains(PHONE), "{dump}");
    let known = "select count(*) from sessions where length(device_hash) = 32";
    assert_eq!(count(&app, known).await, 3);
}

/// It proves nothing: a stranger's costs a letter at most.
#[tokio::test]
async fn a_device_id_that_is_none_is_passed_over_and_one_proves_nothing() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let (short, long) = ("x".repeat(15), "x".repeat(65));
    for (number, id) in
        [&*short, &long, "", "0123456789abcde!", "0123456789 abcdef", "0123456789abcdé"]
            .into_iter()
            .enumerate()
    {
        let ip = format!("203.0.{number}.7");
        log_in(&app, &ip, &[("x-device-id", id)]).await;
    }
    log_in(&app, "203.0.100.7", &[("x-device-id", PHONE), ("x-device-id", PHONE)]).await;
    assert_eq!(count(&app, "select count(device_hash) from sessions").await, 0);
    for id in ["x".repeat(16), "-".repeat(64)] {
        log_in(&app, "127.0.0.1", &[("x-device-id", &id)]).await;
    }
    assert_eq!(count(&app, "select count(device_hash) from sessions").await, 2);
    app.anonymous().log_in("ada", "not it").await.assert_error(401, "invalid_credentials");
    let guess = app.anonymous().call(Method::POST, "/api/v1/login").header("x-device-id", PHONE);
    let guess = guess.json(&json!({ "username": "ada", "password": "not it" }));
    guess.send().await.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn the_first_login_is_told_to_nobody_and_one_after_a_long_time_is() {
    let app = TestApp::start().await;
    let body = json!({ "username": "ada", "email": email_of("ada"), "password": PASSWORD });
    app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
    let link = link_in(&app.letter_to(&email_of("ada")).await);
    app.anonymous().get(&link).await.assert_ok(200);
    log_in(&app, "203.0.113.7", &[]).await;
    assert_eq!(told(&app).await, []);
    // Of sessions that are no more the audit log tells.
    sqlx::query("delete from sessions").execute(&app.pool).await.unwrap();
    app.clock.advance(TimeDelta::days(91));
    log_in(&app, "198.51.100.7", &[]).await;
    assert_eq!(told(&app).await.len(), 1);
}

#[tokio::test]
async fn nothing_is_told_to_an_address_that_is_not_confirmed_or_where_it_is_turned_off() {
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    log_in(&app, "203.0.113.7", &[]).await;
    assert_eq!(told(&app).await, []);
    let app = TestApp::with(&[("NEW_DEVICE_LETTERS", "off")]).await;
    app.user("ada").await;
    log_in(&app, "203.0.113.7", &[]).await;
    assert_eq!(told(&app).await, []);
}

#[tokio::test]
async fn three_letters_a_day_and_the_next_one_counts_what_came_after() {
    let app = TestApp::start().await;
    app.user("ada").await;
    for number in 0..5 {
        log_in(&app, &format!("203.0.{number}.7"), &[]).await;
    }
    let letters = told(&app).await;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| !letter.text.contains("after the letter before")));
    app.clock.advance(TimeDelta::hours(23));
    log_in(&app, "203.0.5.7", &[]).await;
    assert_eq!(told(&app).await, []);
    app.clock.advance(TimeDelta::hours(1));
    log_in(&app, "203.0.6.7", &[]).await;
    let [letter] = told(&app).await.try_into().unwrap();
    let words = "3 more new devices signed in after the letter before this one.";
    assert!(letter.text.contains(words), "{}", letter.text);
    log_in(&app, "203.0.7.7", &[]).await;
    let [letter] = told(&app).await.try_into().unwrap();
    assert!(!letter.text.contains("after the letter before"), "{}", letter.text);
}

#[tokio::test]
async fn of_twenty_new_devices_at_once_three_are_told_over_two_instances_too() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    apps[0].user("ada").await;
    at_once(20, |number| {
        let app = apps[number % 2].clone();
        async move { log_in(&app, &format!("203.0.{number}.7"), &[]).await }
    })
    .await;
    assert_eq!(told(&apps[0]).await.len(), 3);
    apps[0].clock.advance(TimeDelta::hours(25));
    log_in(&apps[0], "198.51.100.7", &[]).await;
    let [letter] = told(&apps[0]).await.try_into().unwrap();
    assert!(letter.text.contains("17 more new devices"), "{}", letter.text);
}

#[tokio::test]
async fn what_a_thief_has_used_was_not_seen_and_what_its_owner_has_left_was() {
    for (end_reason, letters) in [
        ("logout", 0),
        ("sessions_ended", 0),
        ("password_changed", 0),
        ("refresh_token_reused", 1),
        ("not_me", 1),
    ] {
        let app = TestApp::start().await;
        app.user("ada").await;
        log_in(&app, "203.0.113.7", &[("x-device-id", PHONE)]).await;
        told(&app).await;
        sqlx::query(
            "update sessions set ended_at = now(), end_reason = $1 where ip <> '127.0.0.1'",
        )
        .bind(end_reason)
        .execute(&app.pool)
        .await
        .unwrap();
        log_in(&app, "203.0.113.8", &[("x-device-id", PHONE)]).await;
        assert_eq!(told(&app).await.len(), letters, "{end_reason}");
    }
}

#[tokio::test]
async fn a_program_with_a_refresh_token_of_the_account_is_no_new_device() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    log_in(&app, "203.0.113.7", &[("x-refresh-token", ada.refresh_token())]).await;
    assert_eq!(told(&app).await, []);
}

/// Neither is there without the other.
#[tokio::test]
async fn the_letter_is_written_with_the_session_that_it_tells_of() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let sql = "create function fail() returns trigger language plpgsql as
                   $$ begin raise exception 'no'; end $$;
               create trigger fail before insert on outbox for each row execute function fail();";
    sqlx::raw_sql(sql).execute(&app.pool).await.unwrap();
    let before = count(&app, "select count(*) from sessions").await;
    let state = app.state.clone();
    let client = doorward::account::client::ClientInfo {
        ip: Some("203.0.113.7".parse().unwrap()),
        ..doorward::account::client::ClientInfo::default()
    };
    let password = doorward::fields::Password::claimed(PASSWORD);
    let checked =
        doorward::account::password::check(&state, "ada", &password, &client, None).await.unwrap();
    let checked = checked.expect("the password is right");
    let (user, proof, now) = (checked.user, checked.proof, app.clock.now());
    let started = doorward::account::sessions::start(&state, &user, proof, &client, now).await;
    assert!(started.is_err(), "the letter could not be queued");
    assert_eq!(count(&app, "select count(*) from sessions").await, before);
    sqlx::raw_sql("drop trigger fail on outbox").execute(&app.pool).await.unwrap();
    log_in(&app, "203.0.113.7", &[]).await;
    assert_eq!(told(&app).await.len(), 1);
}

#[tokio::test]
async fn a_letter_that_was_held_up_goes_to_nobody_whose_address_it_is_no_more() {
    let app = TestApp::start().await;
    app.user("ada").await;
    log_in(&app, "203.0.113.7", &[]).await;
    sqlx::query("update users set email = 'other@example.com'").execute(&app.pool).await.unwrap();
    assert_eq!(told(&app).await, []);
}

#[tokio::test]
async fn a_page_of_another_origin_may_name_its_device() {
    let app = TestApp::with(&[("CORS_ORIGINS", "https://app.example.com")]).await;
    let call = app.anonymous().call(Method::OPTIONS, "/api/v1/login");
    let call = call.header("origin", "https://app.example.com");
    let call = call.header("access-control-request-method", "POST");
    let answer = call.header("access-control-request-headers", "x-device-id").send().await;
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-device-id"));
}

/// What its data says is what was, by the clock of the login.
#[tokio::test]
async fn the_letters_data_has_the_login_and_no_secret() {
    let app = TestApp::start().await;
    app.user("ada").await;
    log_in(&app, "203.0.113.7", &[("user-agent", "<b>x"), ("x-device-id", PHONE)]).await;
    let data: Value = sqlx::query_scalar("select data from outbox where kind = 'new_device'")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    let at: DateTime<chrono::Utc> = data["at"].as_str().unwrap().parse().unwrap();
    assert_eq!(at, app.clock.now());
    let rest = json!({ "device": "an unknown device", "ip": "203.0.113.7", "more": 0 });
    for (name, value) in rest.as_object().unwrap() {
        assert_eq!(&data[name], value);
    }
    assert_eq!(data.as_object().unwrap().len(), 4, "{data}");
}
