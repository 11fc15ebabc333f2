//! `GET /users/me/export`: all that is held about a person, and nothing else.

use axum::http::Method;
use chrono::TimeDelta;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person};

const ME: &str = "/api/v1/users/me";
const EXPORT: &str = "/api/v1/users/me/export";

async fn exported(person: &Person) -> Value {
    person.get(EXPORT).await.assert_ok(200).clone()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn an_export_is_one_document_with_all_that_is_held() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let call = app.anonymous().call(Method::POST, "/api/v1/login").json(&json!({
        "username": "ada", "password": PASSWORD,
    }));
    call.from("203.0.113.7").header("user-agent", "curl/8.5.0").send().await.assert_ok(200);
    let changes = json!({ "first_name": "Ada", "email": "new@example.com", "password": PASSWORD });
    ada.put(ME, &changes).await.assert_ok(200);
    app.deliver_mail().await;
    let forgot = json!({ "email": "ADA@example.com" });
    app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
    app.deliver_mail().await;
    app.clock.advance(TimeDelta::minutes(1));

    let answer = ada.get(EXPORT).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let name = answer.header("content-disposition");
    assert_eq!(name, Some("attachment; filename=\"account-2026-01-02.json\""));
    let export = answer.assert_ok(200);
    assert_eq!(export["exported_at"], "2026-01-02T03:05:05.678Z");
    let user = &export["user"];
    let shown = ada.get(ME).await.json["user"].clone();
    for name in keys(&shown) {
        assert_eq!(user[name], shown[name], "{name}");
    }
    assert_eq!(user["email_verified_at"], "2026-01-02T03:04:05.678Z");
    assert_eq!(user["banned"], Value::Null);
    let sessions = export["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let (own, other) = (&sessions[0], &sessions[1]);
    assert_eq!((&own["current"], &other["current"]), (&json!(true), &json!(false)));
    assert_eq!((&other["ip"], &other["user_agent"]), (&json!("203.0.113.7"), &json!("curl/8.5.0")));
    assert_eq!(other["amr"], json!(["pwd"]));
    for list in ["identities", "factors", "tokens"] {
        assert_eq!(export[list], json!([]), "{list}");
    }
    let letters = export["letters"].as_array().unwrap().iter();
    let mut letters: Vec<_> = letters
        .map(|letter| (letter["kind"].as_str().unwrap(), letter["recipient"].as_str().unwrap()))
        .collect();
    letters.sort_unstable();
    let expected = [
        ("confirmation", "ada@example.com"),
        ("confirmation", "new@example.com"),
        ("email_change_notice", "ada@example.com"),
        ("new_device", "ada@example.com"),
        ("reset", "ADA@example.com"),
    ];
    assert_eq!(letters, expected);
    let activity = export["activity"].as_array().unwrap();
    assert_eq!((&activity[0]["event"], &activity[0]["by"]), (&json!("exported"), &json!("you")));
    let own_events = ada.get("/api/v1/users/me/activity").await;
    assert_eq!(own_events.json["events"], export["activity"]);
}

#[tokio::test]
async fn an_export_holds_no_hash_no_secret_and_nothing_of_others() {
    let app = TestApp::start().await;
    let (ada, boss) = (app.user("ada").await, app.admin().await);
    let bob = app.user("bob").await;
    let call = boss.call(Method::PUT, &format!("/api/v1/users/{}?role=staff", ada.id()));
    call.from("198.51.100.77").send().await.assert_ok(200);
    let sql = "update sessions set device_hash = '\\xdeadbeefdeadbeef';
        update users set banned_at = now() - interval '2 days', banned_by = (
            select id from users where username = 'boss'
        ), banned_until = now() - interval '1 day', ban_reason = 'was rude' where username = 'ada'";
    sqlx::raw_sql(sql).execute(&app.pool).await.unwrap();
    let answer = ada.get(EXPORT).await;
    assert_eq!(answer.assert_ok(200)["user"]["banned"]["reason"], "was rude");
    let stored: String =
        sqlx::query_scalar("select password_hash from users where username = 'ada'")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    let text = &answer.text;
    for hidden in ["argon2", &stored, "password_hash", "deadbeef", "3q2+7w", ada.access_token()] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    for other in [boss.id(), bob.id(), "boss", "bob", "198.51.100.77"] {
        assert!(!text.contains(other), "{other}: {text}");
    }
    // As the document says, and no more.
    let document = &app.document["components"]["schemas"];
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let is = |schema: &str, value: &Value| {
        let described = keys(&document[schema]["properties"]).into_iter().map(str::to_owned);
        let found = keys(value).into_iter().map(str::to_owned);
        assert_eq!(sorted(found.collect()), sorted(described.collect()), "{schema}");
    };
    let export = &answer.json;
    is("ExportResponse", export);
    is("ExportedSession", &export["sessions"][0]);
    is("ExportedLetter", &export["letters"][0]);
    is("ActivityEvent", &export["activity"][0]);
    is("ExportedBan", &export["user"]["banned"]);
}

#[tokio::test]
async fn an_export_asks_for_a_fresh_proof() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    app.anonymous().get(EXPORT).await.assert_error(401, "token_missing");
    app.clock.advance(TimeDelta::minutes(15));
    ada.get(EXPORT).await.assert_error(401, "step_up_required");
    ada.post("/api/v1/step_up", &json!({ "password": PASSWORD })).await.assert_ok(200);
    exported(&ada).await;
    ada.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    ada.get(EXPORT).await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn five_exports_a_day_are_given_to_a_person() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
    for _ in 0..5 {
        exported(&ada).await;
    }
    let again = app.log_in("ada", PASSWORD).await;
    for session in [&ada, &again] {
        let refused = session.get(EXPORT).await;
        refused.assert_error(429, "rate_limited");
        assert_eq!(refused.json["limit"], "export");
    }
    exported(&bob).await;
    app.clock.advance(TimeDelta::days(1));
    let later = app.log_in("ada", PASSWORD).await;
    exported(&later).await;
}

