//! The credentials of a login as clients send them: HTTP Basic in whatever alphabet and character
//! set, or a body of JSON.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{Call, PASSWORD, Person, email_of};

fn login(app: &TestApp) -> Call {
    app.anonymous().call(Method::POST, "/api/v1/login")
}

async fn with_header(app: &TestApp, encoded: &str) -> Answer {
    login(app).header("authorization", &format!("Basic {encoded}")).send().await
}

async fn with_body(app: &TestApp, body: &Value) -> Answer {
    login(app).json(body).send().await
}

/// Somebody with this password.
async fn user_with(app: &TestApp, name: &str, password: &str) -> Person {
    let body = json!({ "username": name, "email": email_of(name), "password": password });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
    app.log_in(name, password).await
}

/// Python's requests, aiohttp and a bare `btoa` send this.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

#[tokio::test]
async fn a_password_in_iso_8859_1_is_the_same_one_as_in_utf_8() {
    let app = TestApp::start().await;
    user_with(&app, "ada", "p\u{e4}ssw\u{f6}rt: \u{a3}\u{ff}").await;
    let right = "ada:p\u{e4}ssw\u{f6}rt: \u{a3}\u{ff}";
    with_header(&app, &STANDARD.encode(right)).await.assert_ok(200);
    with_header(&app, &STANDARD.encode(latin1(right))).await.assert_ok(200);
    for wrong in ["ada:p\u{e4}ssw\u{f6}rt: \u{a3}\u{fe}", "ada:passwort: \u{a3}\u{ff}"] {
        let answer = with_header(&app, &STANDARD.encode(latin1(wrong))).await;
        answer.assert_error(401, "invalid_credentials");
    }
    // What is UTF-8 is never read as anything else: two letters that one byte each would spell.
    user_with(&app, "bob", "\u{c3}\u{a4} and \u{c3}\u{b6} twice").await;
    let ambiguous = latin1("bob:\u{c3}\u{a4} and \u{c3}\u{b6} twice");
    let answer = with_header(&app, &STANDARD.encode(ambiguous)).await;
    answer.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn both_alphabets_of_base64_are_read_with_padding_and_without() {
    let app = TestApp::start().await;
    let password = "~~~~???>>>>\u{ff}\u{fe}\u{fb}";
    user_with(&app, "ada", password).await;
    let plain = format!("ada:{password}");
    let usual = STANDARD.encode(&plain);
    assert!(usual.contains('+') && usual.contains('/'), "{usual}");
    for encoded in [
        usual.clone(),
        STANDARD_NO_PAD.encode(&plain),
        URL_SAFE.encode(&plain),
        URL_SAFE_NO_PAD.encode(&plain),
        usual.replace('+', "-"),
    ] {
        with_header(&app, &encoded).await.assert_ok(200);
    }
    for odd in [usual.replace('+', "."), usual.replace('/', "~"), format!("{usual}!")] {
        with_header(&app, &odd).await.assert_error(401, "credentials_missing");
    }
}

#[tokio::test]
async fn what_copying_put_around_a_name_is_dropped_and_nothing_of_a_password() {
    let app = TestApp::start().await;
    user_with(&app, "ada", "  spaces around  ").await;
    for name in
        [" ada", "ada\n", "\u{a0}ada\u{200b}", "\u{202a}ADA@example.com\u{202c}", "\u{feff}ada\t"]
    {
        let answer = app.anonymous().log_in(name, "  spaces around  ").await;
        assert_eq!(answer.assert_ok(200)["user"]["username"], "ada", "{name:?}");
        let body = json!({ "username": name, "password": "  spaces around  " });
        with_body(&app, &body).await.assert_ok(200);
    }
    for wrong in ["spaces around", " spaces around ", "  spaces around  \u{200b}"] {
        let answer = app.anonymous().log_in("ada", wrong).await;
        answer.assert_error(401, "invalid_credentials");
    }
    // In the middle they make another name.
    for name in ["a da", "a\u{200b}da", "ada@ example.com"] {
        let answer = app.anonymous().log_in(name, "  spaces around  ").await;
        answer.assert_error(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn an_address_of_another_script_is_good_to_log_in_by_in_either_form() {
    let app = TestApp::start().await;
    let email = "Ada@B\u{fc}cher.example";
    let body = json!({ "username": "ada", "email": email, "password": PASSWORD });
    let answer = app.anonymous().post("/api/v1/users/", &body).await;
    assert_eq!(answer.assert_ok(201)["user"]["email"], "Ada@xn--bcher-kva.example");
    for login in [
        email,
        "ada@b\u{fc}cher.example",
        "ada@BU\u{308}CHER.EXAMPLE",
        "ada@b\u{fc}cher\u{3002}example",
        "ada@xn--bcher-kva.example",
        "ada@XN--BCHER-KVA.example",
    ] {
        app.log_in(login, PASSWORD).await;
    }
    let other = app.anonymous().log_in("ada@bucher.example", PASSWORD).await;
    other.assert_error(401, "invalid_credentials");
    // It is one address, and the letter goes there.
    let again =
        json!({ "username": "eve", "email": "ADA@xn--bcher-kva.example", "password": PASSWORD });
    app.anonymous().post("/api/v1/users/", &again).await.assert_error(409, "email_taken");
    app.letter_to("Ada@xn--bcher-kva.example").await;
}

#[tokio::test]
async fn a_body_of_json_logs_in_as_well() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for name in ["ada", "ADA@example.com"] {
        let answer = with_body(&app, &json!({ "username": name, "password": PASSWORD })).await;
        let body = answer.assert_ok(200);
        assert_eq!(body["user"], ada.user);
        assert_eq!(body.as_object().unwrap().len(), 5);
        let mut again = Person { access: None, ..ada.clone() };
        again.access = body["token"].as_str().map(str::to_owned);
        again.get("/api/v1/users/me").await.assert_ok(200);
    }
    // A password is no subject of base64, and its colons are its own.
    user_with(&app, "bob", "\u{e4}:\u{f6}:\u{1f600} and so on").await;
    let body = json!({ "username": "bob", "password": "\u{e4}:\u{f6}:\u{1f600} and so on" });
    with_body(&app, &body).await.assert_ok(200);
}

#[tokio::test]
async fn a_body_with_a_wrong_password_or_an_unknown_name_is_refused_by_the_same_answer() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let mut answers = Vec::new();
    for (name, password) in
        [("ada", "wrong"), ("nobody-here", PASSWORD), ("", ""), ("a\u{0}b", "x")]
    {
        let body = json!({ "username": name, "password": password });
        let answer = with_body(&app, &body).await;
        if name.contains('\0') {
            answer.assert_fields(&[("username", "invalid_characters")]);
            continue;
        }
        answer.assert_error(401, "invalid_credentials");
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        assert_eq!(challenge.as_deref(), Some(r#"Basic realm="Login required!", charset="UTF-8""#));
        answers.push((answer.json["message"].clone(), challenge));
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
}

#[tokio::test]
async fn a_body_without_a_name_or_a_password_says_which_is_missing() {
    let app = TestApp::start().await;
    app.user("ada").await;
    for (body, missing) in [
        (json!({}), &["username", "password"][..]),
        (json!({ "username": "ada" }), &["password"]),
        (json!({ "password": PASSWORD }), &["username"]),
        (json!({ "username": null, "password": PASSWORD }), &["username"]),
        (json!({ "email": "ada@example.com", "password": PASSWORD }), &["username"]),
    ] {
        let missing: Vec<_> = missing.iter().map(|field| (*field, "required")).collect();
        with_body(&app, &body).await.assert_fields(&missing);
    }
    let numbers = json!({ "username": 1, "password": ["x"] });
    let mistyped = [("username", "invalid_type"), ("password", "invalid_type")];
    with_body(&app, &numbers).await.assert_fields(&mistyped);
    let broken = login(&app).header("content-type", "application/json").body("{");
    broken.send().await.assert_error(400, "malformed_request");
}

#[tokio::test]
async fn whoever_brings_neither_a_header_nor_a_body_is_asked_for_credentials() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let body = json!({ "username": "ada", "password": PASSWORD });
    login(&app).send().await.assert_error(401, "credentials_missing");
    // A form that a page of another site could send is no credentials.
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let call = login(&app).header("content-type", media_type).body(body.to_string());
        call.send().await.assert_error(401, "credentials_missing");
    }
    let call = login(&app).header("content-type", "text/json").body(body.to_string());
    call.send().await.assert_error(415, "unsupported_media_type");
    // Nor is a query.
    let path = format!("/api/v1/login?username=ada&password={}", PASSWORD.replace(' ', "+"));
    let answer = app.anonymous().call(Method::POST, &path).send().await;
    answer.assert_error(401, "credentials_missing");
}

#[tokio::test]
async fn of_a_header_and_a_body_the_header_counts_and_the_body_is_not_read() {
    let app = TestApp::start().await;
    for name in ["ada", "bob"] {
        app.user(name).await;
    }
    let right = STANDARD.encode(format!("ada:{PASSWORD}"));
    let with_both = async |encoded: &str, body: String| {
        let call = login(&app).header("authorization", &format!("Basic {encoded}"));
        call.header("content-type", "application/json").body(body).send().await
    };
    let bobs = json!({ "username": "bob", "password": PASSWORD }).to_string();
    for body in [bobs.clone(), "{}".into(), "{".into(), "\u{0}".into(), "x".repeat(100_000)] {
        let answer = with_both(&right, body).await;
        assert_eq!(answer.assert_ok(200)["user"]["username"], "ada");
    }
    let wrong = STANDARD.encode("ada:wrong");
    with_both(&wrong, bobs).await.assert_error(401, "invalid_credentials");
}
