//! The limits on attempts, letters and changes.

mod letters;
mod logins;
mod right_passwords;
mod uncertain;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};

pub const HOME: &str = "198.51.100.7";

pub async fn limited() -> TestApp {
    TestApp::with(&[("RATE_LIMITS", "on")]).await
}

pub async fn guess(app: &TestApp, from: &str, login: &str, password: &str) -> Answer {
    let value = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
    let call = app.anonymous().call(Method::POST, "/api/v1/login").from(from);
    call.header("authorization", &value).send().await
}

pub async fn register(app: &TestApp, from: &str, name: &str) -> Answer {
    let body = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
    app.anonymous().call(Method::POST, "/api/v1/users/").from(from).json(&body).send().await
}

#[track_caller]
pub fn assert_limited(answer: &Answer, limit: &str, seconds: u64) {
    answer.assert_error(429, "rate_limited");
    assert_eq!(answer.json["limit"], limit);
    assert_eq!(answer.header("retry-after"), Some(seconds.to_string().as_str()));
}

/// In thousandths: what drains is seldom whole.
pub async fn counted(app: &TestApp) -> i64 {
    let sql = "select coalesce(sum(level) * 1000, 0)::bigint from limits";
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}
