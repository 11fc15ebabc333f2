//! Who is invited, as staff and admins see it, and what is left of invitations that are over.

use chrono::TimeDelta;
use doorward::mail::Mailer;
use doorward::worker;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use super::audit::staff;
use super::invitations::{INVITATIONS, accept, invite, invited, token_in};
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::wait::eventually;
use crate::mail::worker::{count, with_mailer};

#[tokio::test]
async fn what_is_no_invitation_is_refused() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (body, field, code) in [
        (json!({}), "email", "required"),
        (json!({ "email": "nobody" }), "email", "invalid_email"),
        (json!({ "email": email_of("ada"), "role": "owner" }), "role", "invalid_choice"),
        (
            json!({ "email": email_of("ada"), "first_name": "\u{7}" }),
            "first_name",
            "invalid_characters",
        ),
    ] {
        boss.post(INVITATIONS, &body).await.assert_fields(&[(field, code)]);
    }
    for (query, field, code) in [
        ("state=open", "state", "unknown_parameter"),
        ("limit=0", "limit", "out_of_range"),
        ("after=nonsense", "after", "invalid_cursor"),
    ] {
        boss.get(&format!("{INVITATIONS}?{query}")).await.assert_fields(&[(field, code)]);
    }
    for id in [&*Uuid::now_v7().to_string(), "nobody", "%FF"] {
        let answer = boss.delete(&format!("{INVITATIONS}/{id}")).await;
        answer.assert_error(404, "invitation_not_found");
    }
    assert_eq!(app.deliver_mail().await, []);
}

#[tokio::test]
async fn admins_invite_staff_look_on_and_others_do_neither() {
    let app = TestApp::start().await;
    let (boss, deputy, ada) = (app.admin().await, staff(&app).await, app.user("ada").await);
    let open = invite(&boss, "eve", "user").await.assert_ok(201)["invitation"].clone();
    let path = format!("{INVITATIONS}/{}", open["public_id"].as_str().unwrap());
    let listed = deputy.get(INVITATIONS).await;
    assert_eq!(listed.assert_ok(200)["invitations"], json!([open]));
    for person in [&deputy, &ada] {
        invite(person, "fay", "user").await.assert_error(403, "forbidden");
        person.delete(&path).await.assert_error(403, "forbidden");
    }
    ada.get(INVITATIONS).await.assert_error(403, "forbidden");
    let stranger = app.anonymous();
    invite(&stranger, "fay", "user").await.assert_error(401, "token_missing");
    stranger.get(INVITATIONS).await.assert_error(401, "token_missing");
    stranger.delete(&path).await.assert_error(401, "token_missing");
}

#[tokio::test]
async fn the_list_is_paged_newest_first_and_forgets_what_was_over_for_30_days() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let answer = invite(&boss, &format!("guest{number}"), "user").await;
        ids.push(answer.assert_ok(201)["invitation"]["public_id"].clone());
    }
    ids.reverse();
    let mut path = format!("{INVITATIONS}?limit=3");
    let mut seen = Vec::new();
    loop {
        let answer = boss.get(&path).await;
        let all = answer.assert_ok(200)["invitations"].as_array().unwrap();
        seen.extend(all.iter().map(|one| one["public_id"].clone()));
        let Some(link) = answer.header("link") else { break };
        let url = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
        path = url.strip_prefix(PUBLIC_URL).unwrap().to_owned();
    }
    assert_eq!(seen, ids);
    let letters = app.deliver_mail().await;
    let last = letters.iter().find(|letter| letter.to == email_of("guest6")).unwrap();
    accept(&app, &token_in(last), "guest6").await.assert_ok(201);
    boss.delete(&format!("{INVITATIONS}/{}", ids[1].as_str().unwrap())).await.assert_ok(200);
    let first =
        boss.get(&format!("{INVITATIONS}?limit=2")).await.assert_ok(200)["invitations"].clone();
    assert!(first[0]["accepted_at"].is_string() && first[0]["revoked_at"].is_null(), "{first}");
    assert!(first[1]["revoked_at"].is_string() && first[1]["accepted_at"].is_null(), "{first}");
    app.clock.advance(TimeDelta::days(30));
    let boss = app.log_in("boss", PASSWORD).await;
    let count = async |boss: &Person| {
        let answer = boss.get(INVITATIONS).await;
        answer.assert_ok(200)["invitations"].as_array().unwrap().len()
    };
    assert_eq!(count(&boss).await, 7);
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(count(&boss).await, 5, "neither the accepted nor the revoked one");
    app.clock.advance(TimeDelta::hours(72));
    let boss = app.log_in("boss", PASSWORD).await;
    assert_eq!(count(&boss).await, 0);
}

/// Lets the worker remove what is old, until `is_done`.
async fn tidy(app: &TestApp, is_done: impl AsyncFn() -> bool) {
    let (stop, stopped) = watch::channel(false);
    // Without a way out for letters it only tidies.
    let work = tokio::spawn(worker::run(with_mailer(app, Mailer::Off), stopped));
    eventually("it is tidy", is_done).await;
    stop.send(true).unwrap();
    work.await.unwrap();
}

#[tokio::test]
async fn invitations_that_are_over_are_removed_after_30_days() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    accept(&app, &token, "ada").await.assert_ok(201);
    app.clock.advance(TimeDelta::days(27));
    let boss = app.log_in("boss", PASSWORD).await;
    invite(&boss, "bob", "user").await.assert_ok(201);
    let left = "select count(*) from invitations";
    app.clock.advance(TimeDelta::days(3) + TimeDelta::seconds(1));
    tidy(&app, async || count(&app, left).await == 1).await;
    // The one that ran out meanwhile.
    app.clock.advance(TimeDelta::days(30));
    tidy(&app, async || count(&app, left).await == 0).await;
}

#[tokio::test]
async fn whoever_is_removed_takes_the_invitation_and_the_programs_name_along() {
    let app = TestApp::with(&[("DELETION_DAYS", "1")]).await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    invite(&boss, "bob", "user").await.assert_ok(201);
    accept(&app, &token, "ada").await.assert_ok(201);
    let ada = app.log_in("ada", PASSWORD).await;
    let call = ada.call(axum::http::Method::DELETE, "/api/v1/users/me");
    let call = call.header("user-agent", "Ada's own").json(&json!({ "password": PASSWORD }));
    call.send().await.assert_ok(202);
    let told = "select count(*) from audit_log where user_agent = 'Ada''s own'";
    assert_eq!(count(&app, told).await, 1);
    app.clock.advance(TimeDelta::days(1) + TimeDelta::seconds(1));
    tidy(&app, async || {
        count(&app, "select count(*) from users where username = 'ada'").await == 0
    })
    .await;
    let left: Vec<String> =
        sqlx::query_scalar("select email from invitations").fetch_all(&app.pool).await.unwrap();
    assert_eq!(left, [email_of("bob")]);
    let sql = "select count(*) from audit_log where user_id = $1::uuid and num_nonnulls(user_agent, request_id, ip) > 0";
    let more_than_ids: i64 =
        sqlx::query_scalar(sql).bind(ada.id()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(more_than_ids, 0);
}
