//! `/users/{public_id}/ban`: who bans whom, until when, and what is left of the banned.

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::admin::staff::{delete_account, staff};
use crate::admin::users::{ME, path};
use crate::auth::recovery::{FORGOT, asked, by_code, by_link};
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::wait::eventually;

pub fn ban_path(person: &Person) -> String {
    format!("{}/ban", path(person))
}

pub async fn ban(boss: &Person, person: &Person) -> Answer {
    boss.put(&ban_path(person), &json!({ "reason": "Sent advertisements." })).await
}

pub async fn active_sessions(app: &TestApp, person: &Person) -> i64 {
    let sql = "select count(*) from sessions where user_id = $1::uuid and ended_at is null";
    sqlx::query_scalar(sql).bind(person.id()).fetch_one(&app.pool).await.unwrap()
}

/// By the clock of the database, which alone decides.
pub async fn database_time(app: &TestApp) -> DateTime<Utc> {
    sqlx::query_scalar("select now()").fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn a_ban_ends_every_session_and_tells_a_right_password_until_when_and_not_why() {
    let app = TestApp::start().await;
    let (boss, mut ada) = (app.admin().await, app.user("ada").await);
    let phone = app.log_in("ada", PASSWORD).await;
    phone.get(ME).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    let request = json!({ "reason": " Spam,\nagain. ", "until": "2999-01-01T02:00:00.5+02:00" });
    let answer = boss.put(&ban_path(&ada), &request).await;
    let mut expected = ada.user.clone();
    expected["email_verified"] = json!(true);
    expected["modified_at"] = json!("2026-01-02T03:05:05.678Z");
    expected["banned"] =
        json!({ "until": "2999-01-01T00:00:00.500Z", "reason": "Spam,\nagain.", "by": boss.id() });
    expected["reset_required"] = json!(false);
    expected["deleted_at"] = Value::Null;
    assert_eq!(answer.assert_ok(200), &json!({ "success": true, "user": expected }));
    assert_eq!(boss.get(&path(&ada)).await.json["user"], expected);

    for person in [&ada, &phone] {
        person.get(ME).await.assert_error(401, "session_ended");
    }
    ada.refresh().await.assert_error(401, "session_ended");
    let refused = app.anonymous().log_in("ada", PASSWORD).await;
    refused.assert_error(403, "banned");
    assert_eq!(refused.json["until"], "2999-01-01T00:00:00.500Z");
    assert!(!refused.text.contains("Spam"), "{}", refused.text);
    app.anonymous().log_in("ada", "not it").await.assert_error(401, "invalid_credentials");
    let reasons: Vec<String> =
        sqlx::query_scalar("select distinct end_reason from sessions where ended_at is not null")
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert_eq!(reasons, ["banned"]);
    // Nobody else is concerned.
    boss.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn a_ban_has_a_reason_and_ends_in_the_future() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let put = async |body: Value| boss.put(&ban_path(&ada), &body).await;
    for (body, fields) in [
        (json!({}), &[("reason", "required")][..]),
        (
            json!({ "reason": null, "until": 1 }),
            &[("reason", "required"), ("until", "invalid_type")],
        ),
        (json!({ "reason": "  " }), &[("reason", "required")]),
        (json!({ "reason": "x".repeat(501) }), &[("reason", "too_long")]),
        (json!({ "reason": ["x"] }), &[("reason", "invalid_type")]),
        (json!({ "reason": "x\u{202e}" }), &[("reason", "invalid_characters")]),
        (json!({ "reason": "x", "until": "" }), &[("until", "invalid_format")]),
        (json!({ "reason": "x", "until": "2999-01-01" }), &[("until", "invalid_format")]),
        (json!({ "reason": "x", "until": "2999-01-01T00:00:00" }), &[("until", "invalid_format")]),
        // Over by the database's clock, though the service's stands before it.
        (json!({ "reason": "x", "until": "2026-06-01T00:00:00Z" }), &[("until", "out_of_range")]),
        (json!({ "reason": "x", "until": "1999-01-01T00:00:00Z" }), &[("until", "out_of_range")]),
        (
            json!({ "reason": "x", "until": "9999-12-31T23:59:59-12:00" }),
            &[("until", "out_of_range")],
        ),
    ] {
        put(body).await.assert_fields(fields);
    }
    let call = boss.call(Method::PUT, &ban_path(&ada)).body("reason=spam");
    call.send().await.assert_error(415, "unsupported_media_type");
    ada.get(ME).await.assert_ok(200);
    assert_eq!(boss.get(&path(&ada)).await.json["user"]["banned"], Value::Null);
    put(json!({ "reason": "x".repeat(500), "until": null, "by": "nobody" })).await.assert_ok(200);
}

#[tokio::test]
async fn a_later_ban_takes_the_place_of_an_earlier_one() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let eve = app.admin_called("eve").await;
    ban(&boss, &ada).await.assert_ok(200);
    let refused = app.anonymous().log_in("ada", PASSWORD).await;
    assert!(refused.json.get("until").is_none(), "for good: {}", refused.text);
    let request = json!({ "reason": "Let us see.", "until": "2999-01-01T00:00:00Z" });
    eve.put(&ban_path(&ada), &request).await.assert_ok(200);
    let expected =
        json!({ "until": "2999-01-01T00:00:00.000Z", "reason": "Let us see.", "by": eve.id() });
    assert_eq!(boss.get(&path(&ada)).await.json["user"]["banned"], expected);
    // One that would be over already leaves it as it is.
    let over = json!({ "reason": "Over.", "until": "2026-01-03T00:00:00Z" });
    boss.put(&ban_path(&ada), &over).await.assert_fields(&[("until", "out_of_range")]);
    assert_eq!(boss.get(&path(&ada)).await.json["user"]["banned"], expected);
}

