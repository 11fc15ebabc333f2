//! `POST /refresh`: the next pair, the same pair again, and the end of a stolen one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::Method;
use chrono::TimeDelta;
use doorward::clock::Clock;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::forge;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::at_once;

pub const PATH: &str = "/api/v1/refresh";

pub fn refresh_token(answer: &Answer) -> String {
    answer.assert_ok(200)["refresh_token"].as_str().unwrap().to_owned()
}

/// Somebody holding the pair that was answered.
fn holder(app: &TestApp, answer: &Answer) -> Person {
    let mut person = app.anonymous();
    person.access = answer.assert_ok(200)["token"].as_str().map(str::to_owned);
    person.refresh = Some(refresh_token(answer));
    person
}

/// A refresh with exactly these headers.
pub async fn refresh_by(app: &TestApp, headers: &[(&str, &str)]) -> Answer {
    let call = app.anonymous().call(Method::POST, PATH);
    headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
}

/// Fails unless the session of these people has ended for the reason that a token of it was used
/// again.
async fn assert_ended_by_reuse(app: &TestApp, people: &[&Person]) {
    for person in people {
        person.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        let refresh = person.refresh_token();
        person.refresh_with(refresh).await.assert_error(401, "session_ended");
    }
    let sid = forge::read(people[0].refresh_token()).1["sid"].clone();
    let sql = "select user_id::text, ip::text, details from audit_log
               where event = 'refresh_token_reused' and session_id = $1::uuid";
    let rows: Vec<(String, String, Value)> =
        sqlx::query_as(sql).bind(sid.as_str()).fetch_all(&app.pool).await.unwrap();
    let sub = forge::read(people[0].refresh_token()).1["sub"].clone();
    assert_eq!(rows, [(sub.as_str().unwrap().to_owned(), "127.0.0.1/32".to_owned(), json!({}))]);
}

#[tokio::test]
async fn a_refresh_gives_the_next_pair() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    app.clock.advance(TimeDelta::minutes(31));
    ada.get("/api/v1/users/me").await.assert_error(401, "token_expired");
    let answer = ada.refresh_with(ada.refresh_token()).await;
    let body = answer.assert_ok(200);
    let next = holder(&app, &answer);
    let (token, refresh) = (next.access_token(), next.refresh_token());
    assert_eq!(
        *body,
        json!({
            "success": true, "token": token, "refresh_token": refresh, "expires_in": 1800,
            "user": ada.user,
        })
    );
    next.get("/api/v1/users/me").await.assert_ok(200);
    let (_, before) = forge::read(ada.refresh_token());
    let (_, after) = forge::read(refresh);
    assert_eq!((before["counter"].clone(), after["counter"].clone()), (json!(0), json!(1)));
    assert_eq!((&before["sid"], &before["sub"]), (&after["sid"], &after["sub"]));
    app.clock.advance(TimeDelta::minutes(29));
    next.get("/api/v1/users/me").await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    next.get("/api/v1/users/me").await.assert_error(401, "token_expired");
}

#[tokio::test]
async fn the_next_access_token_speaks_of_the_user_as_they_are_now() {
    let app = TestApp::with(&[("ACCESS_TOKEN_MINUTES", "5")]).await;
    let mut ada = app.newcomer("ada").await;
    ada.put("/api/v1/users/me", &json!({ "first_name": "Ada" })).await.assert_ok(200);
    let answer = ada.refresh().await;
    assert_eq!(answer.assert_ok(200)["expires_in"], 300);
    let (_, claims) = forge::read(ada.access_token());
    assert_eq!(claims["first_name"], "Ada");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
}

