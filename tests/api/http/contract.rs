//! What holds on every path: slashes, methods, the shape of errors, ids and headers.

use std::collections::BTreeSet;

use axum::http::Method;
use doorward::router::openapi_document;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::Person;

/// The paths of the document, with `id` for whoever they speak of, and the methods that each
/// answers.
fn paths(id: &str) -> Vec<(String, BTreeSet<Method>)> {
    let document = openapi_document(PUBLIC_URL, 8);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 12, "the document is being read");
    paths
        .iter()
        .map(|(path, operations)| {
            let methods = operations.as_object().unwrap().keys();
            let methods = methods.map(|method| method.to_uppercase().parse().unwrap()).collect();
            (path.replace("{public_id}", id).replace("{session_id}", id), methods)
        })
        .collect()
}

/// All that an answer says, but for what differs from one to the next.
fn essence(mut answer: Answer) -> (u16, Vec<(String, String)>, Value) {
    answer.headers.remove("x-request-id");
    if let Some(body) = answer.json.as_object_mut() {
        body.remove("request_id");
        if body.contains_key("exported_at") {
            // It tells of itself, and so of the one before.
            body.remove("activity");
        }
    }
    let headers = answer.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    (answer.status.as_u16(), headers.collect(), answer.json)
}

#[tokio::test]
async fn every_path_answers_the_same_with_and_without_a_slash_at_its_end() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let stranger = app.anonymous();
    let mut found = 0;
    for (path, methods) in paths(boss.id()) {
        for method in methods {
            let ask = async |person: &Person, path: &str| {
                essence(person.call(method.clone(), path).send().await)
            };
            let callers: &[&Person] = match method {
                Method::GET => &[&stranger, &boss],
                _ => &[&stranger],
            };
            for person in callers {
                let plain = ask(person, &path).await;
                assert_eq!(plain, ask(person, &format!("{path}/")).await, "{method} {path}");
                // Its page is for browsers alone.
                let is_there = plain.0 != 405 || path == "/api/v1/not_me";
                assert!(plain.0 != 404 && is_there, "{method} {path}: {plain:?}");
                assert!(!(300..400).contains(&plain.0), "{method} {path}: {plain:?}");
                found += u32::from(plain.0 == 200);
            }
        }
    }
    // What anybody may read, twice, and what the admin reads.
    assert_eq!(found, 2 * 4 + 10);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (path, _) in paths(boss.id()).iter().filter(|(_, methods)| methods.contains(&Method::GET)) {
        for person in [&boss, &app.anonymous()] {
            let get = person.get(path).await;
            let head = person.call(Method::HEAD, path).header("accept", "application/json");
            let head = head.send().await;
            assert_eq!(head.text, "", "{path}");
            assert_eq!(head.status, get.status, "{path}");
            for name in ["content-type", "www-authenticate", "content-security-policy"] {
                assert_eq!(head.header(name), get.header(name), "{path} {name}");
            }
        }
    }
    let head = boss.call(Method::HEAD, "/nowhere").send().await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (404, ""));
    let head = boss.call(Method::HEAD, "/api/v1/login").send().await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (405, ""));
}

#[tokio::test]
async fn any_other_method_is_refused_and_the_ones_there_are_are_named() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let all = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"];
    let mut refused = 0;
    for (path, mut methods) in paths(boss.id()) {
        if methods.contains(&Method::GET) {
            methods.insert(Method::HEAD);
        }
        let names: BTreeSet<&str> = methods.iter().map(Method::as_str).collect();
        for method in all.into_iter().chain(["HEAD"]).filter(|method| !names.contains(method)) {
            for path in [path.clone(), format!("{path}/")] {
                let answer = boss.call(method.parse().unwrap(), &path).send().await;
                if method == "HEAD" {
                    assert_eq!(answer.status, 405);
                } else {
                    answer.assert_error(405, "method_not_allowed");
                }
                let allow: BTreeSet<&str> = answer.header("allow").unwrap().split(',').collect();
                assert_eq!(allow, names, "{method} {path}");
                refused += 1;
            }
        }
    }
    assert!(refused > 150);
    boss.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn any_other_path_is_not_found() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let long = format!("/{}", "a".repeat(8_000));
    for path in [
        "/nowhere",
        "/api",
        "/api/",
        "/api/v1",
        "/api/v2/users",
        "/api/v1/Users",
        "/API/V1/users",
        "/api/v1/user",
        "/api/v1/users/me/x",
        "/api/v1/users/me/verify_email/x",
        "/api//v1/users",
        "/api/v1/users/./me/..",
        "/api/v1%2fusers",
        "/healthz/x",
        "/index.html",
        "/.env",
        "/.well-known/",
        "/docs/index.html",
        "/docs/../Cargo.toml",
        "/docs/..%2fCargo.toml",
        "/dev/mailbox",
        "/%00",
        "/%ff",
        "/%",
        "/api/v1/users;x=1",
        &long,
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
            let answer = boss.call(method.clone(), path).send().await;
            // Under /docs and /dev only GET is known.
            if method != Method::GET && (path.starts_with("/docs/") || path.starts_with("/dev/")) {
                assert!([404, 405].contains(&answer.status.as_u16()), "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, 404, "{method} {path} {}", answer.text);
            assert_eq!(answer.code(), "not_found", "{method} {path} {}", answer.text);
        }
    }
}

