//! `POST /logout`: this session or all of them, by either token.

use std::time::{Duration, Instant};

use axum::http::Method;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

const PATH: &str = "/api/v1/logout";
const EVERYWHERE: &str = "/api/v1/logout?everywhere=true";

/// A logout with exactly these headers.
async fn log_out_by(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Answer {
    let call = app.anonymous().call(Method::POST, path);
    headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
}

async fn assert_in(person: &Person) {
    person.get("/api/v1/users/me").await.assert_ok(200);
    person.clone().refresh().await.assert_ok(200);
}

async fn assert_out(person: &Person) {
    person.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    person.clone().refresh().await.assert_error(401, "session_ended");
}

/// Three sessions of Ada's, and one of Bob's.
async fn people(app: &TestApp) -> (Person, [Person; 2], Person) {
    let ada = app.newcomer("ada").await;
    let others = [app.log_in("ada", PASSWORD).await, app.log_in("ada", PASSWORD).await];
    (ada, others, app.newcomer("bob").await)
}

#[tokio::test]
async fn a_logout_by_the_access_token_ends_this_session_alone() {
    let app = TestApp::start().await;
    let (ada, others, bob) = people(&app).await;
    let answer = log_out_by(&app, PATH, &[("x-access-token", ada.access_token())]).await;
    assert_eq!(*answer.assert_ok(200), json!({ "success": true, "message": "Logged out." }));
    assert_out(&ada).await;
    for person in [&others[0], &others[1], &bob] {
        assert_in(person).await;
    }
    let bearer = format!("Bearer {}", bob.access_token());
    log_out_by(&app, "/api/v1/logout/", &[("authorization", &bearer)]).await.assert_ok(200);
    assert_out(&bob).await;
    let sql = "select event, user_id = actor_id, session_id is not null from audit_log
               where event like 'logout%' order by id";
    let rows: Vec<(String, bool, bool)> = sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
    assert_eq!(rows, vec![("logout".to_owned(), true, true); 2]);
}

#[tokio::test]
async fn a_logout_by_the_refresh_token_needs_no_living_access_token() {
    let app = TestApp::start().await;
    let (ada, others, bob) = people(&app).await;
    app.clock.advance(TimeDelta::minutes(31));
    let expired = log_out_by(&app, PATH, &[("x-access-token", ada.access_token())]).await;
    expired.assert_error(401, "token_expired");
    log_out_by(&app, PATH, &[("x-refresh-token", ada.refresh_token())]).await.assert_ok(200);
    ada.clone().refresh().await.assert_error(401, "session_ended");
    // Both, of which one is over its time.
    let both = [
        ("x-access-token", others[0].access_token()),
        ("x-refresh-token", others[0].refresh_token()),
    ];
    log_out_by(&app, PATH, &both).await.assert_ok(200);
    others[0].clone().refresh().await.assert_error(401, "session_ended");
    for person in [&others[1], &bob] {
        person.clone().refresh().await.assert_ok(200);
    }
}

#[tokio::test]
async fn an_older_refresh_token_logs_out_too() {
    let app = TestApp::start().await;
    let (ada, others, _) = people(&app).await;
    let mut now = ada.clone();
    for _ in 0..3 {
        now.refresh().await.assert_ok(200);
    }
    app.clock.advance(TimeDelta::minutes(1));
    // Whoever wants out gets out: this is no use of a token that could be worth anything to a
    // thief.
    log_out_by(&app, PATH, &[("x-refresh-token", ada.refresh_token())]).await.assert_ok(200);
    assert_out(&now).await;
    assert_in(&others[0]).await;
}

#[tokio::test]
async fn a_logout_everywhere_ends_every_session_of_this_user() {
    for by_refresh in [false, true] {
        let app = TestApp::start().await;
        let (ada, others, bob) = people(&app).await;
        let header = if by_refresh {
            ("x-refresh-token", ada.refresh_token())
        } else {
            ("x-access-token", ada.access_token())
        };
        let answer = log_out_by(&app, EVERYWHERE, &[header]).await;
        let expected = json!({ "success": true, "message": "Logged out everywhere." });
        assert_eq!(*answer.assert_ok(200), expected);
        for person in [&ada, &others[0], &others[1]] {
            assert_out(person).await;
        }
        assert_in(&bob).await;
        // A new login is a new session.
        assert_in(&app.log_in("ada", PASSWORD).await).await;
    }
}

#[tokio::test]
async fn everywhere_is_yes_or_no() {
    let app = TestApp::start().await;
    let (ada, others, _) = people(&app).await;
    for (odd, code) in [
        ("maybe", "invalid_choice"),
        ("", "invalid_choice"),
        ("yes", "invalid_choice"),
        ("2", "invalid_choice"),
        ("%00", "invalid_characters"),
    ] {
        let path = format!("{PATH}?everywhere={odd}");
        let answer = log_out_by(&app, &path, &[("x-access-token", ada.access_token())]).await;
        answer.assert_fields(&[("everywhere", code)]);
    }
    let twice = format!("{PATH}?everywhere=true&everywhere=false");
    let answer = log_out_by(&app, &twice, &[("x-access-token", ada.access_token())]).await;
    answer.assert_error(400, "malformed_request");
    assert_in(&ada).await;
    for (person, no) in [(&ada, "false"), (&others[0], "0")] {
        let path = format!("{PATH}?everywhere={no}&unknown=x");
        let answer = log_out_by(&app, &path, &[("x-access-token", person.access_token())]).await;
        assert_eq!(answer.assert_ok(200)["message"], "Logged out.");
    }
    assert_in(&others[1]).await;
    let path = format!("{PATH}?everywhere=1");
    let answer = log_out_by(&app, &path, &[("x-access-token", others[1].access_token())]).await;
    assert_eq!(answer.assert_ok(200)["message"], "Logged out everywhere.");
}

#[tokio::test]
async fn a_session_ends_once() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (ada, others, bob) = people(&app).await;
    log_out_by(&app, PATH, &[("x-access-token", ada.access_token())]).await.assert_ok(200);
    for path in [PATH, EVERYWHERE] {
        for header in
            [("x-access-token", ada.access_token()), ("x-refresh-token", ada.refresh_token())]
        {
            log_out_by(&app, path, &[header]).await.assert_error(401, "session_ended");
        }
    }
    // The token of an ended session ends no other.
    assert_in(&others[0]).await;
    boss.delete(&format!("/api/v1/users/{}", bob.id())).await.assert_ok(200);
    let gone = log_out_by(&app, PATH, &[("x-access-token", bob.access_token())]).await;
    gone.assert_error(401, "session_ended");
    app.clock.advance(TimeDelta::days(30));
    let late = log_out_by(&app, PATH, &[("x-refresh-token", others[0].refresh_token())]).await;
    late.assert_error(401, "refresh_token_expired");
}

