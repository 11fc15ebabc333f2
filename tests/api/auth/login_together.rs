//! `POST /login` by several at once: they share statements, and nothing else.

use std::time::Duration;

use chrono::TimeDelta;
use doorward::store::logins::{LoginLookup, NewSession};
use doorward::store::users::User;
use futures_util::future::join_all;
use tokio::time::timeout;
use uuid::Uuid;

use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

const NAMES: [&str; 6] = ["ada", "bob", "cid", "dan", "eve", "fay"];

async fn people(app: &TestApp) -> Vec<(Uuid, String)> {
    for name in NAMES {
        app.newcomer(name).await;
    }
    let sql = "select id, password_hash from users order by username";
    sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap()
}

fn session(app: &TestApp, user_id: Uuid, password_hash: &str) -> NewSession {
    let now = app.clock.now();
    NewSession {
        device_hash: None,
        id: Uuid::now_v7(),
        user_id,
        password_hash: Some(password_hash.into()),
        created_at: now,
        expires_at: now + TimeDelta::days(30),
        ends_at: now + TimeDelta::days(90),
        ip: "198.51.100.7".parse().ok(),
        user_agent: Some(format!("of {user_id}")),
        request_id: None,
        counted: Vec::new(),
    }
}

async fn number(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_at_once_is_answered_as_if_alone() {
    let app = TestApp::start().await;
    people(&app).await;
    let answers = at_once(120, |number| {
        let (person, name) = (app.anonymous(), NAMES[number % 6]);
        async move {
            match number % 4 {
                0 => (name, person.log_in(name, PASSWORD).await),
                1 => (name, person.log_in(&email_of(name).to_uppercase(), PASSWORD).await),
                2 => ("", person.log_in(name, "a wrong one").await),
                _ => ("", person.log_in(&format!("nobody{number}"), PASSWORD).await),
            }
        }
    })
    .await;
    let mut tokens = Vec::new();
    for (name, answer) in answers {
        if name.is_empty() {
            answer.assert_error(401, "invalid_credentials");
            continue;
        }
        assert_eq!(answer.assert_ok(200)["user"]["username"], name);
        let mut person = app.anonymous();
        person.access = answer.json["token"].as_str().map(str::to_owned);
        assert_eq!(person.get("/api/v1/users/me").await.assert_ok(200)["user"]["username"], name);
        tokens.push(person.access);
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 60);
    assert_eq!(number(&app, "select count(*) from sessions").await, 6 + 60);
    // One row for each of them from this address, in this minute.
    let recorded = "select count(*) * 1000 + sum(count)::bigint from audit_log a
                    join sessions s on s.id = a.session_id and s.user_id = a.user_id
                    where event = 'login' and a.ip = '127.0.0.1'";
    assert_eq!(number(&app, recorded).await, 6_000 + 6 + 60);
}

#[tokio::test]
async fn those_who_open_sessions_together_get_their_own_whoever_else_is_among_them() {
    let app = TestApp::start().await;
    let people = people(&app).await;
    let mut sessions: Vec<NewSession> =
        people.iter().map(|(id, hash)| session(&app, *id, hash)).collect();
    // The same person twice, one whose hash has changed meanwhile, one who is gone, and one that
    // was opened before.
    sessions.push(session(&app, people[0].0, &people[0].1));
    sessions.push(session(&app, people[1].0, "another hash"));
    sessions.push(session(&app, Uuid::now_v7(), &people[1].1));
    let before = session(&app, people[2].0, &people[2].1);
    assert!(app.state.logins.open(before.clone()).await.unwrap().is_some());
    sessions.push(before);
    let opening = sessions.iter().map(|session| app.state.logins.open(session.clone()));
    let opened = join_all(opening).await;
    for (number, (session, user)) in sessions.iter().zip(opened).enumerate() {
        let id = user.unwrap().map(|user| user.id);
        let is_refused = [7, 8].contains(&number);
        assert_eq!(id, (!is_refused).then_some(session.user_id), "{number}");
    }
    let of_their_own = "select count(*) from sessions where user_agent = 'of ' || user_id::text
                        and ip = '198.51.100.7' and ends_at - created_at = interval '90 days'";
    assert_eq!(number(&app, of_their_own).await, 8);
    let logins = "select sum(count)::bigint from audit_log where event = 'login'";
    assert_eq!(number(&app, logins).await, 6 + 8);
    let statements = "select count(distinct xmin::text) from sessions where user_agent like 'of %'";
    assert_eq!(number(&app, statements).await, 2, "the one before, and all others together");
}

#[tokio::test]
async fn those_who_are_looked_up_together_are_found_as_if_alone() {
    let app = TestApp::start().await;
    let people = people(&app).await;
    let ids = |found: Vec<sqlx::Result<(Option<User>, bool)>>| -> Vec<Option<Uuid>> {
        found.into_iter().map(|found| found.unwrap().0.map(|user| user.id)).collect()
    };
    let find = |login: &str| {
        let (state, login) = (app.state.clone(), login.to_owned());
        let lookup = LoginLookup { login: login.to_lowercase(), address: None, device: None };
        async move { state.logins.find(lookup).await }
    };
    let fay = email_of("FAY");
    let asked = ["bob", "ADA", "nobody", &fay, "bob", "", "eve"];
    let expected = [Some(1), Some(0), None, Some(5), Some(1), None, Some(4)];
    let expected = expected.map(|number: Option<usize>| number.map(|number| people[number].0));
    assert_eq!(ids(join_all(asked.map(find)).await), expected);

    // What only one of them asks for, PostgreSQL refuses: text cannot hold U+0000.
    let mut found = join_all(asked.into_iter().chain(["nul\0"]).map(find)).await;
    assert!(found.pop().unwrap().is_err());
    assert_eq!(ids(found), expected);

    // A name that the service lets nobody have, and that the database lets an operator give: two
    // are found for it.
    let sql = "update users set username = 'fay@example.com' where username = 'cid'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    let found = ids(join_all(asked.map(find)).await);
    assert!([people[2].0, people[5].0].map(Some).contains(&found[3]));
    assert_eq!((&found[..3], &found[4..]), (&expected[..3], &expected[4..]));
}

#[tokio::test]
async fn a_user_who_is_being_changed_keeps_nobody_else_waiting() {
    let app = TestApp::start().await;
    let people = people(&app).await;
    let mut held = app.pool.begin().await.unwrap();
    let lock = "select from users where username = 'ada' for update";
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    let open = |(id, hash): &(Uuid, String)| {
        let (state, session) = (app.state.clone(), session(&app, *id, hash));
        tokio::spawn(async move { state.logins.open(session).await.unwrap().is_some() })
    };
    let mut opening: Vec<_> = people.iter().map(open).collect();
    let others = timeout(Duration::from_secs(2), join_all(opening.drain(1..)));
    for opened in others.await.expect("nobody holds the others' rows") {
        assert!(opened.unwrap());
    }
    lock_waits(&app.pool, 1).await;
    assert!(!opening[0].is_finished());
    sqlx::query("update users set first_name = 'Ada' where username = 'ada'")
        .execute(&mut *held)
        .await
        .unwrap();
    held.commit().await.unwrap();
    assert!(opening.remove(0).await.unwrap(), "the password is the same");
}

#[tokio::test]
async fn a_password_that_is_being_changed_is_waited_for_and_opens_nothing() {
    let app = TestApp::start().await;
    let people = people(&app).await;
    let mut held = app.pool.begin().await.unwrap();
    let change = "update users set password_hash = 'new' where username in ('ada', 'bob')";
    sqlx::query(change).execute(&mut *held).await.unwrap();
    let opening = people.iter().map(|(id, hash)| app.state.logins.open(session(&app, *id, hash)));
    let commit_once_both_wait = async {
        lock_waits(&app.pool, 2).await;
        held.commit().await.unwrap();
    };
    let (opened, ()) = tokio::join!(join_all(opening), commit_once_both_wait);
    let opened: Vec<bool> = opened.into_iter().map(|opened| opened.unwrap().is_some()).collect();
    assert_eq!(opened, [false, false, true, true, true, true]);
    assert_eq!(number(&app, "select count(*) from sessions").await, 6 + 4);
}

#[tokio::test]
async fn what_was_counted_for_each_is_given_back_once_for_each() {
    let app = TestApp::start().await;
    let people = people(&app).await;
    let sql = "insert into limits select key, 5, $1, true, $1 from unnest($2::bytea[]) key";
    let key = |number: u8| vec![number; 16];
    let keys: Vec<Vec<u8>> = (1..=4).map(key).collect();
    sqlx::query(sql).bind(app.clock.now()).bind(&keys).execute(&app.pool).await.unwrap();
    // All share the first; the second and third stand for accounts; the fourth is nobody's.
    let counted = [vec![key(1), key(2)], vec![key(3), key(1)], vec![key(1), key(9)]];
    let mut sessions: Vec<NewSession> = people
        .iter()
        .zip(counted)
        .map(|((id, hash), counted)| NewSession { counted, ..session(&app, *id, hash) })
        .collect();
    // What was counted for a wrong password stays counted.
    let refused = session(&app, people[3].0, "another hash");
    sessions.push(NewSession { counted: vec![key(1), key(4)], ..refused });
    for _ in 0..2 {
        // The second time is a repetition: it changes nothing.
        join_all(sessions.iter().map(|session| app.state.logins.open(session.clone()))).await;
        let sql = "select level from limits order by key";
        let levels: Vec<f64> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
        assert_eq!(levels, [2.0, 4.0, 4.0, 5.0]);
    }
}
