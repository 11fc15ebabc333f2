//! "This was not me": what the reader of a letter takes back, and who cannot.

use axum::http::Method;
use chrono::TimeDelta;
use doorward::mail::Letter;
use doorward::store::logins::LoginLookup;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;

const NOT_ME: &str = "/api/v1/not_me";
pub(super) const ME: &str = "/api/v1/users/me";
pub(super) const STOLEN: &str = "what a thief has chosen";
pub(super) const NEW: &str = "a new horse battery";
pub(super) const THIEF: &str = "thief@example.org";

pub(super) fn token_in(letter: &Letter) -> String {
    let link = link_in(letter);
    link.strip_prefix("/api/v1/not_me?token=").expect("our own page").to_owned()
}

pub(super) async fn not_me(app: &TestApp, token: &str) -> Answer {
    app.anonymous().post(NOT_ME, &json!({ "token": token })).await
}

pub(super) async fn change_password(person: &Person, old: &str, new: &str) {
    let body = json!({ "old_password": old, "new_password": new });
    person.put("/api/v1/users/me/change_password", &body).await.assert_ok(200);
}

/// The letter's link that tells Ada that her password is another one.
pub(super) async fn password_stolen(app: &TestApp, thief: &Person) -> String {
    change_password(thief, PASSWORD, STOLEN).await;
    token_in(&app.letter_to(&email_of("ada")).await)
}

/// A thief of the password gives the account an address of their own; the link of the letter that
/// tells the old one.
pub(super) async fn address_stolen(app: &TestApp, thief: &Person, password: &str) -> String {
    let body = json!({ "email": THIEF, "password": password });
    thief.put(ME, &body).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let to = |address: &str| letters.iter().find(|letter| letter.to == address).expect("a letter");
    app.anonymous().post(&link_in(to(THIEF)), &json!({})).await.assert_ok(200);
    token_in(to(&email_of("ada")))
}

/// Sets a new password by the letter that comes to this address now.
pub(super) async fn recover(app: &TestApp, address: &str) {
    let letter = app.letter_to(address).await;
    let token = link_in(&letter);
    let token = token.strip_prefix("/api/v1/password/reset?token=").expect("a reset");
    let body = json!({ "token": token, "new_password": NEW });
    app.anonymous().post("/api/v1/password/reset", &body).await.assert_ok(200);
}

pub(super) async fn row(app: &TestApp) -> Value {
    let sql = "select jsonb_build_object('email', email, 'verified', email_verified_at is not null,
                   'pending', pending_email, 'reset', reset_required_at is not null)
               from users where username = 'ada'";
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

pub(super) async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

pub(super) const EVENTS: &str = "select count(*) from audit_log where event = 'not_me'";
const RESETS: &str = "select count(*) from outbox where kind = 'reset'";

#[tokio::test]
async fn a_stolen_password_lets_nobody_in_until_its_owner_has_set_another_one() {
    let app = TestApp::start().await;
    let (ada, thief) = (app.user("ada").await, app.log_in("ada", PASSWORD).await);
    let token = password_stolen(&app, &thief).await;
    ada.get(ME).await.assert_error(401, "session_ended");
    thief.get(ME).await.assert_ok(200);
    let answer = not_me(&app, &token).await;
    let said = answer.assert_ok(200);
    assert!(said.get("token").is_none() && answer.header("set-cookie").is_none());
    thief.get(ME).await.assert_error(401, "session_ended");
    thief.refresh_with(thief.refresh_token()).await.assert_error(401, "session_ended");
    for login in ["ada", "ada@example.com"] {
        app.anonymous().log_in(login, STOLEN).await.assert_error(403, "reset_required");
        app.anonymous().log_in(login, "not it").await.assert_error(401, "invalid_credentials");
    }
    recover(&app, &email_of("ada")).await;
    let ada = app.log_in("ada", NEW).await;
    app.anonymous().log_in("ada", STOLEN).await.assert_error(401, "invalid_credentials");
    let event: Value = sqlx::query_scalar(
        "select jsonb_build_object('user', user_id, 'actor', actor_id, 'details', details)
         from audit_log where event = 'not_me'",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    let details = json!({ "told": "password_changed", "address_given_back": false });
    assert_eq!(event, json!({ "user": ada.id(), "actor": null, "details": details }));
}

/// The letter of a new password is the one that comes first.
#[tokio::test]
async fn a_new_devices_letter_ends_its_session() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let login = app.anonymous().call(Method::POST, "/api/v1/login").from("203.0.113.7");
    let login = login.json(&json!({ "username": "ada", "password": PASSWORD })).send().await;
    let access = login.assert_ok(200)["token"].as_str().map(str::to_owned);
    let thief = Person { access, ..app.anonymous() };
    let known = async || {
        let address = Some("203.0.113.7".parse().unwrap());
        let lookup = LoginLookup { login: "ada".to_owned(), address, device: None };
        app.state.logins.find(lookup).await.unwrap().1
    };
    assert!(known().await);
    not_me(&app, &token_in(&app.letter_to(&email_of("ada")).await)).await.assert_ok(200);
    thief.get(ME).await.assert_error(401, "session_ended");
    assert!(!known().await, "a thief is no known client");
}

