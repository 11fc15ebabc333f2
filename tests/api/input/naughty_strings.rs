//! The Big List of Naughty Strings (`tests/data/naughty_strings.json`) through everything that
//! takes text from outside.
//!
//! That each answer is one that the OpenAPI document knows, with an error's whole body, is checked
//! by `Call::send`.

use axum::http::{HeaderValue, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::machine::{note, root};
use crate::harness::person::{Call, PASSWORD};
use crate::input::fuzzed::checks::fields::bare;

fn naughty_strings() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("tests/data/naughty_strings.json")).unwrap();
    let strings: Vec<String> = serde_json::from_str(&text).unwrap();
    assert_eq!(strings.len(), 503);
    strings
}

/// The ones that can be the value of a header at all.
fn naughty_headers() -> impl Iterator<Item = String> {
    naughty_strings().into_iter().filter(|text| HeaderValue::from_bytes(text.as_bytes()).is_ok())
}

fn query(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The fields that were complained about.
#[track_caller]
fn refused_fields<'a>(answer: &'a Answer, text: &str) -> Vec<&'a str> {
    assert_eq!((answer.status.as_u16(), answer.code()), (422, "validation_failed"), "{text:?}");
    let errors = answer.json["errors"].as_array().unwrap();
    errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_name_is_kept_as_it_is_composed_or_refused() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let mut kept = 0;
    for text in naughty_strings() {
        // As a field that nobody asks for, too.
        let body = json!({ "first_name": text, "last_name": text, text.as_str(): text });
        let answer = ada.put("/api/v1/users/me", &body).await;
        if answer.status != 200 {
            assert_eq!(refused_fields(&answer, &text), ["first_name", "last_name"], "{text:?}");
            continue;
        }
        kept += 1;
        let name: String = text.trim().nfc().collect();
        let user = &ada.get("/api/v1/users/me").await.json["user"];
        for field in ["first_name", "last_name"] {
            assert_eq!(user[field], name);
            assert_eq!(answer.json["user"][field], name);
        }
        assert!(!name.contains(char::is_control), "{text:?}");
    }
    note(&format!("{kept} strings are names"));
    assert_eq!(kept, 478);
}

#[tokio::test]
async fn a_username_or_an_address_is_none_of_them_unless_it_is_plain() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut taken = 0;
    for text in naughty_strings() {
        let everywhere = json!({
            "username": text, "email": text, "password": text, "first_name": text, "last_name": text,
        });
        let fields = app.anonymous().post("/api/v1/users", &everywhere).await;
        assert!(refused_fields(&fields, &text).contains(&"email"), "{text:?}");

        let answer = ada.patch("/api/v1/users/me", &json!({ "username": text })).await;
        if answer.status == 200 {
            taken += 1;
            let name = bare(&text);
            assert_eq!(answer.json["user"]["username"], name);
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            assert!(name.bytes().all(is_plain), "{text:?}");
        } else {
            assert_eq!(refused_fields(&answer, &text), ["username"]);
        }
        let answer = ada.patch("/api/v1/users/me", &json!({ "email": text })).await;
        assert_eq!(refused_fields(&answer, &text), ["email"]);
    }
    note(&format!("{taken} strings are usernames"));
    assert_eq!(taken, 47);
}

#[tokio::test]
async fn a_password_works_as_it_was_chosen_or_is_refused() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut password = PASSWORD.to_owned();
    let mut set = 0;
    for (number, text) in naughty_strings().into_iter().enumerate() {
        let name = format!("user{number}");
        let body =
            json!({ "username": name, "email": format!("{name}@example.com"), "password": text });
        let registered = app.anonymous().post("/api/v1/users", &body).await;
        let body = json!({ "old_password": password, "new_password": text });
        let changed = ada.put("/api/v1/users/me/change_password", &body).await;
        if registered.status == 201 {
            set += 1;
            changed.assert_ok(200);
            app.log_in(&name, &text).await;
            password.clone_from(&text);
        } else {
            assert_eq!(refused_fields(&registered, &text), ["password"]);
            assert_eq!(refused_fields(&changed, &text), ["new_password"]);
            app.anonymous().log_in("ada", &text).await.assert_error(401, "invalid_credentials");
        }
        // As a name to log in by it is nobody's, with a colon in it or without.
        app.anonymous().log_in(&text, &password).await.assert_error(401, "invalid_credentials");
    }
    app.log_in("ada", &password).await;
    note(&format!("{set} strings are passwords"));
    assert_eq!(set, 372);
}

/// The words of a search, of which a user has to have each one; all of it where it has no word.
fn words(text: &str) -> Vec<String> {
    let whole: String = bare(text).nfc().collect();
    let words = whole.split(|c: char| c.is_whitespace() || c == ',').map(bare);
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.is_empty() && !whole.is_empty() { vec![whole] } else { words }
}

/// Whether a search for it has to find this user: each word in the name or the others.
fn holds(user: &Value, text: &str) -> bool {
    let places = ["username", "email", "pending_email", "first_name", "last_name"];
    let places = places.map(|field| user[field].as_str().unwrap_or_default().to_lowercase());
    words(text).iter().all(|word| places.iter().any(|place| place.contains(&word.to_lowercase())))
}

