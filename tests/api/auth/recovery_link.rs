//! A password that is set by the link of a letter.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use serde_json::json;

use super::recovery::{NEW, RESET, asked, by_link, can_log_in, forgot, token_in};
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};

/// An owner whose address a stranger signed up with first.
#[tokio::test]
async fn the_owner_of_an_address_gets_the_account_that_a_stranger_made_with_it() {
    let app = TestApp::start().await;
    let stranger = app.newcomer("ada").await;
    app.deliver_mail().await;
    let mut elsewhere = app.log_in("ada", PASSWORD).await;
    let asked = asked(&app, "ada").await;
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
    stranger.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    elsewhere.refresh().await.assert_error(401, "session_ended");
    stranger.log_in(&email_of("ada"), PASSWORD).await.assert_error(401, "invalid_credentials");
    assert!(can_log_in(&app, NEW).await);
}

/// Guesses at the old password, the owner's and strangers', keep nobody from the new one; and
/// whoever was known by the old one is a stranger.
#[tokio::test]
async fn after_a_reset_the_owner_logs_in_and_the_thief_is_a_stranger() {
    let settings =
        [("RATE_LIMITS", "on"), ("TRUSTED_PROXY_HOPS", "1"), ("LIMIT_LOGIN_STRANGERS", "6")];
    let app = TestApp::with(&settings).await;
    let ada = app.user("ada").await;
    let guess = async |ip: &str, password: &str| {
        let value = format!("Basic {}", STANDARD.encode(format!("ada:{password}")));
        let call = app.anonymous().call(Method::POST, "/api/v1/login").from(ip);
        call.header("authorization", &value).send().await.status.as_u16()
    };
    let thief = "198.51.100.9";
    assert_eq!(guess(thief, PASSWORD).await, 200);
    for number in 0..8 {
        guess(&format!("203.0.113.{number}"), "wrong").await;
    }
    let asked = asked(&app, "ada").await;
    let body = json!({ "token": asked.token, "new_password": NEW });
    let call = ada.call(Method::POST, RESET).from("203.0.113.1");
    call.json(&body).send().await.assert_ok(200);
    // Another instance remembers its own refusals for half a minute.
    app.clock.advance(TimeDelta::seconds(31));
    assert_eq!(guess("203.0.113.1", NEW).await, 200, "from where she had guessed");
    // The strangers' budget is begun anew, and the thief has no other.
    let mut refused = 0;
    for _ in 0..8 {
        refused += u32::from(guess(thief, "wrong").await == 429);
    }
    assert!(refused > 0, "a known client would have a budget of its own");
}

/// A letter that was held up says what is still true of it.
#[tokio::test]
async fn a_late_letter_says_how_long_its_link_still_works_and_has_no_dead_code() {
    let app = TestApp::start().await;
    app.user("ada").await;
    forgot(&app, "ada@example.com").await;
    app.clock.advance(TimeDelta::minutes(12));
    let letter = app.letter_to("ada@example.com").await;
    assert!(
        letter.text.contains("works for 18 minutes") && !letter.text.contains("code"),
        "{letter:?}"
    );
    by_link(&app, &token_in(&letter), NEW).await.assert_ok(200);
    app.deliver_mail().await;
    forgot(&app, "ada@example.com").await;
    app.clock.advance(TimeDelta::minutes(31));
    assert_eq!(app.deliver_mail().await, [], "its link has run out");
    let failed: i64 = sqlx::query_scalar(
        "select count(*) from outbox where kind = 'reset' and failed_at is not null",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(failed, 1);
}

/// Scanners, previews and people who look twice.
#[tokio::test]
async fn looking_at_a_link_uses_nothing_up() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let path = format!("{RESET}?token={}&utm_source=mail", asked.token);
    for method in [Method::GET, Method::HEAD].iter().cycle().take(10) {
        let answer = app.anonymous().call(method.clone(), &path).send().await;
        assert_eq!(answer.status, 200, "{method}");
    }
    let said = app.anonymous().get(&path).await;
    assert_eq!(said.assert_ok(200)["expires_in"], json!(1800));
    app.anonymous().get(&format!("{RESET}?token=nonsense")).await.assert_error(400, "link_invalid");
    app.anonymous().get(RESET).await.assert_error(400, "link_invalid");
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
    app.anonymous().get(&path).await.assert_error(410, "link_expired");
}
