//! Where one is logged in: seen, and ended from elsewhere.

use axum::http::Method;
use chrono::TimeDelta;
use doorward::store::session_list;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::at_once;

const ME: &str = "/api/v1/users/me";
const OWN: &str = "/api/v1/users/me/sessions";

/// Logs in from an address with a program.
async fn log_in_from(app: &TestApp, name: &str, ip: &str, agent: &str) -> Person {
    let body = json!({ "username": name, "password": PASSWORD });
    let call = app.anonymous().call(Method::POST, "/api/v1/login").from(ip);
    let answer = call.header("user-agent", agent).json(&body).send().await;
    let pair = answer.assert_ok(200);
    Person {
        app: app.clone(),
        access: Some(pair["token"].as_str().unwrap().to_owned()),
        refresh: Some(pair["refresh_token"].as_str().unwrap().to_owned()),
        user: pair["user"].clone(),
    }
}

/// The session of a person's tokens.
fn sid(person: &Person) -> String {
    let (_, claims) = crate::harness::forge::read(person.access_token());
    claims["sid"].as_str().unwrap().to_owned()
}

fn ids(answer: &Answer) -> Vec<String> {
    let sessions = answer.assert_ok(200)["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["public_id"].as_str().unwrap().to_owned()).collect()
}

async fn events(app: &TestApp) -> Vec<Value> {
    let sql = "select jsonb_build_object('user', user_id, 'actor', actor_id, 'details', details)
               from audit_log where event = 'sessions_ended' order by id";
    sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap()
}

#[tokio::test]
async fn a_person_sees_where_they_are_logged_in_the_newest_login_first() {
    let app = TestApp::start().await;
    let first = app.user("ada").await;
    let login = app.clock.now();
    app.clock.advance(TimeDelta::minutes(1));
    let firefox =
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let mut second = log_in_from(&app, "ada", "203.0.113.7", firefox).await;
    app.clock.advance(TimeDelta::minutes(1));
    second.refresh().await.assert_ok(200);
    let answer = second.get(OWN).await;
    assert_eq!(ids(&answer), [sid(&second), sid(&first)]);
    let [newest, oldest] = answer.json["sessions"].as_array().unwrap().as_slice() else {
        panic!("{}", answer.text)
    };
    let at = |minutes, days| {
        let at = login + TimeDelta::minutes(minutes) + TimeDelta::days(days);
        at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
    };
    let expected = json!({
        "public_id": sid(&second), "current": true, "device": "Firefox on Windows",
        "ip": "203.0.113.7", "created_at": at(1, 0), "last_used_at": at(2, 0),
        "expires_at": at(2, 30), "amr": ["pwd"],
    });
    assert_eq!(newest, &expected);
    assert_eq!(
        (&oldest["current"], &oldest["device"]),
        (&json!(false), &json!("an unknown device"))
    );
    assert_eq!(oldest["last_used_at"], oldest["created_at"]);
    assert_eq!(answer.json["next"], Value::Null);
    assert_eq!(first.get(OWN).await.json["sessions"][1]["current"], json!(true));
}

#[tokio::test]
async fn what_has_ended_or_run_out_is_not_shown_and_nobody_elses() {
    let app = TestApp::start().await;
    app.user("bob").await;
    let (out, kept) = (app.user("ada").await, app.log_in("ada", PASSWORD).await);
    out.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    assert_eq!(ids(&kept.get(OWN).await), [sid(&kept)]);
    app.clock.advance(TimeDelta::days(30));
    let new = app.log_in("ada", PASSWORD).await;
    let answer = new.get(&format!("{OWN}?limit=1")).await;
    assert_eq!(ids(&answer), [sid(&new)]);
    assert_eq!(answer.json["next"], Value::Null, "what ran out is no page");
}

#[tokio::test]
async fn sessions_come_page_by_page() {
    let app = TestApp::start().await;
    let mut expected = vec![sid(&app.user("ada").await)];
    for _ in 0..4 {
        expected.insert(0, sid(&app.log_in("ada", PASSWORD).await));
    }
    let ada = app.log_in("ada", PASSWORD).await;
    expected.insert(0, sid(&ada));
    let (mut found, mut query) = (Vec::new(), "?limit=2".to_owned());
    for page in 1..=3 {
        let answer = ada.get(&format!("{OWN}{query}")).await;
        let shown = ids(&answer);
        assert_eq!(shown.len(), 2);
        found.extend(shown);
        match answer.json["next"].as_str() {
            Some(next) => query = format!("?limit=2&after={next}"),
            None => assert_eq!(page, 3),
        }
        // A login meanwhile shifts nothing.
        app.log_in("ada", PASSWORD).await;
    }
    assert_eq!(found, expected);
    for (query, field, code) in [
        ("limit=0", "limit", "out_of_range"),
        ("limit=101", "limit", "out_of_range"),
        ("limit=x", "limit", "out_of_range"),
        ("after=nonsense", "after", "invalid_cursor"),
        ("before=x", "before", "unknown_parameter"),
    ] {
        ada.get(&format!("{OWN}?{query}")).await.assert_fields(&[(field, code)]);
    }
    ada.get(&format!("{OWN}?limit=1&limit=2")).await.assert_error(400, "malformed_request");
    assert_eq!(ids(&ada.get(&format!("{OWN}?limit=&after=")).await).len(), 9);
    app.anonymous().get(OWN).await.assert_error(401, "token_missing");
}

#[tokio::test]
async fn one_session_ends_from_another_one() {
    let app = TestApp::start().await;
    let (lost, ada) = (app.user("ada").await, app.log_in("ada", PASSWORD).await);
    let path = format!("{OWN}/{}", sid(&lost));
    lost.get(ME).await.assert_ok(200);
    ada.delete(&path).await.assert_ok(200);
    lost.get(ME).await.assert_error(401, "session_ended");
    lost.refresh_with(lost.refresh_token()).await.assert_error(401, "session_ended");
    assert_eq!(ids(&ada.get(OWN).await), [sid(&ada)]);
    ada.delete(&path).await.assert_error(404, "session_not_found");
    let details = json!({ "count": 1, "session_id": sid(&lost) });
    let event = json!({ "user": ada.id(), "actor": ada.id(), "details": details });
    assert_eq!(events(&app).await, [event]);
    // One's own is a logout.
    ada.delete(&format!("{OWN}/{}", sid(&ada))).await.assert_ok(200);
    ada.get(ME).await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn all_sessions_end_but_the_one_that_asks() {
    let app = TestApp::start().await;
    let bob = app.user("bob").await;
    let old = app.user("ada").await;
    let others = [app.log_in("ada", PASSWORD).await, app.log_in("ada", PASSWORD).await];
    // What has run out is no session that ends.
    sqlx::query("update sessions set expires_at = '2026-01-01' where id = $1::uuid")
        .bind(sid(&old))
        .execute(&app.pool)
        .await
        .unwrap();
    let ada = app.log_in("ada", PASSWORD).await;
    assert_eq!(ada.delete(OWN).await.assert_ok(200), &json!({ "success": true, "ended": 2 }));
    for other in &others {
        other.get(ME).await.assert_error(401, "session_ended");
    }
    ada.get(ME).await.assert_ok(200);
    bob.get(ME).await.assert_ok(200);
    assert_eq!(ada.delete(OWN).await.assert_ok(200)["ended"], 0);
    assert_eq!(events(&app).await.len(), 1, "nothing ended the second time");
}

#[tokio::test]
async fn another_persons_session_is_answered_as_none() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let told = async |id: &str| {
        let call = ada.call(Method::DELETE, &format!("{OWN}/{id}"));
        let answer = call.header("x-request-id", "the-same").send().await;
        answer.assert_error(404, "session_not_found");
        (answer.bytes, answer.headers.len())
    };
    let none = told(&Uuid::now_v7().to_string()).await;
    for id in [&*sid(&bob), "nonsense", "%00"] {
        assert_eq!(told(id).await, none, "{id}");
    }
    bob.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn to_end_a_session_asks_for_a_fresh_proof_and_to_see_them_does_not() {
    let app = TestApp::start().await;
    let (ada, other) = (app.user("ada").await, app.log_in("ada", PASSWORD).await);
    app.clock.advance(TimeDelta::minutes(15));
    ada.get(OWN).await.assert_ok(200);
    for path in [OWN.to_owned(), format!("{OWN}/{}", sid(&other))] {
        let refused = ada.delete(&path).await;
        refused.assert_error(401, "step_up_required");
        assert_eq!(refused.json["methods"], json!(["password"]));
        app.anonymous().delete(&path).await.assert_error(401, "token_missing");
    }
    other.get(ME).await.assert_ok(200);
    ada.post("/api/v1/step_up", &json!({ "password": PASSWORD })).await.assert_ok(200);
    ada.delete(OWN).await.assert_ok(200);
}

#[tokio::test]
async fn of_twenty_that_end_one_session_at_once_one_does_over_two_instances_too() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    let (lost, ada) = (apps[0].user("ada").await, apps[0].log_in("ada", PASSWORD).await);
    let path = format!("{OWN}/{}", sid(&lost));
    let answers = at_once(20, |number| {
        let ada = Person { app: apps[number % 2].clone(), ..ada.clone() };
        let path = path.clone();
        async move { ada.delete(&path).await }
    })
    .await;
    only_winner(&answers, 404, "session_not_found");
    assert_eq!(events(&apps[0]).await.len(), 1);
}

/// Two who end each other's session, and all of them: one is first, and the other has ended.
#[tokio::test]
async fn of_two_sessions_that_end_each_other_one_is_left() {
    let app = TestApp::start().await;
    app.user("ada").await;
    for _ in 0..5 {
        let pair = [app.log_in("ada", PASSWORD).await, app.log_in("ada", PASSWORD).await];
        let answers = at_once(2, |number| {
            let person = pair[number].clone();
            async move { person.delete(OWN).await }
        })
        .await;
        only_winner(&answers, 401, "session_ended");
    }
}

#[tokio::test]
async fn staff_see_a_users_sessions_without_addresses_and_end_none() {
    let app = TestApp::start().await;
    let (ada, bob, boss) = (app.user("ada").await, app.user("bob").await, app.admin().await);
    boss.put(&format!("/api/v1/users/{}?role=staff", bob.id()), &json!({})).await.assert_ok(200);
    let path = format!("/api/v1/users/{}/sessions", ada.id());
    let (seen, whole) = (bob.get(&path).await, boss.get(&path).await);
    assert_eq!((ids(&seen), ids(&whole)), (vec![sid(&ada)], vec![sid(&ada)]));
    assert!(seen.json["sessions"][0].get("ip").is_none(), "{}", seen.text);
    assert_eq!(whole.json["sessions"][0]["ip"], "127.0.0.1");
    assert_eq!(whole.json["sessions"][0]["current"], json!(false));
    let one = format!("{path}/{}", sid(&ada));
    for path in [&path, &one] {
        bob.delete(path).await.assert_error(403, "forbidden");
        ada.delete(path).await.assert_error(403, "forbidden");
        app.anonymous().delete(path).await.assert_error(401, "token_missing");
    }
    ada.get(&path).await.assert_error(403, "forbidden");
    app.anonymous().get(&path).await.assert_error(401, "token_missing");
    for id in [&*Uuid::now_v7().to_string(), "nobody"] {
        let path = format!("/api/v1/users/{id}/sessions");
        bob.get(&path).await.assert_error(404, "user_not_found");
        boss.delete(&path).await.assert_error(404, "user_not_found");
        boss.delete(&format!("{path}/{id}")).await.assert_error(404, "user_not_found");
    }
    bob.get(&format!("{path}?limit=0")).await.assert_fields(&[("limit", "out_of_range")]);
}

#[tokio::test]
async fn an_admin_ends_the_sessions_of_others_with_no_fresh_proof() {
    let app = TestApp::start().await;
    let (ada, boss) = (app.user("ada").await, app.admin().await);
    let more = [app.log_in("ada", PASSWORD).await, app.log_in("ada", PASSWORD).await];
    app.clock.advance(TimeDelta::minutes(20));
    let path = format!("/api/v1/users/{}/sessions", ada.id());
    boss.delete(&format!("{path}/{}", sid(&boss))).await.assert_error(404, "session_not_found");
    boss.delete(&format!("{path}/{}", sid(&ada))).await.assert_ok(200);
    ada.get(ME).await.assert_error(401, "session_ended");
    more[0].get(ME).await.assert_ok(200);
    assert_eq!(boss.delete(&path).await.assert_ok(200)["ended"], 2);
    for person in &more {
        person.get(ME).await.assert_error(401, "session_ended");
    }
    // Of one's own the one that asks goes on.
    let own = format!("/api/v1/users/{}/sessions", boss.id());
    assert_eq!(boss.delete(&own).await.assert_ok(200)["ended"], 0);
    let told = events(&app).await;
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|event| event["user"] == *ada.id() && event["actor"] == *boss.id()));
}

