//! `POST /users/{public_id}/send`: letters that an admin sends to somebody who needs one.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::admin::ban::ban;
use crate::admin::staff::{delete_account, staff};
use crate::admin::users::path;
use crate::auth::recovery::{NEW, by_link, token_in};
use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{Person, email_of};
use crate::harness::races::at_once;
use crate::limits::limited;

const ON_ITS_WAY: &str = "The letter is on its way.";

async fn send(boss: &Person, person: &Person, letter: &str) -> Answer {
    boss.post(&format!("{}/send", path(person)), &json!({ "letter": letter })).await
}

#[track_caller]
fn is_sent(answer: &Answer) -> bool {
    let body = answer.assert_ok(202);
    assert_eq!(body.as_object().unwrap().len(), 2, "no challenge: {body}");
    body["message"] == ON_ITS_WAY
}

#[tokio::test]
async fn a_confirmation_goes_to_the_address_that_waits_for_one() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    app.deliver_mail().await;
    assert!(is_sent(&send(&boss, &ada, "confirmation").await));
    // It waits to be sent already.
    assert!(!is_sent(&send(&boss, &ada, "confirmation").await));
    let link = link_in(&app.letter_to(&email_of("ada")).await);
    app.anonymous().get(&link).await.assert_ok(200);
    send(&boss, &ada, "confirmation").await.assert_error(409, "email_already_verified");
    boss.patch(&path(&ada), &json!({ "email": "countess@example.com" })).await.assert_ok(200);
    app.deliver_mail().await;
    assert!(is_sent(&send(&boss, &ada, "confirmation").await));
    app.letter_to("countess@example.com").await;
    // By now it is somebody else's.
    let body = json!({ "username": "other", "email": "countess@example.com",
        "password": crate::harness::person::PASSWORD });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
    send(&boss, &ada, "confirmation").await.assert_error(409, "email_taken");
}

#[tokio::test]
async fn a_reset_goes_to_the_accounts_address_verified_or_not() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (name, person) in [("ada", app.user("ada").await), ("bob", app.newcomer("bob").await)] {
        app.deliver_mail().await;
        assert!(is_sent(&send(&boss, &person, "reset").await));
        let letter = app.letter_to(&email_of(name)).await;
        by_link(&app, &token_in(&letter), NEW).await.assert_ok(200);
        app.log_in(name, NEW).await;
        assert_eq!(boss.get(&path(&person)).await.json["user"]["email_verified"], true);
    }
}

#[tokio::test]
async fn a_letter_is_one_that_there_is() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    app.deliver_mail().await;
    for (body, code) in [
        (json!({}), "required"),
        (json!({ "letter": null }), "required"),
        (json!({ "letter": "password_changed" }), "invalid_choice"),
        (json!({ "letter": "Reset" }), "invalid_choice"),
        (json!({ "letter": ["reset"] }), "invalid_type"),
    ] {
        let answer = boss.post(&format!("{}/send", path(&ada)), &body).await;
        answer.assert_fields(&[("letter", code)]);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn the_banned_and_the_deleted_get_none() {
    let app = TestApp::start().await;
    let (boss, ada, bob) =
        (app.admin().await, app.newcomer("ada").await, app.newcomer("bob").await);
    ban(&boss, &ada).await.assert_ok(200);
    delete_account(&app, &bob).await;
    app.deliver_mail().await;
    for letter in ["confirmation", "reset"] {
        send(&boss, &ada, letter).await.assert_error(409, "user_banned");
        send(&boss, &bob, letter).await.assert_error(404, "user_not_found");
        let nobody = boss.post("/api/v1/users/nobody/send", &json!({ "letter": letter })).await;
        nobody.assert_error(404, "user_not_found");
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn it_is_an_admins_alone_and_asks_for_no_fresh_proof() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (sam, ada) = (staff(&app, &boss).await, app.newcomer("ada").await);
    app.deliver_mail().await;
    app.clock.advance(TimeDelta::minutes(20));
    send(&app.anonymous(), &ada, "reset").await.assert_error(401, "token_missing");
    for person in [&sam, &ada] {
        send(person, &ada, "reset").await.assert_error(403, "forbidden");
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
    assert!(is_sent(&send(&boss, &ada, "reset").await));
}

#[tokio::test]
async fn a_box_is_not_filled_and_the_answer_says_so() {
    let app = limited().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    for letter in ["confirmation", "reset"] {
        app.deliver_mail().await;
        let mut sent = 0;
        for _ in 0..6 {
            sent += usize::from(is_sent(&send(&boss, &ada, letter).await));
            let letters = app.deliver_mail().await;
            assert!(letters.len() <= 1);
        }
        // The first confirmation went out at the registration.
        assert_eq!(sent, if letter == "reset" { 3 } else { 2 }, "{letter}");
    }
    // One admin writes to many.
    for number in 0..25 {
        let person = app.newcomer(&format!("user{number}")).await;
        assert!(is_sent(&send(&boss, &person, "reset").await), "{number}");
    }
}

#[tokio::test]
async fn of_twenty_confirmations_at_once_one_is_sent_and_recorded() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    app.deliver_mail().await;
    let answers = at_once(20, |_| {
        let (boss, ada) = (boss.clone(), ada.clone());
        async move { send(&boss, &ada, "confirmation").await }
    });
    let answers = answers.await;
    assert_eq!(answers.iter().filter(|answer| is_sent(answer)).count(), 1);
    app.letter_to(&email_of("ada")).await;
    let sql =
        "select user_id::text, actor_id::text, details from audit_log where event = 'letter_sent'";
    let record: Vec<(String, String, Value)> =
        sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
    let details = json!({ "letter": "confirmation" });
    assert_eq!(record, [(ada.id().to_owned(), boss.id().to_owned(), details)]);
}
