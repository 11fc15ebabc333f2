//! `GET /metrics`: who gets it, what it counts, and what it never does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::Method;
use doorward::clock::Clock;
use doorward::http::error::Code;
use doorward::security::password::Hasher;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::{cluster, new_database};
use crate::harness::dice::Dice;
use crate::harness::home::Home;
use crate::harness::machine::root;
use crate::harness::markdown::{in_backticks, readme, rows, section};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::scrape::Scrape;
use crate::harness::wait::{eventually, lock_waits};

const TOKEN: &str = "kfw8-2Hs.91xLq_7z";
const ME: &str = "/api/v1/users/me";
const REQUESTS: &str = "doorward_http_requests_total";
const DURATION: &str = "doorward_http_request_duration_seconds_count";
const ERRORS: &str = "doorward_http_errors_total";

async fn measured() -> TestApp {
    TestApp::with(&[("METRICS_TOKEN", TOKEN)]).await.alone()
}

async fn ask(app: &TestApp) -> Answer {
    let call = app.anonymous().call(Method::GET, "/metrics");
    call.header("authorization", &format!("Bearer {TOKEN}")).send().await
}

async fn scrape(app: &TestApp) -> Scrape {
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
    ada.delete(ME).await.assert_error(405, "method_not_allowed");
    app.anonymous().get(ME).await.assert_error(401, "token_missing");
    ada.get(&format!("/api/v1/users/{}", ada.id())).await.assert_error(403, "forbidden");
    let after = scrape(&app).await;
    let expected = [
        ("GET", ME, "200", 4),
        ("POST", ME, "200", 1),
        ("DELETE", ME, "405", 1),
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
    after.assert_grown(&before, DURATION, &[("route", ME)], 7);
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
    for _ in 0..12 {
        app.anonymous().log_in("boss", "not it").await;
    }
    ada.get("/api/v1/users").await.assert_error(403, "forbidden");
    ada.call(Method::POST, "/api/v1/logout").send().await.assert_ok(200);
    boss.get(ME).await.assert_ok(200);

    let page = scrape(&app).await;
    for (name, count) in
        [("registered", 2), ("login", 2), ("login_refused", 10), ("forbidden", 1), ("logout", 1)]
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
    // Two registrations, two logins, ten guesses.
    page.assert("doorward_hash_wait_seconds_count", &[], 14);
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

/// Of what the database knows nothing is shown, and the rest is, within a second.
async fn assert_without_database(app: &TestApp) {
    let started = Instant::now();
    let page = scrape(app).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    page.assert("doorward_database_up", &[], 0);
    for name in ["doorward_users", "doorward_sessions", "doorward_outbox_waiting"] {
        assert!(!page.families.contains_key(name), "{name}");
    }
    assert!(page.get(REQUESTS, &[]) > 0.0);
    page.get("process_resident_memory_bytes", &[]);
}

#[tokio::test]
async fn it_answers_within_a_second_while_the_database_does_not() {
    let app = measured().await;
    app.user("ada").await;
    scrape(&app).await.assert("doorward_database_up", &[], 1);

    // All connections are taken.
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(app.state.db.begin().await.unwrap());
    }
    assert_without_database(&app).await;
    drop(held);
    // A migration holds a table.
    let mut tx = app.pool.begin().await.unwrap();
    sqlx::query("lock table users").execute(&mut *tx).await.unwrap();
    assert_without_database(&app).await;
    tx.rollback().await.unwrap();
    eventually("it is back", async || {
        scrape(&app).await.find("doorward_database_up", &[]) == Some(1.0)
    })
    .await;

    // Gone.
    let name: String =
        sqlx::query_scalar("select current_database()::text").fetch_one(&app.pool).await.unwrap();
    app.pool.close().await;
    let pool = PgPool::connect_with(cluster().await.connect_options("postgres")).await.unwrap();
    let sql = format!("drop database {name} with (force)");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    assert_without_database(&app).await;
}

#[tokio::test]
async fn it_answers_before_the_database_is_ready() {
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let on = [("METRICS_TOKEN", TOKEN)];
    let app = TestApp::starting(&new_database().await, &on, clock).await.alone();
    app.anonymous().get(ME).await.assert_error(503, "database_unavailable");
    assert_without_database(&app).await;
    app.state.readiness.set_ready();
    scrape(&app).await.assert("doorward_database_up", &[], 1);
}

#[tokio::test]
async fn many_rows_are_estimated_and_letters_that_wait_are_found_by_an_index() {
    let app = measured().await;
    let sql = "insert into users (id, username, email, password_hash, created_at, modified_at)
            select gen_random_uuid(), 'u' || n, 'u' || n || '@example.com', '', now(), now()
            from generate_series(1, 12000) n;
        insert into sessions (id, user_id, created_at, expires_at, ends_at, ended_at)
            select gen_random_uuid(), id, now(), now() + '1 day', now() + '1 day',
                case when username like '%7' then now() end
            from users;
        insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at, sent_at)
            select gen_random_uuid(), id, 'confirmation', email, now(), now(), now() from users;
        insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at)
            select gen_random_uuid(), id, 'confirmation', email, now(), now() from users limit 20;
        analyze;";
    sqlx::raw_sql(sql).execute(&app.pool).await.unwrap();
    let page = scrape(&app).await;
    for (name, count) in [("doorward_users", 12_000.0), ("doorward_sessions", 10_800.0)] {
        let found = page.get(name, &[]);
        assert!((found - count).abs() < count / 20.0, "{name}: {found}");
    }
    page.assert("doorward_outbox_waiting", &[], 20);
    let scans = "select sum(idx_scan)::bigint from pg_stat_user_indexes where indexrelname = 'outbox_due_idx'";
    eventually("PostgreSQL says that it used the index", async || {
        let scans: i64 = sqlx::query_scalar(scans).fetch_one(&app.pool).await.unwrap();
        scrape(&app).await;
        scans > 0
    })
    .await;
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

