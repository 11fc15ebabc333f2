//! Which browser origins may call, and what their scripts may read.

use std::collections::BTreeSet;

use axum::http::Method;
use doorward::clock::Clock;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;

const APP: &str = "https://app.example.com";
const LIST: &[(&str, &str)] = &[("CORS_ORIGINS", "https://app.example.com, http://localhost:3000")];
/// What scripts may read of an answer beside its body.
const EXPOSED: [&str; 5] = ["x-request-id", "retry-after", "link", "date", "www-authenticate"];

/// As a browser asks whether it may.
async fn preflight(app: &TestApp, origin: &str, path: &str) -> Answer {
    let call = app.anonymous().call(Method::OPTIONS, path).header("origin", origin);
    let call = call.header("access-control-request-method", "PUT");
    call.header("access-control-request-headers", "content-type,x-access-token").send().await
}

async fn get(app: &TestApp, origin: &str, path: &str) -> Answer {
    app.anonymous().call(Method::GET, path).header("origin", origin).send().await
}

fn words(answer: &Answer, name: &str) -> BTreeSet<String> {
    let value = answer.header(name).unwrap_or_else(|| panic!("no {name}"));
    value.split(',').map(|word| word.trim().to_owned()).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// No origin is let in by this answer.
fn assert_closed(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn production_lets_no_origin_in_unless_told_to() {
    let app = TestApp::start().await;
    for origin in [APP, "http://localhost:3000", "null", "https://auth.example.com"] {
        for path in ["/api/v1/users/me", "/", "/nowhere"] {
            let answer = get(&app, origin, path).await;
            assert!(
                answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-"))
            );
        }
        let answer = preflight(&app, origin, "/api/v1/users/me").await;
        answer.assert_error(405, "method_not_allowed");
        assert_closed(&answer);
        preflight(&app, origin, "/nowhere").await.assert_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_preflight_allows_every_header_that_a_listed_origin_asks_for() {
    let app = TestApp::with(LIST).await;
    for path in ["/api/v1/users/me", "/api/v1/users/me/", "/api/v1/login", "/api/v1/users"] {
        let answer = preflight(&app, APP, path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""));
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        let headers = ["content-type", "x-access-token"];
        assert_eq!(words(&answer, "access-control-allow-headers"), set(&headers));
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
        assert_eq!(words(&answer, "access-control-allow-methods"), set(&methods));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(words(&answer, "vary").contains("origin"));
        let seconds: u32 = answer.header("access-control-max-age").unwrap().parse().unwrap();
        assert!((60..=7200).contains(&seconds));
    }
}

#[tokio::test]
async fn a_listed_origin_may_read_every_answer_errors_too() {
    let app = TestApp::with(LIST).await;
    let boss = app.admin().await;
    let ask = async |origin: &str| {
        let bad_json = boss.call(Method::PUT, "/api/v1/users/me").header("origin", origin);
        let too_much = boss.call(Method::PUT, "/api/v1/users/me").header("origin", origin);
        let too_much = too_much.header("content-type", "application/json");
        let list = boss.call(Method::GET, "/api/v1/users").header("origin", origin);
        [
            (200, list.send().await),
            (200, get(&app, origin, "/healthz").await),
            (401, get(&app, origin, "/api/v1/users/me").await),
            (404, get(&app, origin, "/nowhere").await),
            (405, get(&app, origin, "/api/v1/login").await),
            (413, too_much.body(vec![b' '; 70_000]).send().await),
            (415, bad_json.body("{").send().await),
        ]
    };
    for origin in [APP, "http://localhost:3000"] {
        for (status, answer) in ask(origin).await {
            assert_eq!(answer.status, status, "{}", answer.text);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(words(&answer, "access-control-expose-headers"), set(&EXPOSED));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert!(words(&answer, "vary").contains("origin"));
        }
    }
    for (status, answer) in ask("https://evil.example").await {
        assert_eq!(answer.status, status, "{}", answer.text);
        assert_closed(&answer);
    }
}

#[tokio::test]
async fn an_origin_that_only_resembles_a_listed_one_stays_out() {
    let app = TestApp::with(LIST).await;
    for origin in [
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.",
        "https://app.example.com/",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://x.app.example.com",
        "https://APP.example.com",
        "https://example.com",
        "http://localhost:3001",
        "https://app.example.com, https://evil.example",
        "*",
        "null",
        "",
    ] {
        assert_closed(&get(&app, origin, "/").await);
        assert_closed(&preflight(&app, origin, "/api/v1/login").await);
    }
    // Without an origin it is no browser's script.
    assert_closed(&app.anonymous().get("/").await);
}

#[tokio::test]
async fn development_lets_any_localhost_in_and_nobody_else() {
    let app = TestApp::with(&[("DOORWARD_ENV", "development")]).await;
    for origin in [
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:5173",
        "http://app.localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
    ] {
        let answer = get(&app, origin, "/").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let answer = preflight(&app, origin, "/api/v1/login").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
    for origin in [
        "https://app.example.com",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://evil-localhost",
        "http://notlocalhost:3000",
        "http://localhost@evil.example",
        "http://192.168.0.1:3000",
        "http://[::2]:3000",
        "null",
        "*",
        "localhost",
        "",
    ] {
        assert_closed(&get(&app, origin, "/").await);
        assert_closed(&preflight(&app, origin, "/api/v1/login").await);
    }
}

#[tokio::test]
async fn in_development_this_machine_comes_on_top_of_the_list() {
    let settings = [("DOORWARD_ENV", "development"), ("CORS_ORIGINS", APP)];
    let app = TestApp::with(&settings).await;
    for origin in [APP, "http://localhost:3000", "http://[::1]:5173"] {
        let answer = get(&app, origin, "/").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
    assert_closed(&get(&app, "https://evil.example", "/").await);
}

/// What frontends' other code adds to each request: that of error trackers and analytics, of
/// axios as frameworks set it up, and of apps.
#[tokio::test]
async fn the_preflight_of_a_frontend_with_other_code_in_it_is_answered() {
    let origins = "https://app.example.com, capacitor://localhost, tauri://localhost, \
                   http://tauri.localhost, chrome-extension://abcdefghijklmnopabcdefghijklmnop, \
                   https://*.preview.example.com";
    let app = TestApp::with(&[("CORS_ORIGINS", origins)]).await;
    let ask = async |origin: &str, headers: &str| {
        let call = app.anonymous().call(Method::OPTIONS, "/api/v1/login").header("origin", origin);
        let call = call.header("access-control-request-method", "POST");
        call.header("access-control-request-headers", headers).send().await
    };
    for headers in [
        "authorization,baggage,content-type,sentry-trace",
        "authorization,x-posthog-distinct-id,x-posthog-session-id,x-posthog-window-id",
        "authorization,x-requested-with,x-xsrf-token",
        "authorization,traceparent,tracestate,x-request-id",
        "authorization,cache-control,pragma,if-none-match",
        "x-refresh-token",
    ] {
        for origin in [
            APP,
            "capacitor://localhost",
            "tauri://localhost",
            "http://tauri.localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "https://pr-12.preview.example.com",
        ] {
            let answer = ask(origin, headers).await;
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            let allowed = words(&answer, "access-control-allow-headers");
            assert_eq!(allowed, headers.split(',').map(str::to_owned).collect());
        }
        for stranger in [
            "https://evil.example",
            "capacitor://evil",
            "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba",
            "https://preview.example.com",
            "https://preview.example.com.evil.example",
        ] {
            assert_closed(&ask(stranger, headers).await);
        }
    }
}

#[tokio::test]
async fn a_frontend_may_read_that_the_service_is_still_starting() {
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let app = TestApp::starting(&new_database().await, LIST, clock).await;
    assert_eq!(preflight(&app, APP, "/api/v1/users").await.status, 200);
    let call = app.anonymous().call(Method::POST, "/api/v1/users").header("origin", APP);
    let answer = call.json(&json!({})).send().await;
    answer.assert_error(503, "database_unavailable");
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    assert!(words(&answer, "access-control-expose-headers").contains("retry-after"));
}
