//! What is left of an account that was removed: ids in the audit log, and nothing else.

use std::time::{Duration, Instant};

use axum::http::Method;
use chrono::TimeDelta;
use doorward::account::deletion::purge_some;
use doorward::mail::Mailer;
use doorward::worker;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::wait::eventually;
use crate::mail::worker::{count, with_mailer};

const ME: &str = "/api/v1/users/me";

/// What marks a person: no other row of a test has any of these.
const MARKS: [&str; 5] = ["zuleika", "dobson", "zd@example", "zdold@example", "zdnew@example"];

/// A person with every kind of row, who has had another address before, and asks for a third one.
async fn zuleika(app: &TestApp) -> Person {
    let body = json!({
        "username": "zuleika", "email": "zdold@example.com", "password": PASSWORD,
        "first_name": "Zuleika", "last_name": "Dobson",
    });
    app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
    let person = app.log_in("zuleika", PASSWORD).await;
    confirm(app, "zdold@example.com").await;
    for email in ["zd@example.com", "zdnew@example.com"] {
        app.clock.advance(TimeDelta::minutes(1));
        let change = json!({ "email": email, "password": PASSWORD });
        person.put(ME, &change).await.assert_ok(200);
        if email == "zd@example.com" {
            confirm(app, email).await;
        }
    }
    for email in ["ZD@example.com", "zdold@example.com"] {
        let forgot = json!({ "email": email });
        app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
    }
    let call = person.call(Method::PUT, ME).json(&json!({ "first_name": "Zuleika II" }));
    call.from("2001:db8::dead").header("user-agent", "zprogram/1").send().await.assert_ok(200);
    person
}

async fn confirm(app: &TestApp, email: &str) {
    let letters = app.deliver_mail().await;
    let letter = letters.iter().find(|letter| letter.to == email).unwrap();
    app.anonymous().get(&crate::harness::app::link_in(letter)).await.assert_ok(200);
}

/// Every row of every table, as text, that holds one of `marks`.
async fn rows_with(app: &TestApp, marks: &[&str]) -> Vec<String> {
    let tables = "select table_name::text from information_schema.tables
        where table_schema = 'public' and table_type = 'BASE TABLE'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&app.pool).await.unwrap();
    assert!(tables.len() >= 6, "{tables:?}");
    let mut found = Vec::new();
    for table in tables {
        let sql = format!("select '{table} ' || t::text from {table} t");
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&app.pool).await.unwrap();
        let is_marked = |row: &String| marks.iter().any(|mark| row.to_lowercase().contains(mark));
        found.extend(rows.into_iter().filter(is_marked));
    }
    found
}

/// The worker, with no way out for letters, until it is so.
async fn tidy_until(app: &TestApp, what: &str, is_so: impl AsyncFnMut() -> bool) {
    let (stop, stopped) = watch::channel(false);
    let work = tokio::spawn(worker::run(with_mailer(app, Mailer::Off), stopped));
    eventually(what, is_so).await;
    stop.send(true).unwrap();
    work.await.unwrap();
}

#[tokio::test]
async fn no_table_holds_a_name_or_an_address_of_an_account_that_was_removed() {
    let app = TestApp::start().await;
    app.user("bob").await;
    let zuleika = zuleika(&app).await;
    let call = zuleika.call(Method::DELETE, ME).header("x-request-id", "zuleika-1");
    let call = call.header("user-agent", "Dobson/1");
    call.send().await.assert_ok(202);
    // Letters of which some were sent, some wait, and some are for nobody.
    app.deliver_mail().await;
    let forgot = json!({ "email": "zd@example.com" });
    app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
    app.clock.advance(TimeDelta::days(30) - TimeDelta::milliseconds(1));
    app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
    let invited = "insert into invitations (id, email, role, first_name, last_name, invited_by,
            created_at, expires_at, accepted_at, challenge_id)
        select gen_random_uuid(), 'ZD@example.com', 'user', 'Zuleika', 'Dobson', id,
            now(), now(), now(), gen_random_uuid() from users where username = 'bob'";
    sqlx::query(invited).execute(&app.pool).await.unwrap();
    assert_eq!(purge_some(&app.state).await.unwrap(), 0, "not yet");
    let before = rows_with(&app, &MARKS).await;
    for table in ["users", "outbox", "challenges", "invitations", "audit_log"] {
        assert!(before.iter().any(|row| row.starts_with(table)), "{table}: {before:?}");
    }
    assert!(before.iter().any(|row| row.contains("zdold")), "{before:?}");
    let kept = "select count(*) from audit_log where user_id = $1::uuid";
    let kept = async || -> i64 {
        sqlx::query_scalar(kept).bind(zuleika.id()).fetch_one(&app.pool).await.unwrap()
    };
    let events = kept().await;

    app.clock.advance(TimeDelta::milliseconds(1));
    let gone = "select count(*) from users where username = 'zuleika'";
    tidy_until(&app, "the account is removed", async || count(&app, gone).await == 0).await;
    let marks = [&MARKS[..], &["2001:db8::dead", "zprogram"]].concat();
    assert_eq!(rows_with(&app, &marks).await, [""; 0]);
    // Its rows in the audit log have ids, times and events.
    assert_eq!(kept().await, events + 1);
    let told = "select count(*) from audit_log where user_id = $1::uuid
        and (num_nonnulls(ip, user_agent, request_id) > 0 or details <> '{}')";
    let told: i64 = sqlx::query_scalar(told).bind(zuleika.id()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(told, 0);
    let last = "select event from audit_log order by id desc limit 1";
    let last: String = sqlx::query_scalar(last).fetch_one(&app.pool).await.unwrap();
    assert_eq!(last, "purged");
    // What is others' is left alone, and the name is free.
    assert_eq!(rows_with(&app, &["bob@example"]).await.len(), 1, "the letter is old");
    app.log_in("bob", PASSWORD).await.get(ME).await.assert_ok(200);
    let again = json!({ "username": "zuleika", "email": "zd@example.com", "password": PASSWORD });
    app.anonymous().post("/api/v1/users", &again).await.assert_ok(201);
}

