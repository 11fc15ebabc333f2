//! "I did not sign up": what the owner of an address can undo by the link, and what not.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::auth::confirm_page::{assert_page, newcomer_with_link, pending_link, press};
use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;
use crate::harness::races::at_once;

const NOT_ME: &str = "action=not_me";

fn not_me() -> Value {
    json!({ "action": "not_me" })
}

/// Who did what to whom, of these events.
async fn audited(app: &TestApp, event: &str) -> Vec<(Option<String>, Option<String>)> {
    let sql = "select user_id::text, actor_id::text from audit_log where event = $1";
    sqlx::query_as(sql).bind(event).fetch_all(&app.pool).await.unwrap()
}

#[tokio::test]
async fn an_account_that_was_never_confirmed_is_deleted_and_its_sessions_end() {
    let app = TestApp::start().await;
    let (mut ada, link) = newcomer_with_link(&app, "ada").await;
    // One more letter, which waits.
    ada.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    let answer = press(&app, &link, NOT_ME).await;
    assert_page(&answer, 200);
    assert!(answer.text.contains("<h1>The account is deleted</h1>"), "{}", answer.text);
    assert!(!answer.text.contains("<form"), "{}", answer.text);
    ada.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    ada.refresh().await.assert_error(401, "session_ended");
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    assert!(app.deliver_mail().await.is_empty());
    assert_eq!(audited(&app, "account_disowned").await, [(Some(ada.id().to_owned()), None)]);

    // Pressed again, it is the same success; to confirm is too late, and nothing comes back.
    let again = app.anonymous().post(&link, &not_me()).await;
    assert_eq!(again.assert_ok(200)["email_verified"], false);
    assert_page(&press(&app, &link, NOT_ME).await, 200);
    app.anonymous().post(&link, &json!({})).await.assert_error(410, "link_expired");
    assert_eq!(audited(&app, "account_disowned").await.len(), 1);
    // The name and the address are free, and the old link is not the new account's.
    let other = app.newcomer("ada").await;
    app.anonymous().post(&link, &not_me()).await.assert_ok(200);
    other.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn a_pending_address_is_dropped_and_the_account_stays_as_it_is() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let link = pending_link(&ada, "wanted@example.com").await;
    let answer = app.anonymous().post(&link, &not_me()).await;
    assert_eq!(
        *answer.assert_ok(200),
        json!({
            "success": true, "message": "The account does not get this e-mail address.",
            "email_verified": false,
        })
    );
    let user = ada.get("/api/v1/users/me").await.json["user"].clone();
    assert_eq!((&user["email"], &user["pending_email"]), (&json!("ada@example.com"), &Value::Null));
    assert_eq!(user["email_verified"], true);
    assert_eq!(audited(&app, "email_disowned").await, [(Some(ada.id().to_owned()), None)]);
    app.anonymous().post(&link, &json!({})).await.assert_error(410, "link_expired");
    app.anonymous().post(&link, &not_me()).await.assert_ok(200);
    assert_eq!(audited(&app, "email_disowned").await.len(), 1);
    // Also where another account has the address by now: that keeps it, and this one asks no more.
    let link = pending_link(&ada, "other@example.com").await;
    let other = app.newcomer("other").await;
    app.anonymous().post(&link, &not_me()).await.assert_ok(200);
    assert_eq!(ada.get("/api/v1/users/me").await.json["user"]["pending_email"], Value::Null);
    assert_eq!(other.get("/api/v1/users/me").await.json["user"]["email"], "other@example.com");
}

#[tokio::test]
async fn what_is_confirmed_is_never_undone_by_a_link() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    app.anonymous().post(&link, &json!({})).await.assert_ok(200);
    let pending = pending_link(&ada, "countess@example.com").await;
    // The first link of an account that is to get another address, too.
    for _ in 0..2 {
        let before = ada.get("/api/v1/users/me").await.json["user"].clone();
        let answer = press(&app, &link, NOT_ME).await;
        assert_page(&answer, 409);
        assert!(answer.text.contains("<h1>Nothing was changed</h1>"), "{}", answer.text);
        let refused = app.anonymous().post(&link, &not_me()).await;
        refused.assert_error(409, "email_already_verified");
        assert_eq!(ada.get("/api/v1/users/me").await.json["user"], before);
        app.anonymous().post(&pending, &not_me()).await.assert_ok(200);
    }
    let pending = pending_link(&ada, "countess@example.com").await;
    app.anonymous().post(&pending, &json!({})).await.assert_ok(200);
    for _ in 0..2 {
        let refused = app.anonymous().post(&pending, &not_me()).await;
        refused.assert_error(409, "email_already_verified");
        app.clock.advance(TimeDelta::hours(25));
    }
    app.log_in("countess@example.com", PASSWORD).await;
    assert!(audited(&app, "account_disowned").await.is_empty());
}

