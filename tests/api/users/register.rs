//! `POST /users/`: who is kept, who is refused, and what a refusal leaves behind.

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::{Uuid, Version};

use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, email_of};

fn form(name: &str) -> Value {
    json!({ "username": name, "email": email_of(name), "password": PASSWORD })
}

/// A form with some of its fields replaced.
fn form_with(name: &str, fields: Value) -> Value {
    let mut form = form(name);
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    form.as_object_mut().unwrap().extend(fields);
    form
}

async fn register(app: &TestApp, form: &Value) -> Answer {
    app.anonymous().post("/api/v1/users/", form).await
}

/// How many users, letters and records of a registration there are: what no endpoint shows to
/// anybody but an admin.
async fn rows(app: &TestApp) -> (i64, i64, i64) {
    let sql = "select (select count(*) from users), (select count(*) from outbox),
                   (select count(*) from audit_log where event = 'registered')";
    sqlx::query_as(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn whoever_registers_is_shown_what_was_kept_and_gets_a_letter() {
    let app = TestApp::start().await;
    let names = json!({
        "username": "Ada", "email": "Ada@Example.com", "first_name": "Ada", "last_name": "Lovelace",
    });
    let answer = register(&app, &form_with("ada", names)).await;
    let id: Uuid = answer.json["user"]["public_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version(), Some(Version::SortRand));
    let expected = json!({
        "success": true,
        "message": "Registered. Please follow the link in the mail that is on its way.",
        "user": {
            "public_id": id, "first_name": "Ada", "last_name": "Lovelace", "username": "Ada",
            "email": "Ada@Example.com", "email_verified": false, "pending_email": null,
            "role": "user", "is_staff": false, "is_admin": false,
            "created_at": "2026-01-02T03:04:05.678Z", "modified_at": "2026-01-02T03:04:05.678Z",
        },
        "challenge": answer.json["challenge"],
    });
    assert_eq!(answer.assert_ok(201), &expected);
    assert!(answer.json["challenge"].is_string());
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let person = app.log_in("Ada", PASSWORD).await;
    assert_eq!(person.get("/api/v1/users/me").await.json["user"], expected["user"]);
    let letter = app.letter_to("Ada@Example.com").await;
    let link = link_in(&letter);
    assert!(link.starts_with("/api/v1/confirm?token="), "{link}");
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(person.get("/api/v1/users/me").await.json["user"]["email_verified"], true);
}

#[tokio::test]
async fn names_may_be_left_out_and_null_is_the_same_as_leaving_out() {
    let app = TestApp::start().await;
    let without = register(&app, &form("ada")).await;
    let nulls = json!({ "first_name": null, "last_name": null });
    let with_null = register(&app, &form_with("bob", nulls)).await;
    for answer in [without, with_null] {
        let user = &answer.assert_ok(201)["user"];
        assert_eq!((&user["first_name"], &user["last_name"]), (&json!(""), &json!("")));
    }
}

#[tokio::test]
async fn a_token_is_neither_needed_nor_looked_at() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    ada.post("/api/v1/users", &form("bob")).await.assert_ok(201);
    let mut stranger = app.anonymous();
    stranger.access = Some("nonsense".into());
    stranger.post("/api/v1/users", &form("cyd")).await.assert_ok(201);
}

#[tokio::test]
async fn a_username_is_taken_in_any_case() {
    let app = TestApp::start().await;
    register(&app, &form("Ada")).await.assert_ok(201);
    for name in ["Ada", "ada", "ADA"] {
        let form = form_with(name, json!({ "email": "other@example.com" }));
        register(&app, &form).await.assert_error(409, "username_taken");
    }
}

#[tokio::test]
async fn an_email_address_is_taken_in_any_case() {
    let app = TestApp::start().await;
    register(&app, &form("ada")).await.assert_ok(201);
    for email in ["ada@example.com", "ADA@example.com", "ada@EXAMPLE.com"] {
        let form = form_with("other", json!({ "email": email }));
        register(&app, &form).await.assert_error(409, "email_taken");
    }
}

#[tokio::test]
async fn where_both_are_taken_both_are_told_the_username_first() {
    let app = TestApp::start().await;
    for name in ["ada", "bob"] {
        register(&app, &form(name)).await.assert_ok(201);
    }
    let name = ("username", "username_taken", "This username is taken.");
    let email = ("email", "email_taken", "This e-mail address is taken.");
    for (username, address, expected) in [
        ("ADA", "Ada@example.com", &[name, email][..]),
        // Of two accounts.
        ("bob", "ada@example.com", &[name, email]),
        ("ada", "free@example.com", &[name]),
        ("free", "bob@example.com", &[email]),
    ] {
        let answer = register(&app, &form_with(username, json!({ "email": address }))).await;
        answer.assert_error(409, expected[0].1);
        let errors = expected.iter().map(
            |(field, code, message)| json!({ "field": field, "code": code, "message": message }),
        );
        assert_eq!(answer.json["errors"], Value::Array(errors.collect()));
    }
    // Each is one line in the log, as before.
    let sql = "select count(*) from audit_log where event = 'already_taken'";
    let lines: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(lines, 4);
}

#[tokio::test]
async fn the_same_call_again_is_a_conflict_and_not_a_second_user() {
    let app = TestApp::start().await;
    register(&app, &form("ada")).await.assert_ok(201);
    let after_one = rows(&app).await;
    assert_eq!(register(&app, &form("ada")).await.status, 409);
    assert_eq!(rows(&app).await, after_one);
}

#[tokio::test]
async fn a_refused_registration_leaves_no_user_and_no_letter() {
    let app = TestApp::start().await;
    register(&app, &form("ada")).await.assert_ok(201);
    let before = rows(&app).await;
    assert_eq!(before, (1, 1, 1));
    for (fields, status) in [
        (json!({ "email": "other@example.com" }), 409),
        (json!({ "username": "other" }), 409),
        (
            json!({ "username": "other", "email": "other@example.com", "password": "password1" }),
            422,
        ),
        (json!({ "username": "other", "email": "other@", "password": PASSWORD }), 422),
    ] {
        assert_eq!(register(&app, &form_with("ada", fields)).await.status, status);
    }
    assert_eq!(rows(&app).await, before);
    // Whoever tries out names can be seen.
    let sql = "select details ->> 'code' from audit_log where event = 'already_taken' order by id";
    let taken: Vec<String> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
    assert_eq!(taken, ["username_taken", "email_taken"]);
    assert_eq!(app.deliver_mail().await.len(), 1);
    // What was refused is still free.
    register(&app, &form("other")).await.assert_ok(201);
}

#[tokio::test]
async fn of_twenty_who_want_one_username_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let forms: Vec<Value> = (0..20)
        .map(|n| {
            let name = if n % 2 == 0 { "ada" } else { "ADA" };
            form_with(name, json!({ "email": email_of(&format!("ada{n}")) }))
        })
        .collect();
    let answers = join_all(forms.iter().map(|form| register(&app, form))).await;
    let won = only_winner(&answers, 409, "username_taken");
    assert_eq!(rows(&app).await, (1, 1, 1));
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(won.json["user"]["email"], letters[0].to);
}

#[tokio::test]
async fn of_twenty_who_want_one_address_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let forms: Vec<Value> = (0..20)
        .map(|n| form_with(&format!("ada{n}"), json!({ "email": "ada@example.com" })))
        .collect();
    let answers = join_all(forms.iter().map(|form| register(&app, form))).await;
    only_winner(&answers, 409, "email_taken");
    assert_eq!(rows(&app).await, (1, 1, 1));
    app.letter_to("ada@example.com").await;
}

