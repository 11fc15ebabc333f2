//! Invitations that meet: themselves, each other, and what becomes of who made them.

use serde_json::json;

use super::invitations::{ACCEPT, INVITATIONS, accept, account, invite, invited, token_in};
use crate::harness::answer::only_winner;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn of_twenty_who_accept_at_once_over_two_instances_one_has_the_account() {
    let database = new_database().await;
    let (one, two) = (TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await);
    let boss = one.admin().await;
    for squatted in [false, true] {
        let name = if squatted { "bob" } else { "ada" };
        if squatted {
            one.newcomer(name).await;
            one.deliver_mail().await;
        }
        let token = invited(&one, &boss, name, "staff").await;
        let before = count(&one, "select count(*) from users").await;
        let answers = at_once(20, |number| {
            let app = if number % 2 == 0 { one.clone() } else { two.clone() };
            let body = account(&token, &format!("{name}{number}"));
            async move { app.anonymous().post(ACCEPT, &body).await }
        })
        .await;
        let won = only_winner(&answers, 410, "link_expired");
        assert_eq!(won.assert_ok(201)["user"]["role"], "staff");
        let more = i64::from(!squatted);
        assert_eq!(count(&one, "select count(*) from users").await, before + more);
    }
    let accepted = "select count(*) from audit_log where event = 'invitation_accepted'";
    assert_eq!(count(&one, accepted).await, 2);
}

#[tokio::test]
async fn of_two_names_that_are_the_same_one_is_taken_and_its_invitation_goes_on() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (one, two) =
        (invited(&app, &boss, "ada", "user").await, invited(&app, &boss, "bob", "user").await);
    let tokens = [one.clone(), two.clone()];
    let answers = at_once(2, |number| {
        let (app, body) = (app.clone(), account(&tokens[number], "ada"));
        async move { app.anonymous().post(ACCEPT, &body).await }
    })
    .await;
    only_winner(&answers, 409, "username_taken");
    let lost = if answers[0].status == 201 { &two } else { &one };
    accept(&app, lost, "bob").await.assert_ok(201);
}

#[tokio::test]
async fn an_address_that_is_invited_many_times_at_once_has_one_invitation_and_one_good_link() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let answers = at_once(10, |_| {
        let boss = boss.clone();
        async move { invite(&boss, "ada", "user").await }
    })
    .await;
    for answer in &answers {
        answer.assert_ok(201);
    }
    assert_eq!(count(&app, "select count(*) from invitations").await, 1);
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 1, "of the one link that is good");
    accept(&app, &token_in(&letters[0]), "ada").await.assert_ok(201);
}

/// Invited as admin by one who is none by the time that it is accepted.
#[tokio::test]
async fn an_inviter_who_is_no_admin_any_more_gives_no_role_above_user() {
    for (role, status) in [("admin", 410), ("staff", 410), ("user", 201)] {
        for fall in [
            "update users set role = 'staff' where username = 'chief'",
            "update users set role = 'user' where username = 'chief'",
            "update users set banned_at = now() where username = 'chief'",
            "update users set deleted_at = now(), purge_at = now() where username = 'chief'",
            "delete from users where username = 'chief'",
        ] {
            let app = TestApp::start().await;
            let chief = app.admin_called("chief").await;
            let token = invited(&app, &chief, "ada", role).await;
            sqlx::query(fall).execute(&app.pool).await.unwrap();
            let answer = accept(&app, &token, "ada").await;
            assert_eq!(answer.status, status, "{role} {fall} {}", answer.text);
            let shown = app.anonymous().get(&format!("/api/v1/invitations?token={token}")).await;
            assert_eq!(shown.status, 410, "{role} {fall}");
            let made = count(&app, "select count(*) from users where username = 'ada'").await;
            assert_eq!(made, i64::from(status == 201));
        }
    }
    // A ban that ran out is none.
    let app = TestApp::start().await;
    let chief = app.admin_called("chief").await;
    let token = invited(&app, &chief, "ada", "admin").await;
    let over = "update users set banned_at = now() - interval '2 hours', banned_until = now() - interval '1 hour'
                where username = 'chief'";
    sqlx::query(over).execute(&app.pool).await.unwrap();
    assert_eq!(accept(&app, &token, "ada").await.assert_ok(201)["user"]["role"], "admin");
}

#[tokio::test]
async fn a_demotion_that_is_under_way_comes_before_the_account() {
    let app = TestApp::start().await;
    let chief = app.admin_called("chief").await;
    let token = invited(&app, &chief, "ada", "admin").await;
    let mut demotion = app.pool.begin().await.unwrap();
    let sql = "update users set role = 'user' where username = 'chief'";
    sqlx::query(sql).execute(&mut *demotion).await.unwrap();
    let commit_once_it_waits = async {
        lock_waits(&app.pool, 1).await;
        demotion.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(accept(&app, &token, "ada"), commit_once_it_waits);
    answer.assert_error(410, "link_expired");
    assert_eq!(count(&app, "select count(*) from users where role = 'admin'").await, 0);
}

#[tokio::test]
async fn an_address_that_is_proven_meanwhile_stays_its_owners() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let ada = app.newcomer("ada").await;
    app.deliver_mail().await;
    let token = invited(&app, &boss, "ada", "user").await;
    let mut proof = app.pool.begin().await.unwrap();
    let sql = "update users set email_verified_at = now() where username = 'ada'";
    sqlx::query(sql).execute(&mut *proof).await.unwrap();
    let commit_once_it_waits = async {
        lock_waits(&app.pool, 1).await;
        proof.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(accept(&app, &token, "countess"), commit_once_it_waits);
    answer.assert_error(409, "email_taken");
    ada.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn an_admin_invites_two_hundred_a_day_and_an_address_is_sent_three_letters_an_hour() {
    let app = TestApp::with(&[("RATE_LIMITS", "on"), ("LIMIT_INVITE", "6")]).await;
    let boss = app.admin().await;
    for _ in 0..3 {
        invite(&boss, "ada", "user").await.assert_ok(201);
        app.deliver_mail().await;
    }
    let refused = invite(&boss, "Ada", "staff").await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "mail_recipient_hour");
    let listed = boss.get(INVITATIONS).await.assert_ok(200)["invitations"].clone();
    assert_eq!(listed[0]["role"], "user", "the link that was sent stays good");
    // What is refused, or taken, is no invitation.
    invite(&boss, "boss", "user").await.assert_error(409, "email_taken");
    boss.post(INVITATIONS, &json!({ "email": "x" }))
        .await
        .assert_fields(&[("email", "invalid_email")]);
    for number in 0..3 {
        let answer = crate::harness::wait::eventually(
            "what was counted in vain is given back",
            async || invite(&boss, &format!("guest{number}"), "user").await.status == 201,
        );
        answer.await;
    }
    let refused = invite(&boss, "guest9", "user").await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "invite");
    let chief = app.admin_called("chief").await;
    invite(&chief, "guest9", "user").await.assert_ok(201);
}

/// As at sign-up.
#[tokio::test]
async fn a_look_for_names_that_are_taken_has_an_end() {
    let app = TestApp::with(&[("RATE_LIMITS", "on"), ("LIMIT_REGISTER_TAKEN", "3")]).await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    for _ in 0..3 {
        accept(&app, &token, "boss").await.assert_error(409, "username_taken");
    }
    let refused = accept(&app, &token, "boss").await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "register_taken");
    app.clock.advance(chrono::TimeDelta::hours(1));
    accept(&app, &token, "ada").await.assert_ok(201);
    app.log_in(&email_of("ada"), PASSWORD).await;
}