#[tokio::test]
async fn whoever_has_no_good_token_logs_nobody_out() {
    let app = TestApp::start().await;
    let (ada, others, bob) = people(&app).await;
    let letter = app.letter_to("ada@example.com").await;
    let link = link_in(&letter).split_once("token=").unwrap().1.to_owned();
    let (access, refresh) = (ada.access_token(), ada.refresh_token());
    let bearer = format!("Bearer {}", bob.access_token());
    for (status, code, headers) in [
        (401, "token_missing", &[][..]),
        (401, "token_missing", &[("x-access-token", ""), ("x-refresh-token", "")]),
        (401, "token_missing", &[("authorization", "Basic YWRhOng=")]),
        (401, "token_invalid", &[("x-access-token", refresh)]),
        (401, "token_invalid", &[("x-access-token", &link)]),
        (401, "refresh_token_invalid", &[("x-refresh-token", access)]),
        (401, "refresh_token_invalid", &[("x-refresh-token", &link)]),
        (401, "refresh_token_invalid", &[("x-refresh-token", "x"), ("x-access-token", access)]),
        (
            401,
            "token_mismatch",
            &[("x-access-token", others[0].access_token()), ("x-refresh-token", refresh)],
        ),
        (401, "token_mismatch", &[("authorization", &bearer), ("x-refresh-token", refresh)]),
        (400, "malformed_request", &[("x-access-token", access), ("x-access-token", access)]),
        (400, "malformed_request", &[("x-refresh-token", refresh), ("x-refresh-token", refresh)]),
        (400, "malformed_request", &[("authorization", &bearer), ("x-access-token", access)]),
        (401, "token_invalid", &[("authorization", &bearer), ("x-access-token", "x")]),
        (401, "token_missing", &[("x-access-token", "undefined"), ("x-refresh-token", "null")]),
    ] {
        for path in [PATH, EVERYWHERE] {
            log_out_by(&app, path, headers).await.assert_error(status, code);
        }
    }
    for person in [&ada, &others[0], &others[1], &bob] {
        assert_in(person).await;
    }
    let answer = ada.get(PATH).await;
    answer.assert_error(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_20_logouts_at_once_one_ends_the_session() {
    let app = TestApp::start().await;
    let (ada, others, _) = people(&app).await;
    let codes = at_once(20, |_| {
        let ada = ada.clone();
        async move { ada.post(PATH, &json!({})).await.status.as_u16() }
    })
    .await;
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 401).count(), 19, "{codes:?}");
    assert_out(&ada).await;
    assert_in(&others[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_all_log_out_everywhere_at_once_do_not_wait_for_each_other() {
    let app = TestApp::start().await;
    let mut people = vec![app.newcomer("ada").await];
    for _ in 1..20 {
        people.push(app.log_in("ada", PASSWORD).await);
    }
    for round in 0..5 {
        let answers = at_once(people.len(), |number| {
            let person = people[number].clone();
            async move { person.post(EVERYWHERE, &json!({})).await }
        })
        .await;
        // Whoever comes later finds their session ended: nothing else may have happened to them.
        let first = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(first, 1, "round {round}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.assert_error(401, "session_ended");
        }
        for person in &mut people {
            assert_out(person).await;
            *person = app.log_in("ada", PASSWORD).await;
        }
    }
}

/// Else whoever logged out once could make every connection wait for their row, again and again.
#[tokio::test]
async fn the_tokens_of_a_session_that_is_over_wait_for_nobody() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    log_out_by(&app, PATH, &[("x-access-token", ada.access_token())]).await.assert_ok(200);
    let mut hold = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *hold).await.unwrap();
    let asked = Instant::now();
    for token in [("x-access-token", ada.access_token()), ("x-refresh-token", ada.refresh_token())]
    {
        log_out_by(&app, EVERYWHERE, &[token]).await.assert_error(401, "session_ended");
    }
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    hold.rollback().await.unwrap();
}

/// All that wait for one row would hold all connections.
#[tokio::test]
async fn sessions_that_all_log_out_everywhere_leave_connections_for_the_others() {
    let app = TestApp::start().await.alone();
    let bob = app.newcomer("bob").await;
    app.newcomer("ada").await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(app.log_in("ada", PASSWORD).await);
    }
    let mut hold = app.pool.begin().await.unwrap();
    let sql = "select from users where username = 'ada' for update";
    sqlx::query(sql).execute(&mut *hold).await.unwrap();
    let nothing = json!({});
    let out = join_all(sessions.iter().map(|ada| ada.post(EVERYWHERE, &nothing)));
    let others = async {
        lock_waits(&app.pool, 1).await;
        let asked = Instant::now();
        bob.put("/api/v1/users/me", &json!({ "first_name": "Bob" })).await.assert_ok(200);
        let took = asked.elapsed();
        hold.commit().await.unwrap();
        took
    };
    let (answers, took) = tokio::join!(out, others);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
}

