//! `POST /admin/bulk`: what an admin does to many, line by line.

use axum::http::Method;
use chrono::TimeDelta;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::admin::ban::active_sessions;
use crate::admin::staff::staff;
use crate::admin::users::{ME, path, role_of};
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{Call, PASSWORD, Person, email_of};
use crate::harness::wait::{eventually, lock_waits};

const BULK: &str = "/api/v1/admin/bulk";
const NDJSON: &str = "application/x-ndjson";

fn call(person: &Person, body: impl Into<Vec<u8>>) -> Call {
    person.call(Method::POST, BULK).header("content-type", NDJSON).body(body)
}

fn lines(all: &[Value]) -> String {
    all.iter().flat_map(|line| [line.to_string(), "\n".to_owned()]).collect()
}

/// What became of each line.
#[track_caller]
fn results(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some(NDJSON)));
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn bulk(person: &Person, all: &[Value]) -> Vec<Value> {
    results(&call(person, lines(all)).send().await)
}

/// The codes of the lines; none of one that was done.
fn codes(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["code"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_line_does_what_the_call_for_one_user_does() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "cid", "dan", "eve", "fay"] {
        people.push(app.user(name).await);
    }
    let gus = app.newcomer("gus").await;
    boss.put(&format!("{}/ban", path(&people[1])), &json!({ "reason": "x" })).await.assert_ok(200);
    app.deliver_mail().await;
    let id = |person: &Person| person.id().to_owned();
    let [ada, bob, cid, dan, eve, fay] = [0, 1, 2, 3, 4, 5].map(|n| id(&people[n]));
    let all = [
        json!({ "op": "ban", "public_id": ada, "reason": "spam", "until": "2999-01-01T00:00:00Z" }),
        json!({ "op": "unban", "public_id": bob }),
        json!({ "op": "role", "public_id": cid, "role": "Staff" }),
        json!({ "op": "end_sessions", "public_id": dan }),
        json!({ "op": "delete", "public_id": eve }),
        json!({ "op": "send", "public_id": fay, "letter": "reset" }),
        json!({ "op": "send", "public_id": gus.id(), "letter": "confirmation" }),
    ];
    let expected: Vec<Value> = all
        .iter()
        .zip(1..)
        .map(|(line, number)| {
            json!({ "line": number, "success": true, "public_id": line["public_id"] })
        })
        .collect();
    assert_eq!(bulk(&boss, &all).await, expected);

    let banned = boss.get(&path(&people[0])).await.json["user"]["banned"].clone();
    let ban = json!({ "until": "2999-01-01T00:00:00.000Z", "reason": "spam", "by": boss.id() });
    assert_eq!(banned, ban);
    assert_eq!(active_sessions(&app, &people[0]).await, 0);
    app.log_in("bob", PASSWORD).await;
    assert_eq!(role_of(&people[2]).await, "staff");
    people[3].get(ME).await.assert_error(401, "session_ended");
    app.log_in("dan", PASSWORD).await;
    boss.get(&path(&people[4])).await.assert_error(404, "user_not_found");
    let letters = app.deliver_mail().await;
    let to: Vec<&str> = letters.iter().map(|letter| letter.to.as_str()).collect();
    assert_eq!(to, ["bob@example.com", "fay@example.com", "gus@example.com"]);

    let sql = "select event from audit_log where actor_id = $1::uuid and session_id is not null
                   and event <> 'login' order by id";
    let events: Vec<String> =
        sqlx::query_scalar(sql).bind(boss.id()).fetch_all(&app.pool).await.unwrap();
    let expected = [
        "banned",
        "banned",
        "unbanned",
        "role_changed",
        "sessions_ended",
        "user_deleted",
        "letter_sent",
        "letter_sent",
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_line_that_fails_stands_in_the_way_of_no_other() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (ada, bob) = (app.user("ada").await, app.newcomer("bob").await);
    let id = ada.id();
    let body = format!(
        "{{\r\n\n{}\n[]\n{}\n{}\n{}\n  \n{}\n{}\n{}\n{}\n{}\n{}\n{}",
        json!({ "op": "role", "public_id": id, "role": "staff" }),
        json!({ "op": "promote", "public_id": id }),
        json!({ "public_id": id, "op": "role" }),
        json!({ "op": "ban", "public_id": id, "until": "soon" }),
        json!({ "op": "unban" }),
        json!({ "op": "delete", "public_id": "nobody" }),
        json!({ "op": "ban", "public_id": boss.id(), "reason": "x" }),
        json!({ "op": "delete", "public_id": boss.id() }),
        json!({ "op": "role", "public_id": bob.id(), "role": "admin" }),
        json!({ "op": "ban", "public_id": id, "reason": "x", "until": "2020-01-01T00:00:00Z" }),
        json!({ "op": "role", "public_id": id, "role": "admin", "note": "a\u{0}" }),
    );
    let results = results(&call(&boss, body).send().await);
    let seen: Vec<(u64, &str, Option<&str>)> = results
        .iter()
        .map(|result| {
            let code = result["code"].as_str().unwrap_or_default();
            assert_eq!(result["success"] == true, code.is_empty(), "{result}");
            (result["line"].as_u64().unwrap(), code, result["public_id"].as_str())
        })
        .collect();
    let expected = [
        (1, "malformed_request", None),
        (3, "", Some(id)),
        (4, "malformed_request", None),
        (5, "validation_failed", Some(id)),
        (6, "validation_failed", Some(id)),
        (7, "validation_failed", Some(id)),
        (9, "validation_failed", None),
        (10, "user_not_found", None),
        (11, "not_yourself", Some(boss.id())),
        (12, "last_admin", Some(boss.id())),
        (13, "email_not_verified", Some(bob.id())),
        (14, "validation_failed", Some(id)),
        (15, "validation_failed", Some(id)),
    ];
    assert_eq!(seen, expected);
    let fields: Vec<Vec<(&str, &str)>> = results
        .iter()
        .filter_map(|result| result["errors"].as_array())
        .map(|errors| {
            let text = |error: &'_ Value, name: &str| error[name].as_str().unwrap().to_owned();
            errors
                .iter()
                .map(|error| {
                    (text(error, "field").leak() as &str, text(error, "code").leak() as &str)
                })
                .collect()
        })
        .collect();
    assert_eq!(
        fields,
        [
            vec![("op", "invalid_choice")],
            vec![("role", "required")],
            vec![("reason", "required"), ("until", "invalid_format")],
            vec![("public_id", "required")],
            vec![("until", "out_of_range")],
            vec![("note", "invalid_characters")],
        ]
    );
    assert_eq!(role_of(&ada).await, "staff");
}

#[tokio::test]
async fn what_is_no_body_of_lines_is_refused_whole() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let line = lines(&[json!({ "op": "role", "public_id": ada.id(), "role": "staff" })]);
    for media_type in ["application/json", "text/plain", "application/x-ndjson; charset=latin1", ""]
    {
        let call = boss.call(Method::POST, BULK).header("content-type", media_type);
        call.body(line.clone()).send().await.assert_error(415, "unsupported_media_type");
    }
    let call_without = boss.call(Method::POST, BULK).body(line.clone());
    call_without.send().await.assert_error(415, "unsupported_media_type");
    let packed = call(&boss, line.clone()).header("content-encoding", "gzip");
    packed.send().await.assert_error(415, "unsupported_media_type");
    let many = call(&boss, line.repeat(501)).send().await;
    many.assert_error(413, "payload_too_large");
    let blank = call(&boss, line.clone() + &"\n".repeat(500)).send().await;
    blank.assert_error(413, "payload_too_large");
    let large = call(&boss, line.clone() + &" ".repeat(64 * 1024)).send().await;
    large.assert_error(413, "payload_too_large");
    assert_eq!(role_of(&ada).await, "user");

    let type_in_full = boss.call(Method::POST, BULK);
    let type_in_full = type_in_full.header("content-type", "Application/X-NDJSON; charset=UTF-8");
    assert_eq!(codes(&results(&type_in_full.body(line.clone()).send().await)), [""]);
    assert_eq!(results(&call(&boss, "").send().await), Vec::<Value>::new());
    let all = results(&call(&boss, "{}\n".repeat(500)).send().await);
    assert_eq!((all.len(), all[499]["line"].as_u64()), (500, Some(500)));
}

