//! `GET /users/me/activity`: what people see of what was done with their accounts.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person};

const ME: &str = "/api/v1/users/me";
const ACTIVITY: &str = "/api/v1/users/me/activity";

async fn events(person: &Person, query: &str) -> Vec<Value> {
    let answer = person.get(&format!("{ACTIVITY}{query}")).await;
    answer.assert_ok(200)["events"].as_array().unwrap().clone()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn people_see_what_was_done_with_their_accounts_newest_first_and_by_whom() {
    let app = TestApp::start().await;
    let (ada, boss) = (app.user("ada").await, app.admin().await);
    app.clock.advance(TimeDelta::minutes(2));
    ada.put(ME, &json!({ "first_name": "Ada" })).await.assert_ok(200);
    let call =
        boss.call(axum::http::Method::PUT, &format!("/api/v1/users/{}?role=staff", ada.id()));
    call.from("203.0.113.9").send().await.assert_ok(200);
    let events = events(&ada, "").await;
    let expected = ["role_changed", "profile_updated", "email_verified", "login", "registered"];
    assert_eq!(names(&events), expected);
    let [promoted, updated, .., registered] = events.as_slice() else { panic!("{events:?}") };
    let now = app.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    // Staff are not named, nor where they are, nor in which session.
    let by_staff = json!({
        "id": promoted["id"], "at": now, "event": "role_changed", "session_id": null, "ip": null,
        "device": null, "by": "staff", "details": { "from": "user", "to": "staff" },
    });
    assert_eq!(*promoted, by_staff);
    let own = json!({
        "id": updated["id"], "at": now, "event": "profile_updated",
        "session_id": updated["session_id"], "ip": "127.0.0.1", "device": null, "by": "you",
        "details": { "fields": ["first_name"] },
    });
    assert_eq!(*updated, own);
    assert!(updated["session_id"].is_string() && promoted["id"].as_i64() > updated["id"].as_i64());
    assert_eq!(registered["by"], "you");
}

#[tokio::test]
async fn what_others_tried_and_what_happened_to_others_is_not_among_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
    app.anonymous().log_in("ada", "not it").await.assert_error(401, "invalid_credentials");
    let taken = json!({ "username": "ada" });
    bob.put(ME, &taken).await.assert_error(409, "username_taken");
    let sql = "insert into audit_log (at, event, user_id, actor_id)
        select now(), event, $1::uuid, $2::uuid
        from unnest(array['already_taken', 'audit_read', 'an_event_of_a_newer_release']) event";
    sqlx::query(sql).bind(ada.id()).bind(bob.id()).execute(&app.pool).await.unwrap();
    for (person, other) in [(&ada, &bob), (&bob, &ada)] {
        let events = events(person, "").await;
        assert_eq!(names(&events), ["login", "registered"]);
        assert!(!json!(events).to_string().contains(other.id()));
    }
}

#[tokio::test]
async fn nobody_did_what_the_service_did() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    app.anonymous().post("/api/v1/password/forgot", &json!({ "email": "ada@example.com" })).await;
    app.deliver_mail().await;
    let events = events(&ada, "?limit=1").await;
    assert_eq!((&events[0]["event"], &events[0]["by"]), (&json!("reset_asked"), &json!("system")));
    assert_eq!(events[0]["ip"], "127.0.0.1", "where the letter was asked for");
}

#[tokio::test]
async fn logins_of_a_minute_are_one_event_with_their_number() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    for _ in 0..2 {
        app.log_in("ada", PASSWORD).await;
    }
    let events = events(&ada, "").await;
    assert_eq!(names(&events), ["login", "registered"]);
    assert_eq!(events[0]["details"], json!({ "count": 3 }));
    assert_eq!(events[1]["details"], json!({}));
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_and_end() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let sql = "insert into audit_log (at, event, user_id, actor_id, details)
        select now(), 'profile_updated', $1::uuid, $1::uuid, jsonb_build_object('number', n)
        from generate_series(1, 300) n";
    sqlx::query(sql).bind(ada.id()).execute(&app.pool).await.unwrap();
    for (query, sizes) in
        [("?limit=200", vec![200, 102]), ("?limit=151", vec![151, 151]), ("?", vec![50; 6])]
    {
        let (mut after, mut seen, mut found) = (String::new(), Vec::new(), Vec::new());
        loop {
            let answer = ada.get(&format!("{ACTIVITY}{query}{after}")).await;
            let page = answer.assert_ok(200);
            let events = page["events"].as_array().unwrap();
            found.push(events.len());
            seen.extend(events.iter().map(|event| event["id"].as_i64().unwrap()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
            // What comes meanwhile shifts nothing.
            ada.put(ME, &json!({ "first_name": format!("Ada {}", seen.len()) })).await;
        }
        assert_eq!(found[..sizes.len()], sizes, "{query}");
        assert!(seen.is_sorted_by(|one, other| one > other), "newest first, none twice");
        assert!(seen.len() >= 302 && seen.len() < 320, "{query}: {}", seen.len());
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    for (query, field, code) in [
        ("limit=0", "limit", "out_of_range"),
        ("limit=201", "limit", "out_of_range"),
        ("limit=ten", "limit", "out_of_range"),
        ("after=0", "after", "invalid_cursor"),
        ("after=-1", "after", "invalid_cursor"),
        ("after=9223372036854775808", "after", "invalid_cursor"),
        ("after=x", "after", "invalid_cursor"),
        ("user_id=1", "user_id", "unknown_parameter"),
    ] {
        ada.get(&format!("{ACTIVITY}?{query}")).await.assert_fields(&[(field, code)]);
    }
    assert_eq!(events(&ada, "?limit=&after=").await.len(), 2);
    app.anonymous().get(ACTIVITY).await.assert_error(401, "token_missing");
    ada.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    ada.get(ACTIVITY).await.assert_error(401, "session_ended");
}

/// The reader of a letter who disowns an address did so from a place of their own, which is nothing
/// to who typed the address.
#[tokio::test]
async fn whoever_disowned_an_address_is_not_shown_to_who_typed_it() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let change = json!({ "email": "victim@example.com", "password": PASSWORD });
    ada.put(ME, &change).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let letter = letters.iter().find(|letter| letter.to == "victim@example.com").unwrap();
    let call = app.anonymous().call(axum::http::Method::POST, &link_in(letter));
    let call = call.from("198.51.100.7").header("user-agent", "Victim/1.0");
    let disowned = call.json(&json!({ "action": "not_me" })).send().await;
    disowned.assert_ok(200);
    let events = events(&ada, "").await;
    assert_eq!(events[0]["event"], "email_disowned");
    assert_eq!((&events[0]["ip"], &events[0]["by"]), (&Value::Null, &json!("system")));
    assert!(!json!(events).to_string().contains("198.51.100.7"));
    let export = ada.get("/api/v1/users/me/export").await;
    assert!(!export.text.contains("198.51.100.7") && !export.text.contains("Victim"));
}
