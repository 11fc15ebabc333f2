//! A forgotten password: asked for, and set by the link or the code of the letter.

use axum::http::Method;
use chrono::TimeDelta;
use doorward::mail::Letter;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;

pub const FORGOT: &str = "/api/v1/password/forgot";
pub const RESET: &str = "/api/v1/password/reset";
pub const NEW: &str = "a new horse battery";

/// Asks for a letter to this address; the handle that the answer has.
pub async fn forgot(app: &TestApp, email: &str) -> String {
    let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
    answer.assert_ok(202)["challenge"].as_str().unwrap().to_owned()
}

/// What a letter of a reset holds.
pub struct Asked {
    pub handle: String,
    pub token: String,
    pub code: String,
}

pub async fn asked(app: &TestApp, name: &str) -> Asked {
    let handle = forgot(app, &email_of(name)).await;
    let letters = app.deliver_mail().await;
    let is_it = |letter: &&Letter| letter.to == email_of(name) && letter.subject.starts_with("Set");
    let letter = letters.iter().find(is_it).expect("a letter");
    Asked { handle, token: token_in(letter), code: code_in(letter) }
}

pub fn token_in(letter: &Letter) -> String {
    let link = link_in(letter);
    link.strip_prefix("/api/v1/password/reset?token=").expect("our own page").to_owned()
}

pub fn code_in(letter: &Letter) -> String {
    let is_code = |line: &&str| {
        line.len() == 9
            && line.chars().enumerate().all(
                |(at, c)| {
                    if at == 4 { c == ' ' } else { c.is_ascii_digit() }
                },
            )
    };
    letter.text.lines().find(is_code).expect("a code").to_owned()
}

pub async fn by_link(app: &TestApp, token: &str, new: &str) -> Answer {
    app.anonymous().post(RESET, &json!({ "token": token, "new_password": new })).await
}

pub async fn by_code(app: &TestApp, handle: &str, code: &str, new: &str) -> Answer {
    let body = json!({ "challenge": handle, "code": code, "new_password": new });
    app.anonymous().post(RESET, &body).await
}

pub async fn can_log_in(app: &TestApp, password: &str) -> bool {
    app.anonymous().log_in("ada", password).await.status == 200
}

#[tokio::test]
async fn a_link_or_a_code_sets_the_password_ends_every_session_and_logs_nobody_in() {
    for by in ["link", "code"] {
        let app = TestApp::start().await;
        let ada = app.newcomer("ada").await;
        app.deliver_mail().await;
        let asked = asked(&app, "ada").await;
        let answer = match by {
            "link" => by_link(&app, &asked.token, NEW).await,
            _ => by_code(&app, &asked.handle, &asked.code, NEW).await,
        };
        let said = answer.assert_ok(200);
        assert!(said.get("token").is_none() && answer.header("set-cookie").is_none());
        ada.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        ada.refresh_with(ada.refresh_token()).await.assert_error(401, "session_ended");
        assert!(!can_log_in(&app, PASSWORD).await);
        let again = app.log_in("ada", NEW).await;
        assert_eq!(again.user["email_verified"], json!(true), "the letter proves the address");
        let told = app.letter_to(&email_of("ada")).await;
        assert!(told.subject.contains("was changed") && told.text.contains("ada"), "{told:?}");
        // Nothing is good twice, nor by the other way.
        by_link(&app, &asked.token, PASSWORD).await.assert_error(410, "link_expired");
        by_code(&app, &asked.handle, &asked.code, PASSWORD).await.assert_error(400, "code_invalid");
        assert!(can_log_in(&app, NEW).await);
        let events: Vec<String> = sqlx::query_scalar(
            "select event from audit_log where event in ('reset_asked', 'password_reset') order by id",
        )
        .fetch_all(&app.pool)
        .await
        .unwrap();
        assert_eq!(events, ["reset_asked", "password_reset"]);
    }
}

/// The same bytes, but for the handle, and as long a handle.
#[tokio::test]
async fn an_address_that_nobody_has_is_answered_as_one_that_somebody_has() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let ask = async |email: &str| {
        let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
        let mut body = answer.assert_ok(202).clone();
        let handle = body["challenge"].take();
        (body, handle.as_str().unwrap().len(), answer.headers.len())
    };
    let known = ask("ada@example.com").await;
    assert_eq!(known, ask("ADA@example.com").await);
    assert_eq!(known, ask("nobody@example.com").await);
    let letters = app.deliver_mail().await;
    let to: Vec<&str> = letters.iter().map(|letter| &*letter.to).collect();
    assert_eq!(to, ["ada@example.com", "ada@example.com"], "nobody gets one");
    // What a stranger typed is not kept.
    let left: i64 =
        sqlx::query_scalar("select count(*) from outbox where recipient like 'nobody%'")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(left, 0);
    app.anonymous()
        .post(FORGOT, &json!({ "email": "nonsense" }))
        .await
        .assert_fields(&[("email", "invalid_email")]);
    app.anonymous().post(FORGOT, &json!({})).await.assert_fields(&[("email", "required")]);
}

