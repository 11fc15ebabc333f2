//! The limits on attempts, letters and changes.

mod known_clients;
mod letters;
mod logins;
mod passwords;
mod refreshes;
mod registrations;
mod right_passwords;
mod settings;
mod uncertain;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{Call, PASSWORD, email_of};

pub const HOME: &str = "198.51.100.7";

pub async fn limited() -> TestApp {
    limited_with(&[]).await
}

/// With other settings, too.
pub async fn limited_with(settings: &[(&str, &str)]) -> TestApp {
    let settings: Vec<_> = [("RATE_LIMITS", "on")].iter().chain(settings).copied().collect();
    TestApp::with(&settings).await
}

/// A login, to be sent or to have more put into it.
pub fn login(app: &TestApp, from: &str, login: &str, password: &str) -> Call {
    let value = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
    let call = app.anonymous().call(Method::POST, "/api/v1/login").from(from);
    call.header("authorization", &value)
}

pub async fn guess(app: &TestApp, from: &str, name: &str, password: &str) -> Answer {
    login(app, from, name, password).send().await
}

/// Uses up the 50 that strangers have on this half of an account, each from a network of its own.
pub async fn use_up_strangers(app: &TestApp, name: &str) {
    for number in 0..50 {
        let stranger = format!("203.0.{number}.1");
        guess(app, &stranger, name, "wrong").await.assert_error(401, "invalid_credentials");
    }
    let stranger = guess(app, "203.0.200.1", name, "wrong").await;
    assert_limited(&stranger, "login_strangers", 3600);
}

pub async fn register(app: &TestApp, from: &str, name: &str) -> Answer {
    register_as(app, from, name, &email_of(name)).await
}

pub async fn register_as(app: &TestApp, from: &str, name: &str, email: &str) -> Answer {
    let body = json!({ "username": name, "email": email, "password": PASSWORD });
    app.anonymous().call(Method::POST, "/api/v1/users/").from(from).json(&body).send().await
}

#[track_caller]
pub fn assert_limited(answer: &Answer, limit: &str, seconds: u64) {
    answer.assert_error(429, "rate_limited");
    assert_eq!(answer.json["limit"], limit);
    assert_eq!(answer.header("retry-after"), Some(seconds.to_string().as_str()));
    let message = answer.json["message"].as_str().unwrap();
    assert!(message.starts_with("Too many attempts: try again in "), "{message}");
}

/// In thousandths: what drains is seldom whole.
pub async fn counted(app: &TestApp) -> i64 {
    let sql = "select coalesce(sum(level) * 1000, 0)::bigint from limits";
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}