#[tokio::test]
async fn the_token_just_replaced_gives_the_same_successor_for_20_seconds() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    let old = ada.clone();
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    for _ in 0..3 {
        let again = ada.refresh_with(old.refresh_token()).await;
        assert_eq!(refresh_token(&again), ada.refresh_token());
        holder(&app, &again).get("/api/v1/users/me").await.assert_ok(200);
        app.clock.advance(TimeDelta::milliseconds(6_666));
    }
    // 19.998 seconds so far.
    let again = ada.refresh_with(old.refresh_token()).await;
    assert_eq!(refresh_token(&again), ada.refresh_token());
    app.clock.advance(TimeDelta::milliseconds(3));
    let headers = [("x-refresh-token", old.refresh_token()), ("x-request-id", "id-1")];
    let reused = refresh_by(&app, &headers).await;
    assert_eq!(reused.status, 401);
    assert_eq!(
        reused.json,
        json!({
            "success": false, "code": "refresh_token_reused", "request_id": "id-1",
            "message": "The refresh token had been replaced before. The session has ended for safety: log in again.",
        })
    );
    assert_ended_by_reuse(&app, &[&ada, &old, &holder(&app, &again)]).await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again_for_ten_minutes_and_a_copy_is_noticed_after_that() {
    let ten = TimeDelta::minutes(10);
    for later in [TimeDelta::minutes(1), ten - TimeDelta::milliseconds(1)] {
        let app = TestApp::start().await;
        let mut ada = app.newcomer("ada").await;
        let lost = ada.refresh_with(ada.refresh_token()).await;
        app.clock.advance(later);
        let answer = ada.refresh().await;
        assert_eq!(refresh_token(&answer), refresh_token(&lost), "the same successor");
        ada.get("/api/v1/users/me").await.assert_ok(200);
        // From here on it goes as ever.
        ada.refresh().await.assert_ok(200);
        ada.get("/api/v1/users/me").await.assert_ok(200);
    }
    // Where access tokens go to other backends alone, no pair is ever seen in use.
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let thief = ada.clone();
    let taken = thief.refresh_with(thief.refresh_token()).await;
    app.clock.advance(ten);
    let answer = ada.refresh_with(ada.refresh_token()).await;
    answer.assert_error(401, "refresh_token_reused");
    assert_ended_by_reuse(&app, &[&holder(&app, &taken)]).await;
}

#[tokio::test]
async fn tokens_that_follow_each_other_quickly_all_give_the_current_pair_for_20_seconds() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    let mut held = vec![ada.clone()];
    for _ in 0..10 {
        app.clock.advance(TimeDelta::milliseconds(1_900));
        ada.refresh().await.assert_ok(200);
        ada.get("/api/v1/users/me").await.assert_ok(200);
        held.push(ada.clone());
    }
    // The first was replaced 17.1 seconds ago.
    for tab in &held[..10] {
        let again = tab.refresh_with(tab.refresh_token()).await;
        assert_eq!(refresh_token(&again), ada.refresh_token());
        let claims = forge::read(again.json["token"].as_str().unwrap()).1;
        assert_eq!(claims["gen"], 10, "a repeat has the current one's");
    }
    app.clock.advance(TimeDelta::milliseconds(2_899));
    held[0].refresh_with(held[0].refresh_token()).await.assert_ok(200);
    app.clock.advance(TimeDelta::milliseconds(1));
    held[1].refresh_with(held[1].refresh_token()).await.assert_ok(200);
    let reused = held[0].refresh_with(held[0].refresh_token()).await;
    reused.assert_error(401, "refresh_token_reused");
    assert_ended_by_reuse(&app, &[&ada, &held[1]]).await;
}

#[tokio::test]
async fn a_pair_that_is_asked_for_again_from_elsewhere_is_an_event() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    let old = ada.refresh_token().to_owned();
    ada.refresh().await.assert_ok(200);
    let from = async |ip: &str| {
        let call = app.anonymous().call(Method::POST, PATH).from(ip);
        call.header("x-refresh-token", &old).send().await.assert_ok(200);
    };
    from("127.0.0.1").await;
    let sql = "select ip::text, count, details from audit_log
               where event = 'refresh_token_repeated' order by id";
    let rows = async || -> Vec<(String, i32, Value)> {
        sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap()
    };
    assert_eq!(rows().await, []);
    for ip in ["203.0.113.7", "203.0.113.7", "198.51.100.1"] {
        from(ip).await;
    }
    let details = json!({ "refreshed_from": "127.0.0.1" });
    assert_eq!(
        rows().await,
        [
            ("203.0.113.7/32".to_owned(), 2, details.clone()),
            ("198.51.100.1/32".to_owned(), 1, details),
        ]
    );
}

#[tokio::test]
async fn two_tabs_that_try_again_after_a_lost_answer_both_get_in() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    ada.refresh_with(ada.refresh_token()).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(9));
    let first = ada.refresh_with(ada.refresh_token()).await;
    holder(&app, &first).get("/api/v1/users/me").await.assert_ok(200);
    // The other tab's call was on its way already.
    app.clock.advance(TimeDelta::milliseconds(19_999));
    let second = ada.refresh_with(ada.refresh_token()).await;
    assert_eq!(refresh_token(&second), refresh_token(&first));
    // Asking again and again does not keep a used pair open.
    app.clock.advance(TimeDelta::milliseconds(2));
    let reused = ada.refresh_with(ada.refresh_token()).await;
    reused.assert_error(401, "refresh_token_reused");
    assert_ended_by_reuse(&app, &[&holder(&app, &first)]).await;
}

