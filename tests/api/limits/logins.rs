//! The limits on logins and passwords, and that they lock nobody out.

use std::time::Duration;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::limits::{Attempt, LOGIN_ACCOUNT};
use doorward::security::password::Hasher;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::wait::eventually;

pub const HOME: &str = "198.51.100.7";

pub async fn limited() -> TestApp {
    TestApp::with(&[("RATE_LIMITS", "on")]).await
}

pub async fn guess(app: &TestApp, from: &str, login: &str, password: &str) -> Answer {
    let value = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
    let call = app.anonymous().call(Method::POST, "/api/v1/login").from(from);
    call.header("authorization", &value).send().await
}

pub async fn register(app: &TestApp, from: &str, name: &str) -> Answer {
    let body = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
    app.anonymous().call(Method::POST, "/api/v1/users/").from(from).json(&body).send().await
}

#[track_caller]
pub fn assert_limited(answer: &Answer, limit: &str, seconds: u64) {
    answer.assert_error(429, "rate_limited");
    assert_eq!(answer.json["limit"], limit);
    assert_eq!(answer.header("retry-after"), Some(seconds.to_string().as_str()));
}

#[tokio::test]
async fn of_120_guesses_at_once_no_more_reach_the_hash_than_the_limit_says() {
    let app = limited().await;
    app.newcomer("ann").await;
    let guesses = join_all((0..120).map(|_| guess(&app, "203.0.113.1", "ann", "wrong"))).await;
    let reached = guesses.iter().filter(|answer| answer.code() == "invalid_credentials").count();
    assert_eq!(reached, 10);
    assert!(guesses.iter().all(|answer| [401, 429].contains(&answer.status.as_u16())));
}

#[tokio::test]
async fn all_spellings_of_a_name_share_one_budget() {
    let app = limited().await;
    app.newcomer("ann").await;
    for spelling in
        ["ann", "ANN", "Ann", "ann@example.com", "ANN@EXAMPLE.COM"].iter().cycle().take(10)
    {
        guess(&app, "203.0.113.1", spelling, "wrong")
            .await
            .assert_error(401, "invalid_credentials");
    }
    for spelling in ["ann", "aNN", "Ann@Example.com"] {
        // A neighbour in the same /24 has the same budget.
        assert_limited(&guess(&app, "203.0.113.99", spelling, "wrong").await, "login_account", 30);
    }
    // So does a name that nobody has: the answer tells nothing about who exists.
    for _ in 0..10 {
        guess(&app, "203.0.114.1", "nobody", "wrong")
            .await
            .assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, "203.0.114.1", "NoBody", "wrong").await, "login_account", 30);
    app.clock.advance(TimeDelta::seconds(30));
    guess(&app, "203.0.113.1", "ann", "wrong").await.assert_error(401, "invalid_credentials");
    assert_limited(&guess(&app, "203.0.113.1", "ann", "wrong").await, "login_account", 30);
}

