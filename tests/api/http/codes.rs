//! Every code of an error, met once: a code without a scenario does not compile.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::routing::get;
use chrono::TimeDelta;
use doorward::http::admission::Admission;
use doorward::http::error::{ApiError, Code};
use doorward::http::middleware::Middleware;
use doorward::router::openapi_document;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};

const ME: &str = "/api/v1/users/me";
const USERS: &str = "/api/v1/users";
const REFRESH: &str = "/api/v1/refresh";

/// Does the least that is answered with this code.
#[expect(clippy::too_many_lines, reason = "one match over all, so that the compiler misses none")]
async fn meet(code: Code) -> Answer {
    let app = TestApp::start().await;
    let stranger = app.anonymous();
    let form =
        |name: &str, email: &str| json!({ "username": name, "email": email, "password": PASSWORD });
    match code {
        Code::MalformedRequest => {
            let call =
                stranger.call(Method::POST, USERS).header("content-type", "application/json");
            call.body("{").send().await
        }
        Code::LinkInvalid => stranger.get("/api/v1/confirm?token=nonsense").await,
        Code::CodeInvalid => {
            let body = json!({ "challenge": "nonsense", "code": "12345678", "new_password": "p" });
            stranger.post("/api/v1/password/reset", &body).await
        }
        Code::CredentialsMissing => stranger.call(Method::POST, "/api/v1/login").send().await,
        Code::InvalidCredentials => stranger.log_in("ada", PASSWORD).await,
        Code::TokenMissing => stranger.get(ME).await,
        Code::TokenInvalid => {
            let call = stranger.call(Method::GET, ME).header("x-access-token", "nonsense");
            call.send().await
        }
        Code::HeadersTooLarge => {
            let call = stranger.call(Method::GET, ME).header("cookie", &"x".repeat(17 * 1024));
            call.send().await
        }
        Code::TokenExpired => {
            let ada = app.newcomer("ada").await;
            app.clock.advance(TimeDelta::minutes(30));
            ada.get(ME).await
        }
        Code::SessionEnded => {
            let ada = app.newcomer("ada").await;
            ada.call(Method::POST, "/api/v1/logout").send().await.assert_ok(200);
            ada.get(ME).await
        }
        Code::RefreshTokenMissing => stranger.call(Method::POST, REFRESH).send().await,
        Code::RefreshTokenInvalid => stranger.refresh_with("nonsense").await,
        Code::RefreshTokenExpired => {
            let mut ada = app.newcomer("ada").await;
            app.clock.advance(TimeDelta::days(30));
            ada.refresh().await
        }
        Code::RefreshTokenReused => {
            let mut ada = app.newcomer("ada").await;
            let old = ada.refresh.clone().unwrap();
            ada.refresh().await.assert_ok(200);
            ada.get(ME).await.assert_ok(200);
            app.clock.advance(TimeDelta::seconds(20));
            ada.refresh_with(&old).await
        }
        Code::StepUpRequired => {
            let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
            app.clock.advance(TimeDelta::minutes(15));
            boss.put(&format!("{USERS}/{}/ban", ada.id()), &json!({ "reason": "spam" })).await
        }
        Code::AccountDeleted => {
            app.newcomer("ada").await.delete(ME).await.assert_ok(202);
            stranger.log_in("ada", PASSWORD).await
        }
        Code::Banned => {
            banned(&app).await;
            stranger.log_in("ada", PASSWORD).await
        }
        Code::NotYourself => {
            let boss = app.admin().await;
            boss.put(&format!("{USERS}/{}/ban", boss.id()), &json!({ "reason": "spam" })).await
        }
        Code::UserBanned => {
            let (boss, ada) = banned(&app).await;
            let path = format!("{USERS}/{}/send", ada.id());
            boss.post(&path, &json!({ "letter": "reset" })).await
        }
        Code::ResetRequired => {
            let ada = app.user("ada").await;
            let new = json!({ "old_password": PASSWORD, "new_password": "quite another horse" });
            ada.put("/api/v1/users/me/change_password", &new).await.assert_ok(200);
            let link = link_in(&app.letter_to(&email_of("ada")).await);
            let token = link.split_once("token=").unwrap().1;
            stranger.post("/api/v1/not_me", &json!({ "token": token })).await.assert_ok(200);
            stranger.log_in("ada", "quite another horse").await
        }
        Code::TokenMismatch => {
            let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
            let refresh = bob.refresh.as_deref().unwrap();
            ada.call(Method::POST, REFRESH).header("x-refresh-token", refresh).send().await
        }
        Code::Forbidden => app.newcomer("ada").await.get(USERS).await,
        Code::WrongPassword => {
            let body = json!({ "old_password": "not it", "new_password": "quite another horse" });
            app.newcomer("ada").await.put("/api/v1/users/me/change_password", &body).await
        }
        Code::NotFound => stranger.get("/nowhere").await,
        Code::SessionNotFound => {
            let ada = app.newcomer("ada").await;
            ada.delete(&format!("{ME}/sessions/{}", ada.id())).await
        }
        Code::UserNotFound => app.admin().await.get("/api/v1/users/nobody").await,
        Code::InvitationNotFound => {
            app.admin().await.delete("/api/v1/admin/invitations/nobody").await
        }
        Code::MethodNotAllowed => stranger.get("/api/v1/login").await,
        Code::UsernameTaken => {
            app.newcomer("ada").await.post(USERS, &form("Ada", "other@example.com")).await
        }
        Code::EmailTaken => {
            app.newcomer("ada").await.post(USERS, &form("other", &email_of("ada"))).await
        }
        Code::EmailAlreadyVerified => {
            let ada = app.user("ada").await;
            ada.call(Method::POST, "/api/v1/users/me/verify_email").send().await
        }
        Code::EmailNotVerified => {
            let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
            boss.put(&format!("{USERS}/{}?role=staff", ada.id()), &json!({})).await
        }
        Code::LastAdmin => {
            let boss = app.admin().await;
            boss.delete(&format!("{USERS}/{}", boss.id())).await
        }
        Code::LinkExpired => {
            app.newcomer("ada").await;
            let link = link_in(&app.letter_to(&email_of("ada")).await);
            app.clock.advance(TimeDelta::hours(24));
            stranger.get(&link).await
        }
        Code::ChallengeExpired => {
            stranger.post("/api/v1/restore", &json!({ "restore_token": "nonsense" })).await
        }
        Code::PayloadTooLarge => {
            let call =
                stranger.call(Method::POST, USERS).header("content-type", "application/json");
            call.body(vec![b' '; 64 * 1024 + 1]).send().await
        }
        Code::UnsupportedMediaType => stranger.call(Method::POST, USERS).body("{}").send().await,
        Code::ValidationFailed => stranger.post(USERS, &json!({})).await,
        Code::RateLimited => {
            let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
            let mut answer = app.anonymous().log_in("ada", PASSWORD).await;
            for _ in 0..10 {
                answer = app.anonymous().log_in("ada", PASSWORD).await;
            }
            answer
        }
        Code::Busy => {
            app.state.readiness.set_draining();
            stranger.get("/readyz").await
        }
        Code::DatabaseUnavailable => {
            let app = TestApp::starting(&new_database().await, &[], app.clock.clone()).await;
            app.anonymous().get(ME).await
        }
        Code::Internal => failing(&app, false).await,
    }
}