#[tokio::test]
async fn a_token_whose_successor_was_used_by_its_access_token_ends_the_session() {
    let app = TestApp::start().await;
    let other = app.newcomer("ada").await;
    let bob = app.newcomer("bob").await;
    let mut ada = app.log_in("ada", PASSWORD).await;
    let old = ada.clone();
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(21));
    let reused = ada.refresh_with(old.refresh_token()).await;
    reused.assert_error(401, "refresh_token_reused");
    assert_ended_by_reuse(&app, &[&old, &ada]).await;
    // Other sessions of the same user, and everybody else's, go on.
    for mut person in [other, bob] {
        person.get("/api/v1/users/me").await.assert_ok(200);
        person.refresh().await.assert_ok(200);
    }
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn a_token_two_generations_old_ends_the_session_once_its_20_seconds_are_over() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut next = ada.clone();
    next.refresh().await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(20));
    let middle = next.clone();
    next.refresh().await.assert_ok(200);
    // Nobody has used an access token, and the one between is good.
    middle.refresh_with(middle.refresh_token()).await.assert_ok(200);
    let reused = ada.refresh_with(ada.refresh_token()).await;
    reused.assert_error(401, "refresh_token_reused");
    assert_ended_by_reuse(&app, &[&ada, &middle, &next]).await;
}

#[tokio::test]
async fn an_old_access_token_does_not_count_as_use_of_the_successor() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let lost = ada.refresh_with(ada.refresh_token()).await;
    // The tab whose refresh was lost goes on with the access token that it has.
    ada.get("/api/v1/users/me").await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(9));
    ada.get("/api/v1/users/me").await.assert_ok(200);
    let again = ada.refresh_with(ada.refresh_token()).await;
    assert_eq!(refresh_token(&again), refresh_token(&lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_refreshes_at_once_with_one_token_are_one_lineage() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let answers = at_once(20, |_| {
        let ada = ada.clone();
        async move { ada.refresh_with(ada.refresh_token()).await }
    })
    .await;
    let successor = refresh_token(&answers[0]);
    assert_eq!(forge::read(&successor).1["counter"], 1);
    for answer in &answers {
        assert_eq!(refresh_token(answer), successor);
        holder(&app, answer).get("/api/v1/users/me").await.assert_ok(200);
    }
    let counter: i64 =
        sqlx::query_scalar("select counter from sessions").fetch_one(&app.pool).await.unwrap();
    assert_eq!(counter, 1);
    let next = ada.refresh_with(&successor).await;
    assert_eq!(forge::read(&refresh_token(&next)).1["counter"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_token_that_20_use_at_once_is_audited_once() {
    let app = TestApp::start().await;
    let mut ada = app.newcomer("ada").await;
    let stolen = ada.refresh.clone().unwrap();
    ada.refresh().await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(20));
    ada.refresh().await.assert_ok(200);
    let answers = at_once(20, |_| {
        let (thief, stolen) = (app.anonymous(), stolen.clone());
        async move { thief.refresh_with(&stolen).await.code().to_owned() }
    })
    .await;
    let reused = answers.iter().filter(|code| *code == "refresh_token_reused").count();
    let ended = answers.iter().filter(|code| *code == "session_ended").count();
    assert_eq!((reused, ended), (1, 19), "{answers:?}");
    assert_ended_by_reuse(&app, &[&ada]).await;
}

/// By the real clock: requests that came one after the other are settled in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_calls_each_refresh_with_what_it_holds_at_that_moment_stays_logged_in() {
    let app = TestApp::at(&new_database().await, &[], Clock::system()).await;
    app.newcomer("ada").await;
    for run in 0..20 {
        let ada = app.log_in("ada", PASSWORD).await;
        let held = Arc::new(Mutex::new(ada.refresh_token().to_owned()));
        let answers = at_once(40, |number| {
            let (app, held) = (app.clone(), Arc::clone(&held));
            async move {
                tokio::time::sleep(Duration::from_millis(number as u64 % 7)).await;
                let token = held.lock().unwrap().clone();
                let answer = app.anonymous().refresh_with(&token).await;
                if answer.status == 200 {
                    *held.lock().unwrap() = refresh_token(&answer);
                }
                (forge::read(&token).1["counter"].clone(), answer.code().to_owned())
            }
        })
        .await;
        let refused: Vec<_> = answers.iter().filter(|(_, code)| !code.is_empty()).collect();
        assert!(refused.is_empty(), "run {run}: {refused:?}");
        let last = held.lock().unwrap().clone();
        app.anonymous().refresh_with(&last).await.assert_ok(200);
    }
}