/// 50,000 sessions and as many events, in parts that each are small.
#[tokio::test]
async fn a_long_export_comes_in_small_parts_and_leaves_nothing_out() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    fill(&app, &ada, 50_000).await;
    let mut body = ada.call(Method::GET, EXPORT).begin().await;
    let (mut text, mut largest) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let part = frame.unwrap().into_data().unwrap();
        largest = largest.max(part.len());
        text.extend_from_slice(&part);
    }
    let export: Value = serde_json::from_slice(&text).unwrap();
    let distinct = |list: &str, id: &str| {
        let rows = export[list].as_array().unwrap();
        let ids: std::collections::BTreeSet<_> =
            rows.iter().map(|row| row[id].to_string()).collect();
        assert_eq!(ids.len(), rows.len(), "{list}: none twice");
        rows.len()
    };
    assert_eq!(distinct("sessions", "public_id"), 50_001);
    assert_eq!(distinct("activity", "id"), 50_003);
    assert!(text.len() > 20_000_000 && largest < 2_000_000, "{} {largest}", text.len());
}

#[tokio::test]
async fn an_export_breaks_off_once_its_session_has_ended() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    fill(&app, &ada, 5_000).await;
    let mut body = ada.call(Method::GET, EXPORT).begin().await;
    assert!(body.frame().await.unwrap().is_ok());
    ada.delete(ME).await.assert_ok(202);
    let mut frames = 0;
    let broke_off = loop {
        match body.frame().await {
            Some(Ok(_)) => frames += 1,
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broke_off && frames < 3, "{frames}");
}

async fn fill(app: &TestApp, ada: &Person, count: i32) {
    let sessions =
        "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip, user_agent)
        select gen_random_uuid(), $1::uuid, now(), now(), now(), '2001:db8::1', repeat('x', 200)
        from generate_series(1, $2)";
    let events = "insert into audit_log (at, event, user_id, actor_id, ip)
        select now(), 'profile_updated', $1::uuid, $1::uuid, '2001:db8::1' from generate_series(1, $2)";
    for sql in [sessions, events] {
        sqlx::query(sql).bind(ada.id()).bind(count).execute(&app.pool).await.unwrap();
    }
}