const MANY: i64 = 50_000;

/// Rows of sessions that this transaction has read.
async fn rows_read(db: &mut PgConnection) -> i64 {
    let sql = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables
               where relname = 'sessions'";
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

/// An account that logs in for each call, and one that never logs out.
#[tokio::test]
async fn a_page_of_fifty_thousand_sessions_costs_what_its_rows_cost() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    // Ada's are ended but for each hundredth; Bob's newest half has run out.
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ended_at)
        select (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-00000000000' || $2::int)::uuid, $1::uuid,
            now(), case when $2 and n > $3 / 2 then '2026-01-01'::timestamptz else '2027-01-01' end,
            'infinity', case when not $2 and n % 100 <> 0 then now() end
        from generate_series(1, $3) n";
    for (person, has_run_out) in [(&ada, false), (&bob, true)] {
        let query = sqlx::query(sql);
        query.bind(person.id()).bind(has_run_out).bind(MANY).execute(&app.pool).await.unwrap();
    }
    sqlx::query("vacuum analyze sessions").execute(&app.pool).await.unwrap();
    let mut tx = app.pool.begin().await.unwrap();
    for (person, shown, most) in [(&ada, 501, 60), (&bob, MANY / 2 + 1, 2_000)] {
        let id: Uuid = person.id().parse().unwrap();
        let (mut after, mut found, mut pages) = (None, 0, 0);
        loop {
            let before = rows_read(&mut tx).await;
            let page = session_list::list(&mut tx, id, after, 50, app.clock.now()).await.unwrap();
            let read = rows_read(&mut tx).await - before;
            assert!(read <= most, "page {pages} after {after:?}: {read} rows read");
            found += i64::try_from(page.0.len()).unwrap();
            pages += 1;
            after = page.1;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, shown, "{pages} pages");
    }
}
