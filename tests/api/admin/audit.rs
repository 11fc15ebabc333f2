//! The audit log as staff and admins read it.

use axum::http::Method;
use chrono::TimeDelta;
use doorward::router::openapi_document;
use doorward::store::audit::EventKind;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::{PASSWORD, Person, email_of};

const AUDIT: &str = "/api/v1/admin/audit";

/// Somebody on the staff.
pub async fn staff(app: &TestApp) -> Person {
    let deputy = app.user("deputy").await;
    let sql = "update users set role = 'staff' where username = 'deputy'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    deputy
}

async fn events(person: &Person, query: &str) -> Vec<Value> {
    let answer = person.get(&format!("{AUDIT}?{query}")).await;
    answer.assert_ok(200)["events"].as_array().unwrap().clone()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_event_tells_who_did_what_to_whom_from_where_by_what_program_and_in_which_request() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let path = format!("/api/v1/users/{}?role=staff", ada.id());
    let call = boss.call(Method::PUT, &path).from("198.51.100.7");
    let call = call.header("user-agent", &"x".repeat(400)).header("x-request-id", "promotion-7");
    call.send().await.assert_ok(200);
    let found = events(&boss, "event=role_changed").await;
    let id = found[0]["id"].as_i64().unwrap();
    assert_eq!(
        found,
        [json!({
            "id": id, "at": "2026-01-02T03:04:05.678Z", "event": "role_changed",
            "user_id": ada.id(), "actor_id": boss.id(), "session_id": found[0]["session_id"],
            "ip": "198.51.100.7", "user_agent": "x".repeat(300), "request_id": "promotion-7",
            "details": { "from": "user", "to": "staff" }, "count": 1,
        })]
    );
    assert!(found[0]["session_id"].is_string());
}

#[tokio::test]
async fn a_login_is_recorded_with_the_request_and_the_program_of_the_first_of_its_minute() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    app.clock.advance(TimeDelta::minutes(2));
    for number in 1..=3 {
        let body = json!({ "username": "boss", "password": PASSWORD });
        let call = app.anonymous().call(Method::POST, "/api/v1/login").from("198.51.100.9");
        let call = call.header("user-agent", &format!("agent {number}"));
        let call = call.header("x-request-id", &format!("login-{number}")).json(&body);
        call.send().await.assert_ok(200);
    }
    let [login] = &events(&boss, "ip=198.51.100.9").await[..] else { panic!("one row") };
    assert_eq!(login["event"], "login");
    assert_eq!((&login["count"], &login["request_id"]), (&json!(3), &json!("login-1")));
    assert_eq!(login["user_agent"], "agent 1");
}

#[tokio::test]
async fn logins_that_share_a_statement_keep_each_their_own_request() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for number in 0..24 {
        app.newcomer(&format!("user{number}")).await;
    }
    app.clock.advance(TimeDelta::minutes(2));
    let since = app.clock.now().to_rfc3339();
    let logins = (0..24).map(|number| {
        let body = json!({ "username": format!("user{number}"), "password": PASSWORD });
        let call = app.anonymous().call(Method::POST, "/api/v1/login");
        let call = call.header("x-request-id", &format!("login-{number}")).json(&body);
        async move { call.send().await.assert_ok(200)["user"]["public_id"].clone() }
    });
    let ids = futures_util::future::join_all(logins).await;
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("event", "login"), ("since", &since)])
        .finish();
    let found = events(&boss, &query).await;
    assert_eq!(found.len(), 24, "{found:?}");
    for (number, id) in ids.iter().enumerate() {
        let own = found.iter().find(|event| event["user_id"] == *id).unwrap();
        assert_eq!(own["request_id"], format!("login-{number}"));
    }
}

