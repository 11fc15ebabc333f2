//! An address that is confirmed by the code of its letter: what the code does, and how often.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::recovery::code_in;
use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::{TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;

pub const CONFIRM: &str = "/api/v1/confirm";
pub const ME: &str = "/api/v1/users/me";
pub const VERIFY: &str = "/api/v1/users/me/verify_email";

/// What the client and the reader of the letter hold.
#[derive(Clone)]
pub struct Held {
    pub handle: String,
    pub code: String,
    pub link: String,
}

pub fn handle_in(answer: &Answer) -> String {
    assert!(answer.status.is_success(), "{}", answer.text);
    answer.json["challenge"].as_str().expect("a handle").to_owned()
}

/// Sends what is due, with the handle of the answer that caused it.
pub async fn hold(app: &TestApp, answer: &Answer, email: &str) -> Held {
    let handle = handle_in(answer);
    let letters = app.deliver_mail().await;
    let letter = letters.iter().find(|letter| letter.to == email).expect("a letter");
    Held { handle, code: code_in(letter), link: link_in(letter) }
}

/// Somebody new, who is logged in.
pub async fn newcomer(app: &TestApp, name: &str) -> (Person, Held) {
    let form = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
    let registered = app.anonymous().post("/api/v1/users", &form).await;
    let held = hold(app, &registered, &email_of(name)).await;
    (app.log_in(name, PASSWORD).await, held)
}

pub async fn ask_to_move(person: &Person, email: &str) -> Answer {
    person.put(ME, &json!({ "email": email, "password": PASSWORD })).await
}

pub async fn confirm(app: &TestApp, handle: &str, code: &str) -> Answer {
    app.anonymous().post(CONFIRM, &json!({ "challenge": handle, "code": code })).await
}

pub async fn me(person: &Person) -> Value {
    person.get(ME).await.assert_ok(200)["user"].clone()
}

/// Another one than this.
pub fn wrong(code: &str) -> &'static str {
    if code.starts_with('0') { "1111 1111" } else { "0000 0000" }
}

async fn audited(app: &TestApp, event: &str) -> i64 {
    let sql = "select count(*) from audit_log where event = $1";
    sqlx::query_scalar(sql).bind(event).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn the_code_confirms_a_new_accounts_address_once_and_logs_nobody_in() {
    let app = TestApp::start().await;
    let (ada, held) = newcomer(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(1));
    let answer = confirm(&app, &held.handle, &held.code).await;
    let message = "The e-mail address is confirmed.";
    let expected = json!({ "success": true, "message": message, "email_verified": true });
    assert_eq!(answer.assert_ok(200), &expected);
    assert_eq!(answer.header("set-cookie"), None);
    let user = me(&ada).await;
    assert_eq!(user["email_verified"], true);
    assert_eq!(user["modified_at"], "2026-01-02T03:05:05.678Z");
    assert_eq!(audited(&app, "email_verified").await, 1);
    // The code is used; the link of the same letter is the same success, however often.
    confirm(&app, &held.handle, &held.code).await.assert_error(400, "code_invalid");
    app.anonymous().get(&held.link).await.assert_ok(200);
    assert_eq!(audited(&app, "email_verified").await, 1);
}

#[tokio::test]
async fn the_code_gives_an_account_the_address_that_waits() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let put = ask_to_move(&ada, "two@example.com").await;
    let put = hold(&app, &put, "two@example.com").await;
    let body = json!({ "email": "three@example.com", "password": PASSWORD });
    let patch = ada.patch(ME, &body).await;
    let patch = hold(&app, &patch, "three@example.com").await;
    confirm(&app, &put.handle, &put.code).await.assert_error(400, "code_invalid");
    confirm(&app, &patch.handle, &patch.code).await.assert_ok(200);
    let user = me(&ada).await;
    assert_eq!(user["email"], "three@example.com");
    assert_eq!((&user["pending_email"], &user["email_verified"]), (&Value::Null, &json!(true)));
    assert_eq!(audited(&app, "email_changed").await, 1);
    confirm(&app, &patch.handle, &patch.code).await.assert_error(400, "code_invalid");
    app.log_in("three@example.com", PASSWORD).await;
}

#[tokio::test]
async fn the_code_of_an_unverified_address_that_was_replaced_is_the_new_ones() {
    let app = TestApp::start().await;
    let (ada, first) = newcomer(&app, "ada").await;
    let moved = ada.put(ME, &json!({ "email": "new@example.com" })).await;
    let second = hold(&app, &moved, "new@example.com").await;
    confirm(&app, &first.handle, &first.code).await.assert_error(400, "code_invalid");
    assert_eq!(me(&ada).await["email_verified"], false);
    confirm(&app, &second.handle, &second.code).await.assert_ok(200);
    assert_eq!(me(&ada).await["email"], "new@example.com");
    // The same address written otherwise is the same address.
    let (bob, held) = newcomer(&app, "bob").await;
    let spelled = bob.put(ME, &json!({ "email": "Bob@Example.com" })).await;
    assert_eq!(spelled.assert_ok(200).get("challenge"), None, "nothing else is to be confirmed");
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    let name = bob.put(ME, &json!({ "first_name": "Bob" })).await;
    assert_eq!(name.assert_ok(200).get("challenge"), None);
}

