//! "This was not me", where a thief has given the account another address.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::json;

use super::not_me::{
    EVENTS, ME, NEW, STOLEN, THIEF, address_stolen, change_password, count, not_me,
    password_stolen, recover, row, token_in,
};
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::wait::lock_waits;

#[tokio::test]
async fn an_account_gets_the_address_back_of_which_a_thief_has_robbed_it() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = address_stolen(&app, &thief, PASSWORD).await;
    assert_eq!(row(&app).await["email"], THIEF);
    // The thief goes on, and has letters of their own by now.
    change_password(&thief, PASSWORD, STOLEN).await;
    let thiefs = token_in(&app.letter_to(THIEF).await);
    thief
        .put(ME, &json!({ "email": "third@example.org", "password": STOLEN }))
        .await
        .assert_ok(200);
    app.deliver_mail().await;
    not_me(&app, &token).await.assert_ok(200);
    let expected =
        json!({ "email": "ada@example.com", "verified": true, "pending": null, "reset": true });
    assert_eq!(row(&app).await, expected);
    thief.get(ME).await.assert_error(401, "session_ended");
    // What went to the thief is void, and they can ask for nothing more.
    not_me(&app, &thiefs).await.assert_error(410, "link_expired");
    app.anonymous()
        .post("/api/v1/password/forgot", &json!({ "email": THIEF }))
        .await
        .assert_ok(202);
    recover(&app, &email_of("ada")).await;
    let ada = app.log_in("ada", NEW).await;
    assert_eq!(ada.user["email"], "ada@example.com");
    assert_eq!(count(&app, EVENTS).await, 1);
}

#[tokio::test]
async fn a_letter_that_told_of_another_change_gives_the_address_back_as_well() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    address_stolen(&app, &thief, STOLEN).await;
    not_me(&app, &token).await.assert_ok(200);
    assert_eq!(row(&app).await["email"], "ada@example.com");
    recover(&app, &email_of("ada")).await;
}

#[tokio::test]
async fn a_thief_who_is_first_with_a_letter_of_their_own_loses_all_the_same() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = address_stolen(&app, &thief, PASSWORD).await;
    app.clock.advance(TimeDelta::minutes(1));
    change_password(&thief, PASSWORD, STOLEN).await;
    let thiefs = token_in(&app.letter_to(THIEF).await);
    not_me(&app, &thiefs).await.assert_ok(200);
    assert_eq!(row(&app).await["email"], THIEF);
    app.deliver_mail().await;
    not_me(&app, &token).await.assert_ok(200);
    assert_eq!(row(&app).await["email"], "ada@example.com");
    // Again it is no success any more: the account is another's.
    not_me(&app, &thiefs).await.assert_error(410, "link_expired");
    recover(&app, &email_of("ada")).await;
}

#[tokio::test]
async fn an_address_that_waits_is_dropped() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    thief.put(ME, &json!({ "email": THIEF, "password": PASSWORD })).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let to = |address: &str| letters.iter().find(|letter| letter.to == address).expect("a letter");
    not_me(&app, &token_in(to(&email_of("ada")))).await.assert_ok(200);
    let expected =
        json!({ "email": "ada@example.com", "verified": true, "pending": null, "reset": true });
    assert_eq!(row(&app).await, expected);
    let confirm = app.anonymous().post(&link_in(to(THIEF)), &json!({})).await;
    confirm.assert_error(410, "link_expired");
}

#[tokio::test]
async fn whoever_made_an_account_with_the_address_since_gives_way_unless_it_is_confirmed() {
    for is_confirmed in [false, true] {
        let app = TestApp::start().await;
        app.user("ada").await;
        let thief = app.log_in("ada", PASSWORD).await;
        let token = address_stolen(&app, &thief, PASSWORD).await;
        let body = json!({ "username": "eve", "email": "ADA@example.com", "password": PASSWORD });
        app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
        let eve = app.log_in("eve", PASSWORD).await;
        let link = link_in(&app.letter_to("ADA@example.com").await);
        if is_confirmed {
            app.anonymous().post(&link, &json!({})).await.assert_ok(200);
        }
        thief
            .put(ME, &json!({ "email": "x@example.org", "password": PASSWORD }))
            .await
            .assert_ok(200);
        app.deliver_mail().await;
        not_me(&app, &token).await.assert_ok(200);
        thief.get(ME).await.assert_error(401, "session_ended");
        let email = if is_confirmed { THIEF } else { "ada@example.com" };
        let expected = json!({ "email": email, "verified": true, "pending": null, "reset": true });
        assert_eq!(row(&app).await, expected);
        let disowned = "select count(*) from audit_log where event = 'account_disowned'";
        if is_confirmed {
            eve.get(ME).await.assert_ok(200);
            assert_eq!(count(&app, disowned).await, 0);
        } else {
            eve.get(ME).await.assert_error(401, "session_ended");
            assert_eq!(count(&app, disowned).await, 1);
        }
        recover(&app, email).await;
        app.log_in("ada", NEW).await;
    }
}

#[tokio::test]
async fn an_account_that_is_made_with_the_address_in_that_moment_gives_way_too() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = address_stolen(&app, &thief, PASSWORD).await;
    let mut tx = app.pool.begin().await.unwrap();
    let sql = "insert into users (id, username, email, password_hash, created_at, modified_at)
               values (gen_random_uuid(), 'eve', 'ada@example.com', '', now(), now())";
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    let call = not_me(&app, &token);
    let commit = async {
        lock_waits(&app.pool, 1).await;
        tx.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(call, commit);
    answer.assert_ok(200);
    assert_eq!(row(&app).await["email"], "ada@example.com");
    assert_eq!(count(&app, "select count(*) from users").await, 1);
    assert_eq!(count(&app, EVENTS).await, 1);
}

/// A thief who changes the password and deletes the account: what the owner was told of before
/// that brings it back.
#[tokio::test]
async fn a_thief_who_deletes_the_account_takes_it_from_nobody() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    let delete = thief.call(Method::DELETE, ME).json(&json!({ "password": STOLEN }));
    delete.send().await.assert_ok(202);
    let letter = app.letter_to(&email_of("ada")).await;
    let restore = link_in(&letter).split_once("token=").unwrap().1.to_owned();
    let refused = app.anonymous().log_in("ada", STOLEN).await;
    let by_thief = refused.json["restore_token"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        not_me(&app, &token).await.assert_ok(200);
    }
    app.anonymous().log_in("ada", STOLEN).await.assert_error(403, "reset_required");
    // The deletion is over, and so are its tokens.
    for token in [restore, by_thief] {
        let body = json!({ "restore_token": token });
        app.anonymous().post("/api/v1/restore", &body).await.assert_error(410, "challenge_expired");
    }
}

#[tokio::test]
async fn once_a_deletion_cannot_be_taken_back_no_letter_does() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let thief = app.log_in("ada", PASSWORD).await;
    let token = password_stolen(&app, &thief).await;
    let delete = thief.call(Method::DELETE, ME).json(&json!({ "password": STOLEN }));
    delete.send().await.assert_ok(202);
    let over = "update users set purge_at = deleted_at where deleted_at is not null";
    sqlx::query(over).execute(&app.pool).await.unwrap();
    not_me(&app, &token).await.assert_error(410, "link_expired");
}