/// An admin, and Ada, whom they have banned.
async fn banned(app: &TestApp) -> (Person, Person) {
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    let path = format!("{USERS}/{}/ban", ada.id());
    boss.put(&path, &json!({ "reason": "spam" })).await.assert_ok(200);
    (boss, ada)
}

/// No handler is known that fails by itself: one that always does stands behind the same door.
async fn failing(app: &TestApp, panics: bool) -> Answer {
    let handler = get(async move || {
        assert!(!panics, "relation \"secrets\" does not exist");
        ApiError::internal("relation \"secrets\" does not exist")
    });
    let gate = Admission::new(app.state.clone(), Router::new().route("/", handler));
    answered(app, gate, Request::get("/").body(Body::empty()).unwrap()).await
}

async fn answered(app: &TestApp, gate: Admission, request: Request<Body>) -> Answer {
    let answer = Middleware::new(app.state.clone(), gate).oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    let json = serde_json::from_str(&text).unwrap();
    let bytes = text.clone().into_bytes();
    Answer { status: parts.status, headers: parts.headers, bytes, text, json }
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for_like_one_that_fails() {
    let app = TestApp::start().await;
    let (failed, panicked) = (failing(&app, false).await, failing(&app, true).await);
    for answer in [&failed, &panicked] {
        answer.assert_error(500, "internal");
        assert!(!answer.text.contains("secrets"), "{}", answer.text);
    }
    assert_eq!(failed.headers.len(), panicked.headers.len());
}

#[tokio::test]
async fn every_code_is_met() {
    assert!(Code::ALL.len() >= 30);
    for &code in Code::ALL {
        let answer = meet(code).await;
        answer.assert_error(code.status().as_u16(), code.as_str());
        let has_errors =
            [Code::ValidationFailed, Code::UsernameTaken, Code::EmailTaken, Code::WrongPassword];
        assert_eq!(answer.json.get("errors").is_some(), has_errors.contains(&code));
        assert_eq!(answer.json.get("limit").is_some(), code == Code::RateLimited);
    }
}

#[test]
fn codes_are_words_and_no_two_are_the_same() {
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    for code in Code::ALL {
        let word = code.as_str();
        assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{word}");
        assert!(code.message().ends_with(['.', '?']), "{}", code.message());
        assert!(code.status().is_client_error() || code.status().is_server_error());
    }
}

#[test]
fn every_code_is_in_the_document_with_its_status() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut documented = BTreeSet::new();
    for operation in document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
    {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let schema = &response["content"]["application/json"]["schema"]["allOf"][1];
            let codes = schema["properties"]["code"]["enum"].as_array();
            for code in codes.into_iter().flatten() {
                documented.insert((status.clone(), code.as_str().unwrap().to_owned()));
            }
        }
    }
    let expected: BTreeSet<(String, String)> = Code::ALL
        .iter()
        .map(|code| (code.status().as_u16().to_string(), code.as_str().to_owned()))
        .collect();
    assert_eq!(documented, expected);
}

#[tokio::test]
async fn the_cause_of_an_internal_error_stays_inside() {
    let app = TestApp::start().await;
    let answer = failing(&app, false).await;
    let expected = json!({
        "success": false, "code": "internal", "message": "Something went wrong here.",
        "request_id": answer.header("x-request-id").unwrap(),
    });
    assert_eq!(answer.json, expected);
    assert!(!format!("{:?}", answer.headers).contains("secrets"));
    assert_ne!(answer.json["request_id"], Value::Null);
}
