//! Who calls: the two token headers, and every endpoint that asks for a user or an admin.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use doorward::router::openapi_document;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::forge::{Key, read};
use crate::harness::person::{PASSWORD, Person};

const ME: &str = "/api/v1/users/me";

/// The calls that need a user, each with its tag in the document: `admin` needs more.
fn guarded_calls(id: &str) -> Vec<(Method, String, String)> {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut calls = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let takes = |name: &str| {
                let mut security = operation["security"].as_array().into_iter().flatten();
                security.any(|one| one.get(name).is_some())
            };
            // A refresh token in place of the access token, or beside it: tested with those calls.
            if takes("bearer") && !takes("refresh_token") {
                let method = method.to_uppercase().parse().unwrap();
                let tag = operation["tags"][0].as_str().unwrap().to_owned();
                let path = path.replace("{public_id}", id).replace("{session_id}", id);
                calls.push((method, path, tag));
            }
        }
    }
    assert_eq!(calls.len(), 31, "{calls:?}");
    calls
}

async fn show(person: &Person, headers: &[(&str, &str)]) -> Answer {
    let mut person = person.clone();
    person.access = None;
    let call = person.call(Method::GET, ME);
    headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
}

#[tokio::test]
async fn every_call_that_needs_a_user_refuses_whoever_is_none() {
    let app = TestApp::start().await;
    let boss = app.admin_called("boss").await;
    let mut expired = app.admin_called("old").await;
    app.clock.advance(TimeDelta::minutes(30));
    let left = app.admin_called("left").await;
    left.call(Method::POST, "/api/v1/logout").send().await.assert_ok(200);
    let deleted = app.admin_called("gone").await;
    sqlx::query("delete from users where username = 'gone'").execute(&app.pool).await.unwrap();
    let fresh = app.log_in("boss", PASSWORD).await;
    let mut with_refresh_token = fresh.clone();
    with_refresh_token.access = with_refresh_token.refresh.clone();
    let mut with_nonsense = fresh.clone();
    with_nonsense.access = Some("nonsense".into());
    let mut cut_off = fresh.clone();
    cut_off.access.as_mut().unwrap().pop();

    for (method, path, _) in guarded_calls(boss.id()) {
        for (person, code) in [
            (&app.anonymous(), "token_missing"),
            (&with_nonsense, "token_invalid"),
            (&cut_off, "token_invalid"),
            (&with_refresh_token, "token_invalid"),
            (&expired, "token_expired"),
            (&left, "session_ended"),
            (&deleted, "session_ended"),
        ] {
            let answer = person.call(method.clone(), &path).send().await;
            answer.assert_error(401, code);
            let challenge = match code {
                "token_missing" => r#"Bearer realm="doorward""#,
                _ => r#"Bearer realm="doorward", error="invalid_token""#,
            };
            assert_eq!(answer.header("www-authenticate"), Some(challenge));
        }
    }
    expired.refresh().await.assert_ok(200);
    expired.get("/api/v1/users").await.assert_ok(200);
    fresh.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn every_call_that_needs_an_admin_refuses_users_and_staff() {
    let app = TestApp::start().await;
    let (boss, ada, sam) = (app.admin().await, app.user("ada").await, app.user("sam").await);
    let role = format!("/api/v1/users/{}?role=staff", sam.id());
    boss.put(&role, &json!({})).await.assert_ok(200);
    let calls = guarded_calls(boss.id());
    let for_admins: Vec<_> = calls.iter().filter(|(_, _, tag)| tag == "admin").collect();
    assert_eq!(for_admins.len(), 18);
    for (method, path, _) in for_admins {
        ada.call(method.clone(), path).send().await.assert_error(403, "forbidden");
        let answer = sam.call(method.clone(), path).send().await;
        if *method == Method::GET {
            answer.assert_ok(200);
        } else {
            answer.assert_error(403, "forbidden");
        }
    }
    boss.get("/api/v1/users").await.assert_ok(200);
}

#[tokio::test]
async fn the_access_token_comes_in_either_header() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let token = ada.access.clone().unwrap();
    let scheme = |scheme: &str| format!("{scheme} {token}");
    show(&ada, &[("x-access-token", &token)]).await.assert_ok(200);
    for name in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        show(&ada, &[("authorization", &scheme(name))]).await.assert_ok(200);
    }
    let both = [("x-access-token", token.as_str()), ("authorization", &scheme("Bearer"))];
    show(&ada, &both).await.assert_ok(200);
    // Another scheme is nobody's token, and disturbs none.
    let basic = format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")));
    for other in [&basic, "Bearer", "bearer", &token, &scheme("Token")] {
        let answer = show(&ada, &[("authorization", other)]).await;
        answer.assert_error(401, "token_missing");
        let both = [("x-access-token", token.as_str()), ("authorization", other)];
        show(&ada, &both).await.assert_ok(200);
    }
}

