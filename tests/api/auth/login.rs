//! `POST /login`: what is taken for credentials, and what is answered.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};

pub const PATH: &str = "/api/v1/login";
const CHALLENGE: &str = r#"Basic realm="Login required!", charset="UTF-8""#;
const SCRIPT_CHALLENGE: &str = r#"xBasic realm="Login required!", charset="UTF-8""#;

/// A login with these bytes as the value of `authorization`.
pub async fn log_in_with(app: &TestApp, authorization: &[u8]) -> Answer {
    let call = app.anonymous().call(Method::POST, PATH);
    call.header_bytes("authorization", authorization).send().await
}

pub fn basic(credentials: &[u8]) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

pub async fn register(app: &TestApp, name: &str, password: &str) {
    let body = json!({ "username": name, "email": email_of(name), "password": password });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
}

#[tokio::test]
async fn whoever_logs_in_gets_a_pair_of_tokens_and_sees_themselves() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "Ada", "email": "Ada@Example.com", "password": PASSWORD,
        "first_name": "Ada", "last_name": "Lovelace",
    });
    let registered = app.anonymous().post("/api/v1/users/", &body).await;
    let id = registered.assert_ok(201)["user"]["public_id"].clone();

    let answer = app.anonymous().log_in("Ada", PASSWORD).await;
    let body = answer.assert_ok(200);
    let token = body["token"].as_str().unwrap();
    assert_eq!(
        *body,
        json!({
            "success": true,
            "token": token,
            "refresh_token": body["refresh_token"].as_str().unwrap(),
            "expires_in": 1800,
            "user": {
                "public_id": id, "first_name": "Ada", "last_name": "Lovelace", "username": "Ada",
                "email": "Ada@Example.com", "email_verified": false, "pending_email": null,
                "role": "user", "is_staff": false, "is_admin": false,
                "created_at": "2026-01-02T03:04:05.678Z", "modified_at": "2026-01-02T03:04:05.678Z",
            },
        })
    );
    let call = app.anonymous().call(Method::GET, "/api/v1/users/me");
    let me = call.header("x-access-token", token).send().await;
    assert_eq!(me.assert_ok(200)["user"], body["user"]);
    let sql = "select count(*) from audit_log where event = 'login' and user_id = $1::uuid
               and ip = '127.0.0.1'";
    let audited: i64 =
        sqlx::query_scalar(sql).bind(id.as_str()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn the_name_and_the_address_are_good_in_any_case() {
    let app = TestApp::start().await;
    register(&app, "Ada", PASSWORD).await;
    for login in [
        "Ada",
        "ada",
        "ADA",
        "Ada@example.com",
        "ada@EXAMPLE.com",
        "ADA@EXAMPLE.COM",
        "ada ",
        " ada",
        "\u{feff}ada@example.com\u{200b}\n",
    ] {
        app.anonymous().log_in(login, PASSWORD).await.assert_ok(200);
    }
    // ASCII alone is folded: a look-alike is another name. What is inside a name counts.
    for login in ["\u{410}da", "a da", "a\u{200b}da", "ad_", "a%", "example.com"] {
        app.anonymous().log_in(login, PASSWORD).await.assert_error(401, "invalid_credentials");
    }
    let answer = app.anonymous().log_in("ada", &PASSWORD.to_uppercase()).await;
    answer.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn a_password_may_hold_colons_and_any_text() {
    let app = TestApp::start().await;
    let passwords = [
        "::::::::",
        "with:colons:in:it",
        "  spaces at both ends  ",
        "\u{1f980}\u{1f980} 日本語のパスワード",
        "tab\tand\nnew\r\nlines",
        "\u{fb01}gures of speech",
        "pa\u{308}sswo\u{308}rds e\u{301}cle\u{301}s",
    ];
    for (number, password) in passwords.iter().enumerate() {
        let name = format!("user{number}");
        register(&app, &name, password).await;
        app.anonymous().log_in(&name, password).await.assert_ok(200);
        let cut = &password[..password.char_indices().last().unwrap().0];
        app.anonymous().log_in(&name, cut).await.assert_error(401, "invalid_credentials");
    }
    // A compatibility form is another text: only what is canonically the same is one password.
    app.anonymous()
        .log_in("user5", "figures of speech")
        .await
        .assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn composed_and_decomposed_are_one_password() {
    let app = TestApp::start().await;
    let composed = "p\u{e4}ssw\u{f6}rd \u{e9}cl\u{e9} \u{1e69}";
    let decomposed = "pa\u{308}sswo\u{308}rd e\u{301}cle\u{301} s\u{307}\u{323}";
    register(&app, "ada", composed).await;
    register(&app, "bob", decomposed).await;
    for name in ["ada", "bob"] {
        app.anonymous().log_in(name, composed).await.assert_ok(200);
        app.anonymous().log_in(name, decomposed).await.assert_ok(200);
    }
}

#[tokio::test]
async fn whoever_brings_no_credentials_is_asked_for_them() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let good = STANDARD.encode(format!("ada:{PASSWORD}"));
    let without = app.anonymous().call(Method::POST, PATH).header("x-request-id", "id-1");
    let without = without.send().await;
    assert_eq!(
        without.json,
        json!({
            "success": false, "code": "credentials_missing", "request_id": "id-1",
            "message": "Log in with HTTP Basic or JSON: username or e-mail address, and password.",
        })
    );
    let unreadable: &[Vec<u8>] = &[
        b"".to_vec(),
        b"Basic".to_vec(),
        b"Basic ".to_vec(),
        format!("Basic{good}").into(),
        good.clone().into(),
        format!("Basic\t{good}").into(),
        format!("Bearer {good}").into(),
        format!("Digest {good}").into(),
        format!("xBasic {good}").into(),
        b"Basic !!!!".to_vec(),
        format!("Basic {}!", &good[..good.len() - 1]).into(),
        format!("Basic {good}{good}=").into(),
        format!("Basic {good} {good}").into(),
        basic(b"ada").into(),
        basic(b"ada correct horse battery").into(),
        // Header bytes that are not ASCII.
        b"Basic \xc3\xa4\xc3\xb6".to_vec(),
        b"B\xe4sic YTpi".to_vec(),
    ];
    for value in unreadable {
        let answer = log_in_with(&app, value).await;
        answer.assert_error(401, "credentials_missing");
        assert_eq!(answer.header("www-authenticate"), Some(CHALLENGE));
    }
}

#[tokio::test]
async fn what_can_be_read_but_is_nobody_is_refused() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let long = "x".repeat(11 * 1024);
    let odd: &[String] = &[
        ":".to_owned(),
        format!(":{PASSWORD}"),
        "ada:".to_owned(),
        format!("ada::{PASSWORD}"),
        format!("ada:{PASSWORD}\0"),
        format!("ada\0:{PASSWORD}"),
        format!("\0:{PASSWORD}"),
        "ada:\0".to_owned(),
        format!("ada:{long}"),
        format!("{long}:{PASSWORD}"),
        format!("nobody:{long}"),
        // Decomposes and composes without end: normalising it must stay cheap.
        format!("ada:{}", "a\u{308}\u{323}\u{fdfa}".repeat(1200)),
        format!("' or 1=1 --:{PASSWORD}"),
    ];
    for credentials in odd {
        let answer = log_in_with(&app, basic(credentials.as_bytes()).as_bytes()).await;
        answer.assert_error(401, "invalid_credentials");
        assert_eq!(answer.header("www-authenticate"), Some(CHALLENGE));
    }
}

#[tokio::test]
async fn what_other_clients_make_of_basic_is_understood() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let credentials = format!("ada:{PASSWORD}");
    let good = STANDARD.encode(&credentials);
    assert!(good.ends_with("=="), "there is padding to be left out");
    for value in [
        format!("basic {good}"),
        format!("BASIC {good}"),
        format!("bAsIc {good}"),
        format!("Basic   {good}"),
        format!("Basic {good}  "),
        format!("Basic {}", STANDARD_NO_PAD.encode(credentials)),
    ] {
        log_in_with(&app, value.as_bytes()).await.assert_ok(200);
    }
    let call = app.anonymous().call(Method::POST, "/api/v1/login/");
    call.header("authorization", &format!("Basic {good}")).send().await.assert_ok(200);
    // The body is nobody's business here, whatever it is.
    let call = app.anonymous().call(Method::POST, PATH).body("{not json");
    let call = call.header("content-type", "text/plain");
    call.header("authorization", &format!("Basic {good}")).send().await.assert_ok(200);
}

