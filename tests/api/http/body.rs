//! Bodies: what is JSON, what is too much, and what is neither. Shown on `POST /users/`, which
//! anybody may call.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::{Router, routing};

use axum::http::{Method, Request};
use doorward::http::admission::Admission;
use doorward::http::middleware::Middleware;
use futures_util::stream;
use serde_json::json;
use tower::ServiceExt;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{Call, PASSWORD};

const MAX_BODY_BYTES: usize = 16 * 1024;

fn post(app: &TestApp) -> Call {
    app.anonymous().call(Method::POST, "/api/v1/users")
}

async fn post_json(app: &TestApp, body: impl Into<Vec<u8>>) -> Answer {
    post(app).header("content-type", "application/json").body(body).send().await
}

/// A good form as text, with `more` before its end.
fn form(name: &str, more: &str) -> String {
    format!(
        r#"{{"username": "{name}", "email": "{name}@example.com", "password": "{PASSWORD}"{more}}}"#
    )
}

async fn users(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from users").fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn what_is_not_one_json_object_is_malformed() {
    let app = TestApp::start().await;
    let good = form("ada", "");
    let deep = format!("{}{}", "[".repeat(7_000), "]".repeat(7_000));
    for bad in [
        String::new(),
        " ".into(),
        "null".into(),
        "true".into(),
        "1".into(),
        "\"text\"".into(),
        format!("[{good}]"),
        format!("{good}{good}"),
        format!("{good} x"),
        format!("{good},"),
        format!("\u{feff}\u{feff}{good}"),
        good[..good.len() - 1].into(),
        form("ada", ","),
        form("ada", ", x: 1"),
        form("ada", ", 'x': 1"),
        form("ada", r#", "x": NaN"#),
        form("ada", r#", "x": 1e999"#),
        form("ada", r#", "x": 01"#),
        form("ada", r#", "x": "\x41""#),
        form("ada", ", \"x\": \"a\nb\""),
        form("ada", ", /* x */ \"x\": 1"),
        // A lone half of a surrogate pair is no character, whether asked for or not.
        form("ada", r#", "first_name": "\ud83d""#),
        form("ada", r#", "x": "\ude00 a""#),
        form("ada", &format!(r#", "x": {deep}"#)),
        form("ada", &format!(r#", "x": {}1{}"#, "{\"a\":".repeat(200), "}".repeat(200))),
        deep,
    ] {
        let answer = post_json(&app, bad.clone()).await;
        assert_eq!(answer.code(), "malformed_request", "{bad:.200} {}", answer.text);
        assert_eq!(answer.status, 400);
        assert!(answer.json.get("errors").is_none());
    }
    for bad in [&b"{\"username\": \"\xff\"}"[..], b"\x00", b"\xef\xbb\xbf", b"{\x00}"] {
        post_json(&app, bad).await.assert_error(400, "malformed_request");
    }
    assert_eq!(users(&app).await, 0);
}

#[tokio::test]
async fn a_key_that_comes_twice_is_refused_at_any_depth() {
    let app = TestApp::start().await;
    for more in [
        r#", "username": "eve""#,
        r#", "username": "ada""#,
        r#", "\u0075sername": "eve""#,
        r#", "x": 1, "x": 1"#,
        r#", "x": {"a": 1, "b": {"c": 1, "c": 2}}"#,
        r#", "x": [[{"a": null, "a": null}]]"#,
    ] {
        let answer = post_json(&app, form("ada", more)).await;
        answer.assert_error(400, "malformed_request");
        assert_eq!(answer.json["message"], "The body holds a key twice.");
    }
    assert_eq!(users(&app).await, 0);
    // Keys are told apart by case, and one name in two objects is not twice.
    let more = r#", "Username": "eve", "x": {"username": 1, "x": {"x": 1}}"#;
    let answer = post_json(&app, form("ada", more)).await;
    assert_eq!(answer.assert_ok(201)["user"]["username"], "ada");
}

#[tokio::test]
async fn nul_is_refused_wherever_it_hides() {
    let app = TestApp::start().await;
    for (more, field) in [
        (r#", "first_name": "a\u0000b""#, "first_name"),
        (r#", "x": "\u0000""#, "x"),
        (r#", "x": [{"y": "\u0000"}]"#, "x"),
        (r#", "x": {"\u0000": 1}"#, "x"),
        (r#", "\u0000": 1"#, "\0"),
    ] {
        let answer = post_json(&app, form("ada", more)).await;
        answer.assert_fields(&[(field, "invalid_characters")]);
    }
    // The characters that spell it are harmless.
    let answer = post_json(&app, form("ada", r#", "first_name": "\\u0000""#)).await;
    assert_eq!(answer.assert_ok(201)["user"]["first_name"], r"\u0000");
}

#[tokio::test]
async fn harmless_oddities_are_read() {
    let app = TestApp::start().await;
    let escaped = r#"{"\u0075sername": "\u0061da", "email": "ada\u0040example.com",
        "password": "correct horse battery", "first_name": "\ud83d\ude00",
        "x": [1, -0.5e-3, 123456789012345678901234567890, {"": {}}, []]}"#;
    let answer = post_json(&app, format!("\r\n\t {escaped} \n")).await;
    let user = &answer.assert_ok(201)["user"];
    assert_eq!((&user["username"], &user["first_name"]), (&json!("ada"), &json!("\u{1f600}")));
    let nested = format!(r#", "x": {}1{}"#, "[".repeat(100), "]".repeat(100));
    post_json(&app, form("bob", &nested)).await.assert_ok(201);
}

#[tokio::test]
async fn a_body_of_16_kib_fits_and_one_byte_more_does_not() {
    let app = TestApp::start().await;
    let padded = |name: &str, length: usize| {
        let body = form(name, "");
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    post_json(&app, padded("ada", MAX_BODY_BYTES)).await.assert_ok(201);
    let too_much = post_json(&app, padded("bob", MAX_BODY_BYTES + 1)).await;
    too_much.assert_error(413, "payload_too_large");
    // No JSON either, but nobody reads so far.
    post_json(&app, vec![b'x'; 1024 * 1024]).await.assert_error(413, "payload_too_large");
    assert_eq!(users(&app).await, 1);
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_refused() {
    let app = TestApp::start().await;
    let send = async |types: &[&str], body: String| {
        let call = types.iter().fold(post(&app), |call, value| call.header("content-type", value));
        call.body(body).send().await
    };
    for types in [
        &[][..],
        &[""],
        &["text/plain"],
        &["text/json"],
        &["application/x-www-form-urlencoded"],
        &["multipart/form-data; boundary=x"],
        &["application/jsonp"],
        &["application/json, text/plain"],
        &["text/vnd.x+json"],
        &["application/+json"],
        &["application/json; charset=iso-8859-1"],
        &["application/json; charset=utf-16"],
        &["application/json", "application/json"],
        &["application/json", "text/plain"],
    ] {
        let answer = send(types, form("ada", "")).await;
        answer.assert_error(415, "unsupported_media_type");
    }
    let answer = post(&app).header_bytes("content-type", b"application/json\xff").send().await;
    answer.assert_error(415, "unsupported_media_type");
    assert_eq!(users(&app).await, 0);
    for (number, value) in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/json; charset=UTF8",
        "application/json ; version=1",
        "application/merge-patch+json",
        "application/vnd.api+JSON; charset=\"utf8\"",
    ]
    .into_iter()
    .enumerate()
    {
        send(&[value], form(&format!("ada{number}"), "")).await.assert_ok(201);
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_passed_over_and_what_is_not_utf_8_is_told_so() {
    let app = TestApp::start().await;
    post_json(&app, format!("\u{feff}{}", form("ada", ""))).await.assert_ok(201);
    let message = async |body: &[u8]| {
        let answer = post_json(&app, body).await;
        answer.assert_error(400, "malformed_request");
        answer.json["message"].as_str().unwrap().to_owned()
    };
    let mut in_latin_1 = form("bob", r#", "first_name": "Jos?""#).into_bytes();
    let at = in_latin_1.iter().position(|&byte| byte == b'?').unwrap();
    in_latin_1[at] = 0xe9;
    let expected = format!("The body is not UTF-8: see byte {}.", at + 1);
    assert_eq!(message(&in_latin_1).await, expected);
    // Little-endian UTF-16, with its mark: what some consoles write.
    assert_eq!(message(b"\xff\xfe{\0}\0").await, "The body is not UTF-8: see byte 1.");
    assert_eq!(message(b"\xef\xbb\xbfx").await, "The body is not JSON: see line 1, column 1.");
    assert_eq!(users(&app).await, 1);
}

#[tokio::test]
async fn who_calls_is_asked_before_what_they_send() {
    let app = TestApp::start().await;
    let stranger = app.anonymous();
    for path in ["/api/v1/users/me", "/api/v1/users/me/change_password"] {
        let bodies =
            [b"{".to_vec(), b"{\"x\": \"\\u0000\"}".to_vec(), vec![b'x'; MAX_BODY_BYTES + 1]];
        for body in bodies {
            let call = stranger.call(Method::PUT, path).header("content-type", "application/json");
            call.body(body).send().await.assert_error(401, "token_missing");
        }
        let call = stranger.call(Method::PUT, path).body("x");
        call.send().await.assert_error(401, "token_missing");
    }
}

/// Waits for something else before it reads the body.
async fn stuck(request: Request<Body>) {
    std::future::pending::<()>().await;
    drop(request);
}

/// What is answered to a body whose second half comes after so long, and when, by a handler behind
/// the real gate.
async fn arriving_after(app: &TestApp, path: &str, pause: Duration) -> (u16, Duration) {
    let router = Router::new()
        .route("/read", routing::post(async |body: String| body))
        .route("/stuck", routing::post(stuck))
        .route("/hang", routing::post(async |_: String| std::future::pending::<()>().await));
    let halves = stream::unfold(0, move |sent| async move {
        if sent == 1 {
            tokio::time::sleep(pause).await;
        }
        (sent < 2).then_some((Ok::<_, Infallible>("half"), sent + 1))
    });
    let request = Request::post(path).body(Body::from_stream(halves)).unwrap();
    let start = Instant::now();
    let gate = Admission::new(app.state.clone(), router);
    let answer = Middleware::new(app.state.clone(), gate).oneshot(request).await.unwrap();
    (answer.status().as_u16(), start.elapsed())
}

#[tokio::test]
async fn a_body_may_take_longer_than_a_handler_and_neither_takes_for_ever() {
    let app = TestApp::start().await;
    let seconds = Duration::from_secs_f64;
    let (slow, too_slow, hanging, both, stuck) = tokio::join!(
        arriving_after(&app, "/read", seconds(11.0)),
        arriving_after(&app, "/read", seconds(60.0)),
        arriving_after(&app, "/hang", Duration::ZERO),
        arriving_after(&app, "/hang", seconds(3.0)),
        arriving_after(&app, "/stuck", Duration::ZERO),
    );
    assert_eq!(slow.0, 200);
    assert_eq!((too_slow.0, hanging.0, both.0), (400, 503, 503));
    assert_eq!(stuck.0, 503);
    assert!((seconds(8.5)..seconds(14.0)).contains(&stuck.1), "{stuck:?}");
    assert!((seconds(14.5)..seconds(20.0)).contains(&too_slow.1), "{too_slow:?}");
    assert!((seconds(8.5)..seconds(14.0)).contains(&hanging.1), "{hanging:?}");
    assert!((seconds(11.5)..seconds(17.0)).contains(&both.1), "{both:?}");
}
