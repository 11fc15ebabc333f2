//! `POST /refresh`: who is refused.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::json;

use crate::auth::refresh::{PATH, refresh_by, refresh_token};
use crate::harness::app::{TestApp, link_in};
use crate::harness::forge;
use crate::harness::person::PASSWORD;

#[tokio::test]
async fn a_session_that_is_not_used_for_30_days_is_over() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    let almost = TimeDelta::days(30) - TimeDelta::seconds(1);
    app.clock.advance(almost);
    ada.refresh().await.assert_ok(200);
    app.clock.advance(almost);
    ada.refresh().await.assert_ok(200);
    app.clock.advance(TimeDelta::days(30));
    ada.refresh().await.assert_error(401, "refresh_token_expired");
}

#[tokio::test]
async fn a_session_is_over_after_90_days_however_busy_it_was() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    for _ in 0..89 {
        app.clock.advance(TimeDelta::days(1));
        ada.refresh().await.assert_ok(200);
        ada.get("/api/v1/users/me").await.assert_ok(200);
    }
    app.clock.advance(TimeDelta::hours(23) + TimeDelta::minutes(59));
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    // The access token has 29 minutes left, its session has none.
    ada.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    ada.refresh().await.assert_error(401, "refresh_token_expired");
}

#[tokio::test]
async fn the_token_of_a_session_or_a_user_that_is_gone_is_told_so() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut left = app.newcomer("left").await;
    left.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    left.refresh().await.assert_error(401, "session_ended");
    let mut gone = app.newcomer("gone").await;
    boss.delete(&format!("/api/v1/users/{}", gone.id())).await.assert_ok(200);
    gone.refresh().await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn nothing_but_a_refresh_token_refreshes() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let letter = app.letter_to("ada@example.com").await;
    let link = link_in(&letter).split_once("token=").unwrap().1.to_owned();
    let (access, refresh) = (ada.access_token(), ada.refresh_token());
    let (header, rest) = refresh.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    for wrong in [
        access,
        &link,
        "x",
        "..",
        &refresh[1..],
        &format!("{refresh}x"),
        &format!("Bearer {refresh}"),
        &format!("{header}.{payload}."),
        &format!("{header}.{signature}.{payload}"),
        &"x".repeat(9000),
    ] {
        let answer = ada.refresh_with(wrong).await;
        answer.assert_error(401, "refresh_token_invalid");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer "));
    }
    let call = app.anonymous().call(Method::POST, PATH);
    let call = call.header_bytes("x-refresh-token", b"\xff\xfe");
    call.send().await.assert_error(401, "refresh_token_invalid");
    for headers in [&[][..], &[("x-refresh-token", "")], &[("x-access-token", access)]] {
        refresh_by(&app, headers).await.assert_error(401, "refresh_token_missing");
    }
    // Neither a body nor a query nor a cookie is looked at.
    let call = app.anonymous().call(Method::POST, &format!("{PATH}?refresh_token={refresh}"));
    let call = call.header("cookie", &format!("refresh_token={refresh}"));
    let answer = call.json(&json!({ "refresh_token": refresh })).send().await;
    answer.assert_error(401, "refresh_token_missing");
    for wrong in [refresh, &link] {
        let call = app.anonymous().call(Method::GET, "/api/v1/users/me");
        call.header("x-access-token", wrong).send().await.assert_error(401, "token_invalid");
    }
    ada.clone().refresh().await.assert_ok(200);
}

#[tokio::test]
async fn the_access_token_beside_it_has_to_be_of_the_same_session() {
    let app = TestApp::start().await;
    let bob = app.newcomer("bob").await;
    let ada = app.newcomer("ada").await;
    let elsewhere = app.log_in("ada", PASSWORD).await;
    let refresh = ada.refresh_token();
    let with = async |name: &str, value: &str| {
        refresh_by(&app, &[("x-refresh-token", refresh), (name, value)]).await
    };
    for stranger in [&bob, &elsewhere] {
        let access = stranger.access_token();
        with("x-access-token", access).await.assert_error(401, "token_mismatch");
        let bearer = format!("Bearer {access}");
        with("authorization", &bearer).await.assert_error(401, "token_mismatch");
    }
    // None of these has spent the token, or ended anything.
    app.clock.advance(TimeDelta::minutes(31));
    bob.clone().refresh().await.assert_ok(200);
    let access = ada.access_token();
    let next = with("x-access-token", access).await;
    assert_eq!(forge::read(&refresh_token(&next)).1["counter"], 1);
    with("authorization", &format!("Bearer {access}")).await.assert_ok(200);
    // What is no access token counts as none.
    for wrong in ["x", refresh, "undefined", "null", ""] {
        with("x-access-token", wrong).await.assert_ok(200);
        with("authorization", &format!("Bearer {wrong}")).await.assert_ok(200);
    }
    // Somebody else's is refused after its time too.
    let access = bob.access_token();
    with("x-access-token", access).await.assert_error(401, "token_mismatch");
}

#[tokio::test]
async fn each_header_is_taken_once() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let (access, refresh) = (ada.access_token(), ada.refresh_token());
    let other = app.log_in("ada", PASSWORD).await;
    let others = other.access_token();
    let bearer = format!("Bearer {access}");
    for headers in [
        &[("x-refresh-token", refresh), ("x-refresh-token", refresh)][..],
        &[("x-refresh-token", refresh), ("x-refresh-token", "")],
        &[("x-refresh-token", refresh), ("x-access-token", access), ("x-access-token", access)],
        &[("x-refresh-token", refresh), ("authorization", &bearer), ("authorization", &bearer)],
        &[("x-refresh-token", refresh), ("authorization", &bearer), ("x-access-token", others)],
    ] {
        refresh_by(&app, headers).await.assert_error(400, "malformed_request");
    }
    let both = [
        ("x-refresh-token", refresh),
        ("authorization", bearer.as_str()),
        ("x-access-token", access),
    ];
    let next = refresh_by(&app, &both).await;
    assert_eq!(forge::read(&refresh_token(&next)).1["counter"], 1, "none of these spent it");
}
