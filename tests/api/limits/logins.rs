//! The limits on logins and passwords, and that they lock nobody out.

use std::time::Duration;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::security::password::Hasher;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::PASSWORD;
use crate::limits::{
    HOME, assert_limited, counted, guess, limited, limited_with, register, use_up_strangers,
};

#[tokio::test]
async fn of_120_guesses_at_once_no_more_reach_the_hash_than_the_limit_says() {
    let app = limited().await;
    app.newcomer("ann").await;
    let guesses = join_all((0..120).map(|_| guess(&app, "203.0.113.1", "ann", "wrong"))).await;
    let reached = guesses.iter().filter(|answer| answer.code() == "invalid_credentials").count();
    assert_eq!(reached, 5);
    assert!(guesses.iter().all(|answer| [401, 429].contains(&answer.status.as_u16())));
}

#[tokio::test]
async fn all_spellings_of_a_name_share_one_budget_and_all_of_an_address_another() {
    let app = limited().await;
    app.newcomer("ann").await;
    let names = ["ann", "ANN", "Ann", " ann", "ann\u{200b}"];
    let addresses = [
        "ann@example.com",
        "ANN@EXAMPLE.COM",
        "Ann@Example.com",
        "\u{feff}ann@example.com ",
        "ann@\u{ff45}xample.com",
    ];
    for half in [names, addresses] {
        for spelling in half {
            let answer = guess(&app, "203.0.113.1", spelling, "wrong").await;
            answer.assert_error(401, "invalid_credentials");
        }
        for spelling in half {
            // A neighbour in the same /24 has the same budget.
            let answer = guess(&app, "203.0.113.99", spelling, "wrong").await;
            assert_limited(&answer, "login_account", 60);
        }
    }
    // So does a name that nobody has: the answer tells nothing about who exists.
    for _ in 0..5 {
        guess(&app, "203.0.114.1", "nobody", "wrong")
            .await
            .assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, "203.0.114.1", "NoBody", "wrong").await, "login_account", 60);
    app.clock.advance(TimeDelta::seconds(60));
    guess(&app, "203.0.113.1", "ann", "wrong").await.assert_error(401, "invalid_credentials");
    assert_limited(&guess(&app, "203.0.113.1", "ann", "wrong").await, "login_account", 60);
}

/// What a stranger sees who uses up the budget of a name and then tries an address, and the other
/// way round.
async fn probe(app: &TestApp, network: u8, first: &str, then: &str) -> Vec<(u16, Value)> {
    let mut seen = Vec::new();
    for login in [first, then] {
        for _ in 0..6 {
            let answer = guess(app, &format!("203.0.{network}.1"), login, "wrong").await;
            let Value::Object(mut body) = answer.json.clone() else { panic!("{}", answer.text) };
            body.remove("request_id");
            body.insert("retry".into(), json!(answer.header("retry-after")));
            seen.push((answer.status.as_u16(), Value::Object(body)));
        }
    }
    seen
}

#[tokio::test]
async fn the_end_of_one_budget_does_not_tell_whose_name_an_address_is() {
    let app = limited().await;
    for name in ["ann", "bea"] {
        app.newcomer(name).await;
    }
    // One account by both names, names of two accounts, of one and of none, and of nobody.
    let pairs = [
        ("ann", "ann@example.com"),
        ("ann", "bea@example.com"),
        ("ann", "cyd@example.com"),
        ("dee", "bea@example.com"),
        ("eli", "eli@example.com"),
    ];
    let mut networks = 0..;
    let mut all = Vec::new();
    for (name, email) in pairs {
        for (first, then) in [(name, email), (email, name)] {
            all.push(probe(&app, networks.next().unwrap(), first, then).await);
        }
    }
    let statuses: Vec<u16> = all[0].iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 401, 401, 401, 401, 401, 429]);
    for seen in &all {
        assert_eq!(seen, &all[0]);
    }
}

#[tokio::test]
async fn strangers_who_use_up_the_budget_of_a_name_learn_nothing_about_an_address_either() {
    let app = limited().await;
    app.newcomer("ann").await;
    for name in ["ann", "bea"] {
        use_up_strangers(&app, name).await;
        let email = format!("{name}@example.com");
        use_up_strangers(&app, &email).await;
        app.clock.advance(TimeDelta::hours(2));
    }
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
async fn a_line_at_home_has_one_budget_in_all_its_networks() {
    let app = limited().await;
    let mut names = (0..).map(|number| format!("user{number}"));
    let mut guess_from = async |from: &str| guess(&app, from, &names.next().unwrap(), "w").await;
    for network in 0..4 {
        for number in 0..30 {
            let from = format!("2001:db8:1:{network}::{number}");
            guess_from(&from).await.assert_error(401, "invalid_credentials");
        }
    }
    assert_limited(&guess_from("2001:db8:1:ffff::1").await, "login_network", 1);
    guess_from("2001:db8:2::1").await.assert_error(401, "invalid_credentials");
    app.clock.advance(TimeDelta::seconds(1));
    guess_from("2001:db8:1:ffff::1").await.assert_error(401, "invalid_credentials");
    assert_limited(&guess_from("2001:db8:1:fffe::1").await, "login_network", 1);
}

#[tokio::test]
async fn strangers_use_up_their_own_budget_and_the_owner_is_not_locked_out() {
    let app = limited().await;
    register(&app, HOME, "ann").await.assert_ok(201);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    for number in 0..50 {
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
    for number in 0..50 {
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
    for _ in 0..5 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, HOME, "ann", "wrong").await, "login_account", 60);

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

#[tokio::test]
async fn what_one_limit_refuses_counts_nowhere_else() {
    let database = new_database().await;
    let on = [("RATE_LIMITS", "on")];
    let app = TestApp::on(&database, &on).await;
    app.newcomer("ann").await;
    for _ in 0..5 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    let before = counted(&app).await;
    for _ in 0..5 {
        // One that has not seen the refusals before.
        let other = TestApp::on(&database, &on).await;
        assert_limited(&guess(&other, HOME, "ann", "wrong").await, "login_account", 60);
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
    assert_eq!(reached, 5);
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
        let expected = if number < 5 { "invalid_credentials" } else { "rate_limited" };
        assert_eq!(call.header("x-client-ip", &forged).send().await.code(), expected);
    }
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
    let app = limited_with(&[("LIMIT_REGISTER_HOUR", "10")]).await.alone();
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