/// Somebody registered with the address that the account had before.
#[tokio::test]
async fn a_letter_to_who_has_an_earlier_address_by_now_is_left_alone() {
    let app = TestApp::start().await;
    let zuleika = zuleika(&app).await;
    app.deliver_mail().await;
    let body = json!({ "username": "max", "email": "zdold@example.com", "password": PASSWORD });
    app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
    app.deliver_mail().await;
    let forgot = json!({ "email": "zdold@example.com" });
    app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
    zuleika.delete(ME).await.assert_ok(202);
    let sql = "update users set purge_at = deleted_at where deleted_at is not null";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    assert!(purge_some(&app.state).await.unwrap() > 0);
    let letter = app.letter_to("zdold@example.com").await;
    let link = crate::harness::app::link_in(&letter);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(rows_with(&app, &["dobson", "zd@example", "zdnew@example"]).await, [""; 0]);
}

#[tokio::test]
async fn what_an_admin_removes_leaves_no_more_whether_its_owner_had_deleted_it_or_not() {
    for by_owner_before in [false, true] {
        let app = TestApp::start().await;
        let boss = app.admin().await;
        let zuleika = zuleika(&app).await;
        app.deliver_mail().await;
        if by_owner_before {
            zuleika.delete(ME).await.assert_ok(202);
        }
        let forgot = json!({ "email": "zd@example.com" });
        app.anonymous().post("/api/v1/password/forgot", &forgot).await.assert_ok(202);
        let user = format!("/api/v1/users/{}", zuleika.id());
        boss.delete(&user).await.assert_ok(200);
        assert_eq!(rows_with(&app, &MARKS).await, [""; 0], "{by_owner_before}");
        boss.delete(&user).await.assert_error(404, "user_not_found");
        let refused = app.anonymous().log_in("zuleika", PASSWORD).await;
        refused.assert_error(401, "invalid_credentials");
        let sql = "select event from audit_log where user_id = $1::uuid order by id desc limit 2";
        let events: Vec<String> =
            sqlx::query_scalar(sql).bind(zuleika.id()).fetch_all(&app.pool).await.unwrap();
        assert!(events.contains(&"user_deleted".to_owned()), "{events:?}");
        assert_eq!(events[0] == "purged", by_owner_before);
    }
}

#[tokio::test]
async fn what_an_admin_did_to_others_stays_without_where_it_was_done_from() {
    let app = TestApp::start().await;
    let (boss, deputy) = (app.admin().await, app.admin_called("deputy").await);
    let ada = app.user("ada").await;
    for admin in [&boss, &deputy] {
        let role = if admin.id() == boss.id() { "staff" } else { "user" };
        let path = format!("/api/v1/users/{}?role={role}", ada.id());
        let call = admin.call(Method::PUT, &path).from("2001:db8::dead");
        call.header("user-agent", "Admin/1").send().await.assert_ok(200);
    }
    deputy.delete(ME).await.assert_ok(202);
    app.clock.advance(TimeDelta::days(30));
    while purge_some(&app.state).await.unwrap() > 0 {}
    let sql = "select num_nonnulls(ip, user_agent), details ->> 'to' from audit_log
        where event = 'role_changed' and user_id = $1::uuid order by id";
    let rows: Vec<(i32, String)> =
        sqlx::query_as(sql).bind(ada.id()).fetch_all(&app.pool).await.unwrap();
    assert_eq!(rows, [(2, "staff".to_owned()), (0, "user".to_owned())]);
}

