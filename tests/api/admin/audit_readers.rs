//! Who reads the audit log, how much of it they see, and what is left of that.

use axum::http::Method;
use chrono::TimeDelta;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::audit::{AUDIT, events, staff};
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person};

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