#[tokio::test]
async fn it_is_an_admins_alone_with_a_fresh_proof() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (sam, ada) = (staff(&app, &boss).await, app.user("ada").await);
    let line = lines(&[json!({ "op": "role", "public_id": ada.id(), "role": "staff" })]);
    app.clock.advance(TimeDelta::minutes(15));
    call(&app.anonymous(), line.clone()).send().await.assert_error(401, "token_missing");
    for person in [&sam, &ada] {
        call(person, line.clone()).send().await.assert_error(403, "forbidden");
    }
    call(&boss, line.clone()).send().await.assert_error(401, "step_up_required");
    boss.post("/api/v1/step_up", &json!({ "password": PASSWORD })).await.assert_ok(200);
    assert_eq!(codes(&results(&call(&boss, line).send().await)), [""]);
}

#[tokio::test]
async fn an_admin_who_is_none_any_more_half_way_does_no_more() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (eve, ada) = (app.admin_called("eve").await, app.user("ada").await);
    let role = |person: &Person, role: &str| json!({ "op": "role", "public_id": person.id(), "role": role });
    let ban = json!({ "op": "ban", "public_id": ada.id(), "reason": "x" });
    let all = [role(&ada, "staff"), role(&eve, "staff"), role(&ada, "user"), ban];
    assert_eq!(codes(&bulk(&eve, &all).await), ["", "", "forbidden", "forbidden"]);
    assert_eq!(role_of(&ada).await, "staff");
    // One's own goes on, as it does with the call for one.
    let other = app.log_in("boss", PASSWORD).await;
    let end = json!({ "op": "end_sessions", "public_id": boss.id() });
    let ended = bulk(&boss, &[role(&ada, "user"), end, role(&ada, "staff")]).await;
    assert_eq!(codes(&ended), ["", "", ""]);
    assert_eq!(role_of(&ada).await, "staff");
    other.get("/api/v1/users/me").await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn a_line_is_answered_when_it_is_done_and_after_a_hang_up_no_other_is_begun() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "cid"] {
        people.push(app.user(name).await);
    }
    let ban = |person: &Person| json!({ "op": "ban", "public_id": person.id(), "reason": "x" });
    let all: Vec<Value> = people.iter().map(ban).collect();
    let mut hold = app.pool.begin().await.unwrap();
    let sql = "select from users where username = 'bob' for update";
    sqlx::query(sql).execute(&mut *hold).await.unwrap();
    let mut body = call(&boss, lines(&all)).begin().await;
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let first: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(first["public_id"], people[0].id());
    {
        // The second one is begun, and waits.
        let second = body.frame();
        tokio::select! {
            _ = second => panic!("it waits"),
            () = lock_waits(&app.pool, 1) => {}
        }
    }
    drop(body);
    hold.rollback().await.unwrap();
    let is_banned = async |person: &Person| {
        !boss.get(&path(person)).await.assert_ok(200)["user"]["banned"].is_null()
    };
    eventually("what was begun is done", async || is_banned(&people[1]).await).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!is_banned(&people[2]).await, "and nothing after it");
}

#[tokio::test]
async fn five_hundred_lines_are_done_one_after_the_other() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let role = |role: &str| json!({ "op": "role", "public_id": ada.id(), "role": role });
    let all: Vec<Value> =
        (0..500).map(|number| role(if number % 2 == 0 { "staff" } else { "user" })).collect();
    let results = bulk(&boss, &all).await;
    assert!(results.iter().all(|result| result["success"] == true));
    let lines: Vec<u64> = results.iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (1..=500).collect::<Vec<_>>());
    let changes: i64 =
        sqlx::query_scalar("select count(*) from audit_log where event = 'role_changed'")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(changes, 500);
    assert_eq!(app.log_in("ada", PASSWORD).await.user["email"], email_of("ada"));
}