#[tokio::test]
async fn each_filter_leaves_its_own_and_all_together_what_is_all_of_it() {
    let app = TestApp::start().await;
    let (boss, ada, bob) =
        (app.admin().await, app.newcomer("ada").await, app.newcomer("bob").await);
    app.clock.advance(TimeDelta::minutes(10));
    let call = ada.call(Method::PUT, "/api/v1/users/me").from("2001:db8::7");
    let call = call.header("x-request-id", "name-1").json(&json!({ "first_name": "Ada" }));
    call.send().await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(10));
    boss.delete(&format!("/api/v1/users/{}", bob.id())).await.assert_ok(200);

    let of_ada = events(&boss, &format!("user_id={}&sort=id", ada.id())).await;
    assert_eq!(names(&of_ada), ["registered", "login", "profile_updated"]);
    let by_boss = events(&boss, &format!("actor_id={}", boss.id())).await;
    assert_eq!(
        names(&by_boss),
        ["audit_read", "user_deleted", "email_verified", "login", "registered"].map(String::from),
        "what was done to others and to oneself, in one order"
    );
    let by_boss_to_bob =
        events(&boss, &format!("actor_id={}&user_id={}", boss.id(), bob.id())).await;
    assert_eq!(names(&by_boss_to_bob), ["user_deleted"]);
    let by_ada_to_ada = format!("actor_id={}&user_id={}&event=login", ada.id(), ada.id());
    assert_eq!(names(&events(&boss, &by_ada_to_ada).await), ["login"]);
    for query in [
        "event=profile_updated",
        "ip=2001:db8::7",
        "ip=2001:0db8:0:0::7",
        "request_id=name-1",
        "since=2026-01-02T03:10:00Z&until=2026-01-02T03:20:00Z",
        "since=2026-01-02T05:10:00%2B02:00&until=2026-01-02T03:14:05.679Z",
    ] {
        assert_eq!(names(&events(&boss, query).await), ["profile_updated"], "{query}");
    }
    let all = format!(
        "event=profile_updated&ip=2001:db8::7&request_id=name-1&since=2026-01-02T03:10:00Z&\
         until=2026-01-02T03:20:00Z&user_id={0}&actor_id={0}",
        ada.id()
    );
    assert_eq!(names(&events(&boss, &all).await), ["profile_updated"]);
    assert!(events(&boss, &all.replace("name-1", "name-2")).await.is_empty());
    // The end of a span is not in it, its beginning is.
    assert!(events(&boss, "event=profile_updated&until=2026-01-02T03:14:05.678Z").await.is_empty());
    assert_eq!(
        events(&boss, "event=profile_updated&since=2026-01-02T03:14:05.678Z").await.len(),
        1
    );
}

#[tokio::test]
async fn pages_follow_each_other_in_either_order_and_miss_nothing() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let many = "insert into audit_log (at, event, user_id, actor_id)
                select now(), 'registered', case when n % 2 = 0 then $1::uuid end, $1::uuid
                from generate_series(1, 53) n";
    sqlx::query(many).bind(boss.id()).execute(&app.pool).await.unwrap();
    for (order, filter) in [("-id", ""), ("id", ""), ("-id", "&actor_id=")] {
        let filter =
            if filter.is_empty() { String::new() } else { format!("{filter}{}", boss.id()) };
        let mut path = format!("{AUDIT}?limit=10&sort={order}{filter}");
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let answer = boss.get(&path).await;
            let body = answer.assert_ok(200);
            let ids = body["events"].as_array().unwrap().iter();
            seen.extend(ids.map(|event| event["id"].as_i64().unwrap()));
            pages += 1;
            let Some(next) = body["next"].as_str() else {
                assert_eq!(answer.header("link"), None);
                break;
            };
            let link = answer.header("link").unwrap();
            let url = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
            assert!(url.contains(&format!("after={next}")), "{link}");
            path = url.strip_prefix(PUBLIC_URL).unwrap().to_owned();
        }
        let expected = if order == "id" { "id" } else { "id desc" };
        let expected: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select id from audit_log order by {expected}"
        )))
        .fetch_all(&app.pool)
        .await
        .unwrap();
        assert_eq!(seen, expected, "{order} {filter}");
        assert_eq!(pages, seen.len().div_ceil(10));
    }
    // A cursor is of its own order.
    let answer = boss.get(&format!("{AUDIT}?limit=1")).await;
    let next = answer.assert_ok(200)["next"].as_str().unwrap();
    let other = boss.get(&format!("{AUDIT}?sort=id&after={next}")).await;
    other.assert_fields(&[("after", "invalid_cursor")]);
}