/// A client that asks while the letter waits has a handle for the code in it, whichever it keeps.
#[tokio::test]
async fn every_answer_that_one_letter_is_on_its_way_for_is_good_with_its_code() {
    for number in 0..3 {
        let app = TestApp::start().await;
        let form = json!({ "username": "ada", "email": email_of("ada"), "password": PASSWORD });
        let mut handles = vec![handle_in(&app.anonymous().post("/api/v1/users", &form).await)];
        let ada = app.log_in("ada", PASSWORD).await;
        for _ in 0..2 {
            app.clock.advance(TimeDelta::seconds(7));
            let asked = ada.post(VERIFY, &json!({})).await;
            asked.assert_ok(202);
            handles.push(handle_in(&asked));
        }
        let code = code_in(&app.letter_to("ada@example.com").await);
        confirm(&app, &handles[number], &code).await.assert_ok(200);
        for handle in &handles {
            confirm(&app, handle, &code).await.assert_error(400, "code_invalid");
        }
    }
}

#[tokio::test]
async fn each_letter_has_a_code_of_its_own_and_a_newer_one_leaves_the_older_good() {
    let app = TestApp::start().await;
    let (ada, first) = newcomer(&app, "ada").await;
    let asked = ada.post(VERIFY, &json!({})).await;
    let second = hold(&app, &asked, "ada@example.com").await;
    assert_ne!(first.code, second.code);
    confirm(&app, &first.handle, &second.code).await.assert_error(400, "code_invalid");
    confirm(&app, &second.handle, &first.code).await.assert_error(400, "code_invalid");
    confirm(&app, &first.handle, &first.code).await.assert_ok(200);
    // Confirmed already, which is what this one is for too; and once.
    confirm(&app, &second.handle, &second.code).await.assert_ok(200);
    confirm(&app, &second.handle, &second.code).await.assert_error(400, "code_invalid");
}

#[tokio::test]
async fn the_letter_to_an_address_that_was_asked_for_anew_has_the_code_of_the_newest_answer() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for email in ["two@example.com", "three@example.com"] {
        ask_to_move(&ada, email).await.assert_ok(200);
    }
    let back = ask_to_move(&ada, "two@example.com").await;
    let held = hold(&app, &back, "two@example.com").await;
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    assert_eq!(me(&ada).await["email"], "two@example.com");
}

#[tokio::test]
async fn of_twenty_right_codes_at_once_one_succeeds_over_two_instances_too() {
    for is_pending in [false, true] {
        let database = new_database().await;
        let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
        let held = if is_pending {
            let ada = apps[0].user("ada").await;
            let asked = ask_to_move(&ada, "new@example.com").await;
            hold(&apps[0], &asked, "new@example.com").await
        } else {
            newcomer(&apps[0], "ada").await.1
        };
        let answers = at_once(20, |number| {
            let (app, held) = (apps[number % 2].clone(), held.clone());
            async move { confirm(&app, &held.handle, &held.code).await }
        })
        .await;
        only_winner(&answers, 400, "code_invalid");
        let event = if is_pending { "email_changed" } else { "email_verified" };
        assert_eq!(audited(&apps[0], event).await, 1);
    }
}

/// A letter that was held up says what is still true of it.
#[tokio::test]
async fn a_code_is_good_for_an_hour_and_a_late_letter_shows_none_that_is_not() {
    let app = TestApp::start().await;
    let (_, first) = newcomer(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(60));
    confirm(&app, &first.handle, &first.code).await.assert_error(400, "code_invalid");
    let (_, bobs) = newcomer(&app, "bob").await;
    app.clock.advance(TimeDelta::minutes(60) - TimeDelta::seconds(2));
    confirm(&app, &bobs.handle, &bobs.code).await.assert_ok(200);
    // One that was on its way for long.
    let ada = app.log_in("ada", PASSWORD).await;
    let asked = ada.post(VERIFY, &json!({})).await;
    app.clock.advance(TimeDelta::minutes(20));
    let letter = app.letter_to("ada@example.com").await;
    assert!(letter.text.contains("24 hours, the code for 40 minutes"), "{}", letter.text);
    app.clock.advance(TimeDelta::minutes(40));
    let dead = confirm(&app, &handle_in(&asked), &code_in(&letter)).await;
    dead.assert_error(400, "code_invalid");
    // One whose code has run out while it waited.
    let ada = app.log_in("ada", PASSWORD).await;
    let asked = ada.post(VERIFY, &json!({})).await;
    app.clock.advance(TimeDelta::minutes(61));
    let late = app.letter_to("ada@example.com").await;
    assert!(!late.text.contains("code") && !late.html.contains("<strong>"), "{}", late.text);
    app.anonymous().get(&link_in(&late)).await.assert_ok(200);
    confirm(&app, &handle_in(&asked), "12345678").await.assert_error(400, "code_invalid");
}

#[tokio::test]
async fn whoever_asks_while_a_letter_waits_has_half_an_hour_at_least_for_its_code() {
    for (waited, left) in [(1, 54), (29, 26), (31, 55), (90, 55)] {
        let app = TestApp::start().await;
        let form = json!({ "username": "ada", "email": email_of("ada"), "password": PASSWORD });
        app.anonymous().post("/api/v1/users", &form).await.assert_ok(201);
        app.clock.advance(TimeDelta::minutes(waited));
        let ada = app.log_in("ada", PASSWORD).await;
        let asked = ada.post(VERIFY, &json!({})).await;
        app.clock.advance(TimeDelta::minutes(5));
        let letter = app.letter_to("ada@example.com").await;
        let said = format!("the code for {left} minutes");
        assert!(letter.text.contains(&said), "{waited}: {}", letter.text);
        confirm(&app, &handle_in(&asked), &code_in(&letter)).await.assert_ok(200);
    }
}
