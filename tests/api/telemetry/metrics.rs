//! `GET /metrics`: who gets it, what it counts, and what it never does.

use std::collections::BTreeSet;

use axum::http::Method;
use doorward::clock::Clock;
use doorward::http::error::Code;
use doorward::security::password::Hasher;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::dice::Dice;
use crate::harness::home::Home;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::scrape::Scrape;
use crate::harness::wait::{eventually, lock_waits};

pub const TOKEN: &str = "kfw8-2Hs.91xLq_7z";
pub const ME: &str = "/api/v1/users/me";
pub const REQUESTS: &str = "doorward_http_requests_total";
const DURATION: &str = "doorward_http_request_duration_seconds_count";
pub const ERRORS: &str = "doorward_http_errors_total";

pub async fn measured() -> TestApp {
    TestApp::with(&[("METRICS_TOKEN", TOKEN)]).await.alone()
}

pub async fn ask(app: &TestApp) -> Answer {
    let call = app.anonymous().call(Method::GET, "/metrics");
    call.header("authorization", &format!("Bearer {TOKEN}")).send().await
}

pub async fn scrape(app: &TestApp) -> Scrape {
    let answer = ask(app).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Scrape::parse(&answer.text)
}

#[tokio::test]
async fn without_the_setting_there_is_no_such_path() {
    let app = TestApp::start().await;
    ask(&app).await.assert_error(404, "not_found");
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let answer = app.anonymous().call(method, "/metrics").send().await;
        answer.assert_error(404, "not_found");
    }
}

#[tokio::test]
async fn only_the_whole_token_opens_it() {
    let app = measured().await;
    let ada = app.user("ada").await;
    let with = async |name: &str, value: &str| {
        app.anonymous().call(Method::GET, "/metrics").header(name, value).send().await
    };
    app.anonymous().get("/metrics").await.assert_error(401, "token_missing");
    with("x-access-token", TOKEN).await.assert_error(401, "token_missing");
    app.anonymous()
        .get(&format!("/metrics?token={TOKEN}"))
        .await
        .assert_error(401, "token_missing");
    for length in 0..TOKEN.len() {
        let prefix = format!("Bearer {}", &TOKEN[..length]);
        with("authorization", &prefix).await.assert_error(401, "token_invalid");
    }
    for wrong in [
        TOKEN.to_owned(),
        format!("Basic {TOKEN}"),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {TOKEN} {TOKEN}"),
        format!("Bearer {}", TOKEN.to_uppercase()),
        format!("Bearer {}", ada.access_token()),
    ] {
        with("authorization", &wrong).await.assert_error(401, "token_invalid");
    }
    let call = app.anonymous().call(Method::GET, "/metrics");
    let twice = call.header("authorization", &format!("Bearer {TOKEN}"));
    let twice = twice.header("authorization", &format!("Bearer {TOKEN}x")).send().await;
    twice.assert_error(401, "token_invalid");
    let call = app.anonymous().call(Method::GET, "/metrics");
    call.header_bytes("authorization", b"Bearer \xff")
        .send()
        .await
        .assert_error(401, "token_invalid");

    // It is good for nothing else.
    let call = app.anonymous().call(Method::GET, ME);
    let me = call.header("authorization", &format!("Bearer {TOKEN}")).send().await;
    me.assert_error(401, "token_invalid");
    assert_eq!(with("authorization", &format!("bearer {TOKEN}")).await.status, 200);
    scrape(&app).await.assert(ERRORS, &[("code", "token_missing")], 3);
}