/// Of an instance whose clock was wrong, and of one that was a little behind.
#[tokio::test]
async fn what_is_out_of_order_by_a_wrong_clock_is_found_by_its_time() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let sql = "insert into audit_log (at, event, off_clock, details)
               select timestamptz '2030-01-01' + n * interval '1 minute', 'registered', null, jsonb_build_object('n', n)
               from generate_series(1, 100) n
               union all select timestamptz '2030-01-01 00:30', 'registered', true, '{\"n\": 1000}'
               union all select timestamptz '2030-01-01 01:39:10', 'registered', null, '{\"n\": 1001}'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    let found = async |query: &str| -> Vec<i64> {
        let found = events(&boss, &format!("sort=id&event=registered&{query}")).await;
        found.iter().map(|event| event["details"]["n"].as_i64().unwrap()).collect()
    };
    let (from, to) = ("since=2030-01-01T00:29:00Z", "until=2030-01-01T00:32:00Z");
    assert_eq!(found(&format!("{from}&{to}")).await, [29, 30, 31, 1000]);
    assert_eq!(found("since=2030-01-01T01:39:00Z").await, [99, 100, 1001]);
    assert_eq!(found("since=2030-01-01T01:39:00Z&until=2030-01-01T01:39:30Z").await, [99, 1001]);
    assert!(found("since=2031-01-01T00:00:00Z").await.is_empty());
    // The tests' own clock is wrong by the database's: each row that the service wrote is marked.
    let unmarked =
        "select count(*) from audit_log where at < '2030-01-01' and off_clock is not true";
    let unmarked: i64 = sqlx::query_scalar(unmarked).fetch_one(&app.pool).await.unwrap();
    assert_eq!(unmarked, 0);
}

#[tokio::test]
async fn a_clock_that_is_right_marks_nothing() {
    let app = TestApp::start().await;
    let now: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select now()").fetch_one(&app.pool).await.unwrap();
    app.clock.advance(now - app.clock.now());
    app.newcomer("ada").await;
    let marked: Vec<Option<bool>> =
        sqlx::query_scalar("select off_clock from audit_log").fetch_all(&app.pool).await.unwrap();
    assert_eq!(marked, [None, None], "of the registration and the login");
}

#[tokio::test]
async fn a_stream_holds_all_of_it_and_ends_where_its_reader_may_read_no_more() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let many = "insert into audit_log (at, event) select now(), 'registered' from generate_series(1, 1234) n";
    sqlx::query(many).execute(&app.pool).await.unwrap();
    let stream = async |person: &Person, query: &str| -> Answer {
        let call = person.call(Method::GET, &format!("{AUDIT}?{query}"));
        call.header("accept", "application/x-ndjson").send().await
    };
    let answer = stream(&boss, "event=registered&limit=1").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1235);
    let ids: Vec<i64> = lines.iter().map(|line| line["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, other| one > other));

    let body = boss.call(Method::GET, AUDIT).header("accept", "application/x-ndjson").begin().await;
    sqlx::query("update users set role = 'user'").execute(&app.pool).await.unwrap();
    use http_body_util::BodyExt;
    let read = body.collect().await;
    assert!(read.is_err(), "broken off: what came of it is not all");
    stream(&boss, "").await.assert_error(403, "forbidden");
}

#[tokio::test]
async fn strangers_and_users_read_nothing_and_staff_no_addresses() {
    let app = TestApp::start().await;
    let (boss, ada, deputy) = (app.admin().await, app.user("ada").await, staff(&app).await);
    app.anonymous().get(AUDIT).await.assert_error(401, "token_missing");
    ada.get(AUDIT).await.assert_error(403, "forbidden");
    let told = "insert into audit_log (at, event, ip, user_agent, request_id, details)
                values (now(), 'refresh_token_repeated', '198.51.100.7', 'a program', 'call-1',
                    '{\"refreshed_from\": \"198.51.100.8\", \"other\": 1}')";
    sqlx::query(told).execute(&app.pool).await.unwrap();
    let query = "event=refresh_token_repeated";
    let seen = events(&deputy, query).await.remove(0);
    assert_eq!((&seen["ip"], &seen["user_agent"]), (&Value::Null, &Value::Null));
    assert_eq!((&seen["request_id"], &seen["details"]), (&json!("call-1"), &json!({ "other": 1 })));
    let all = deputy.get(AUDIT).await;
    assert!(!all.text.contains("198.51.100") && !all.text.contains("127.0.0.1"), "{}", all.text);
    let call = deputy.call(Method::GET, AUDIT).header("accept", "application/x-ndjson");
    let all = call.send().await;
    assert!(!all.text.contains("198.51.100") && all.text.lines().count() > 5, "{}", all.text);
    // Else one could be guessed.
    deputy.get(&format!("{AUDIT}?ip=198.51.100.7")).await.assert_error(403, "forbidden");
    let seen = events(&boss, query).await.remove(0);
    assert_eq!((&seen["ip"], &seen["user_agent"]), (&json!("198.51.100.7"), &json!("a program")));
    assert_eq!(seen["details"]["refreshed_from"], "198.51.100.8");
}

#[tokio::test]
async fn what_is_no_filter_of_the_list_is_refused() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (query, field, code) in [
        ("evnet=login", "evnet", "unknown_parameter"),
        ("event=logins", "event", "invalid_choice"),
        ("user_id=ada", "user_id", "invalid_format"),
        ("actor_id=1", "actor_id", "invalid_format"),
        ("ip=198.51.100.0/24", "ip", "invalid_format"),
        ("since=yesterday", "since", "invalid_format"),
        ("until=2026-01-02T03:04:05", "until", "invalid_format"),
        ("request_id=%00", "request_id", "invalid_characters"),
        ("limit=0", "limit", "out_of_range"),
        ("limit=501", "limit", "out_of_range"),
        ("sort=at", "sort", "invalid_choice"),
        ("after=nonsense", "after", "invalid_cursor"),
    ] {
        boss.get(&format!("{AUDIT}?{query}")).await.assert_fields(&[(field, code)]);
    }
    let long = format!("{AUDIT}?request_id={}", "x".repeat(129));
    boss.get(&long).await.assert_fields(&[("request_id", "too_long")]);
    boss.get(&format!("{AUDIT}?limit=1&limit=1")).await.assert_error(400, "malformed_request");
    boss.get(&format!("{AUDIT}?event=&limit=&after=&sort=")).await.assert_ok(200);
    let always = "since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59.999999Z";
    assert!(!events(&boss, always).await.is_empty());
    let read = "select count(*) from audit_log where event = 'audit_read'";
    let read: i64 = sqlx::query_scalar(read).fetch_one(&app.pool).await.unwrap();
    assert_eq!(read, 1, "what is refused is not read");
}

