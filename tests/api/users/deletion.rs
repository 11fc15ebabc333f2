//! `DELETE /users/me`: who may, what works no longer, and what stays.

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use doorward::mail::Letter;
use serde_json::{Value, json};

use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::{TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::home::Home;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::{at_once, ended_half_way};

pub const ME: &str = "/api/v1/users/me";
const USERS: &str = "/api/v1/users";
const RESET: &str = "/api/v1/password/reset";
const NEW: &str = "a new horse battery";

async fn delete_with(person: &Person, body: &Value) -> Answer {
    person.call(Method::DELETE, ME).json(body).send().await
}

async fn events(app: &TestApp) -> Vec<String> {
    let sql = "select event from audit_log where event <> 'login' order by id";
    sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap()
}

/// The handle and the link of a letter by which the password can be reset, and its code.
async fn asked_for_a_reset(app: &TestApp) -> (String, String, String) {
    let email = json!({ "email": email_of("ada") });
    let asked = app.anonymous().post("/api/v1/password/forgot", &email).await;
    let handle = asked.assert_ok(202)["challenge"].as_str().unwrap().to_owned();
    let letter = app.letter_to(&email_of("ada")).await;
    (handle, link_in(&letter), code_in(&letter))
}

fn code_in(letter: &Letter) -> String {
    let is_digits = |line: &&str| line.len() == 9 && line.replace(' ', "").parse::<u32>().is_ok();
    letter.text.lines().find(is_digits).expect("a code").to_owned()
}

#[tokio::test]
async fn no_way_in_from_before_works_once_an_account_is_deleted() {
    let app = TestApp::start().await;
    let (ada, boss) = (app.user("ada").await, app.admin().await);
    let elsewhere = app.log_in("ada", PASSWORD).await;
    let (handle, reset_link, code) = asked_for_a_reset(&app).await;
    let moving = json!({ "email": "new@example.com", "password": PASSWORD });
    let moved = ada.put(ME, &moving).await.assert_ok(200).clone();
    let letters = app.deliver_mail().await;
    let letter = letters.iter().find(|letter| letter.to == "new@example.com").unwrap();
    let (confirm_link, confirm_code) = (link_in(letter), code_in(letter));
    // One more that waits.
    app.anonymous().post("/api/v1/password/forgot", &json!({ "email": email_of("ada") })).await;
    ada.post(&format!("{ME}/verify_email"), &json!({})).await.assert_ok(202);

    let answer = ada.delete(ME).await;
    let until: DateTime<Utc> =
        answer.assert_ok(202)["restore_until"].as_str().unwrap().parse().unwrap();
    assert_eq!(until, app.clock.now() + TimeDelta::days(30));

    for session in [&ada, &elsewhere] {
        session.get(ME).await.assert_error(401, "session_ended");
        session.delete(ME).await.assert_error(401, "session_ended");
        session.refresh_with(session.refresh_token()).await.assert_error(401, "session_ended");
    }
    let stranger = app.anonymous();
    stranger.log_in("ada", PASSWORD).await.assert_error(403, "account_deleted");
    stranger.log_in("ada", "not it").await.assert_error(401, "invalid_credentials");
    stranger.get(&reset_link).await.assert_error(410, "link_expired");
    let token = reset_link.split_once("token=").unwrap().1;
    let body = json!({ "token": token, "new_password": NEW });
    stranger.post(RESET, &body).await.assert_error(410, "link_expired");
    let body = json!({ "challenge": handle, "code": code, "new_password": NEW });
    stranger.post(RESET, &body).await.assert_error(400, "code_invalid");
    let call = stranger.call(Method::GET, &confirm_link).header("accept", "application/json");
    call.send().await.assert_error(410, "link_expired");
    stranger.post(&confirm_link, &json!({})).await.assert_error(410, "link_expired");
    let said = stranger.post(&confirm_link, &json!({ "action": "not_me" })).await;
    assert_eq!(said.assert_ok(200)["email_verified"], false, "there is nothing left to do");
    let body = json!({ "challenge": moved["challenge"], "code": confirm_code });
    stranger.post("/api/v1/confirm", &body).await.assert_error(400, "code_invalid");
    let page = stranger.call(Method::GET, &confirm_link).header("accept", "text/html").send().await;
    assert!(!page.text.contains("ada"), "{}", page.text);

    // Letters that waited are not sent, and none goes out to it any more.
    stranger.post("/api/v1/password/forgot", &json!({ "email": email_of("ada") })).await;
    let told = app.letter_to(&email_of("ada")).await;
    assert!(told.subject.contains("is deleted"), "{told:?}");
    let typed = "select count(*) from outbox where user_id is null";
    let left: i64 = sqlx::query_scalar(typed).fetch_one(&app.pool).await.unwrap();
    assert_eq!(left, 0, "what strangers typed is not kept");
    // No list shows it, and nobody gets its names.
    let list = boss.get(&format!("{USERS}?count=true")).await;
    assert_eq!(list.assert_ok(200)["count"], 1);
    assert!(!list.text.contains("ada"), "{}", list.text);
    for (name, email, code) in [
        ("Ada", "other@example.com", "username_taken"),
        ("other", "ADA@example.com", "email_taken"),
    ] {
        let body = json!({ "username": name, "email": email, "password": PASSWORD });
        stranger.post(USERS, &body).await.assert_error(409, code);
    }
    let events = events(&app).await;
    assert_eq!(events.iter().filter(|event| *event == "deletion_asked").count(), 1, "{events:?}");
}

#[tokio::test]
async fn it_asks_for_a_fresh_proof_or_the_password() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    let ada = app.newcomer("ada").await;
    app.anonymous().delete(ME).await.assert_error(401, "token_missing");
    let number = json!({ "password": 1 });
    delete_with(&ada, &number).await.assert_fields(&[("password", "invalid_type")]);
    // Wrong is wrong, however fresh the login is.
    let wrong = delete_with(&ada, &json!({ "password": "not it" })).await;
    wrong.assert_error(403, "wrong_password");
    assert_eq!(wrong.json["errors"][0]["field"], "password");
    app.clock.advance(TimeDelta::minutes(15));
    let stale = ada.delete(ME).await;
    stale.assert_error(401, "step_up_required");
    assert_eq!(stale.json["methods"], json!(["password"]));
    delete_with(&ada, &json!({ "password": null })).await.assert_error(401, "step_up_required");
    for _ in 0..5 {
        let body = json!({ "password": "not it" });
        delete_with(&ada, &body).await.assert_error(403, "wrong_password");
    }
    let limited = delete_with(&ada, &json!({ "password": PASSWORD })).await;
    limited.assert_error(429, "rate_limited");
    assert_eq!(limited.json["limit"], "password");
    ada.get(ME).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(15));
    let later = app.log_in("ada", PASSWORD).await;
    delete_with(&later, &json!({ "password": PASSWORD })).await.assert_ok(202);
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(403, "account_deleted");
}

