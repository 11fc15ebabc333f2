//! `/restore`: a deletion taken back, by the letter's link or by what a login is told.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::auth::confirm_page::{assert_page, browse};
use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;

const ME: &str = "/api/v1/users/me";
const RESTORE: &str = "/api/v1/restore";

/// What the right password of a deleted account is told.
async fn token_of_login(app: &TestApp) -> String {
    let refused = app.anonymous().log_in("ada", PASSWORD).await;
    refused.assert_error(403, "account_deleted");
    refused.json["restore_token"].as_str().unwrap().to_owned()
}

/// The link in the letter that tells of the deletion.
async fn link(app: &TestApp) -> String {
    link_in(&app.letter_to(&email_of("ada")).await)
}

fn token_in(link: &str) -> String {
    link.split_once("token=").unwrap().1.to_owned()
}

async fn restore(app: &TestApp, token: &str) -> Answer {
    app.anonymous().post(RESTORE, &json!({ "restore_token": token })).await
}

/// The form of our page, as a browser sends it.
async fn submit(app: &TestApp, token: &str, headers: &[(&str, &str)]) -> Answer {
    let call = app.anonymous().call(Method::POST, RESTORE);
    let call = call.header("content-type", "application/x-www-form-urlencoded");
    let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
    call.body(format!("restore_token={token}")).send().await
}

async fn set(app: &TestApp, columns: &str) {
    let sql = sqlx::AssertSqlSafe(format!("update users set {columns}"));
    sqlx::query(sql).execute(&app.pool).await.unwrap();
}

#[tokio::test]
async fn all_is_there_again_but_the_sessions() {
    for by in ["login", "letter", "page"] {
        let app = TestApp::start().await;
        let ada = app.user("ada").await;
        let names = json!({ "first_name": "Ada", "last_name": "Lovelace" });
        ada.put(ME, &names).await.assert_ok(200);
        let moving = json!({ "email": "new@example.com", "password": PASSWORD });
        ada.put(ME, &moving).await.assert_ok(200);
        app.deliver_mail().await;
        let before = ada.get(ME).await.json["user"].clone();
        ada.delete(ME).await.assert_ok(202);
        let link = link(&app).await;
        let answer = match by {
            "login" => restore(&app, &token_of_login(&app).await).await,
            "letter" => restore(&app, &token_in(&link)).await,
            _ => submit(&app, &token_in(&link), &[("sec-fetch-site", "same-origin")]).await,
        };
        if by == "page" {
            assert_page(&answer, 200);
            assert!(answer.text.contains("<h1>Your account is restored</h1>"), "{}", answer.text);
        } else {
            let said = answer.assert_ok(200);
            assert!(said.get("token").is_none(), "it logs nobody in: {said}");
        }
        ada.get(ME).await.assert_error(401, "session_ended");
        ada.refresh_with(ada.refresh_token()).await.assert_error(401, "session_ended");
        let again = app.log_in("ada", PASSWORD).await;
        let mut after = again.get(ME).await.json["user"].clone();
        after["modified_at"] = before["modified_at"].clone();
        assert_eq!(after, before);
        let told = app.letter_to(&email_of("ada")).await;
        assert!(told.subject.contains("is restored") && told.text.contains("ada"), "{told:?}");
        let sql = "select event, actor_id = user_id as own, ip is not null as known from audit_log
            where event in ('deletion_asked', 'restored') order by id";
        let events: Vec<(String, bool, bool)> =
            sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
        let expected = ["deletion_asked", "restored"].map(|event| (event.to_owned(), true, true));
        assert_eq!(events, expected);
    }
}

#[tokio::test]
async fn a_handle_is_good_once_and_for_its_own_deletion() {
    let app = TestApp::start().await;
    app.user("ada").await.delete(ME).await.assert_ok(202);
    let first = token_in(&link(&app).await);
    let of_login = token_of_login(&app).await;
    restore(&app, &of_login).await.assert_ok(200);
    for token in [&of_login, &first] {
        restore(&app, token).await.assert_error(410, "challenge_expired");
    }
    app.log_in("ada", PASSWORD).await.delete(ME).await.assert_ok(202);
    for token in [&of_login, &first] {
        restore(&app, token).await.assert_error(410, "challenge_expired");
        let shown = app.anonymous().get(&format!("{RESTORE}?token={token}")).await;
        shown.assert_error(410, "link_expired");
    }
    let letters = app.deliver_mail().await;
    let deleted = letters.iter().find(|letter| letter.subject.contains("is deleted")).unwrap();
    restore(&app, &token_in(&link_in(deleted))).await.assert_ok(200);
}