#[tokio::test]
async fn two_tokens_at_once_are_refused() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (token, other) = (ada.access.clone().unwrap(), bob.access.clone().unwrap());
    let refresh = ada.refresh.clone().unwrap();
    let bearer = format!("Bearer {token}");
    let own = bob.access.clone().map(|own| format!("Bearer {own}")).unwrap();
    for headers in [
        [("x-access-token", token.as_str()), ("x-access-token", &token)],
        [("x-access-token", &token), ("x-access-token", &other)],
        [("x-access-token", &token), ("x-access-token", "")],
        [("x-access-token", &token), ("x-access-token", "undefined")],
        [("authorization", &bearer), ("authorization", &bearer)],
        [("authorization", &bearer), ("authorization", "Bearer nonsense")],
        [("x-access-token", &other), ("authorization", &bearer)],
        [("x-access-token", &token), ("authorization", &own)],
    ] {
        show(&ada, &headers).await.assert_error(400, "malformed_request");
    }
    // An expired one was ours as well.
    app.clock.advance(TimeDelta::minutes(31));
    let fresh = app.log_in("ada", PASSWORD).await.access.unwrap();
    let headers = [("x-access-token", fresh.as_str()), ("authorization", &bearer)];
    show(&ada, &headers).await.assert_error(400, "malformed_request");
    let ada = app.log_in("ada", PASSWORD).await;
    for path in ["/api/v1/refresh", "/api/v1/logout"] {
        let call = app.anonymous().call(Method::POST, path);
        let call = call.header("x-refresh-token", &refresh).header("x-refresh-token", &refresh);
        call.send().await.assert_error(400, "malformed_request");
    }
    let call = app.anonymous().call(Method::POST, "/api/v1/login");
    let basic = format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")));
    let call = call.header("authorization", &basic).header("authorization", &basic);
    call.send().await.assert_error(400, "malformed_request");
    ada.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn a_bearer_that_is_not_ours_is_passed_over_beside_the_token() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let token = ada.access.clone().unwrap();
    // A gateway's, of the same algorithm, with the claims of another user.
    let gateway = Key::access("a secret of the gateway, which is long enough");
    let claims = read(app.user("bob").await.access_token()).1;
    let gateways = gateway.token(&claims);
    let foreign = [gateways.as_str(), "nonsense", "a.b.c", "null", "undefined", "", " "];
    for foreign in foreign.map(|foreign| format!("Bearer {foreign}")) {
        let headers = [("x-access-token", token.as_str()), ("authorization", &foreign)];
        let answer = show(&ada, &headers).await;
        assert_eq!(answer.assert_ok(200)["user"]["username"], "ada");
        // No token of ours: then it is asked for, or this one is not good.
        let alone = show(&ada, &[("authorization", &foreign)]).await;
        assert_eq!(alone.status, 401, "{}", alone.text);
    }
    show(&ada, &[("authorization", &format!("Bearer {gateways}"))])
        .await
        .assert_error(401, "token_invalid");
}