#[tokio::test]
async fn credentials_given_twice_are_malformed() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let good = basic(format!("ada:{PASSWORD}").as_bytes());
    for second in [good.as_str(), "Bearer x", ""] {
        let call = app.anonymous().call(Method::POST, PATH).header("authorization", &good);
        call.header("authorization", second).send().await.assert_error(400, "malformed_request");
    }
}

#[tokio::test]
async fn a_wrong_password_is_answered_like_an_unknown_user() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let gone = app.user("gone").await;
    app.admin().await.delete(&format!("/api/v1/users/{}", gone.id())).await.assert_ok(200);
    let answer = async |login: &str| {
        let value = basic(format!("{login}:not the password").as_bytes());
        let call = app.anonymous().call(Method::POST, PATH).header("x-request-id", "id-1");
        call.header("authorization", &value).send().await
    };
    let wrong = answer("ada").await;
    assert_eq!(
        wrong.text,
        json_text(&[
            ("success", json!(false)),
            ("code", json!("invalid_credentials")),
            ("message", json!("The username or the password is wrong.")),
            ("request_id", json!("id-1")),
        ])
    );
    assert_eq!(wrong.status, 401);
    for login in ["nobody", "ada@example.com", "nobody@example.com", "gone", "", "\0"] {
        let other = answer(login).await;
        assert_eq!((other.status, &other.text), (wrong.status, &wrong.text), "{login}");
        assert_eq!(other.headers, wrong.headers, "{login}");
    }
}