/// The letter of a deletion that was taken back before it left.
#[tokio::test]
async fn a_letter_that_waited_too_long_is_not_sent() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    ada.delete(ME).await.assert_ok(202);
    restore(&app, &token_of_login(&app).await).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    app.log_in("ada", PASSWORD).await.delete(ME).await.assert_ok(202);
    let letters = app.deliver_mail().await;
    let subjects: Vec<&str> = letters.iter().map(|letter| &*letter.subject).collect();
    assert_eq!(subjects, ["Your account at auth.example.com is deleted"]);
    restore(&app, &token_in(&link_in(&letters[0]))).await.assert_ok(200);
}

#[tokio::test]
async fn of_twenty_uses_at_once_one_succeeds_over_two_instances_too() {
    let database = new_database().await;
    let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
    apps[0].user("ada").await.delete(ME).await.assert_ok(202);
    let tokens = [token_in(&link(&apps[0]).await), token_of_login(&apps[1]).await];
    let answers = at_once(20, |number| {
        let (app, token) = (apps[number % 2].clone(), tokens[number / 2 % 2].clone());
        async move { restore(&app, &token).await }
    })
    .await;
    only_winner(&answers, 410, "challenge_expired");
    apps[1].log_in("ada", PASSWORD).await;
    assert_eq!(apps[0].deliver_mail().await.len(), 1, "one letter tells of it");
}

#[tokio::test]
async fn a_login_while_it_is_restored_is_let_in_or_told_and_never_fails() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    ada.delete(ME).await.assert_ok(202);
    let token = token_of_login(&app).await;
    let answers = at_once(16, |number| {
        let (app, token) = (app.clone(), token.clone());
        async move {
            match number {
                8 => restore(&app, &token).await,
                _ => app.anonymous().log_in("ada", PASSWORD).await,
            }
        }
    })
    .await;
    for answer in &answers {
        assert!([200, 403].contains(&answer.status.as_u16()), "{}", answer.text);
    }
}

#[tokio::test]
async fn what_is_no_living_handle_is_all_the_same() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let forgotten = json!({ "email": email_of("ada") });
    let asked = app.anonymous().post("/api/v1/password/forgot", &forgotten).await;
    let code = asked.json["challenge"].as_str().unwrap().to_owned();
    let reset = token_in(&link(&app).await);
    app.clock.advance(TimeDelta::minutes(1));
    ada.delete(ME).await.assert_ok(202);
    let of_login = token_of_login(&app).await;
    let (head, _) = of_login.rsplit_once('.').unwrap();
    let unsigned = format!("{head}.");
    for token in [&*code, &reset, ada.access_token(), ada.refresh_token(), &unsigned, "x", ""] {
        restore(&app, token).await.assert_error(410, "challenge_expired");
        let shown = app.anonymous().get(&format!("{RESTORE}?token={token}")).await;
        shown.assert_error(400, "link_invalid");
    }
    let stranger = app.anonymous();
    stranger.post(RESTORE, &json!({})).await.assert_fields(&[("restore_token", "required")]);
    let number = json!({ "restore_token": 1 });
    stranger.post(RESTORE, &number).await.assert_fields(&[("restore_token", "invalid_type")]);
    stranger.get(RESTORE).await.assert_error(400, "link_invalid");
    let twice = format!("{RESTORE}?token={of_login}&token={of_login}");
    stranger.get(&twice).await.assert_error(400, "malformed_request");
    // And it is no token of another kind itself.
    let body = json!({ "token": of_login, "new_password": "a new horse battery" });
    stranger.post("/api/v1/password/reset", &body).await.assert_error(400, "link_invalid");
    let thief = Person { access: Some(of_login.clone()), ..app.anonymous() };
    thief.get(ME).await.assert_error(401, "token_invalid");
    thief.refresh_with(&of_login).await.assert_error(401, "refresh_token_invalid");
    restore(&app, &of_login).await.assert_ok(200);
}

