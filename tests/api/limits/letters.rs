//! The limits on registrations, letters, refreshes and changes of one's own data.

use axum::http::Method;
use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::security::password::Hasher;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::wait::{eventually, lock_waits};
use crate::limits::{HOME, assert_limited, counted, limited, register};

#[tokio::test]
async fn registrations_are_ten_an_hour_and_sixty_a_day_for_one_address() {
    let app = limited().await;
    for hour in 0..6 {
        for number in 0..10 {
            register(&app, HOME, &format!("user{hour}-{number}")).await.assert_ok(201);
        }
        let limit = if hour < 5 { "register_hour" } else { "" };
        if hour < 5 {
            assert_limited(&register(&app, HOME, "one-more").await, limit, 3600);
        }
        app.clock.advance(TimeDelta::hours(1));
    }
    assert_limited(&register(&app, HOME, "one-more").await, "register_day", 18 * 3600);
    register(&app, "198.51.100.8", "one-more").await.assert_ok(201);
}

#[tokio::test]
async fn letters_beyond_the_limit_are_merged_in_silence() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    let mut sent = app.deliver_mail().await.len();
    for _ in 0..6 {
        ann.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
        sent += app.deliver_mail().await.len();
    }
    assert_eq!(sent, 3, "the one of the registration and two more");
    app.clock.advance(TimeDelta::hours(1));
    let ann = app.log_in("ann", PASSWORD).await;
    ann.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
    assert_eq!(app.deliver_mail().await.len(), 1);
}

#[tokio::test]
async fn a_session_is_refreshed_thirty_times_a_minute_and_can_always_be_ended() {
    let app = limited().await;
    let mut ann = app.newcomer("ann").await;
    for _ in 0..30 {
        ann.refresh().await.assert_ok(200);
    }
    assert_limited(&ann.refresh().await, "refresh", 60);
    app.clock.advance(TimeDelta::seconds(60));
    ann.refresh().await.assert_ok(200);
    for _ in 0..40 {
        let other = app.log_in("ann", PASSWORD).await;
        other.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    }
}