#[tokio::test]
async fn an_error_has_one_shape() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let with_id = |answer: &Answer, mut body: Value| {
        body["request_id"] = json!(answer.header("x-request-id").unwrap());
        assert_eq!(answer.json, body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    };
    let not_found = app.anonymous().get("/nowhere").await;
    let body =
        json!({ "success": false, "code": "not_found", "message": "There is nothing here." });
    with_id(&not_found, body);
    let invalid = ada.put("/api/v1/users/me", &json!({ "username": "x", "email": 1 })).await;
    let body = json!({
        "success": false, "code": "validation_failed", "message": "Some fields need attention.",
        "errors": [
            { "field": "username", "code": "too_short", "message": "Use at least 3 characters." },
            { "field": "email", "code": "invalid_type", "message": "This has to be a string." },
        ],
    });
    with_id(&invalid, body);
    app.clock.advance(chrono::TimeDelta::minutes(30));
    let expired = ada.get("/api/v1/users/me").await;
    let body = json!({
        "success": false, "code": "token_expired", "expired": true,
        "message": "The access token has expired: refresh it.",
    });
    with_id(&expired, body);
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let app = TestApp::start().await;
    let stranger = app.anonymous();
    let ask = async |ids: &[&[u8]]| {
        let call = stranger.call(Method::GET, "/nowhere");
        let call = ids.iter().fold(call, |call, id| call.header_bytes("x-request-id", id));
        let answer = call.send().await;
        assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
        assert_eq!(answer.json["request_id"], answer.header("x-request-id").unwrap());
        answer.header("x-request-id").unwrap().to_owned()
    };
    let longest = "a".repeat(128);
    for sane in ["1", "abc-DEF_0.9:/+=", "01a20590-b2df-747b-9009-21f2d6256739", &longest] {
        assert_eq!(ask(&[sane.as_bytes()]).await, sane);
    }
    let mut seen = BTreeSet::new();
    let too_long = "a".repeat(129);
    let odd_ones: [&[&[u8]]; 12] = [
        &[],
        &[b""],
        &[too_long.as_bytes()],
        &[b"a b"],
        &[b"a\"b"],
        &[b"a,b"],
        &[b"<script>"],
        &[b"a\tb"],
        &["\u{e4}".as_bytes()],
        &[b"\xff"],
        &[b"one", b"two"],
        &[b"one", b"one"],
    ];
    for odd in odd_ones {
        let id = ask(odd).await;
        assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
        assert!(seen.insert(id), "each request has its own");
    }
}

#[tokio::test]
async fn a_query_that_gives_a_name_twice_is_refused_wherever_it_is_read() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let one = format!("/api/v1/users/{}", boss.id());
    for (method, path) in [
        (Method::GET, "/api/v1/users?q=a&q=b".to_owned()),
        (Method::PUT, format!("{one}?role=user&role=admin")),
        (Method::POST, "/api/v1/logout?everywhere=true&everywhere=false".into()),
        (Method::GET, "/api/v1/confirm?token=a&token=b".into()),
        (Method::POST, "/api/v1/confirm?token=a&to%6ben=a".into()),
    ] {
        let call = boss.call(method, &path).header("accept", "application/json");
        call.send().await.assert_error(400, "malformed_request");
    }
    boss.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn no_answer_names_the_server_and_https_is_remembered() {
    for (public_url, hsts) in
        [(PUBLIC_URL, Some("max-age=31536000")), ("http://auth.example.com", None)]
    {
        let app = TestApp::with(&[("PUBLIC_URL", public_url)]).await;
        for path in ["/", "/nowhere", "/docs", "/openapi.json", "/api/v1/users/me"] {
            let answer = app.anonymous().get(path).await;
            assert_eq!(answer.header("strict-transport-security"), hsts, "{path}");
            assert_eq!((answer.header("server"), answer.header("x-powered-by")), (None, None));
            assert_eq!(answer.header("set-cookie"), None);
        }
    }
}

#[tokio::test]
async fn the_service_says_what_it_is_and_how_it_does() {
    let app = TestApp::start().await;
    let stranger = app.anonymous();
    let expected = json!({
        "success": true,
        "name": "Doorward",
        "links": {
            "docs": "https://auth.example.com/docs",
            "openapi": "https://auth.example.com/openapi.json",
            "jwks": "https://auth.example.com/.well-known/jwks.json",
            "health": "https://auth.example.com/healthz",
            "ready": "https://auth.example.com/readyz",
        },
    });
    assert_eq!(stranger.get("/").await.assert_ok(200), &expected);
    let links = expected["links"].as_object().unwrap();
    for (name, link) in links {
        let path = link.as_str().unwrap().strip_prefix(PUBLIC_URL).unwrap();
        assert_eq!(stranger.get(path).await.status, 200, "{name}");
    }
    let status = |status: &str| json!({ "success": true, "status": status });
    assert_eq!(stranger.get("/healthz").await.assert_ok(200), &status("alive"));
    assert_eq!(stranger.get("/readyz").await.assert_ok(200), &status("ready"));
    let jwks = stranger.get("/.well-known/jwks.json").await.json;
    for (key, kty, crv) in [(0, "EC", "P-256"), (1, "OKP", "Ed25519")] {
        let key = &jwks["keys"][key];
        assert_eq!((&key["kty"], &key["crv"]), (&json!(kty), &json!(crv)));
        assert!(key.get("d").is_none(), "the public half alone");
    }
}

#[tokio::test]
async fn the_page_to_read_the_document_comes_from_the_binary_alone() {
    let app = TestApp::start().await;
    let stranger = app.anonymous();
    let page = stranger.get("/docs").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let parts = page.text.split('"').filter(|part| part.starts_with("docs/"));
    let parts: Vec<&str> = parts.collect();
    assert_eq!(parts.len(), 5, "{}", page.text);
    assert!(!page.text.contains("//"), "nothing is loaded from elsewhere");
    for part in parts {
        let head = stranger.call(Method::HEAD, &format!("/{part}")).send().await;
        assert_eq!(head.status, 200, "{part}");
    }
    let document = stranger.get("/openapi.json").await;
    assert_eq!(document.json, openapi_document(PUBLIC_URL, 8));
}