#[tokio::test]
async fn the_token_of_a_login_is_good_for_ten_minutes_and_the_link_until_the_end() {
    let app = TestApp::start().await;
    app.user("ada").await.delete(ME).await.assert_ok(202);
    let (link, of_login) = (link(&app).await, token_of_login(&app).await);
    app.clock.advance(TimeDelta::minutes(10));
    restore(&app, &of_login).await.assert_error(410, "challenge_expired");
    app.clock.advance(TimeDelta::days(30) - TimeDelta::minutes(10) - TimeDelta::seconds(1));
    let shown = app.anonymous().get(&link).await;
    assert_eq!(shown.assert_ok(200)["restore_until"], "2026-02-01T03:04:05.678Z");
    // A login of the last moment has no longer.
    let last = token_of_login(&app).await;
    app.clock.advance(TimeDelta::seconds(1));
    for token in [token_in(&link), last] {
        restore(&app, &token).await.assert_error(410, "challenge_expired");
    }
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    app.clock.advance(TimeDelta::days(7));
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn no_account_is_restored_that_is_kept_out_for_another_reason() {
    let app = TestApp::start().await;
    app.user("ada").await.delete(ME).await.assert_ok(202);
    let token = token_in(&link(&app).await);
    for (columns, code) in [
        ("reset_required_at = now()", "reset_required"),
        ("banned_at = now(), banned_until = now() + interval '1 hour'", "banned"),
    ] {
        set(&app, columns).await;
        let refused = restore(&app, &token).await;
        refused.assert_error(403, code);
        assert_eq!(refused.json.get("until").is_some(), code == "banned");
        // The deletion is told first, as everywhere.
        token_of_login(&app).await;
    }
    let page = submit(&app, &token, &[("origin", PUBLIC_URL)]).await;
    assert_page(&page, 403);
    assert!(page.text.contains("The account is banned."), "{}", page.text);
    // None of these has used it up.
    set(&app, "banned_until = now(), reset_required_at = null").await;
    restore(&app, &token).await.assert_ok(200);
}

#[tokio::test]
async fn a_link_opens_a_page_with_one_button_and_uses_nothing_up() {
    let app = TestApp::start().await;
    app.user("ada").await.delete(ME).await.assert_ok(202);
    let link = link(&app).await;
    for _ in 0..3 {
        let page = browse(&app, Method::GET, &link).await;
        assert!(assert_page(&page, 200).ends_with("; form-action 'self'"));
        assert_eq!(page.text.matches("<button>").count(), 1, "{}", page.text);
        for shown in ["ada", "1 February 2026, 03:04 UTC", &token_in(&link)] {
            assert!(page.text.contains(shown), "{shown}: {}", page.text);
        }
        app.anonymous().call(Method::HEAD, &link).send().await;
        app.anonymous().get(&link).await.assert_ok(200);
    }
    for (link, status, title) in [
        (format!("{RESTORE}?token=x"), 400, "This link is not valid"),
        (link.clone() + "x", 400, "This link is not valid"),
    ] {
        let page = browse(&app, Method::GET, &link).await;
        assert!(assert_page(&page, status).ends_with("; form-action 'none'"));
        assert!(page.text.contains(title) && !page.text.contains("<form"), "{}", page.text);
    }
    let token = token_in(&link);
    submit(&app, &token, &[("sec-fetch-site", "same-origin")]).await;
    let page = browse(&app, Method::GET, &link).await;
    assert_page(&page, 410);
    let page = submit(&app, &token, &[("sec-fetch-site", "same-origin")]).await;
    assert_page(&page, 410);
    assert!(page.text.contains("This link has run out"), "{}", page.text);
}

#[tokio::test]
async fn a_form_is_taken_from_our_own_page_alone() {
    let app = TestApp::start().await;
    app.user("ada").await.delete(ME).await.assert_ok(202);
    let token = token_in(&link(&app).await);
    for headers in [
        &[("sec-fetch-site", "cross-site"), ("origin", PUBLIC_URL)][..],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[],
    ] {
        let page = submit(&app, &token, headers).await;
        assert_page(&page, 403);
    }
    token_of_login(&app).await;
    assert_page(&submit(&app, &token, &[("origin", PUBLIC_URL)]).await, 200);
}

/// What a deletion kept open for others stays shut after it.
#[tokio::test]
async fn links_from_before_the_deletion_stay_used_up_after_it_was_taken_back() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let forgotten = json!({ "email": email_of("ada") });
    app.anonymous().post("/api/v1/password/forgot", &forgotten).await.assert_ok(202);
    let reset = token_in(&link(&app).await);
    ada.delete(ME).await.assert_ok(202);
    restore(&app, &token_of_login(&app).await).await.assert_ok(200);
    let body = json!({ "token": reset, "new_password": "a new horse battery" });
    let refused = app.anonymous().post("/api/v1/password/reset", &body).await;
    refused.assert_error(410, "link_expired");
    let open: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(c) from challenges c where used_at is null and kind <> 'not_me'",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    assert!(open.is_empty(), "{open:?}");
}