#[tokio::test]
async fn an_admins_question_is_answered_or_refused() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let everybody = boss.get("/api/v1/users").await.json["users"].as_array().unwrap().clone();
    let role_of_ada = format!("/api/v1/users/{}", ada.id());
    for text in naughty_strings() {
        // As the name of a parameter, too.
        let unknown = boss.get(&format!("/api/v1/users?{}", query(&[(&text, "x")]))).await;
        let name: String = text.chars().take(64).collect();
        assert_eq!(refused_fields(&unknown, &text), [&name]);
        assert_eq!(unknown.json["errors"][0]["code"], "unknown_parameter");
        let search = query(&[("q", &text), ("count", "true")]);
        let found = boss.get(&format!("/api/v1/users?{search}")).await;
        // A few are that long.
        if text.chars().count() > 254 || words(&text).len() > 10 {
            assert_eq!(refused_fields(&found, &text), ["q"]);
        } else {
            let users = found.assert_ok(200)["users"].as_array().unwrap();
            let right = everybody.iter().filter(|user| holds(user, &text));
            assert!(users.iter().eq(right), "{text:?}: {}", found.text);
        }
        let choices = ["role", "sort", "after"].map(|field| (field, text.as_str()));
        let refused = boss.get(&format!("/api/v1/users?{}", query(&choices))).await;
        // Nothing but white space is a field that was not filled in.
        let is_blank = bare(&text).is_empty();
        if is_blank {
            refused.assert_ok(200);
        } else {
            assert_eq!(refused_fields(&refused, &text), ["sort", "role", "after"]);
        }
        // A few are numbers, and a few say yes or no.
        let flags = ["email_verified", "count"].map(|field| (field, text.as_str()));
        let flags = boss.get(&format!("/api/v1/users?{}", query(&flags))).await;
        if is_blank || ["true", "false", "1", "0"].contains(&text.to_lowercase().as_str()) {
            flags.assert_ok(200);
        } else {
            assert_eq!(refused_fields(&flags, &text), ["email_verified", "count"]);
        }
        let limit = boss.get(&format!("/api/v1/users?{}", query(&[("limit", &text)]))).await;
        if is_blank || text.parse().is_ok_and(|limit: u16| (1..=500).contains(&limit)) {
            limit.assert_ok(200);
        } else {
            assert_eq!(refused_fields(&limit, &text), ["limit"]);
        }

        let put =
            boss.put(&format!("{role_of_ada}?{}", query(&[("role", &text)])), &json!({})).await;
        assert_eq!(refused_fields(&put, &text), ["role"]);
        let put = boss.put(&role_of_ada, &json!({ "role": text })).await;
        assert_eq!(refused_fields(&put, &text), ["role"]);

        let id = utf8_percent_encode(&text, NON_ALPHANUMERIC);
        if !text.is_empty() {
            let path = format!("/api/v1/users/{id}");
            boss.get(&path).await.assert_error(404, "user_not_found");
            boss.get(&format!("{path}/{id}")).await.assert_error(404, "not_found");
        }
    }
}

#[tokio::test]
async fn a_token_a_link_or_a_body_is_refused() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let json = |call: Call| call.header("content-type", "application/json");
    for text in naughty_strings() {
        let link = format!("/api/v1/confirm?{}", query(&[("token", &text)]));
        app.anonymous().get(&link).await.assert_error(400, "link_invalid");
        let page = app.anonymous().call(Method::POST, &link).header("accept", "text/html");
        assert_eq!(page.send().await.status, 400);
        let body = json(ada.call(Method::PUT, "/api/v1/users/me")).body(text.as_str());
        body.send().await.assert_error(400, "malformed_request");
    }
    let post = |path: &str| app.anonymous().call(Method::POST, path);
    for text in naughty_headers().filter(|text| !text.is_empty()) {
        // What a script sends that has none.
        let is_none = ["undefined", "null"].contains(&text.as_str());
        let code = if is_none { "token_missing" } else { "token_invalid" };
        let me = post("/api/v1/users/me").header_bytes("x-access-token", text.as_bytes());
        me.send().await.assert_error(401, code);
        let bearer = format!("Bearer {text}");
        let me = post("/api/v1/users/me").header_bytes("authorization", bearer.as_bytes());
        let is_blank = text.trim_matches(' ').is_empty();
        let code = if text.is_ascii() && !is_blank { code } else { "token_missing" };
        me.send().await.assert_error(401, code);
        let refresh = post("/api/v1/refresh").header_bytes("x-refresh-token", text.as_bytes());
        let code = if is_none { "refresh_token_missing" } else { "refresh_token_invalid" };
        refresh.send().await.assert_error(401, code);
        for authorization in [text.clone(), format!("Basic {text}")] {
            let login =
                post("/api/v1/login").header_bytes("authorization", authorization.as_bytes());
            login.send().await.assert_error(401, "credentials_missing");
        }
        let typed = ada.call(Method::PUT, "/api/v1/users/me").body("{}");
        let typed = typed.header_bytes("content-type", text.as_bytes());
        typed.send().await.assert_error(415, "unsupported_media_type");
    }
}

#[tokio::test]
async fn a_header_that_is_only_looked_at_changes_no_answer() {
    let app =
        TestApp::with(&[("TRUSTED_PROXY_HOPS", "1"), ("CORS_ORIGINS", "https://a.example")]).await;
    app.user("ada").await;
    let password = format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")));
    let mut sent = 0;
    for text in naughty_headers() {
        let mut login = app.anonymous().call(Method::POST, "/api/v1/login");
        login = login.header("authorization", &password);
        for name in ["x-request-id", "x-forwarded-for", "user-agent", "accept", "origin", "referer"]
        {
            login = login.header_bytes(name, text.as_bytes());
        }
        let answer = login.send().await;
        answer.assert_ok(200);
        let id = answer.header("x-request-id").unwrap();
        let is_sane = |b: u8| b.is_ascii_alphanumeric() || b"._-+/=:".contains(&b);
        let is_kept = !text.is_empty() && text.bytes().all(is_sane);
        assert_eq!(id == text, is_kept, "{text:?} became {id}");
        assert!(answer.header("access-control-allow-origin").is_none());
        sent += 1;
    }
    note(&format!("{sent} strings are headers"));
    assert_eq!(sent, 498);
}