#[tokio::test]
async fn nobody_registers_with_more_than_the_form_asks_for() {
    let app = TestApp::start().await;
    let id = "00000000-0000-7000-8000-000000000000";
    let extra = json!({
        "role": "admin", "is_admin": true, "is_staff": true, "email_verified": true,
        "email_verified_at": "2020-01-01T00:00:00Z", "pending_email": "x@example.com",
        "id": id, "public_id": id, "password_hash": "x",
        "created_at": "2020-01-01T00:00:00Z", "modified_at": "2020-01-01T00:00:00Z",
        "success": false, "unheard_of": { "deep": [1, 2.5, null] },
    });
    let answer = register(&app, &form_with("ada", extra)).await;
    let user = &answer.assert_ok(201)["user"];
    assert_ne!(user["public_id"], id);
    let expected = json!({
        "public_id": user["public_id"], "first_name": "", "last_name": "", "username": "ada",
        "email": "ada@example.com", "email_verified": false, "pending_email": null,
        "role": "user", "is_staff": false, "is_admin": false,
        "created_at": "2026-01-02T03:04:05.678Z", "modified_at": "2026-01-02T03:04:05.678Z",
    });
    assert_eq!(user, &expected);
    let person = app.log_in("ada", PASSWORD).await;
    person.get("/api/v1/users").await.assert_error(403, "forbidden");
    app.letter_to("ada@example.com").await;
}

#[tokio::test]
async fn the_letters_link_never_comes_from_the_request() {
    let app = TestApp::start().await;
    let call = app.anonymous().call(axum::http::Method::POST, "/api/v1/users/");
    let call = ["host", "x-forwarded-host", "forwarded", "origin", "referer", "x-forwarded-proto"]
        .into_iter()
        .fold(call, |call, name| call.header(name, "evil.example"));
    call.json(&form("ada")).send().await.assert_ok(201);
    let letter = app.letter_to("ada@example.com").await;
    assert!(!letter.text.contains("evil.example") && !letter.html.contains("evil.example"));
    assert!(letter.text.contains("https://auth.example.com/api/v1/confirm?token="));
}

#[tokio::test]
async fn the_password_is_kept_as_a_hash_alone() {
    let app = TestApp::start().await;
    let answer = register(&app, &form("ada")).await;
    assert!(!answer.text.contains(PASSWORD) && !answer.text.contains("argon2"));
    let sql = "select password_hash from users";
    let hash: String = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
    let sql = "select (select string_agg(u::text, '') from users u)
                   || (select string_agg(o::text, '') from outbox o)
                   || (select string_agg(a::text, '') from audit_log a)";
    let kept: String = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert!(!kept.contains(PASSWORD) && kept.contains("ada@example.com"));
}