#[tokio::test]
async fn a_registration_that_nobody_had_room_for_is_no_attempt() {
    let database = new_database().await;
    let cheap = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    let on = [("RATE_LIMITS", "on")];
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
async fn an_address_is_not_flooded_with_notices_that_it_is_to_be_replaced() {
    let app = limited().await;
    let ann = app.user("ann").await;
    app.deliver_mail().await;
    let change = async |number: usize| {
        let email = format!("ann{number}@example.com");
        ann.put("/api/v1/users/me", &json!({ "email": email, "password": PASSWORD })).await
    };
    for number in 0..3 {
        change(number).await.assert_ok(200);
        app.deliver_mail().await;
    }
    for number in 3..20 {
        // Nor does it use up what the password may be tried.
        assert_limited(&change(number).await, "mail_recipient_hour", 3600);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

/// A change of the password locks the user first, too: else the two could wait for each other.
#[tokio::test]
async fn a_new_address_waits_for_its_user_before_it_locks_what_was_counted() {
    let app = limited().await;
    let ann = app.user("ann").await;
    let mut hold = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *hold).await.unwrap();
    let address = json!({ "email": "ann2@example.com", "password": PASSWORD });
    let look = async {
        lock_waits(&app.pool, 1).await;
        let counted = "select from limits for update nowait";
        let counted = sqlx::query(counted).execute(&app.pool).await.unwrap();
        assert!(counted.rows_affected() > 0);
        hold.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(ann.put("/api/v1/users/me", &address), look);
    answer.assert_ok(200);
}

#[tokio::test]
async fn calls_that_are_refused_use_up_nobodys_letters() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    assert_eq!(app.deliver_mail().await.len(), 1);
    let eve = app.newcomer("eve").await;
    app.deliver_mail().await;
    let before = counted(&app).await;
    let body = json!({ "username": "other", "email": email_of("ann"), "password": PASSWORD });
    for time in 1..=4 {
        let answer = eve.put("/api/v1/users/me", &json!({ "email": email_of("ann") })).await;
        answer.assert_error(409, "email_taken");
        let answer = app.anonymous().post("/api/v1/users/", &body).await;
        answer.assert_error(409, "email_taken");
        // What was asked for counts as a registration, for an hour and for a day, and as a change;
        // no letter does.
        let others = 3 * time * 1000;
        eventually("letters are given back", async || counted(&app).await == before + others).await;
    }
    for _ in 0..2 {
        ann.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
        assert_eq!(app.deliver_mail().await.len(), 1);
    }
}

#[tokio::test]
async fn somebodys_own_data_changes_sixty_times_an_hour() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    let bea = app.newcomer("bea").await;
    let set = async |name: &str| ann.put("/api/v1/users/me", &json!({ "first_name": name })).await;
    // What changes nothing is no change.
    set("").await.assert_ok(200);
    for number in 0..60 {
        set(&format!("Ann {number}")).await.assert_ok(200);
    }
    assert_limited(&set("Ann").await, "profile", 3600);
    bea.put("/api/v1/users/me", &json!({ "first_name": "Bea" })).await.assert_ok(200);
    app.clock.advance(TimeDelta::hours(1));
    let ann = app.log_in("ann", PASSWORD).await;
    ann.put("/api/v1/users/me", &json!({ "first_name": "Ann" })).await.assert_ok(200);
}

#[tokio::test]
async fn an_address_that_waits_already_is_no_letter_and_neither_is_a_call_that_was_hung_up() {
    let app = limited().await.alone();
    app.newcomer("ann").await;
    let (eve, mel) = (app.user("eve").await, app.newcomer("mel").await);
    let wish = json!({ "email": "free@example.com", "password": PASSWORD });
    eve.put("/api/v1/users/me", &wish).await.assert_ok(200);
    let before = counted(&app).await;
    eve.put("/api/v1/users/me", &wish).await.assert_ok(200);
    eventually("no letter counts", async || counted(&app).await == before).await;
    // While Mel's turn is taken her call waits, having counted a letter to Ann.
    let turn = app.state.db.begin_for(mel.id().parse().unwrap()).await.unwrap();
    let wish = json!({ "email": email_of("ann") });
    let call = async { mel.put("/api/v1/users/me", &wish).await };
    let counts = async {
        // The change, and the letter: to Ann for an hour and for a day, and from this address.
        let all = before + 4 * 1000;
        eventually("it is counted", async || counted(&app).await == all).await;
    };
    tokio::select! {
        _ = call => panic!("it waits"),
        () = counts => {}
    }
    let change = before + 1000;
    eventually("the letter is given back", async || counted(&app).await == change).await;
    drop(turn);
}

#[tokio::test]
async fn an_account_that_moves_on_does_not_free_an_address_for_letter_after_letter() {
    let app = limited().await;
    let victim = "victim@example.com";
    let mut letters = 0;
    for number in 0..6 {
        let name = format!("eve{number}");
        let body = json!({ "username": name, "email": victim, "password": PASSWORD });
        let from = format!("203.0.113.{number}");
        let call = app.anonymous().call(Method::POST, "/api/v1/users/").from(&from).json(&body);
        call.send().await.assert_ok(201);
        letters += app.deliver_mail().await.iter().filter(|letter| letter.to == victim).count();
        let eve = app.log_in(&name, PASSWORD).await;
        eve.put("/api/v1/users/me", &json!({ "email": email_of(&name) })).await.assert_ok(200);
        app.deliver_mail().await;
    }
    assert_eq!(letters, 3);
    // Whose address it is can still register, and ask for a letter later on.
    let body = json!({ "username": "ann", "email": victim, "password": PASSWORD });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
    assert_eq!(app.deliver_mail().await, []);
    app.clock.advance(TimeDelta::hours(1));
    let ann = app.log_in("ann", PASSWORD).await;
    ann.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
    app.letter_to(victim).await;
}