#[tokio::test]
async fn what_cannot_be_read_in_the_tokens_own_header_is_refused_whatever_stands_beside_it() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let bearer = format!("Bearer {}", ada.access_token());
    let mut cut_off = ada.access_token().to_owned();
    cut_off.pop();
    for odd in ["nonsense", "a.b.c", &cut_off, &bearer] {
        let headers = [("x-access-token", odd), ("authorization", &bearer)];
        show(&ada, &headers).await.assert_error(401, "token_invalid");
    }
}

#[tokio::test]
async fn beside_a_refresh_token_an_access_token_that_cannot_be_read_counts_as_none() {
    let app = TestApp::start().await;
    app.user("ada").await;
    for path in ["/api/v1/refresh", "/api/v1/logout"] {
        for odd in ["nonsense", "a.b.c", "null", "undefined", ""] {
            let ada = app.log_in("ada", PASSWORD).await;
            let call = app.anonymous().call(Method::POST, path).header("x-access-token", odd);
            call.header("x-refresh-token", ada.refresh_token()).send().await.assert_ok(200);
        }
    }
    for (odd, code) in [("nonsense", "token_invalid"), ("undefined", "token_missing")] {
        let call = app.anonymous().call(Method::POST, "/api/v1/logout");
        call.header("x-access-token", odd).send().await.assert_error(401, code);
    }
}

#[tokio::test]
async fn a_script_without_a_refresh_token_has_none() {
    let app = TestApp::start().await;
    for none in ["", "undefined", "null"] {
        let answer = app.anonymous().refresh_with(none).await;
        answer.assert_error(401, "refresh_token_missing");
    }
    for odd in ["Undefined", "NULL", "undefined ", "0"] {
        let answer = app.anonymous().refresh_with(odd).await;
        answer.assert_error(401, "refresh_token_invalid");
    }
}

#[tokio::test]
async fn an_empty_header_is_none_and_an_odd_one_is_no_token() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let bearer = format!("Bearer {}", ada.access.as_deref().unwrap());
    // What `fetch` makes of a variable that holds nothing is none, too.
    for none in ["", "undefined", "null"] {
        show(&ada, &[("x-access-token", none)]).await.assert_error(401, "token_missing");
        show(&ada, &[("authorization", none)]).await.assert_error(401, "token_missing");
        let bare = format!("Bearer {none}");
        show(&ada, &[("authorization", &bare)]).await.assert_error(401, "token_missing");
        let both = [("x-access-token", none), ("authorization", &bearer)];
        show(&ada, &both).await.assert_ok(200);
        let both = [("x-access-token", ada.access_token()), ("authorization", &bare)];
        show(&ada, &both).await.assert_ok(200);
    }
    let long = "x".repeat(12_000);
    for odd in ["Null", "undefined.", " ", "a.b", "a.b.c", "..", &bearer, &long] {
        let answer = show(&ada, &[("x-access-token", odd)]).await;
        answer.assert_error(401, "token_invalid");
    }
    show(&ada, &[("authorization", "Bearer x")]).await.assert_error(401, "token_invalid");
    for bytes in [&b"\xff\xfe"[..], "\u{e4}".as_bytes()] {
        let call = app.anonymous().call(Method::GET, ME).header_bytes("x-access-token", bytes);
        call.send().await.assert_error(401, "token_invalid");
    }
}

#[tokio::test]
async fn a_token_counts_in_a_header_alone() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let token = ada.access.clone().unwrap();
    let stranger = app.anonymous();
    for name in ["token", "access_token", "x-access-token"] {
        let answer = stranger.get(&format!("{ME}?{name}={token}")).await;
        answer.assert_error(401, "token_missing");
        let answer = stranger.post(ME, &json!({ name: token })).await;
        answer.assert_error(401, "token_missing");
        let answer = show(&ada, &[("cookie", &format!("{name}={token}"))]).await;
        answer.assert_error(401, "token_missing");
        let refresh = ada.refresh.as_deref().unwrap();
        let answer = stranger.post(&format!("/api/v1/refresh?{name}={refresh}"), &json!({})).await;
        answer.assert_error(401, "refresh_token_missing");
    }
}