#[tokio::test]
async fn a_link_that_is_none_or_has_run_out_disowns_nothing() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    let forged = format!("{link}x");
    app.anonymous().post(&forged, &not_me()).await.assert_error(400, "link_invalid");
    app.anonymous().post("/api/v1/confirm", &not_me()).await.assert_error(400, "link_invalid");
    // Nor does following it, whatever it says.
    let following = format!("{link}&action=not_me");
    app.anonymous().call(Method::GET, &following).send().await;
    ada.get("/api/v1/users/me").await.assert_ok(200);
    app.clock.advance(TimeDelta::hours(24));
    app.anonymous().post(&link, &not_me()).await.assert_error(410, "link_expired");
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn a_body_that_says_anything_else_does_nothing() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    let form = "application/x-www-form-urlencoded";
    let json = "application/json";
    let large = format!("{}&action=not_me", "x".repeat(70_000));
    for (content_type, body, status, code) in [
        (form, "action=", 422, "validation_failed"),
        (form, "action=Not_Me", 422, "validation_failed"),
        (form, "action=confirm&action=not_me", 422, "validation_failed"),
        (form, "x=%00", 422, "validation_failed"),
        (form, &large, 413, "payload_too_large"),
        (json, r#"{"action": "delete"}"#, 422, "validation_failed"),
        (json, r#"{"action": true}"#, 422, "validation_failed"),
        (json, r#"{"action": "confirm", "action": "not_me"}"#, 400, "malformed_request"),
        (json, "action=not_me", 400, "malformed_request"),
        ("text/plain", "action=not_me", 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", "--x--", 415, "unsupported_media_type"),
    ] {
        let call = app.anonymous().call(Method::POST, &link).header("content-type", content_type);
        call.body(body).send().await.assert_error(status, code);
        let call = app.anonymous().call(Method::POST, &link).header("content-type", content_type);
        assert_page(&call.header("accept", "text/html").body(body).send().await, status);
    }
    let user = ada.get("/api/v1/users/me").await.json["user"].clone();
    assert_eq!(user["email_verified"], false);
    // What is not asked for is let be.
    let more = json!({ "action": "confirm", "token": "x", "utm": 1 });
    app.anonymous().post(&link, &more).await.assert_ok(200);
    let many = "x=1&".repeat(2_000);
    let call = app.anonymous().call(Method::POST, &link).header("content-type", form);
    call.body(many).send().await.assert_ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_both_buttons_pressed_20_times_at_once_one_counts() {
    let app = TestApp::start().await;
    let (mut confirmed, mut deleted) = (0, 0);
    for round in 0..10 {
        let name = format!("ada{round}");
        let (ada, link) = newcomer_with_link(&app, &name).await;
        let answers = at_once(20, |number| {
            let (anyone, link) = (app.anonymous(), link.clone());
            let body = if (number + round) % 2 == 0 { json!({}) } else { not_me() };
            async move { (body == not_me(), anyone.post(&link, &body).await) }
        })
        .await;
        let me = ada.get("/api/v1/users/me").await;
        let is_there = me.status == 200;
        for (is_not_me, answer) in &answers {
            match (is_not_me, is_there) {
                (true, true) => answer.assert_error(409, "email_already_verified"),
                (false, false) => answer.assert_error(410, "link_expired"),
                (is_not_me, _) => {
                    assert_eq!(answer.assert_ok(200)["email_verified"], !is_not_me);
                }
            }
        }
        if is_there {
            assert_eq!(me.json["user"]["email_verified"], true);
            confirmed += 1;
        } else {
            me.assert_error(401, "session_ended");
            deleted += 1;
        }
    }
    assert_eq!(audited(&app, "email_verified").await.len(), confirmed);
    assert_eq!(audited(&app, "account_disowned").await.len(), deleted);
    assert_eq!(confirmed + deleted, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_both_buttons_for_a_new_address_one_counts() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for round in 0..10 {
        let email = format!("wanted{round}@example.com");
        let link = pending_link(&ada, &email).await;
        at_once(20, |number| {
            let (anyone, link) = (app.anonymous(), link.clone());
            let body = if (number + round) % 2 == 0 { json!({}) } else { not_me() };
            async move { anyone.post(&link, &body).await }
        })
        .await;
        let user = ada.get("/api/v1/users/me").await.assert_ok(200)["user"].clone();
        assert_eq!((&user["pending_email"], &user["email_verified"]), (&Value::Null, &json!(true)));
        let changed = audited(&app, "email_changed").await.len();
        let dropped = audited(&app, "email_disowned").await.len();
        assert_eq!(changed + dropped, round + 1);
    }
}
