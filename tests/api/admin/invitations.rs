//! Invitations: made, sent, looked at, taken back and accepted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use doorward::mail::{Letter, SendError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person, email_of};

pub const INVITATIONS: &str = "/api/v1/admin/invitations";
pub const ACCEPT: &str = "/api/v1/invitations/accept";
const SHOW: &str = "/api/v1/invitations?token=";

pub async fn invite(boss: &Person, name: &str, role: &str) -> Answer {
    let body =
        json!({ "email": email_of(name), "role": role, "first_name": "Ada", "last_name": "L" });
    boss.post(INVITATIONS, &body).await
}

pub fn token_in(letter: &Letter) -> String {
    link_in(letter).strip_prefix(SHOW).expect("our own page").to_owned()
}

/// Invites somebody; the token of the letter.
pub async fn invited(app: &TestApp, boss: &Person, name: &str, role: &str) -> String {
    invite(boss, name, role).await.assert_ok(201);
    token_in(&app.letter_to(&email_of(name)).await)
}

pub fn account(token: &str, username: &str) -> Value {
    json!({ "token": token, "username": username, "password": PASSWORD })
}

pub async fn accept(app: &TestApp, token: &str, username: &str) -> Answer {
    app.anonymous().post(ACCEPT, &account(token, username)).await
}

#[tokio::test]
async fn an_invited_person_makes_an_account_with_the_address_and_the_role_of_the_invitation() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let answer = invite(&boss, "ada", "staff").await;
    let invitation = answer.assert_ok(201)["invitation"].clone();
    let expected = json!({
        "public_id": invitation["public_id"], "email": email_of("ada"), "role": "staff",
        "first_name": "Ada", "last_name": "L", "invited_by": boss.id(),
        "created_at": "2026-01-02T03:04:05.678Z", "expires_at": "2026-01-05T03:04:05.678Z",
        "accepted_at": null, "revoked_at": null,
    });
    assert_eq!(invitation, expected);
    let letter = app.letter_to(&email_of("ada")).await;
    assert_eq!(letter.subject, "You are invited to auth.example.com");
    assert!(letter.text.contains("72 hours") && !letter.text.contains("Ada"), "{}", letter.text);
    let token = token_in(&letter);

    let shown = app.anonymous().get(&format!("{SHOW}{token}")).await;
    let expected = json!({
        "success": true, "email": email_of("ada"), "first_name": "Ada", "last_name": "L",
        "expires_in": 72 * 3600,
    });
    assert_eq!(*shown.assert_ok(200), expected);
    app.clock.advance(TimeDelta::hours(71));
    let made = accept(&app, &token, "countess").await;
    let user = &made.assert_ok(201)["user"];
    assert!(made.header("set-cookie").is_none() && made.json.get("token").is_none());
    for (field, value) in [
        ("email", json!(email_of("ada"))),
        ("email_verified", json!(true)),
        ("role", json!("staff")),
        ("username", json!("countess")),
        ("first_name", json!("Ada")),
        ("last_name", json!("L")),
    ] {
        assert_eq!(user[field], value, "{field}");
    }
    let ada = app.log_in("countess", PASSWORD).await;
    ada.get(INVITATIONS).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await, [], "nothing to confirm");
    accept(&app, &token, "other").await.assert_error(410, "link_expired");
    app.anonymous().get(&format!("{SHOW}{token}")).await.assert_error(410, "link_expired");
    let events: Vec<(String, Option<Uuid>, Value)> = sqlx::query_as(
        "select event, user_id, details from audit_log where event like 'invit%' order by id",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let details = json!({ "invitation": invitation["public_id"], "role": "staff" });
    let id = |id: &str| id.parse().ok();
    assert_eq!(
        events,
        [
            ("invited".to_owned(), None, details.clone()),
            ("invitation_accepted".to_owned(), id(ada.id()), details),
        ]
    );
}

#[tokio::test]
async fn names_and_a_role_may_be_left_out_and_an_invited_person_may_choose_other_names() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let answer = boss.post(INVITATIONS, &json!({ "email": "  Bob@Example.com " })).await;
    let invitation = &answer.assert_ok(201)["invitation"];
    assert_eq!((&invitation["role"], &invitation["first_name"]), (&json!("user"), &json!("")));
    let token = token_in(&app.letter_to(invitation["email"].as_str().unwrap()).await);
    let mut body = account(&token, "bob");
    body["first_name"] = json!("Bob");
    let user = app.anonymous().post(ACCEPT, &body).await.assert_ok(201)["user"].clone();
    assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Bob"), &json!("")));
    let token = invited(&app, &boss, "cid", "User").await;
    let mut body = account(&token, "cid");
    (body["first_name"], body["last_name"]) = (json!(""), Value::Null);
    let user = app.anonymous().post(ACCEPT, &body).await.assert_ok(201)["user"].clone();
    assert_eq!((&user["first_name"], &user["last_name"]), (&json!(""), &json!("L")));
}