#[tokio::test]
async fn of_twenty_uses_at_once_one_succeeds_over_two_instances_too() {
    for by in ["link", "code"] {
        let database = new_database().await;
        let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
        apps[0].user("ada").await;
        let Asked { handle, token, code } = asked(&apps[0], "ada").await;
        let answers = at_once(20, |number| {
            let (app, handle, token, code) =
                (apps[number % 2].clone(), handle.clone(), token.clone(), code.clone());
            async move {
                match by {
                    "link" => by_link(&app, &token, NEW).await,
                    _ => by_code(&app, &handle, &code, NEW).await,
                }
            }
        })
        .await;
        let (status, refused) =
            if by == "link" { (410, "link_expired") } else { (400, "code_invalid") };
        let done = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(done, 1, "{by}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.assert_error(status, refused);
        }
        assert!(can_log_in(&apps[0], NEW).await);
    }
}

#[tokio::test]
async fn an_answer_without_a_letter_says_so_to_programs_too() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    for email in ["ada@example.com", "nobody@example.com"] {
        for number in 0..4 {
            let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
            assert_eq!(answer.assert_ok(202)["limited"], json!(number == 3), "{email}");
        }
    }
}

#[tokio::test]
async fn a_letter_is_void_once_the_password_or_the_address_is_another_or_its_time_is_over() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    // The password.
    let before = asked(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(1));
    let change = json!({ "old_password": PASSWORD, "new_password": NEW });
    ada.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
    by_link(&app, &before.token, PASSWORD).await.assert_error(410, "link_expired");
    by_code(&app, &before.handle, &before.code, PASSWORD).await.assert_error(400, "code_invalid");
    // A reset voids every other letter, and a new letter leaves the older one as it is.
    let (first, second) = (asked(&app, "ada").await, asked(&app, "ada").await);
    by_code(&app, &first.handle, &first.code, PASSWORD).await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(1));
    by_link(&app, &second.token, NEW).await.assert_error(410, "link_expired");
    // Its time.
    app.clock.advance(TimeDelta::hours(1));
    let late = asked(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(10));
    by_code(&app, &late.handle, &late.code, NEW).await.assert_error(400, "code_invalid");
    app.clock.advance(TimeDelta::minutes(20));
    by_link(&app, &late.token, NEW).await.assert_error(410, "link_expired");
    // The address.
    app.clock.advance(TimeDelta::hours(1));
    let moved = asked(&app, "ada").await;
    let sql = "update users set email = 'elsewhere@example.com' where username = 'ada'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    by_link(&app, &moved.token, NEW).await.assert_error(410, "link_expired");
    by_code(&app, &moved.handle, &moved.code, NEW).await.assert_error(400, "code_invalid");
    assert!(can_log_in(&app, PASSWORD).await);
}

/// Nothing of one kind passes for another.
#[tokio::test]
async fn no_other_token_resets_and_a_reset_opens_nothing_else() {
    let app = TestApp::start().await;
    let newcomer = app.newcomer("ada").await;
    let confirmation = link_in(&app.letter_to(&email_of("ada")).await);
    let confirmation = confirmation.split_once("token=").unwrap().1.to_owned();
    let asked = asked(&app, "ada").await;
    let (access, refresh) = (newcomer.access_token(), newcomer.refresh_token());
    for token in [&confirmation, access, refresh, &asked.handle, "nonsense", ""] {
        by_link(&app, token, NEW).await.assert_error(400, "link_invalid");
    }
    for handle in [&confirmation, access, refresh, &asked.token, "nonsense", ""] {
        by_code(&app, handle, &asked.code, NEW).await.assert_error(400, "code_invalid");
    }
    for token in [&asked.token, &asked.handle] {
        let as_access =
            app.anonymous().call(Method::GET, "/api/v1/users/me").header("x-access-token", token);
        as_access.send().await.assert_error(401, "token_invalid");
        app.anonymous().refresh_with(token).await.assert_error(401, "refresh_token_invalid");
        let confirm = format!("/api/v1/confirm?token={token}");
        app.anonymous().post(&confirm, &json!({})).await.assert_error(400, "link_invalid");
    }
    for (body, field, code) in [
        (json!({ "new_password": NEW }), "token", "required"),
        (json!({ "challenge": "a", "new_password": NEW }), "code", "required"),
        (json!({ "code": "1", "new_password": NEW }), "challenge", "required"),
        (
            json!({ "token": "a", "code": "1", "challenge": "b", "new_password": NEW }),
            "token",
            "not_allowed",
        ),
        (json!({ "token": 1, "new_password": NEW }), "token", "invalid_type"),
    ] {
        app.anonymous().post(RESET, &body).await.assert_fields(&[(field, code)]);
    }
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
}

/// Nothing that the account's maker typed, and nothing that lets in whoever reads the database.
#[tokio::test]
async fn neither_the_letter_nor_the_database_says_more_than_it_has_to() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "cheap-pills.example", "email": "ada@example.com", "password": PASSWORD,
        "first_name": "Visit evil", "last_name": "example now",
    });
    app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
    app.deliver_mail().await;
    let handle = forgot(&app, "ada@example.com").await;
    let letter = app.letter_to("ada@example.com").await;
    for typed in ["cheap-pills", "Visit evil", "example now"] {
        assert!(!letter.text.contains(typed) && !letter.html.contains(typed), "{typed}");
    }
    let rows: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(c) from challenges c union all select to_jsonb(o) from outbox o",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let dump = serde_json::to_string(&rows).unwrap();
    let code = code_in(&letter).replace(' ', "");
    for secret in [&handle, &token_in(&letter), &code] {
        assert!(!dump.contains(secret.as_str()), "{secret}");
    }
}
