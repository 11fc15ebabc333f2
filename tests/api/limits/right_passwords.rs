//! The limits on logins and passwords where the password is right: it costs nothing of what
//! failures may, others wait for nobody, and right logins have limits of their own, far away.

use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::limits::{Attempt, LOGIN_ACCOUNT, account_subject};
use doorward::security::password::Hasher;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::wait::eventually;
use crate::limits::{HOME, assert_limited, counted, guess, limited, limited_with, login, register};

#[tokio::test]
async fn logins_at_once_count_as_right_ones_alone_and_none_stands_in_the_way_of_another() {
    let app = limited().await;
    app.newcomer("ann").await;
    let before = counted(&app).await;
    for _ in 0..5 {
        let logins = join_all((0..10).map(|_| guess(&app, HOME, "ann", PASSWORD))).await;
        for login in logins {
            login.assert_ok(200);
        }
    }
    // Each counts as a right one alone: of the account and of the address.
    assert_eq!(counted(&app).await, before + 2 * 50 * 1000);
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
    let left = counted(&app).await - 2 * 80 * 1000;
    assert!(before < registered && left == registered, "{before} {registered} {left}");
}

/// One hash at a time, each of which takes a while.
async fn slow(settings: &[(&str, &str)]) -> TestApp {
    let hasher = Hasher::new(argon2::Params::new(65_536, 3, 1, Some(32)).unwrap(), 1);
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let settings: Vec<_> = [("RATE_LIMITS", "on")].iter().chain(settings).copied().collect();
    TestApp::hashing(&new_database().await, &settings, clock, hasher).await.alone()
}

#[tokio::test]
async fn a_refusal_because_of_logins_that_were_right_is_forgotten_with_the_first_of_them() {
    let app = slow(&[]).await;
    let ann = app.newcomer("ann").await;
    for _ in 0..4 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    // A known client and a stranger are on their way at once. One more is let through: the other is
    // refused, until that turns out to be right.
    let known = login(&app, HOME, "ann", PASSWORD).header("x-refresh-token", ann.refresh_token());
    let (one, other) = tokio::join!(known.send(), guess(&app, HOME, "ann", PASSWORD));
    let refused = [&one, &other].into_iter().filter(|answer| answer.status == 429);
    assert_eq!(refused.map(|answer| &answer.json["limit"]).collect::<Vec<_>>(), ["login_account"]);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn neither_does_a_right_login_keep_another_account_of_its_address_out_for_long() {
    let app = slow(&[("LIMIT_LOGIN_ADDRESS", "3/60")]).await;
    for name in ["ann", "bea"] {
        app.newcomer(name).await;
    }
    for name in ["cyd", "dee"] {
        guess(&app, HOME, name, "wrong").await.assert_error(401, "invalid_credentials");
    }
    let (one, other) =
        tokio::join!(guess(&app, HOME, "ann", PASSWORD), guess(&app, HOME, "bea", PASSWORD));
    let refused = [&one, &other].into_iter().filter(|answer| answer.status == 429);
    assert_eq!(refused.map(|answer| &answer.json["limit"]).collect::<Vec<_>>(), ["login_address"]);
    for name in ["ann", "bea"] {
        guess(&app, HOME, name, PASSWORD).await.assert_ok(200);
    }
}

/// The attempt that a login by a username is on its account.
fn attempt_by_username(user: &Person) -> Attempt {
    let subject = account_subject(user.id().parse().ok(), "ann");
    Attempt::on_account_from(&LOGIN_ACCOUNT, &subject, HOME.parse().ok())
}

#[tokio::test]
async fn a_login_whose_turn_does_not_come_in_time_is_told_that_there_is_too_much_to_do() {
    let app = limited().await.alone();
    let ann = app.newcomer("ann").await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    let before = counted(&app).await;
    let turn = app.state.limits.acquire_permits(&[attempt_by_username(&ann)], true).await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_error(503, "busy");
    // By the address of the account others wait, and strangers next door wait for strangers.
    guess(&app, HOME, "ann@example.com", PASSWORD).await.assert_ok(200);
    guess(&app, "198.51.100.8", "ann", PASSWORD).await.assert_ok(200);
    let before = before + 4 * 1000;
    assert_eq!(counted(&app).await, before, "it was never counted");
    drop(turn);
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
    let turn = app.state.limits.acquire_permits(&[attempt_by_username(&ann)], true).await;
    let waiting = join_all((0..10).map(|_| guess(&app, HOME, "ann", PASSWORD)));
    let other = async {
        let answer = guess(&app, HOME, "bea", PASSWORD).await;
        drop(turn);
        answer
    };
    let (waited, other) = tokio::join!(waiting, other);
    other.assert_ok(200);
    for answer in waited {
        answer.assert_ok(200);
    }
}

#[tokio::test]
async fn right_logins_are_limited_by_account_and_by_address_and_count_as_no_failures() {
    let settings = [("LIMIT_LOGIN_SUCCESS_ACCOUNT", "5"), ("LIMIT_LOGIN_SUCCESS_ADDRESS", "8")];
    let app = limited_with(&settings).await;
    for name in ["ann", "bea"] {
        register(&app, HOME, name).await.assert_ok(201);
    }
    let before = counted(&app).await;
    for number in 0..5 {
        // By either name.
        let name = if number % 2 == 0 { "ann" } else { "ann@example.com" };
        guess(&app, HOME, name, PASSWORD).await.assert_ok(200);
    }
    assert_eq!(counted(&app).await, before + 10 * 1000);
    for _ in 0..40 {
        let answer = guess(&app, HOME, "ann", PASSWORD).await;
        assert_limited(&answer, "login_success_account", 3600);
    }
    // Elsewhere, too: a session is a session.
    let elsewhere = guess(&app, "192.0.2.1", "ann", PASSWORD).await;
    assert_limited(&elsewhere, "login_success_account", 3600);
    for _ in 0..3 {
        guess(&app, HOME, "bea", PASSWORD).await.assert_ok(200);
    }
    let answer = guess(&app, HOME, "bea", PASSWORD).await;
    assert_limited(&answer, "login_success_address", 3600);
    guess(&app, "192.0.2.1", "bea", PASSWORD).await.assert_ok(200);
    // Nothing of what failures may was used up by it, and no session was opened.
    eventually("attempts are given back", async || counted(&app).await == before + 2 * 9 * 1000)
        .await;
    let sessions: i64 =
        sqlx::query_scalar("select count(*) from sessions").fetch_one(&app.pool).await.unwrap();
    assert_eq!(sessions, 9);
    app.clock.advance(TimeDelta::hours(1));
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    guess(&app, HOME, "bea", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn whoever_may_log_in_no_more_for_now_goes_on_with_the_sessions_there_are() {
    let app = limited_with(&[("LIMIT_LOGIN_SUCCESS_ACCOUNT", "1")]).await;
    let mut ann = app.newcomer("ann").await;
    let refused = ann.log_in("ann", PASSWORD).await;
    assert_limited(&refused, "login_success_account", 3600);
    // A wrong password is told apart no later than before: it is one.
    ann.log_in("ann", "wrong").await.assert_error(401, "invalid_credentials");
    ann.get("/api/v1/users/me").await.assert_ok(200);
    ann.refresh().await.assert_ok(200);
}