#[tokio::test]
async fn a_ban_that_ran_out_lets_in_without_a_job_whatever_the_clocks_of_instances_say() {
    let app = TestApp::start().await;
    let database: String =
        sqlx::query_scalar("select current_database()").fetch_one(&app.pool).await.unwrap();
    let clock = doorward::clock::Clock::fixed(app.clock.now() + TimeDelta::seconds(30));
    let other = TestApp::at(&database, &[], clock).await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let until = database_time(&app).await + TimeDelta::seconds(3);
    let request = json!({ "reason": "Cool down.", "until": until.to_rfc3339() });
    boss.put(&ban_path(&ada), &request).await.assert_ok(200);
    for app in [&app, &other] {
        app.anonymous().log_in("ada", PASSWORD).await.assert_error(403, "banned");
    }
    eventually("the ban is over", async || database_time(&app).await > until).await;
    for app in [&app, &other] {
        app.log_in("ada", PASSWORD).await.get(ME).await.assert_ok(200);
    }
    assert_eq!(boss.get(&path(&ada)).await.json["user"]["banned"], Value::Null);
    // There is nothing to lift, and nobody is told.
    app.deliver_mail().await;
    boss.delete(&ban_path(&ada)).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn who_is_banned_no_more_is_told_at_a_verified_address() {
    let app = TestApp::start().await;
    let (boss, ada, bob) = (app.admin().await, app.user("ada").await, app.newcomer("bob").await);
    app.deliver_mail().await;
    for person in [&ada, &bob] {
        ban(&boss, person).await.assert_ok(200);
    }
    assert_eq!(app.deliver_mail().await.len(), 0, "a ban is told at the login");
    for person in [&ada, &bob] {
        let lifted = boss.delete(&ban_path(person)).await;
        assert_eq!(lifted.assert_ok(200)["user"]["banned"], Value::Null);
        assert_eq!(boss.get(&path(person)).await.json, lifted.json);
        boss.delete(&ban_path(person)).await.assert_ok(200);
    }
    let letter = app.letter_to(&email_of("ada")).await;
    assert!(letter.text.contains("ada") && letter.text.contains("no longer"), "{}", letter.text);
    assert!(!letter.text.contains("Sent advertisements"), "{}", letter.text);
    for name in ["ada", "bob"] {
        app.log_in(name, PASSWORD).await;
    }
    // The sessions of before stay ended.
    ada.get(ME).await.assert_error(401, "session_ended");
    // Who is banned once more before the letter is sent gets none.
    ban(&boss, &ada).await.assert_ok(200);
    boss.delete(&ban_path(&ada)).await.assert_ok(200);
    ban(&boss, &ada).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn what_waited_for_a_second_step_is_void_and_no_letter_resets_while_a_ban_holds() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let before = asked(&app, "ada").await;
    ban(&boss, &ada).await.assert_ok(200);
    let refused = async || {
        by_link(&app, &before.token, PASSWORD).await.assert_error(410, "link_expired");
        let answer = by_code(&app, &before.handle, &before.code, PASSWORD).await;
        answer.assert_error(400, "code_invalid");
        let path = format!("/api/v1/password/reset?token={}", before.token);
        app.anonymous().get(&path).await.assert_error(410, "link_expired");
    };
    refused().await;
    let body = json!({ "email": email_of("ada") });
    app.anonymous().post(FORGOT, &body).await.assert_ok(202);
    assert_eq!(app.deliver_mail().await.len(), 0);
    boss.delete(&ban_path(&ada)).await.assert_ok(200);
    app.deliver_mail().await;
    refused().await;
    let after = asked(&app, "ada").await;
    by_link(&app, &after.token, "quite another horse").await.assert_ok(200);
}

#[tokio::test]
async fn a_ban_is_an_admins_alone_with_a_fresh_proof_and_the_role_is_told_first() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (sam, ada) = (staff(&app, &boss).await, app.user("ada").await);
    app.clock.advance(TimeDelta::minutes(15));
    let call = async |person: &Person, method: Method| {
        let call = person.call(method, &ban_path(&ada));
        call.json(&json!({ "reason": "x" })).send().await
    };
    for method in [Method::PUT, Method::DELETE] {
        call(&app.anonymous(), method.clone()).await.assert_error(401, "token_missing");
        for person in [&sam, &ada] {
            call(person, method.clone()).await.assert_error(403, "forbidden");
        }
        call(&boss, method.clone()).await.assert_error(401, "step_up_required");
    }
    let proof = boss.post("/api/v1/step_up", &json!({ "password": PASSWORD })).await;
    proof.assert_ok(200);
    call(&boss, Method::PUT).await.assert_ok(200);
    call(&boss, Method::DELETE).await.assert_ok(200);
    for nobody in ["nobody", "01a20590-0000-7000-8000-000000000000"] {
        let path = format!("/api/v1/users/{nobody}/ban");
        boss.put(&path, &json!({ "reason": "x" })).await.assert_error(404, "user_not_found");
        boss.delete(&path).await.assert_error(404, "user_not_found");
    }
    delete_account(&app, &ada).await;
    for method in [Method::PUT, Method::DELETE] {
        call(&boss, method).await.assert_error(404, "user_not_found");
    }
}