#[tokio::test]
async fn a_session_that_ends_meanwhile_deletes_nothing() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    ended_half_way(&app, ada.delete(ME)).await.assert_error(401, "session_ended");
    app.anonymous().log_in("ada", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn of_twenty_at_once_one_deletes_over_two_instances_too() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    let ada = apps[0].user("ada").await;
    let answers = at_once(20, |number| {
        let ada = Person { app: apps[number % 2].clone(), ..ada.clone() };
        async move { ada.delete(ME).await }
    })
    .await;
    only_winner(&answers, 401, "session_ended");
    let letters = apps[0].deliver_mail().await;
    assert_eq!(letters.len(), 1, "one letter tells of it");
    let asked = events(&apps[0]).await.iter().filter(|event| *event == "deletion_asked").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn the_last_admin_who_can_get_in_stays() {
    let app = TestApp::start().await;
    let (boss, deputy, staff) =
        (app.admin().await, app.admin_called("deputy").await, app.user("sam").await);
    sqlx::query("update users set role = 'staff' where username = 'sam'")
        .execute(&app.pool)
        .await
        .unwrap();
    staff.delete(ME).await.assert_ok(202);
    deputy.delete(ME).await.assert_ok(202);
    // One that is deleted does not count, nor one that is banned.
    boss.delete(ME).await.assert_error(409, "last_admin");
    app.admin_called("third").await;
    sqlx::query("update users set banned_at = now() where username = 'third'")
        .execute(&app.pool)
        .await
        .unwrap();
    boss.delete(ME).await.assert_error(409, "last_admin");
    boss.get(ME).await.assert_ok(200);
    let events = events(&app).await;
    assert_eq!(events.iter().filter(|event| *event == "deletion_asked").count(), 2, "{events:?}");
}

/// Admins who delete themselves and each other lock in one order, and leave one.
#[tokio::test]
async fn of_admins_who_all_leave_at_once_one_stays() {
    let app = TestApp::start().await;
    let mut admins = Vec::new();
    for number in 0..6 {
        admins.push(app.admin_called(&format!("admin{number}")).await);
    }
    let answers = at_once(6, |number| {
        let (admin, next) = (admins[number].clone(), admins[(number + 1) % 6].clone());
        async move {
            match number % 2 {
                0 => admin.delete(ME).await,
                _ => admin.delete(&format!("{USERS}/{}", next.id())).await,
            }
        }
    })
    .await;
    for answer in &answers {
        let status = answer.status.as_u16();
        assert!([200, 202, 401, 403, 404, 409].contains(&status), "{status} {}", answer.text);
    }
    for admin in &admins {
        let _ = admin.delete(ME).await;
    }
    let left = "select count(*) from users where role = 'admin' and deleted_at is null";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&app.pool).await.unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn the_letter_goes_to_a_verified_address_and_to_no_other() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.newcomer("bob").await);
    ada.delete(ME).await.assert_ok(202);
    bob.delete(ME).await.assert_ok(202);
    let letter = app.letter_to(&email_of("ada")).await;
    assert!(letter.text.contains("ada") && letter.text.contains("1 February 2026, 03:04 UTC"));
    assert!(link_in(&letter).starts_with("/api/v1/restore?token="), "{}", letter.text);
    assert!(app.deliver_mail().await.is_empty());
}

