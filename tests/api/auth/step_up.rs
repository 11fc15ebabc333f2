//! `POST /step_up`: a fresh proof of who calls, and how long it holds.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::forge;
use crate::harness::person::{PASSWORD, Person};

const STEP_UP: &str = "/api/v1/step_up";

async fn step_up(person: &Person, password: &str) -> Answer {
    person.post(STEP_UP, &json!({ "password": password })).await
}

#[tokio::test]
async fn a_right_password_gives_a_token_that_says_when_it_was_given() {
    let app = TestApp::start().await;
    let mut ada = app.user("ada").await;
    let (_, before) = forge::read(ada.access_token());
    app.clock.advance(TimeDelta::minutes(20));
    let answer = step_up(&ada, PASSWORD).await;
    let answer = answer.assert_ok(200);
    let now = app.clock.now();
    let until: chrono::DateTime<chrono::Utc> =
        answer["fresh_until"].as_str().unwrap().parse().unwrap();
    assert_eq!(until, now + TimeDelta::minutes(15));
    assert_eq!(answer["expires_in"], 1800);
    ada.access = Some(answer["token"].as_str().unwrap().to_owned());
    let (_, claims) = forge::read(ada.access_token());
    assert_eq!(claims["auth_time"], now.timestamp());
    assert_eq!((&claims["sid"], &claims["gen"]), (&before["sid"], &before["gen"]));
    assert_eq!(claims["amr"], json!(["pwd"]));
    ada.get("/api/v1/users/me").await.assert_ok(200);
    // A refresh goes on from the same token, and does not make the proof any younger.
    app.clock.advance(TimeDelta::minutes(5));
    ada.refresh().await.assert_ok(200);
    let (_, claims) = forge::read(ada.access_token());
    assert_eq!(claims["auth_time"], now.timestamp());
}

#[tokio::test]
async fn a_proof_in_one_session_does_nothing_for_another() {
    let app = TestApp::start().await;
    let (one, mut other) = (app.user("ada").await, app.log_in("ada", PASSWORD).await);
    let login = app.clock.now().timestamp();
    app.clock.advance(TimeDelta::minutes(20));
    step_up(&one, PASSWORD).await.assert_ok(200);
    other.refresh().await.assert_ok(200);
    let (_, claims) = forge::read(other.access_token());
    assert_eq!(claims["auth_time"], login);
}

#[tokio::test]
async fn what_is_wrong_with_a_proof_is_told() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    step_up(&ada, "not it").await.assert_error(403, "wrong_password");
    let required: Value = json!({});
    ada.post(STEP_UP, &required).await.assert_fields(&[("password", "required")]);
    let number = json!({ "password": 1 });
    ada.post(STEP_UP, &number).await.assert_fields(&[("password", "invalid_type")]);
    step_up(&app.anonymous(), PASSWORD).await.assert_error(401, "token_missing");
    ada.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    step_up(&ada, PASSWORD).await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn wrong_proofs_are_counted_as_wrong_passwords_are() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let ada = app.user("ada").await;
    // A right one is given back.
    for _ in 0..8 {
        step_up(&ada, PASSWORD).await.assert_ok(200);
    }
    for _ in 0..5 {
        step_up(&ada, "not it").await.assert_error(403, "wrong_password");
    }
    let refused = step_up(&ada, PASSWORD).await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "password");
}

/// A refresh whose answer is lost: the old pair goes on until the new one is seen in use, and a proof
/// in between does not show that.
#[tokio::test]
async fn a_proof_after_a_lost_refresh_does_not_count_as_a_theft() {
    let app = TestApp::start().await;
    let mut ada = app.user("ada").await;
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    ada.refresh_with(ada.refresh_token()).await.assert_ok(200);
    let answer = step_up(&ada, PASSWORD).await;
    ada.access = Some(answer.assert_ok(200)["token"].as_str().unwrap().to_owned());
    ada.put("/api/v1/users/me", &json!({ "first_name": "Ada" })).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    ada.refresh().await.assert_ok(200);
}

#[tokio::test]
async fn right_proofs_are_counted_as_logins_are() {
    let settings = [("RATE_LIMITS", "on"), ("LIMIT_LOGIN_SUCCESS_ACCOUNT", "4")];
    let app = TestApp::with(&settings).await;
    let ada = app.user("ada").await;
    for _ in 0..3 {
        step_up(&ada, PASSWORD).await.assert_ok(200);
    }
    let refused = step_up(&ada, PASSWORD).await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "login_success_account");
}
