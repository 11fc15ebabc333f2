//! The limits on registrations: of accounts that are made, and of names that are taken.

use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::security::password::Hasher;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::limits::{HOME, assert_limited, counted, limited, limited_with, register, register_as};

const ELSEWHERE: &str = "198.51.100.8";

#[tokio::test]
async fn registrations_are_sixty_an_hour_and_three_hundred_a_day_for_one_address() {
    let app = limited().await;
    for hour in 0..5 {
        for number in 0..60 {
            register(&app, HOME, &format!("user{hour}-{number}")).await.assert_ok(201);
        }
        assert_limited(&register(&app, HOME, "one-more").await, "register_hour", 3600);
        app.clock.advance(TimeDelta::hours(1));
    }
    assert_limited(&register(&app, HOME, "one-more").await, "register_day", 19 * 3600);
    register(&app, ELSEWHERE, "one-more").await.assert_ok(201);
}

#[tokio::test]
async fn a_line_at_home_makes_so_many_accounts_in_all_its_networks() {
    let app = limited_with(&[("LIMIT_REGISTER_NETWORK", "5")]).await;
    for number in 0..5 {
        let from = format!("2001:db8:1:{number}::1");
        register(&app, &from, &format!("user{number}")).await.assert_ok(201);
    }
    let answer = register(&app, "2001:db8:1:ffff::1", "one-more").await;
    assert_limited(&answer, "register_network", 3600);
    register(&app, "2001:db8:2::1", "neighbour").await.assert_ok(201);
    // An IPv4 address has no more to itself than itself.
    for number in 0..10 {
        register(&app, HOME, &format!("other{number}")).await.assert_ok(201);
    }
}

#[tokio::test]
async fn a_registration_that_nobody_had_room_for_is_no_attempt() {
    let database = new_database().await;
    let cheap = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let on = [("RATE_LIMITS", "on"), ("LIMIT_REGISTER_HOUR", "10")];
    let busy = TestApp::hashing(&database, &on, clock, Hasher::new(cheap, 0)).await;
    for number in 0..15 {
        register(&busy, HOME, &format!("ann{number}")).await.assert_error(503, "busy");
    }
    let app = TestApp::on(&database, &on).await;
    for number in 0..10 {
        register(&app, HOME, &format!("ann{number}")).await.assert_ok(201);
    }
    assert_limited(&register(&app, HOME, "ann").await, "register_hour", 3600);
}

#[tokio::test]
async fn a_form_with_mistakes_counts_as_nothing() {
    let app = limited_with(&[("LIMIT_REGISTER_HOUR", "1"), ("LIMIT_REGISTER_TAKEN", "1")]).await;
    for _ in 0..5 {
        register_as(&app, HOME, "ann", "nobody").await.assert_error(422, "validation_failed");
    }
    assert_eq!(counted(&app).await, 0);
    register(&app, HOME, "ann").await.assert_ok(201);
}

#[tokio::test]
async fn a_look_for_a_free_name_does_not_keep_an_office_from_signing_up() {
    let app = limited().await;
    register(&app, ELSEWHERE, "ann").await.assert_ok(201);
    for number in 0..30 {
        // By the name or by the address.
        let (name, email) = match number % 2 {
            0 => ("ANN".to_owned(), format!("free{number}@example.com")),
            _ => (format!("free{number}"), "Ann@example.com".to_owned()),
        };
        let answer = register_as(&app, HOME, &name, &email).await;
        assert_eq!(answer.status, 409, "{}", answer.text);
    }
    // They have used up nothing of what accounts may be made.
    for number in 0..60 {
        register(&app, HOME, &format!("user{number}")).await.assert_ok(201);
    }
    assert_limited(&register(&app, HOME, "one-more").await, "register_hour", 3600);
}

#[tokio::test]
async fn whoever_asks_for_too_many_names_that_are_taken_learns_of_no_further_one() {
    // What was refused is remembered by each process.
    let app = limited().await.alone();
    register(&app, ELSEWHERE, "ann").await.assert_ok(201);
    for number in 0..30 {
        let email = format!("free{number}@example.com");
        register_as(&app, HOME, "ann", &email).await.assert_error(409, "username_taken");
    }
    let refused = register_as(&app, HOME, "ann", "free@example.com").await;
    assert_limited(&refused, "register_taken", 3600);
    assert!(refused.json.get("errors").is_none(), "{}", refused.text);
    // A name that is free is refused by the same answer.
    let free = register(&app, HOME, "bea").await;
    assert_limited(&free, "register_taken", 3600);
    assert_eq!(free.json["message"], refused.json["message"]);
    // Others are told, and make accounts.
    let other = register_as(&app, ELSEWHERE, "ann", "free@example.com").await;
    other.assert_error(409, "username_taken");
    register(&app, ELSEWHERE, "bea").await.assert_ok(201);
    app.clock.advance(TimeDelta::hours(1));
    register_as(&app, HOME, "ann", "f@example.com").await.assert_error(409, "username_taken");
    register(&app, HOME, "cyd").await.assert_ok(201);
}

/// Else a name that is taken is told from one that is free by the refusal itself.
#[tokio::test]
async fn whoever_was_refused_for_names_that_are_taken_makes_no_account_before_the_hour_is_over() {
    let database = new_database().await;
    let on = [("RATE_LIMITS", "on")];
    let (one, other) = (TestApp::on(&database, &on).await, TestApp::on(&database, &on).await);
    register(&one, ELSEWHERE, "ann").await.assert_ok(201);
    for number in 0..30 {
        let email = format!("free{number}@example.com");
        register_as(&one, HOME, "ann", &email).await.assert_error(409, "username_taken");
    }
    assert_limited(&register(&one, HOME, "ann").await, "register_taken", 3600);
    // At another process, and once this one has forgotten what it had refused.
    assert_limited(&register(&other, HOME, "bea").await, "register_taken", 3600);
    one.clock.advance(TimeDelta::minutes(1));
    assert_limited(&register(&one, HOME, "bea").await, "register_taken", 3540);
}

#[tokio::test]
async fn of_many_who_ask_for_a_taken_name_at_once_no_more_are_told_than_the_limit_says() {
    let app = limited().await;
    register(&app, ELSEWHERE, "ann").await.assert_ok(201);
    let asked = join_all((0..80).map(|_| register(&app, HOME, "ann"))).await;
    let told = asked.iter().filter(|answer| answer.status == 409).count();
    assert_eq!(told, 30);
    assert!(asked.iter().all(|answer| [409, 429].contains(&answer.status.as_u16())));
}

#[tokio::test]
async fn a_refusal_says_in_words_how_long_to_wait() {
    for (settings, expected) in [
        (("LIMIT_LOGIN_ACCOUNT", "0/1"), "1 second"),
        (("LIMIT_LOGIN_ACCOUNT", "0/90"), "90 seconds"),
        (("LIMIT_LOGIN_ACCOUNT", "0/91"), "2 minutes"),
        (("LIMIT_LOGIN_STRANGERS", "0"), "60 minutes"),
        (("LIMIT_LOGIN_ACCOUNT", "0/86400"), "24 hours"),
    ] {
        let app = limited_with(&[settings]).await;
        let answer = app.anonymous().log_in("ann", "wrong").await;
        let message = format!("Too many attempts: try again in {expected}.");
        assert_eq!(answer.json["message"], json!(message));
    }
}