#[tokio::test]
async fn nothing_in_it_tells_of_a_person() {
    let app = TestApp::with(&[
        ("METRICS_TOKEN", TOKEN),
        ("RATE_LIMITS", "on"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await
    .alone();
    let ada = app.user("zq-ada").await;
    let tokens = [ada.access_token(), ada.refresh_token()];
    let mut secrets = vec!["zq-", "203.0.113.77", ada.id(), TOKEN, PASSWORD];
    secrets.extend(tokens.iter().flat_map(|token| token.split('.')));
    for _ in 0..12 {
        let login =
            ada.call(Method::POST, "/api/v1/login").header("x-forwarded-for", "203.0.113.77");
        login.header("authorization", "Basic enEtYWRhOm5vdCBpdA==").send().await;
    }
    for path in ["/zq-path", "/api/v1/users/zq-id", "/api/v1/confirm?token=zq-token"] {
        ada.call(Method::GET, path).header("x-request-id", "zq-request").send().await;
    }
    let page = ask(&app).await.text;
    Scrape::parse(&page).assert(ERRORS, &[("code", "rate_limited")], 2);
    for secret in secrets {
        assert!(!page.contains(secret), "{secret} is in {page}");
    }
}

/// Every metric, by the name of its family.
async fn exported() -> BTreeSet<String> {
    scrape(&measured().await).await.families.into_keys().collect()
}

#[tokio::test]
async fn the_readmes_table_names_every_metric_with_its_labels_and_no_other() {
    let readme = readme();
    let table = rows(section(&readme, "Metrics and traces"));
    let documented: Vec<&str> = table.iter().flat_map(|row| in_backticks(row[0])).collect();
    let names: BTreeSet<String> =
        documented.iter().map(|name| name.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(names.len(), documented.len(), "each once");
    assert_eq!(names, exported().await);
    let app = measured().await;
    app.user("ada").await;
    let page = ask(&app).await.text;
    for name in documented {
        let Some((name, labels)) = name.split_once('{') else {
            assert!(!page.contains(&format!("\n{name}{{")), "{name} has labels");
            continue;
        };
        let sample = page.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.trim_start_matches("_bucket");
            rest.strip_prefix('{')
        });
        let sample = sample.unwrap_or_else(|| panic!("{name} has no labels"));
        let own = sample.split("=\"").map(|part| part.rsplit([',', '{']).next().unwrap());
        let own: Vec<_> = own.take(sample.matches("=\"").count()).filter(|l| *l != "le").collect();
        assert_eq!(own, labels.trim_end_matches('}').split(',').collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_exported_and_leaves_out_nothing() {
    let file = std::fs::read_to_string(root().join("src/prometheus/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&file).unwrap();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&variable["type"], &variable["query"]),
        (&json!("datasource"), &json!("prometheus"))
    );
    let mut asked = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        let source = json!({ "type": "prometheus", "uid": "${datasource}" });
        assert_eq!(panel["datasource"], source, "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && !panel["title"].as_str().unwrap().is_empty(), "{panel}");
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names = words.filter(|w| w.starts_with("doorward_") || w.starts_with("process_"));
            asked.extend(names.map(|name| {
                let is_histogram = name.contains("_seconds_");
                let part = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
                part.filter(|_| is_histogram).unwrap_or(name).to_owned()
            }));
        }
    }
    assert_eq!(asked, exported().await);
}