#[tokio::test]
async fn one_address_may_not_try_many_names() {
    let app = limited().await;
    for number in 0..30 {
        let answer = guess(&app, "2001:db8:1:2::1", &format!("user{number}"), "wrong").await;
        answer.assert_error(401, "invalid_credentials");
    }
    // The whole /64 is one client.
    let answer = guess(&app, "2001:db8:1:2:ffff::9", "someone", "wrong").await;
    assert_limited(&answer, "login_address", 4);
    guess(&app, "2001:db8:1:3::1", "someone", "wrong")
        .await
        .assert_error(401, "invalid_credentials");
    app.clock.advance(TimeDelta::seconds(4));
    let answer = guess(&app, "2001:db8:1:2::1", "someone", "wrong").await;
    answer.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn strangers_use_up_their_own_budget_and_the_owner_is_not_locked_out() {
    let app = limited().await;
    register(&app, HOME, "ann").await.assert_ok(201);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    for number in 0..100 {
        let stranger = format!("203.0.{number}.1");
        guess(&app, &stranger, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    let stranger = guess(&app, "203.0.200.1", "ann", PASSWORD).await;
    assert_limited(&stranger, "login_strangers", 3600);
    guess(&app, HOME, "ann@example.com", PASSWORD).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(60));
    guess(&app, "203.0.200.1", "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn a_stranger_next_door_does_not_lock_the_owner_out() {
    let app = limited().await;
    register(&app, HOME, "ann").await.assert_ok(201);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    for number in 0..100 {
        let stranger = format!("203.0.{number}.1");
        guess(&app, &stranger, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    // In the owner's own /24, with the same spelling of the name.
    let neighbour = guess(&app, "198.51.100.8", "ann", "wrong").await;
    assert_limited(&neighbour, "login_strangers", 3600);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn a_password_that_nobody_looked_at_is_no_attempt() {
    let database = new_database().await;
    let cheap = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let on = [("RATE_LIMITS", "on")];
    // Without a thread to hash there is never room.
    let busy = TestApp::hashing(&database, &on, clock, Hasher::new(cheap, 0)).await;
    for _ in 0..40 {
        guess(&busy, HOME, "ann", "wrong").await.assert_error(503, "busy");
    }
    register(&busy, HOME, "ann").await.assert_error(503, "busy");
    let written = sqlx::query_scalar("select count(*) from limits").fetch_one(&busy.pool).await;
    assert_eq!(written.ok(), Some(0_i64), "nothing was written for their sake");
    let app = TestApp::on(&database, &on).await;
    for _ in 0..10 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, HOME, "ann", "wrong").await, "login_account", 30);

    // What is counted first and finds no room then is given back.
    let ann = app.user("ann").await;
    let before = counted(&app).await;
    let change = json!({ "old_password": "wrong", "new_password": "a different good one" });
    for _ in 0..6 {
        let call = busy.anonymous().call(Method::PUT, "/api/v1/users/me/change_password");
        let call = call.header("x-access-token", ann.access_token()).json(&change);
        call.send().await.assert_error(503, "busy");
    }
    assert_eq!(counted(&app).await, before);
}

#[tokio::test]
async fn a_login_that_succeeds_costs_nothing() {
    let app = limited().await;
    app.newcomer("ann").await;
    for _ in 0..150 {
        guess(&app, "203.0.113.1", "ann", PASSWORD).await.assert_ok(200);
    }
}

/// In thousandths: what drains is seldom whole.
pub async fn counted(app: &TestApp) -> i64 {
    let sql = "select coalesce(sum(level) * 1000, 0)::bigint from limits";
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn what_one_limit_refuses_counts_nowhere_else() {
    let database = new_database().await;
    let on = [("RATE_LIMITS", "on")];
    let app = TestApp::on(&database, &on).await;
    app.newcomer("ann").await;
    for _ in 0..10 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    let before = counted(&app).await;
    for _ in 0..5 {
        // One that has not seen the refusals before.
        let other = TestApp::on(&database, &on).await;
        assert_limited(&guess(&other, HOME, "ann", "wrong").await, "login_account", 30);
    }
    assert_eq!(counted(&app).await, before);
}

#[tokio::test]
async fn logins_at_once_give_everything_back_and_none_stands_in_the_way_of_another() {
    let app = limited().await;
    app.newcomer("ann").await;
    let before = counted(&app).await;
    for _ in 0..5 {
        let logins = join_all((0..10).map(|_| guess(&app, HOME, "ann", PASSWORD))).await;
        for login in logins {
            login.assert_ok(200);
        }
    }
    assert_eq!(counted(&app).await, before);
}

#[tokio::test]
async fn two_instances_count_together() {
    let database = new_database().await;
    let one = TestApp::on(&database, &[("RATE_LIMITS", "on")]).await;
    let other = TestApp::on(&database, &[("RATE_LIMITS", "on")]).await;
    let guesses = (0..40).map(|number| {
        let app = if number % 2 == 0 { &one } else { &other };
        guess(app, "203.0.113.1", "ann", "wrong")
    });
    let answers = join_all(guesses).await;
    let reached = answers.iter().filter(|answer| answer.code() == "invalid_credentials").count();
    assert_eq!(reached, 10);
}

#[tokio::test]
async fn forged_headers_make_no_new_client() {
    let app = limited().await;
    for number in 0..12 {
        let forged = format!("8.8.8.{number}");
        let value = format!("Basic {}", STANDARD.encode("ann:wrong"));
        let call =
            app.anonymous().call(Method::POST, "/api/v1/login").header("authorization", &value);
        let headers =
            ["x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"];
        let call = headers.iter().fold(call, |call, name| call.header(name, &forged));
        let expected = if number < 10 { "invalid_credentials" } else { "rate_limited" };
        assert_eq!(call.header("x-client-ip", &forged).send().await.code(), expected);
    }
}

#[tokio::test]
async fn the_present_password_can_be_guessed_five_times_by_either_way() {
    let app = limited().await;
    let ann = app.user("ann").await;
    let change = json!({ "old_password": "wrong", "new_password": "another good one" });
    let move_away = json!({ "email": "new@example.com", "password": "wrong" });
    for _ in 0..3 {
        ann.put("/api/v1/users/me/change_password", &change)
            .await
            .assert_error(403, "wrong_password");
    }
    for _ in 0..2 {
        ann.put("/api/v1/users/me", &move_away).await.assert_error(403, "wrong_password");
    }
    assert_limited(&ann.put("/api/v1/users/me", &move_away).await, "password", 900);
    let change = json!({ "old_password": PASSWORD, "new_password": "another good one" });
    assert_limited(&ann.put("/api/v1/users/me/change_password", &change).await, "password", 900);
    app.clock.advance(TimeDelta::minutes(15));
    ann.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
}

/// A server whose disk is full, as far as the users' table goes.
const FULL: &str = "create function full_disk() returns trigger language plpgsql as $$ begin
        raise exception 'no space left' using errcode = '53100';
    end $$;
    create trigger full_disk before update on users for each row execute function full_disk();
    create trigger full_too before insert on sessions for each row execute function full_disk()";

#[tokio::test]
async fn a_right_password_costs_nothing_while_the_database_cannot_write() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    let change = json!({ "old_password": PASSWORD, "new_password": "a different good one" });
    sqlx::raw_sql(FULL).execute(&app.pool).await.unwrap();
    let before = counted(&app).await;
    let given_back = async || {
        eventually("an attempt is given back", async || counted(&app).await == before).await;
    };
    for _ in 0..6 {
        let answer = ann.put("/api/v1/users/me/change_password", &change).await;
        answer.assert_error(503, "database_unavailable");
        given_back().await;
    }
    for _ in 0..11 {
        let answer = guess(&app, HOME, "ann", PASSWORD).await;
        answer.assert_error(503, "database_unavailable");
        given_back().await;
    }
    let mend = "drop function full_disk cascade";
    sqlx::raw_sql(mend).execute(&app.pool).await.unwrap();
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    ann.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
}

#[tokio::test]
async fn rows_that_say_nothing_any_more_go_away() {
    let app = limited().await;
    guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    let rows = async || -> i64 {
        sqlx::query_scalar("select count(*) from limits").fetch_one(&app.pool).await.unwrap()
    };
    assert_eq!(rows().await, 3);
    app.clock.advance(TimeDelta::hours(2));
    let mut tx = app.state.db.begin().await.unwrap();
    doorward::store::limits::delete_expired(&mut tx, app.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test]
async fn the_clean_up_waits_for_nobody_and_leaves_what_is_counted_on_meanwhile() {
    let app = limited().await;
    guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    app.clock.advance(TimeDelta::hours(2));
    let mut counting = app.pool.begin().await.unwrap();
    let sql = "update limits set expires_at = expires_at + interval '1 day'
               where key = (select key from limits order by key limit 1)";
    sqlx::query(sql).execute(&mut *counting).await.unwrap();
    let mut tx = app.state.db.begin().await.unwrap();
    let removing = doorward::store::limits::delete_expired(&mut tx, app.clock.now());
    let removed = timeout(Duration::from_secs(1), removing).await.expect("it waits for nobody");
    assert_eq!(removed.unwrap(), 2);
    tx.commit().await.unwrap();
    counting.commit().await.unwrap();
    let left: i64 =
        sqlx::query_scalar("select count(*) from limits").fetch_one(&app.pool).await.unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn right_passwords_that_come_together_wait_for_each_other_and_refuse_nobody() {
    let app = limited().await.alone();
    let before = counted(&app).await;
    for name in ["ann", "bea"] {
        app.newcomer(name).await;
    }
    let registered = counted(&app).await;
    // More than each limit lets through at once.
    let name = |number: usize| if number.is_multiple_of(2) { "ann" } else { "bea" };
    for login in join_all((0..80).map(|number| guess(&app, HOME, name(number), PASSWORD))).await {
        login.assert_ok(200);
    }
    let left = counted(&app).await;
    assert!(before < registered && left == registered, "{before} {registered} {left}");
}

#[tokio::test]
async fn a_refusal_because_of_logins_that_were_right_is_forgotten_with_the_first_of_them() {
    let database = new_database().await;
    let slow = argon2::Params::new(65_536, 3, 1, Some(32)).unwrap();
    let hasher = Hasher::new(slow, 1);
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let settings = [("RATE_LIMITS", "on")];
    let app = TestApp::hashing(&database, &settings, clock, hasher).await.alone();
    app.newcomer("ann").await;
    // Known there from now on: two of those are on their way at once.
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    for _ in 0..9 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    // One more is let through: of two at once the other is refused, until that turns out to be right.
    let (one, other) =
        tokio::join!(guess(&app, HOME, "ann", PASSWORD), guess(&app, HOME, "ann", PASSWORD));
    let refused = [&one, &other].into_iter().filter(|answer| answer.status == 429).count();
    assert_eq!(refused, 1);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn a_login_whose_turn_does_not_come_in_time_is_told_that_there_is_too_much_to_do() {
    let app = limited().await.alone();
    let ann = app.newcomer("ann").await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    let before = counted(&app).await;
    let attempt = Attempt::on_account_from(&LOGIN_ACCOUNT, ann.id(), HOME.parse().ok());
    let mut turns = Vec::new();
    for _ in 0..2 {
        turns.extend(app.state.limits.acquire_permits(std::slice::from_ref(&attempt), true).await);
    }
    guess(&app, HOME, "ann", PASSWORD).await.assert_error(503, "busy");
    assert_eq!(counted(&app).await, before, "it was never counted");
    drop(turns);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn logins_that_wait_for_one_account_do_not_keep_others_of_their_address_waiting() {
    let app = limited().await.alone();
    let ann = app.newcomer("ann").await;
    app.newcomer("bea").await;
    for name in ["ann", "bea"] {
        guess(&app, HOME, name, PASSWORD).await.assert_ok(200);
    }
    let attempt = Attempt::on_account_from(&LOGIN_ACCOUNT, ann.id(), HOME.parse().ok());
    let mut turns = Vec::new();
    for _ in 0..2 {
        turns.extend(app.state.limits.acquire_permits(std::slice::from_ref(&attempt), true).await);
    }
    let waiting = join_all((0..10).map(|_| guess(&app, HOME, "ann", PASSWORD)));
    let other = async {
        let answer = guess(&app, HOME, "bea", PASSWORD).await;
        drop(turns);
        answer
    };
    let (waited, other) = tokio::join!(waiting, other);
    other.assert_ok(200);
    for answer in waited {
        answer.assert_ok(200);
    }
}

#[tokio::test]
async fn a_refusal_is_asked_for_again_after_30_seconds() {
    let app = limited().await.alone();
    let ann = app.newcomer("ann").await;
    let change = json!({ "old_password": "wrong", "new_password": "a different good one" });
    let change = async || ann.put("/api/v1/users/me/change_password", &change).await;
    for _ in 0..5 {
        change().await.assert_error(403, "wrong_password");
    }
    assert_limited(&change().await, "password", 900);
    // As where another instance gives back what it had counted.
    sqlx::query("delete from limits").execute(&app.pool).await.unwrap();
    app.clock.advance(TimeDelta::seconds(29));
    assert_limited(&change().await, "password", 871);
    app.clock.advance(TimeDelta::seconds(1));
    change().await.assert_error(403, "wrong_password");
}

#[tokio::test]
async fn what_was_refused_by_a_clock_that_was_ahead_is_allowed_when_it_is_right_again() {
    let app = limited().await.alone();
    app.clock.advance(TimeDelta::days(30));
    for number in 0..10 {
        register(&app, HOME, &format!("user{number}")).await.assert_ok(201);
    }
    assert_limited(&register(&app, HOME, "ann").await, "register_hour", 3600);
    app.clock.advance(TimeDelta::days(-30));
    register(&app, HOME, "ann").await.assert_ok(201);
    // A window that was begun a little ahead lasts.
    app.clock.advance(TimeDelta::minutes(-30));
    for number in 0..9 {
        register(&app, HOME, &format!("other{number}")).await.assert_ok(201);
    }
    assert_limited(&register(&app, HOME, "bea").await, "register_hour", 5400);
}