/// 50,000 sessions and as many events: other people's calls go on meanwhile.
#[tokio::test]
async fn a_large_account_goes_in_batches_and_holds_nobody_up() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    app.newcomer("bob").await;
    fill(&app, &ada, 50_000).await;
    ada.delete(ME).await.assert_ok(202);
    app.clock.advance(TimeDelta::days(30));
    let mut bob = app.log_in("bob", PASSWORD).await;
    let state = app.state.clone();
    let removing = tokio::spawn(async move {
        let (mut batches, mut longest, mut most) = (0, Duration::ZERO, 0);
        loop {
            let begun = Instant::now();
            let rows = purge_some(&state).await.unwrap();
            if rows == 0 {
                return (batches, longest, most);
            }
            longest = longest.max(begun.elapsed());
            (batches, most) = (batches + 1, most.max(rows));
        }
    });
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    while !removing.is_finished() {
        let begun = Instant::now();
        bob.refresh().await.assert_ok(200);
        app.log_in("bob", PASSWORD).await;
        slowest = slowest.max(begun.elapsed());
        calls += 1;
        app.clock.advance(TimeDelta::seconds(2));
    }
    let (batches, longest, most) = removing.await.unwrap();
    println!("{batches} batches, the longest {longest:?}; {calls} rounds, the slowest {slowest:?}");
    assert!(batches >= 100 && most <= 1_020, "{batches} {most}");
    assert!(calls > 5 && slowest < Duration::from_secs(2), "{calls} {slowest:?}");
    assert_eq!(count(&app, "select count(*) from users where username = 'ada'").await, 0);
    let left = "select count(*) from audit_log where ip = '2001:db8::1'";
    assert_eq!(count(&app, left).await, 0);
}

#[tokio::test]
async fn a_removal_that_was_cut_off_goes_on_and_two_workers_share_it() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    let mut people = Vec::new();
    for name in ["ada", "eve", "kim"] {
        let person = apps[0].user(name).await;
        fill(&apps[0], &person, 3_000).await;
        person.delete(ME).await.assert_ok(202);
        people.push(person);
    }
    apps[0].clock.advance(TimeDelta::days(30));
    apps[1].clock.advance(TimeDelta::days(30));
    purge_some(&apps[0].state).await.unwrap();
    let sql = "select count(*) from users where username in ('ada', 'eve', 'kim')";
    assert_eq!(count(&apps[0], sql).await, 3, "the user's own row goes last");
    // Nobody gets in, nor gets the name, while it is under way.
    let refused = apps[0].anonymous().log_in("ada", PASSWORD).await;
    refused.assert_error(401, "invalid_credentials");
    let body = json!({ "username": "ada", "email": email_of("other"), "password": PASSWORD });
    apps[0].anonymous().post("/api/v1/users", &body).await.assert_error(409, "username_taken");
    let work = |app: &TestApp| {
        let state = app.state.clone();
        tokio::spawn(async move { while purge_some(&state).await.unwrap() > 0 {} })
    };
    for task in [work(&apps[0]), work(&apps[1])] {
        task.await.unwrap();
    }
    // Of two that work at once one may find nothing that the other is not at.
    while purge_some(&apps[0].state).await.unwrap() > 0 {}
    assert_eq!(count(&apps[0], sql).await, 0);
    let purged: Vec<Value> = sqlx::query_scalar(
        "select jsonb_agg(user_id order by user_id) from audit_log where event = 'purged'",
    )
    .fetch_all(&apps[0].pool)
    .await
    .unwrap();
    let mut expected: Vec<&str> = people.iter().map(Person::id).collect();
    expected.sort_unstable();
    assert_eq!(purged, [json!(expected)], "each once");
}

async fn fill(app: &TestApp, person: &Person, rows: i32) {
    let sessions = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip)
        select gen_random_uuid(), $1::uuid, now(), 'infinity', 'infinity', '2001:db8::1'
        from generate_series(1, $2)";
    let events = "insert into audit_log (at, event, user_id, actor_id, ip, details, minute)
        select now(), 'login', $1::uuid, $1::uuid, '2001:db8::1', '{}',
            timestamptz '2026-01-01' + n * interval '1 minute'
        from generate_series(1, $2) n";
    for sql in [sessions, events] {
        sqlx::query(sql).bind(person.id()).bind(rows).execute(&app.pool).await.unwrap();
    }
}

/// Whoever types an address makes nothing of what is another person's.
#[tokio::test]
async fn an_invitation_that_is_good_outlives_who_typed_its_address() {
    let app = TestApp::with(&[("DELETION_DAYS", "0")]).await;
    let boss = app.admin().await;
    let squatter = app.newcomer("bob").await;
    let email = json!({ "email": email_of("bob") });
    boss.post("/api/v1/admin/invitations", &email).await.assert_ok(201);
    squatter.delete(ME).await.assert_ok(202);
    let letters = app.deliver_mail().await;
    let invited =
        letters.iter().find(|letter| letter.text.contains("/invitations?token=")).unwrap();
    let link = crate::harness::app::link_in(invited);
    app.anonymous().get(&link).await.assert_ok(200);
}