#[tokio::test]
async fn where_it_cannot_be_taken_back_everything_is_removed_at_once() {
    let app = TestApp::with(&[("DELETION_DAYS", "0")]).await;
    let ada = app.user("ada").await;
    let answer = ada.delete(ME).await;
    assert_eq!(answer.assert_ok(202)["restore_until"], Value::Null);
    for table in ["users", "sessions", "challenges", "outbox"] {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let events = events(&app).await;
    assert_eq!(events[events.len() - 2..], ["deletion_asked", "purged"]);
    ada.get(ME).await.assert_error(401, "session_ended");
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    // Both names are free again.
    app.user("ada").await;
}

#[tokio::test]
async fn no_admin_is_made_with_a_name_that_a_deleted_account_keeps() {
    let (home, database) = Home::with_database(&[]).await;
    let app = TestApp::on(&database, &[]).await;
    app.newcomer("ada").await.delete(ME).await.assert_ok(202);
    let by_email = ["create-admin", "--email", "ada@example.com", "--password-stdin"];
    let by_name =
        ["create-admin", "--email", "a@example.com", "--username", "Ada", "--password-stdin"];
    for (arguments, what) in [(&by_email[..], "e-mail address"), (&by_name[..], "username")] {
        let said = home.fails(arguments, PASSWORD).await;
        assert!(
            said.contains(&format!("this {what} is that of an account whose owner has")),
            "{said}"
        );
        assert!(said.contains("keeps it until 2026-02-01 03:04 UTC"), "{said}");
    }
}