#[tokio::test]
async fn it_is_read_and_not_written_and_lies_outside_of_the_api() {
    let app = measured().await;
    let post = app.anonymous().call(Method::POST, "/metrics");
    let post = post.header("authorization", &format!("Bearer {TOKEN}")).send().await;
    post.assert_error(405, "method_not_allowed");
    app.anonymous().get("/api/v1/metrics").await.assert_error(404, "not_found");
    let head = app.anonymous().call(Method::HEAD, "/metrics");
    let head = head.header("authorization", &format!("Bearer {TOKEN}")).send().await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn each_answer_counts_once_under_its_route_its_method_and_its_status() {
    let app = measured().await;
    let ada = app.user("ada").await;
    let before = scrape(&app).await;
    for _ in 0..3 {
        ada.get(ME).await.assert_ok(200);
    }
    ada.get("/api/v1/users/me/").await.assert_ok(200);
    ada.post(ME, &json!({})).await.assert_ok(200);
    ada.delete("/api/v1/login").await.assert_error(405, "method_not_allowed");
    app.anonymous().get(ME).await.assert_error(401, "token_missing");
    ada.get(&format!("/api/v1/users/{}", ada.id())).await.assert_error(403, "forbidden");
    let after = scrape(&app).await;
    let expected = [
        ("GET", ME, "200", 4),
        ("POST", ME, "200", 1),
        ("DELETE", "/api/v1/login", "405", 1),
        ("GET", ME, "401", 1),
        ("GET", "/api/v1/users/{public_id}", "403", 1),
        // The scrape before.
        ("GET", "/metrics", "200", 1),
    ];
    let mut all = 0;
    for (method, route, status, count) in expected {
        let labels = [("method", method), ("route", route), ("status", status)];
        after.assert_grown(&before, REQUESTS, &labels, count);
        all += count;
    }
    for name in [REQUESTS, DURATION] {
        after.assert_grown(&before, name, &[], all);
    }
    after.assert_grown(&before, DURATION, &[("route", ME)], 6);
    after.assert(ERRORS, &[("code", "method_not_allowed")], 1);
    after.assert(ERRORS, &[("code", "forbidden")], 1);
    after.assert("doorward_http_requests_in_flight", &[], 1);
    after.assert("doorward_http_requests_abandoned_total", &[], 0);
}

#[tokio::test]
async fn no_stranger_makes_a_series() {
    let app = measured().await;
    let ada = app.user("ada").await;
    let methods = ["GET", "POST", "DELETE", "PUT", "BREW", "GETS", "PROPFIND", "X-1", "TRACE"];
    let method = |number: usize| Method::from_bytes(methods[number % 9].as_bytes()).unwrap();
    for number in 0..9 {
        ada.call(method(number), "/nowhere").send().await;
        ada.call(method(number), &format!("/api/v1/users/{}", ada.id())).send().await;
    }
    let before = scrape(&app).await;
    let mut dice = Dice(7);
    for number in 0..1000 {
        let word = format!("{:x}", dice.roll(u64::MAX));
        let path = match number % 4 {
            0 => format!("/{word}"),
            1 => format!("/api/v1/{word}/{word}"),
            2 => format!("/{word}?{word}=1"),
            _ => format!("/api/v1/users/{word}"),
        };
        let call = app.anonymous().call(method(number / 4), &path).header("user-agent", &word);
        call.header("x-request-id", &word).header("origin", &word).send().await;
    }
    let after = scrape(&app).await;
    assert_eq!(after.families, before.families);
    // One for the first scrape, one for its status, and no more.
    let new = |label| {
        let known: BTreeSet<String> =
            before.label_values(label).into_iter().map(str::to_owned).collect();
        let now = after.label_values(label).into_iter().map(str::to_owned).collect();
        BTreeSet::difference(&now, &known).cloned().collect::<Vec<_>>()
    };
    assert_eq!(new("route"), ["/metrics"]);
    for label in ["method", "code", "event", "limit"] {
        assert_eq!(new(label), [""; 0], "{label}");
    }
    assert!(after.series() - before.series() < 30, "{} {}", before.series(), after.series());
    after.assert_grown(&before, REQUESTS, &[("route", "unmatched")], 750);
    assert!(after.get(REQUESTS, &[("method", "other")]) > 300.0);
    assert!(after.series() < 1000);
}

#[tokio::test]
async fn events_limits_letters_hashes_and_rows_are_counted() {
    let app = TestApp::with(&[("METRICS_TOKEN", TOKEN), ("RATE_LIMITS", "on")]).await.alone();
    let event = |name: &'static str| [("event", name)];
    scrape(&app).await.assert("doorward_security_events_total", &event("login"), 0);
    let boss = app.admin().await;
    let ada = app.newcomer("ada").await;
    let waits = scrape(&app).await;
    waits.assert("doorward_outbox_waiting", &[], 1);
    waits.assert("doorward_outbox_oldest_seconds", &[], 0);
    app.clock.advance(chrono::TimeDelta::minutes(2));
    scrape(&app).await.assert("doorward_outbox_oldest_seconds", &[], 120);
    app.letter_to(&email_of("ada")).await;
    for _ in 0..7 {
        app.anonymous().log_in("boss", "not it").await;
    }
    ada.get("/api/v1/users").await.assert_error(403, "forbidden");
    ada.call(Method::POST, "/api/v1/logout").send().await.assert_ok(200);
    boss.get(ME).await.assert_ok(200);

    let page = scrape(&app).await;
    for (name, count) in
        [("registered", 2), ("login", 2), ("login_refused", 5), ("forbidden", 1), ("logout", 1)]
    {
        page.assert("doorward_security_events_total", &event(name), count);
    }
    // Of two refusals the first alone is an event.
    page.assert("doorward_security_events_total", &event("rate_limited"), 1);
    page.assert("doorward_limit_refusals_total", &[("limit", "login_account")], 2);
    page.assert("doorward_limit_refusals_total", &[], 2);
    page.assert(ERRORS, &[("code", "rate_limited")], 2);
    page.assert("doorward_letters_total", &[("outcome", "sent")], 2);
    page.assert("doorward_letters_total", &[], 2);
    page.assert("doorward_outbox_waiting", &[], 0);
    page.assert("doorward_outbox_oldest_seconds", &[], 0);
    page.assert("doorward_users", &[], 2);
    page.assert("doorward_sessions", &[], 1);
    // Two registrations, two logins, five guesses.
    page.assert("doorward_hash_wait_seconds_count", &[], 9);
    page.assert("doorward_hash_permits", &[], 2);
    page.assert("doorward_hash_running", &[], 0);
    page.assert("doorward_hash_turned_away_total", &[], 0);
    page.assert("doorward_database_up", &[], 1);
    page.assert("doorward_database_connections_max", &[], 10);
    assert!(page.get("doorward_database_connections", &[]) >= 1.0);
    // Nobody listens in this test: all is read from the database.
    page.assert("doorward_session_cache_live", &[], 0);
    page.assert("doorward_session_cache_hits_total", &[], 0);
    page.assert("doorward_session_cache_misses_total", &[], 1);
    let labels = page.label_values("code");
    assert_eq!(
        labels,
        Code::ALL
            .iter()
            .map(|code| code.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn who_waits_for_a_hash_and_who_is_turned_away_is_seen() {
    let database = new_database().await;
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let cheap = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let on = [("METRICS_TOKEN", TOKEN)];
    let app = TestApp::hashing(&database, &on, clock.clone(), Hasher::new(cheap.clone(), 2))
        .await
        .alone();
    app.user("ada").await;
    // Half a second a hash: nothing that has begun is over when the page is read.
    let slow = argon2::Params::new(65_536, 8, 1, Some(32)).unwrap();
    let app = TestApp::hashing(&database, &on, clock.clone(), Hasher::new(slow, 1)).await.alone();
    let guess = |name: &'static str| {
        let person = app.anonymous();
        tokio::spawn(async move { person.log_in(name, PASSWORD).await })
    };
    let guesses = [guess("nobody"), guess("nobody"), guess("nobody")];
    eventually("one is hashed and two wait", async || {
        let page = scrape(&app).await;
        let waiting = page.get("doorward_hash_waiting", &[("client", "stranger")]);
        page.get("doorward_hash_running", &[]) > 0.5 && waiting > 1.5
    })
    .await;
    guesses.iter().for_each(tokio::task::JoinHandle::abort);

    // No threads and no places.
    let full = TestApp::hashing(&database, &on, clock, Hasher::new(cheap, 0)).await.alone();
    full.anonymous().log_in("ada", PASSWORD).await.assert_error(503, "busy");
    let page = scrape(&full).await;
    page.assert("doorward_hash_turned_away_total", &[], 1);
    page.assert(ERRORS, &[("code", "busy")], 1);
}

#[tokio::test]
async fn a_client_who_hangs_up_is_no_longer_in_hand() {
    let app = measured().await;
    let ada = app.user("ada").await;
    let mut tx = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *tx).await.unwrap();
    let change = tokio::spawn(async move { ada.put(ME, &json!({ "first_name": "A" })).await });
    lock_waits(&app.pool, 1).await;
    scrape(&app).await.assert("doorward_http_requests_in_flight", &[], 2);
    change.abort();
    assert!(change.await.err().unwrap().is_cancelled());
    let page = scrape(&app).await;
    page.assert("doorward_http_requests_in_flight", &[], 1);
    page.assert("doorward_http_requests_abandoned_total", &[], 1);
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn a_full_house_is_seen_from_outside() {
    let app = measured().await;
    let crowded = |path: &str| app.anonymous().call(Method::GET, path).crowded();
    crowded("/nowhere").send().await.assert_error(503, "busy");
    crowded("/healthz").send().await.assert_ok(200);
    crowded("/metrics").send().await.assert_error(401, "token_missing");
    let answer = crowded("/metrics").header("authorization", &format!("Bearer {TOKEN}")).send();
    Scrape::parse(&answer.await.text).assert(ERRORS, &[("code", "busy")], 1);
}

#[tokio::test]
async fn the_real_service_counts_its_connections_its_memory_and_what_it_remembers() {
    let started = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let (home, _) = Home::with_database(&[("METRICS_TOKEN", TOKEN)]).await;
    let service = home.start().await;
    let pair = home.newcomer("ada").await;
    let scrape = async || {
        let call = home.get("/metrics").header("authorization", &format!("Bearer {TOKEN}"));
        let answer = call.send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        Scrape::parse(&answer.text)
    };
    eventually("changes made elsewhere are heard of", async || {
        scrape().await.find("doorward_session_cache_live", &[]) == Some(1.0)
    })
    .await;
    let before = scrape().await;
    for _ in 0..5 {
        home.get(ME).by(&pair).send().await.expect(200);
    }
    let page = scrape().await;
    let grown = |name: &str| page.get(name, &[]) - before.get(name, &[]);
    let (hits, misses) =
        (grown("doorward_session_cache_hits_total"), grown("doorward_session_cache_misses_total"));
    assert!(hits >= 3.0 && (hits + misses - 5.0).abs() < 0.5, "{hits} {misses}");
    page.assert("doorward_session_cache_entries", &[], 1);
    page.assert("doorward_connections_refused_total", &[], 0);
    let open = page.get("doorward_connections_open", &[]);
    assert!((1.0..10.0).contains(&open), "{open}");
    let within = |name: &str, range: std::ops::Range<f64>| {
        let value = page.get(name, &[]);
        assert!(range.contains(&value), "{name} {value}");
    };
    if cfg!(target_os = "linux") {
        within("process_resident_memory_bytes", 5e6..500e6);
        within("process_virtual_memory_bytes", 5e6..1e12);
        within("process_cpu_seconds_total", 0.01..60.0);
        within("process_open_fds", 5.0..200.0);
        within("process_max_fds", 200.0..1e10);
        within("process_start_time_seconds", started - 5.0..started + 60.0);
    }
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.assert("doorward_build_info", &version, 1);
    service.stop().await;
}