#[tokio::test]
async fn nobody_bans_themselves_and_a_banned_admin_is_none_that_remains() {
    let app = TestApp::start().await;
    let (boss, eve) = (app.admin().await, app.admin_called("eve").await);
    ban(&boss, &boss).await.assert_error(409, "not_yourself");
    boss.delete(&ban_path(&boss)).await.assert_ok(200);
    ban(&boss, &eve).await.assert_ok(200);
    boss.put(&path(&boss), &json!({ "role": "user" })).await.assert_error(409, "last_admin");
    boss.delete(&path(&boss)).await.assert_error(409, "last_admin");
    // The banned one may go.
    boss.put(&path(&eve), &json!({ "role": "staff" })).await.assert_ok(200);
    boss.put(&path(&eve), &json!({ "role": "admin" })).await.assert_ok(200);
    boss.put(&path(&boss), &json!({ "role": "user" })).await.assert_error(409, "last_admin");
    boss.delete(&ban_path(&eve)).await.assert_ok(200);
    boss.put(&path(&boss), &json!({ "role": "user" })).await.assert_ok(200);
}

#[tokio::test]
async fn bans_are_on_record_with_their_reason() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    ban(&boss, &ada).await.assert_ok(200);
    let until = json!({ "reason": "Again.", "until": "2999-01-01T00:00:00Z" });
    boss.put(&ban_path(&ada), &until).await.assert_ok(200);
    ban(&boss, &boss).await.assert_error(409, "not_yourself");
    for _ in 0..2 {
        boss.delete(&ban_path(&ada)).await.assert_ok(200);
    }
    let sql = "select event, details from audit_log
               where user_id = $1::uuid and actor_id = $2::uuid order by id";
    let record: Vec<(String, Value)> =
        sqlx::query_as(sql).bind(ada.id()).bind(boss.id()).fetch_all(&app.pool).await.unwrap();
    let again = json!({ "until": "2999-01-01T00:00:00.000Z", "reason": "Again." });
    let expected = [
        ("banned".to_owned(), json!({ "reason": "Sent advertisements." })),
        ("banned".to_owned(), again),
        ("unbanned".to_owned(), json!({})),
    ];
    assert_eq!(record, expected);
}

/// The link of an account that was never confirmed would delete it, and the ban with it.
#[tokio::test]
async fn a_banned_person_neither_confirms_an_address_nor_takes_the_account_away() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let bob = app.newcomer("bob").await;
    let link = crate::harness::app::link_in(&app.letter_to("bob@example.com").await);
    let ban = format!("/api/v1/users/{}/ban", bob.id());
    boss.put(&ban, &json!({ "reason": "spam" })).await.assert_ok(200);
    let stranger = app.anonymous();
    stranger.post(&link, &json!({ "action": "not_me" })).await;
    stranger.get(&link).await;
    let shown = boss.get(&format!("/api/v1/users/{}", bob.id())).await;
    let user = &shown.assert_ok(200)["user"];
    assert_eq!(
        (&user["email_verified"], &user["banned"]["reason"]),
        (&json!(false), &json!("spam"))
    );
    boss.delete(&ban).await.assert_ok(200);
    stranger.get(&link).await.assert_ok(200);
}