#[tokio::test]
async fn that_somebody_reads_is_recorded_once_an_hour_for_each_reader() {
    let app = TestApp::start().await;
    let (boss, deputy) = (app.admin().await, staff(&app).await);
    for _ in 0..3 {
        events(&boss, "limit=1").await;
    }
    let at_once = (0..20).map(|_| deputy.get(AUDIT));
    for answer in futures_util::future::join_all(at_once).await {
        answer.assert_ok(200);
    }
    let read = events(&boss, "event=audit_read&sort=id").await;
    let readers: Vec<&Value> = read.iter().map(|event| &event["actor_id"]).collect();
    assert_eq!(readers, [boss.id(), deputy.id()]);
    assert_eq!(read[0]["user_id"], boss.id());
    app.clock.advance(TimeDelta::minutes(56));
    let boss = app.log_in("boss", PASSWORD).await;
    assert_eq!(events(&boss, "event=audit_read").await.len(), 3, "in the next hour of the clock");
}

/// T33 and its kin ask the log what was done: nothing of a person who left stands there but ids.
#[tokio::test]
async fn events_outlive_whom_they_speak_of() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    boss.delete(&format!("/api/v1/users/{}", ada.id())).await.assert_ok(200);
    let answer = boss.get(&format!("{AUDIT}?user_id={}", ada.id())).await;
    assert_eq!(
        names(answer.assert_ok(200)["events"].as_array().unwrap()),
        ["user_deleted", "login", "registered"]
    );
    assert!(!answer.text.contains(&email_of("ada")));
}

#[test]
fn the_document_lists_the_events_of_the_code() {
    let document = openapi_document(PUBLIC_URL, 8);
    let known: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let listed = &document["components"]["schemas"]["EventName"]["enum"];
    assert_eq!(*listed, json!(known));
    let parameters = &document["paths"][AUDIT]["get"]["parameters"];
    let event = parameters.as_array().unwrap().iter().find(|one| one["name"] == "event").unwrap();
    assert_eq!(event["schema"]["enum"], json!(known), "{event}");
}
