//! `POST /users/me/verify_email`: the confirmation letter once more.

use axum::http::Method;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person};
use crate::harness::wait::{eventually, lock_waits};
use crate::limits::counted;

const PATH: &str = "/api/v1/users/me/verify_email";

async fn ask(person: &Person) -> Answer {
    person.call(Method::POST, PATH).send().await
}

#[tokio::test]
async fn the_letter_comes_once_more_and_both_links_are_good() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let first = app.letter_to("ada@example.com").await;
    let answer = ask(&ada).await;
    let message = "The confirmation mail is on its way.";
    let challenge = &answer.json["challenge"];
    let expected = json!({ "success": true, "message": message, "challenge": challenge });
    assert_eq!(answer.assert_ok(202), &expected);
    assert!(challenge.is_string());
    app.clock.advance(chrono::TimeDelta::minutes(1));
    let second = app.letter_to("ada@example.com").await;
    assert_ne!(first.message_id, second.message_id);
    for letter in [&second, &first] {
        app.anonymous().get(&link_in(letter)).await.assert_ok(200);
    }
    assert_eq!(ada.get("/api/v1/users/me").await.json["user"]["email_verified"], true);
}

#[tokio::test]
async fn asking_again_while_a_letter_waits_adds_none() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    // The letter of the registration has not left yet.
    for _ in 0..3 {
        ask(&ada).await.assert_ok(202);
    }
    app.letter_to("ada@example.com").await;
    for _ in 0..3 {
        ask(&ada).await.assert_ok(202);
    }
    app.letter_to("ada@example.com").await;
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn twenty_who_ask_at_once_get_one_letter() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    app.letter_to("ada@example.com").await;
    let answers = join_all((0..20).map(|_| ask(&ada))).await;
    for answer in &answers {
        answer.assert_ok(202);
    }
    app.letter_to("ada@example.com").await;
}

#[tokio::test]
async fn whoever_is_verified_gets_no_letter() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    ask(&ada).await.assert_error(409, "email_already_verified");
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn a_link_followed_after_asking_makes_the_letter_needless() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let link = link_in(&app.letter_to("ada@example.com").await);
    ask(&ada).await.assert_ok(202);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 0);
    ask(&ada).await.assert_error(409, "email_already_verified");
}

#[tokio::test]
async fn where_a_new_address_waits_the_letter_goes_there() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "email": "new@example.com", "password": PASSWORD });
    ada.put("/api/v1/users/me", &body).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 2);
    ask(&ada).await.assert_ok(202);
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].to, "new@example.com");
    app.anonymous().get(&link_in(&letters[0])).await.assert_ok(200);
    ask(&ada).await.assert_error(409, "email_already_verified");
}

#[tokio::test]
async fn nothing_in_the_body_says_where_the_letter_goes() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
    app.deliver_mail().await;
    let body = json!({ "email": "eve@example.com", "public_id": bob.id() });
    ada.post(&format!("{PATH}?email=eve@example.com"), &body).await.assert_ok(202);
    let letters = app.deliver_mail().await;
    assert_eq!(letters.iter().map(|l| l.to.as_str()).collect::<Vec<_>>(), ["ada@example.com"]);
}

#[tokio::test]
async fn whoever_is_deleted_while_asking_is_told_that_the_session_has_ended() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    app.letter_to("ada@example.com").await;
    let mut deletion = app.pool.begin().await.unwrap();
    sqlx::query("delete from users").execute(&mut *deletion).await.unwrap();
    let commit_once_the_call_waits = async {
        lock_waits(&app.pool, 1).await;
        deletion.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&ada), commit_once_the_call_waits);
    answer.assert_error(401, "session_ended");
}

#[tokio::test]
async fn a_letter_that_was_counted_for_one_address_does_not_go_to_another() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let ada = app.newcomer("ada").await;
    app.letter_to("ada@example.com").await;
    let before = counted(&app).await;
    let mut change = app.pool.begin().await.unwrap();
    let sql = "update users set email = 'victim@example.com' where username = 'ada'";
    sqlx::query(sql).execute(&mut *change).await.unwrap();
    let commit_once_the_call_waits = async {
        lock_waits(&app.pool, 1).await;
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&ada), commit_once_the_call_waits);
    answer.assert_ok(202);
    assert_eq!(app.deliver_mail().await, []);
    // And is not used up: it is given back beside the answer.
    eventually("the letter is given back", async || counted(&app).await == before).await;
    let sql = "update users set email = 'ada@example.com' where username = 'ada'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    for _ in 0..2 {
        ask(&ada).await.assert_ok(202);
        app.letter_to("ada@example.com").await;
    }
}

#[tokio::test]
async fn where_no_letter_will_go_out_the_answer_says_so_and_while_one_waits_it_is_on_its_way() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let ada = app.newcomer("ada").await;
    for _ in 0..2 {
        app.letter_to("ada@example.com").await;
        ask(&ada).await.assert_ok(202);
    }
    // The third of this hour waits: asking again and again is answered by it.
    for _ in 0..5 {
        ask(&ada).await.assert_ok(202);
    }
    app.letter_to("ada@example.com").await;
    for _ in 0..3 {
        let answer = ask(&ada).await;
        answer.assert_error(429, "rate_limited");
        assert_eq!(answer.json["limit"], "mail_recipient_hour");
        assert_eq!(answer.header("retry-after"), Some("3600"));
        assert_eq!(answer.json["message"], "Too many attempts: try again in 60 minutes.");
    }
    assert_eq!(app.deliver_mail().await, []);
}

#[tokio::test]
async fn an_address_that_somebody_else_has_by_now_gets_no_letter_and_the_answer_says_so() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let wish = json!({ "email": "shared@example.com", "password": PASSWORD });
    for person in [&ada, &bob] {
        person.put("/api/v1/users/me", &wish).await.assert_ok(200);
    }
    ask(&ada).await.assert_ok(202);
    let letters = app.deliver_mail().await;
    let asked = letters.iter().find(|letter| letter.to == "shared@example.com");
    // Whose it is: one of the two confirms first.
    let link = link_in(asked.unwrap());
    app.anonymous().get(&link).await.assert_ok(200);
    let has_it = ada.get("/api/v1/users/me").await.json["user"]["email"] == "shared@example.com";
    let (owner, other) = if has_it { (&ada, &bob) } else { (&bob, &ada) };
    ask(owner).await.assert_error(409, "email_already_verified");
    let answer = ask(other).await;
    answer.assert_error(409, "email_taken");
    assert_eq!(answer.json["errors"][0]["field"], "email");
    assert_eq!(answer.json["errors"].as_array().unwrap().len(), 1);
    assert_eq!(app.deliver_mail().await, []);
}

#[tokio::test]
async fn whoever_asks_for_nothing_uses_up_no_letter() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let wish = json!({ "email": "shared@example.com", "password": PASSWORD });
    ada.put("/api/v1/users/me", &wish).await.assert_ok(200);
    let sql = "update users set email = 'shared@example.com' where username = 'bob'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    let before = counted(&app).await;
    for _ in 0..5 {
        ask(&ada).await.assert_error(409, "email_taken");
        ask(&bob).await.assert_error(409, "email_already_verified");
        eventually("letters are given back", async || counted(&app).await == before).await;
    }
}
