//! The limits on logins and passwords where the password is right: it costs nothing, and others
//! wait for nobody.

use doorward::clock::Clock;
use doorward::limits::{Attempt, LOGIN_ACCOUNT};
use doorward::security::password::Hasher;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::PASSWORD;
use crate::harness::wait::eventually;
use crate::limits::{HOME, counted, guess, limited};

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
    // One more is let through: of two at once the other is refused, until that turns out to be
    // right.
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