#[tokio::test]
async fn a_token_that_was_replaced_long_ago_ends_its_own_session_and_no_other() {
    let app = TestApp::start().await;
    let (mut ada, [mut phone, desk], _) = people(&app).await;
    let copy = ada.refresh_token().to_owned();
    ada.refresh().await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(20));
    ada.refresh().await.assert_ok(200);
    let answer = log_out_by(&app, EVERYWHERE, &[("x-refresh-token", &copy)]).await;
    answer.assert_error(401, "refresh_token_reused");
    assert_out(&ada).await;
    // The one before the present one is good for a while, as for a refresh.
    let copy = phone.refresh_token().to_owned();
    phone.refresh().await.assert_ok(200);
    assert_in(&phone).await;
    app.clock.advance(TimeDelta::seconds(20));
    let answer = log_out_by(&app, EVERYWHERE, &[("x-refresh-token", &copy)]).await;
    answer.assert_error(401, "refresh_token_reused");
    assert_out(&phone).await;
    assert_in(&desk).await;
    let last = "select event from audit_log order by id desc limit 1";
    let last: String = sqlx::query_scalar(last).fetch_one(&app.pool).await.unwrap();
    assert_eq!(last, "refresh_token_reused");
}

#[tokio::test]
async fn what_a_client_has_left_of_an_access_token_keeps_nobody_in() {
    let app = TestApp::start().await;
    for stray in ["undefined", "null", "", "x", "a.b.c"] {
        for header in ["x-access-token", "authorization"] {
            let ada = app.newcomer(&format!("user{}{}", stray.len(), header.len())).await;
            let value = if header == "authorization" {
                format!("Bearer {stray}")
            } else {
                stray.to_owned()
            };
            let headers = [("x-refresh-token", ada.refresh_token()), (header, value.as_str())];
            log_out_by(&app, PATH, &headers).await.assert_ok(200);
            assert_out(&ada).await;
            sqlx::query("delete from users").execute(&app.pool).await.unwrap();
        }
    }
    // In any case.
    let (ada, others, _) = people(&app).await;
    let path = format!("{PATH}?everywhere=True");
    log_out_by(&app, &path, &[("x-access-token", ada.access_token())]).await.assert_ok(200);
    assert_out(&others[0]).await;
}