/// What the invited one sends decides nothing but the name and the password.
#[tokio::test]
async fn role_and_address_are_the_invitations_whatever_is_sent() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    let mut body = account(&token, "ada");
    for (field, value) in [
        ("email", "eve@example.com"),
        ("role", "admin"),
        ("email_verified", "false"),
        ("invited_by", "me"),
    ] {
        body[field] = json!(value);
    }
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let mut edited: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(
        edited.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["exp", "iat", "iss", "jti"]
    );
    edited["role"] = json!("admin");
    edited["email"] = json!("eve@example.com");
    let edited = URL_SAFE_NO_PAD.encode(edited.to_string());
    for forged in [format!("{head}.{edited}.{signature}"), format!("{head}.{claims}."), "x".into()]
    {
        accept(&app, &forged, "ada").await.assert_error(400, "link_invalid");
        app.anonymous().get(&format!("{SHOW}{forged}")).await.assert_error(400, "link_invalid");
    }
    let user = app.anonymous().post(ACCEPT, &body).await.assert_ok(201)["user"].clone();
    assert_eq!((&user["email"], &user["role"]), (&json!(email_of("ada")), &json!("user")));
}

#[tokio::test]
async fn no_other_token_is_an_invitation_and_an_invitation_opens_nothing_else() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "admin").await;
    app.newcomer("bob").await;
    let confirmation = link_in(&app.letter_to(&email_of("bob")).await);
    let confirmation = confirmation.split_once("token=").unwrap().1.to_owned();
    let email = json!({ "email": email_of("boss") });
    let asked = app.anonymous().post("/api/v1/password/forgot", &email).await;
    let code = asked.assert_ok(202)["challenge"].as_str().unwrap().to_owned();
    let reset = link_in(&app.letter_to(&email_of("boss")).await);
    let reset = reset.split_once("token=").unwrap().1.to_owned();
    for other in [&*confirmation, &code, &reset, boss.access_token(), boss.refresh_token()] {
        accept(&app, other, "eve").await.assert_error(400, "link_invalid");
    }
    let stranger = app.anonymous();
    let body = json!({ "token": token, "new_password": "quite another horse" });
    stranger.post("/api/v1/password/reset", &body).await.assert_error(400, "link_invalid");
    stranger.get(&format!("/api/v1/confirm?token={token}")).await.assert_error(400, "link_invalid");
    let call = stranger.call(axum::http::Method::GET, "/api/v1/users/me");
    call.header("x-access-token", &token).send().await.assert_error(401, "token_invalid");
    stranger.refresh_with(&token).await.assert_error(401, "refresh_token_invalid");
    accept(&app, &token, "ada").await.assert_ok(201);
}

#[tokio::test]
async fn an_invitation_is_good_for_72_hours_and_void_once_it_is_taken_back_or_made_anew() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let first = invited(&app, &boss, "ada", "user").await;
    app.clock.advance(TimeDelta::hours(10));
    let boss = app.log_in("boss", PASSWORD).await;
    let again = invite(&boss, "ADA", "staff").await;
    let again = again.assert_ok(201)["invitation"].clone();
    let second = token_in(&app.letter_to("ADA@example.com").await);
    accept(&app, &first, "ada").await.assert_error(410, "link_expired");
    let listed = boss.get(INVITATIONS).await.assert_ok(200)["invitations"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "one living one an address");
    assert_eq!(listed[0]["role"], "staff");
    assert_eq!(listed[0]["expires_at"], "2026-01-05T13:04:05.678Z");

    let path = format!("{INVITATIONS}/{}", again["public_id"].as_str().unwrap());
    boss.delete(&path).await.assert_ok(200);
    boss.delete(&path).await.assert_error(404, "invitation_not_found");
    accept(&app, &second, "ada").await.assert_error(410, "link_expired");
    app.anonymous().get(&format!("{SHOW}{second}")).await.assert_error(410, "link_expired");

    let third = invited(&app, &boss, "ada", "user").await;
    app.clock.advance(TimeDelta::hours(72) - TimeDelta::seconds(1));
    app.anonymous().get(&format!("{SHOW}{third}")).await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(1));
    accept(&app, &third, "ada").await.assert_error(410, "link_expired");
    // One that ran out is made anew like any other.
    let boss = app.log_in("boss", PASSWORD).await;
    let fourth = invited(&app, &boss, "ada", "user").await;
    accept(&app, &fourth, "ada").await.assert_ok(201);
}