#[tokio::test]
async fn again_it_is_the_same_success_and_changes_nothing() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    let first = not_me(&app, &token).await;
    let second = not_me(&app, &token).await;
    assert_eq!(first.assert_ok(200), second.assert_ok(200));
    recover(&app, &email_of("ada")).await;
    let ada = app.log_in("ada", NEW).await;
    app.deliver_mail().await;
    app.clock.advance(TimeDelta::days(6));
    not_me(&app, &token).await.assert_ok(200);
    app.log_in("ada", NEW).await;
    assert_eq!(app.deliver_mail().await, []);
    assert_eq!(count(&app, EVENTS).await, 1);
    assert_eq!(row(&app).await["reset"], json!(false));
    app.log_in("ada", NEW).await.get(ME).await.assert_ok(200);
    let living = "select count(*) from sessions where ended_at is null";
    assert_eq!(count(&app, living).await, 3, "{} goes on", ada.id());
}

#[tokio::test]
async fn of_twenty_at_once_one_has_an_effect_over_two_instances_too() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    apps[0].user("ada").await;
    let thief = apps[0].log_in("ada", PASSWORD).await;
    let token = address_stolen(&apps[0], &thief, PASSWORD).await;
    let answers = at_once(20, |number| {
        let (app, token) = (apps[number % 2].clone(), token.clone());
        async move { not_me(&app, &token).await }
    })
    .await;
    for answer in &answers {
        answer.assert_ok(200);
    }
    assert_eq!(count(&apps[0], EVENTS).await, 1);
    assert_eq!(count(&apps[0], RESETS).await, 1);
    recover(&apps[0], &email_of("ada")).await;
}

/// Scanners, previews and people who look twice.
#[tokio::test]
async fn looking_at_the_link_changes_nothing() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    let path = format!("{NOT_ME}?token={token}&utm_source=mail");
    let look = async |method: Method, path: &str, accept: &str| {
        app.anonymous().call(method, path).header("accept", accept).send().await
    };
    for method in [Method::GET, Method::HEAD].iter().cycle().take(10) {
        assert_eq!(look(method.clone(), &path, "text/html").await.status, 200);
        let refused = look(method.clone(), &path, "application/json").await;
        assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, Some("POST")));
    }
    look(Method::GET, &path, "*/*").await.assert_error(405, "method_not_allowed");
    let page = look(Method::GET, &path, "text/html").await;
    assert!(page.text.contains("<button>This was not me</button>"), "{}", page.text);
    assert!(page.text.contains(&token) && page.text.contains(r#"content="strict-origin""#));
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"));
    for (path, status) in [(NOT_ME, 400), (&*format!("{NOT_ME}?token=x"), 400)] {
        let page = look(Method::GET, path, "text/html").await;
        assert!(page.status == status && page.text.contains("not valid"), "{}", page.text);
    }
    thief.get(ME).await.assert_ok(200);
    assert_eq!(count(&app, EVENTS).await, 0);
    not_me(&app, &token).await.assert_ok(200);
    let page = look(Method::GET, &path, "text/html").await;
    assert!(page.status == 200 && !page.text.contains("<button>"), "{}", page.text);
    app.clock.advance(TimeDelta::days(7));
    let page = look(Method::GET, &path, "text/html").await;
    assert!(page.status == 410 && page.text.contains("has run out"), "{}", page.text);
}

#[tokio::test]
async fn the_pages_form_comes_from_nowhere_else() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    let send = async |headers: &[(&str, &str)]| {
        let mut call = app.anonymous().call(Method::POST, NOT_ME).header("accept", "text/html");
        call = call.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            call = call.header(name, value);
        }
        call.body(format!("token={token}")).send().await
    };
    let strangers = [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", PUBLIC_URL)],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ];
    for headers in strangers {
        assert_eq!(send(headers).await.status, 403, "{headers:?}");
    }
    assert_eq!(count(&app, EVENTS).await, 0);
    for _ in 0..2 {
        let done = send(&[("sec-fetch-site", "same-origin")]).await;
        assert!(done.status == 200 && done.text.contains("is signed out"), "{}", done.text);
    }
    assert_eq!(count(&app, EVENTS).await, 1);
}