/// An object with its fields in this order.
fn json_text(fields: &[(&str, Value)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[tokio::test]
async fn no_browser_opens_its_own_dialog_over_a_frontend() {
    let app = TestApp::start().await;
    let wrong = basic(b"ada:wrong");
    for (name, value, expected) in [
        ("accept", "*/*", CHALLENGE),
        ("sec-fetch-mode", "navigate", CHALLENGE),
        ("sec-fetch-mode", "cors", SCRIPT_CHALLENGE),
        ("sec-fetch-mode", "same-origin", SCRIPT_CHALLENGE),
        ("sec-fetch-mode", "no-cors", SCRIPT_CHALLENGE),
        ("x-requested-with", "XMLHttpRequest", SCRIPT_CHALLENGE),
        ("x-requested-with", "", SCRIPT_CHALLENGE),
    ] {
        for authorization in ["", &wrong] {
            let call = app.anonymous().call(Method::POST, PATH).header(name, value);
            let answer = call.header("authorization", authorization).send().await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.header("www-authenticate"), Some(expected), "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn tokens_that_are_still_held_do_no_harm_at_login() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let bob = app.newcomer("bob").await;
    let value = basic(format!("ada:{PASSWORD}").as_bytes());
    let (access, refresh) = (bob.access_token(), bob.refresh_token());
    for tokens in [
        &[("x-access-token", access)][..],
        &[("x-access-token", access), ("x-refresh-token", refresh)],
        &[("x-access-token", "rubbish"), ("x-refresh-token", "rubbish")],
        &[("x-access-token", access), ("x-access-token", "rubbish")],
        &[("x-access-token", "")],
    ] {
        let call = app.anonymous().call(Method::POST, PATH).header("authorization", &value);
        let call = tokens.iter().fold(call, |call, (name, token)| call.header(name, token));
        let answer = call.send().await;
        assert_eq!(answer.assert_ok(200)["user"]["public_id"], ada.id());
    }
    app.clock.advance(TimeDelta::minutes(31));
    let call = app.anonymous().call(Method::POST, PATH).header("authorization", &value);
    call.header("x-access-token", ada.access_token()).send().await.assert_ok(200);
}

#[tokio::test]
async fn login_is_a_post() {
    let app = TestApp::start().await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let answer = app.anonymous().call(method, PATH).send().await;
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}