#[tokio::test]
async fn a_letter_of_an_invitation_that_is_void_is_not_sent() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let invitation = invite(&boss, "ada", "user").await.assert_ok(201)["invitation"].clone();
    invite(&boss, "ada", "user").await.assert_ok(201);
    app.letter_to(&email_of("ada")).await;
    invite(&boss, "bob", "user").await.assert_ok(201);
    let sql = "select id::text from invitations where email_key = 'bob@example.com'";
    let bob: String = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    boss.delete(&format!("{INVITATIONS}/{bob}")).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await, []);
    let sql = "select count(*) from outbox where failed_at is not null and last_error = 'its link has run out, or is void'";
    let given_up: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(given_up, 2, "and nothing of it is tried again");
    assert_eq!(invitation["email"], email_of("ada"));

    // Nor one that was held up until its link had run out.
    app.clock.advance(TimeDelta::hours(1));
    invite(&boss, "cid", "user").await.assert_error(401, "token_expired");
    let boss = app.log_in("boss", PASSWORD).await;
    invite(&boss, "cid", "user").await.assert_ok(201);
    app.letters.fail_next(SendError::Transient("away".into()));
    app.deliver_mail().await;
    app.clock.advance(TimeDelta::hours(72));
    assert_eq!(app.deliver_mail().await, []);
}

#[tokio::test]
async fn a_taken_address_is_told_when_inviting_and_when_accepting() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    app.user("ada").await;
    let refused = invite(&boss, "Ada", "user").await;
    refused.assert_error(409, "email_taken");
    assert_eq!(refused.json["errors"][0]["field"], "email");
    let token = invited(&app, &boss, "bob", "user").await;
    // By the time that it is accepted.
    app.user("bob").await;
    accept(&app, &token, "robert").await.assert_error(409, "email_taken");
    let users: i64 =
        sqlx::query_scalar("select count(*) from users").fetch_one(&app.pool).await.unwrap();
    assert_eq!(users, 3);
}

/// Whoever reads the letters has the address.
#[tokio::test]
async fn an_account_that_never_proved_the_address_gives_way_when_the_invitation_is_accepted() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let squatter = app.newcomer("ada").await;
    app.deliver_mail().await;
    let token = invited(&app, &boss, "ada", "user").await;
    squatter.get("/api/v1/users/me").await.assert_ok(200);
    // Its name is free as well.
    let made = accept(&app, &token, "ada").await;
    assert_ne!(made.assert_ok(201)["user"]["public_id"], squatter.id());
    squatter.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    squatter.refresh_with(squatter.refresh_token()).await.assert_error(401, "session_ended");
    let sql = "select count(*) from audit_log where event = 'user_deleted' and user_id = $1::uuid";
    let told: i64 = sqlx::query_scalar(sql).bind(squatter.id()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn what_will_not_do_leaves_the_invitation_open() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    let send = async |field: &str, value: Value| {
        let mut body = account(&token, "ada");
        body[field] = value;
        app.anonymous().post(ACCEPT, &body).await
    };
    send("password", json!("short")).await.assert_fields(&[("password", "too_short")]);
    send("password", json!("ada@example.com"))
        .await
        .assert_fields(&[("password", "same_as_email")]);
    send("password", Value::Null).await.assert_fields(&[("password", "required")]);
    send("username", json!("a")).await.assert_fields(&[("username", "too_short")]);
    send("username", json!("admin")).await.assert_fields(&[("username", "reserved")]);
    send("first_name", json!("\u{7}")).await.assert_fields(&[("first_name", "invalid_characters")]);
    send("token", Value::Null).await.assert_fields(&[("token", "required")]);
    send("token", json!(7)).await.assert_fields(&[("token", "invalid_type")]);
    let refused = send("username", json!("BOSS")).await;
    refused.assert_error(409, "username_taken");
    assert_eq!(refused.json["errors"][0]["field"], "username");
    accept(&app, &token, "ada").await.assert_ok(201);
}

#[tokio::test]
async fn a_link_may_lead_to_the_frontend() {
    let page = "https://app.example.com/join?lang=en";
    let app = TestApp::with(&[("INVITE_URL", page)]).await;
    let boss = app.admin().await;
    invite(&boss, "ada", "user").await.assert_ok(201);
    let letter = app.letter_to(&email_of("ada")).await;
    let link = letter.text.split_whitespace().find(|word| word.starts_with(page)).unwrap();
    let token = link.split_once("#token=").unwrap().1;
    app.anonymous().get(&format!("{SHOW}{token}")).await.assert_ok(200);
    accept(&app, token, "ada").await.assert_ok(201);
}