#[tokio::test]
async fn no_other_token_does_it_and_this_one_opens_nothing_else() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    app.anonymous()
        .post("/api/v1/password/forgot", &json!({ "email": email_of("ada") }))
        .await
        .assert_ok(202);
    let reset = link_in(&app.letter_to(&email_of("ada")).await);
    let reset = reset.split_once("token=").unwrap().1.to_owned();
    let token = password_stolen(&app, &thief).await;
    let (access, refresh) = (ada.access_token(), ada.refresh_token());
    for other in [&reset, access, refresh, "nonsense", ""] {
        not_me(&app, other).await.assert_error(400, "link_invalid");
    }
    for (body, code) in [(json!({}), "required"), (json!({ "token": 1 }), "invalid_type")] {
        app.anonymous().post(NOT_ME, &body).await.assert_fields(&[("token", code)]);
    }
    let body = json!({ "token": token, "new_password": NEW });
    let as_reset = app.anonymous().post("/api/v1/password/reset", &body).await;
    as_reset.assert_error(400, "link_invalid");
    let as_access = app.anonymous().call(Method::GET, ME).header("x-access-token", &token);
    as_access.send().await.assert_error(401, "token_invalid");
    app.anonymous().refresh_with(&token).await.assert_error(401, "refresh_token_invalid");
    let confirm = format!("/api/v1/confirm?token={token}");
    app.anonymous().post(&confirm, &json!({})).await.assert_error(400, "link_invalid");
    // Its time, and an account that is no more.
    app.clock.advance(TimeDelta::days(7) - TimeDelta::seconds(1));
    let gone = token;
    let later = app.log_in("ada", STOLEN).await;
    change_password(&later, STOLEN, PASSWORD).await;
    let token = token_in(&app.letter_to(&email_of("ada")).await);
    app.clock.advance(TimeDelta::seconds(1));
    not_me(&app, &gone).await.assert_error(410, "link_expired");
    sqlx::query("delete from users").execute(&app.pool).await.unwrap();
    not_me(&app, &token).await.assert_error(410, "link_expired");
}

#[tokio::test]
async fn no_limit_keeps_an_owner_from_saying_so() {
    let app = TestApp::with(&[("RATE_LIMITS", "on"), ("LIMIT_MAIL_RECIPIENT_HOUR", "0")]).await;
    // No letter goes out for a registration either: the address is confirmed by hand.
    app.newcomer("ada").await;
    sqlx::query("update users set email_verified_at = now()").execute(&app.pool).await.unwrap();
    for _ in 0..30 {
        not_me(&app, "nonsense").await.assert_error(400, "link_invalid");
    }
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    for _ in 0..30 {
        not_me(&app, &token).await.assert_ok(200);
    }
    recover(&app, &email_of("ada")).await;
}

#[tokio::test]
async fn the_letter_leads_to_the_frontend_where_one_is_set_and_no_secret_rests() {
    let url = "https://app.example.com/not-me?from=mail";
    let app = TestApp::with(&[("NOT_ME_URL", url)]).await;
    app.user("ada").await;
    change_password(&app.log_in("ada", PASSWORD).await, PASSWORD, STOLEN).await;
    let letter = app.letter_to(&email_of("ada")).await;
    let link = letter.text.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    let token = link.strip_prefix(&format!("{url}#token=")).expect("the frontend's own page");
    let rows: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(c) from challenges c union all select to_jsonb(o) from outbox o",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    assert!(!serde_json::to_string(&rows).unwrap().contains(token));
    not_me(&app, token).await.assert_ok(200);
}
