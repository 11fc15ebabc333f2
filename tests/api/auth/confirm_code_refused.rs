//! Codes that confirm nothing: wrong ones, others' and void ones, and what is no code.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::json;

use super::confirm_code::{
    CONFIRM, Held, ME, VERIFY, ask_to_move, confirm, handle_in, hold, me, newcomer, wrong,
};
use super::recovery::{self, NEW, asked};
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;

/// Limits on or off.
#[tokio::test]
async fn five_wrong_codes_end_a_handle_at_once_too_and_the_link_goes_on() {
    for (together, limits) in [(false, "off"), (true, "off"), (false, "on"), (true, "on")] {
        let app = TestApp::with(&[("RATE_LIMITS", limits)]).await;
        let (ada, held) = newcomer(&app, "ada").await;
        let wrong = wrong(&held.code);
        if together {
            let answers = at_once(6, |_| {
                let (app, handle) = (app.clone(), held.handle.clone());
                async move { confirm(&app, &handle, wrong).await }
            })
            .await;
            for answer in &answers {
                answer.assert_error(400, "code_invalid");
            }
        } else {
            for _ in 0..5 {
                confirm(&app, &held.handle, wrong).await.assert_error(400, "code_invalid");
            }
        }
        confirm(&app, &held.handle, &held.code).await.assert_error(400, "code_invalid");
        assert_eq!(me(&ada).await["email_verified"], false);
        app.anonymous().post(&held.link, &json!({})).await.assert_ok(200);
    }
}

#[tokio::test]
async fn four_wrong_codes_leave_the_handle_good_and_a_dead_one_is_replaced_in_the_waiting_letter() {
    let app = TestApp::start().await;
    let (_, held) = newcomer(&app, "ada").await;
    for _ in 0..4 {
        confirm(&app, &held.handle, wrong(&held.code)).await.assert_error(400, "code_invalid");
    }
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    // Tried dead before its letter has left.
    let form = json!({ "username": "bob", "email": email_of("bob"), "password": PASSWORD });
    let registered = app.anonymous().post("/api/v1/users", &form).await;
    for _ in 0..5 {
        confirm(&app, &handle_in(&registered), "1").await.assert_error(400, "code_invalid");
    }
    let bob = app.log_in("bob", PASSWORD).await;
    let asked = bob.post(VERIFY, &json!({})).await;
    let anew = hold(&app, &asked, &email_of("bob")).await;
    confirm(&app, &anew.handle, &anew.code).await.assert_ok(200);
}

#[tokio::test]
async fn wrong_codes_are_counted_by_the_address_together_with_those_of_a_reset() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.newcomer("ada").await;
    let ask = async || {
        app.clock.advance(TimeDelta::hours(1));
        let ada = app.log_in("ada", PASSWORD).await;
        let asked = ada.post(VERIFY, &json!({})).await;
        hold(&app, &asked, "ada@example.com").await
    };
    for _ in 0..2 {
        let Held { handle, .. } = ask().await;
        for _ in 0..5 {
            confirm(&app, &handle, "1").await.assert_error(400, "code_invalid");
        }
        let handle = recovery::forgot(&app, "ada@example.com").await;
        for _ in 0..5 {
            recovery::by_code(&app, &handle, "1", NEW).await.assert_error(400, "code_invalid");
        }
    }
    let own = ask().await;
    let refused = confirm(&app, &own.handle, &own.code).await;
    refused.assert_error(429, "rate_limited");
    assert_eq!(refused.json["limit"], "code_account");
    app.anonymous().post(&own.link, &json!({})).await.assert_ok(200);
}

#[tokio::test]
async fn right_codes_use_up_no_budget_and_dead_handles_nobodys() {
    let app = TestApp::with(&[("RATE_LIMITS", "on"), ("LIMIT_CODE_ACCOUNT", "6")]).await;
    let (ada, held) = newcomer(&app, "ada").await;
    for _ in 0..20 {
        confirm(&app, &held.handle, "1").await.assert_error(400, "code_invalid");
    }
    app.clock.advance(TimeDelta::minutes(1));
    let asked = ada.post(VERIFY, &json!({})).await;
    let own = hold(&app, &asked, "ada@example.com").await;
    confirm(&app, &own.handle, &own.code).await.assert_ok(200);
}

/// Whether a letter went out shows in nothing.
#[tokio::test]
async fn where_a_silent_limit_keeps_the_letter_back_the_answer_and_its_handle_look_the_same() {
    let app = TestApp::with(&[("RATE_LIMITS", "on"), ("LIMIT_MAIL_RECIPIENT_HOUR", "1")]).await;
    let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
    app.deliver_mail().await;
    let sent = ask_to_move(&ada, "wanted@example.com").await;
    assert_eq!(app.deliver_mail().await.len(), 1);
    ada.put(ME, &json!({ "email": "ada@example.com" })).await.assert_ok(200);
    let kept = ask_to_move(&bob, "wanted@example.com").await;
    assert_eq!(app.deliver_mail().await, []);
    let [sent, kept] = [sent, kept].map(|answer| {
        let mut body = answer.assert_ok(200).clone();
        let handle = body["challenge"].take().as_str().unwrap().to_owned();
        body["user"] = json!(null);
        (body, handle)
    });
    assert_eq!((sent.0, sent.1.len()), (kept.0, kept.1.len()));
    for _ in 0..6 {
        confirm(&app, &kept.1, "12345678").await.assert_error(400, "code_invalid");
    }
}

#[tokio::test]
async fn no_code_of_a_reset_confirms_and_none_of_a_confirmation_resets() {
    let app = TestApp::start().await;
    let (ada, held) = newcomer(&app, "ada").await;
    let reset = asked(&app, "ada").await;
    let handles = [&held.handle, &reset.handle];
    for (handle, code) in handles.iter().flat_map(|h| [(h, &held.code), (h, &reset.code)]) {
        if *handle != &held.handle || code != &held.code {
            confirm(&app, handle, code).await.assert_error(400, "code_invalid");
        }
        if *handle != &reset.handle || code != &reset.code {
            let crossed = recovery::by_code(&app, handle, code, NEW).await;
            crossed.assert_error(400, "code_invalid");
        }
    }
    assert_eq!(me(&ada).await["email_verified"], false);
    let token = held.link.split_once("token=").unwrap().1;
    let (access, refresh) = (ada.access_token(), ada.refresh_token());
    for handle in [token, access, refresh, &reset.token, "nonsense", ""] {
        confirm(&app, handle, &held.code).await.assert_error(400, "code_invalid");
    }
    app.anonymous()
        .post(&format!("{CONFIRM}?token={}", held.handle), &json!({}))
        .await
        .assert_error(400, "link_invalid");
    // None of it was a try of the right one, nor ended it.
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    // A reset proves the address too.
    let (_, bobs) = newcomer(&app, "bob").await;
    let reset = asked(&app, "bob").await;
    recovery::by_code(&app, &reset.handle, &reset.code, NEW).await.assert_ok(200);
    confirm(&app, &bobs.handle, &bobs.code).await.assert_ok(200);
    confirm(&app, &bobs.handle, &bobs.code).await.assert_error(400, "code_invalid");
}

#[tokio::test]
async fn another_accounts_handle_and_one_whose_account_is_gone_confirm_nothing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (ada, adas) = newcomer(&app, "ada").await;
    let (bob, bobs) = newcomer(&app, "bob").await;
    confirm(&app, &adas.handle, &bobs.code).await.assert_error(400, "code_invalid");
    confirm(&app, &bobs.handle, &adas.code).await.assert_error(400, "code_invalid");
    admin.delete(&format!("/api/v1/users/{}", ada.id())).await.assert_ok(200);
    confirm(&app, &adas.handle, &adas.code).await.assert_error(400, "code_invalid");
    let heir = app.newcomer("ada").await;
    confirm(&app, &adas.handle, &adas.code).await.assert_error(400, "code_invalid");
    assert_eq!(me(&heir).await["email_verified"], false);
    // Disowned by the link, a code is void; and no code disowns.
    let mut disown = json!({ "challenge": bobs.handle, "code": bobs.code, "action": "not_me" });
    app.anonymous().post(CONFIRM, &disown).await.assert_fields(&[("action", "not_allowed")]);
    assert_eq!(me(&bob).await["email_verified"], false);
    disown = json!({ "action": "not_me" });
    app.anonymous().post(&bobs.link, &disown).await.assert_ok(200);
    confirm(&app, &bobs.handle, &bobs.code).await.assert_error(400, "code_invalid");
}

#[tokio::test]
async fn a_code_for_an_address_that_somebody_took_meanwhile_goes_on_being_good() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let asked = ask_to_move(&ada, "wanted@example.com").await;
    let held = hold(&app, &asked, "wanted@example.com").await;
    let wanted = app.newcomer("wanted").await;
    // More often than there are tries.
    for _ in 0..7 {
        confirm(&app, &held.handle, &held.code).await.assert_error(409, "email_taken");
    }
    assert_eq!(me(&ada).await["email"], "ada@example.com");
    wanted.put(ME, &json!({ "email": "other@example.com" })).await.assert_ok(200);
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    assert_eq!(me(&ada).await["email"], "wanted@example.com");
}

#[tokio::test]
async fn a_code_is_void_once_its_address_is_taken_back_and_good_again_with_it() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let asked = ask_to_move(&ada, "new@example.com").await;
    let held = hold(&app, &asked, "new@example.com").await;
    ada.put(ME, &json!({ "email": "ada@example.com" })).await.assert_ok(200);
    confirm(&app, &held.handle, &held.code).await.assert_error(400, "code_invalid");
    assert_eq!(me(&ada).await["email"], "ada@example.com");
    ask_to_move(&ada, "new@example.com").await.assert_ok(200);
    confirm(&app, &held.handle, &held.code).await.assert_ok(200);
    // A change of the password drops what waits.
    let asked = ask_to_move(&ada, "third@example.com").await;
    let third = hold(&app, &asked, "third@example.com").await;
    let change = json!({ "old_password": PASSWORD, "new_password": NEW });
    ada.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
    confirm(&app, &third.handle, &third.code).await.assert_error(400, "code_invalid");
}

#[tokio::test]
async fn a_used_code_stays_used_when_its_address_is_asked_for_once_more() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let mut all = Vec::new();
    for email in ["one@example.com", "two@example.com"] {
        let asked = ask_to_move(&ada, email).await;
        let held = hold(&app, &asked, email).await;
        confirm(&app, &held.handle, &held.code).await.assert_ok(200);
        all.push(held);
    }
    ask_to_move(&ada, "one@example.com").await.assert_ok(200);
    confirm(&app, &all[0].handle, &all[0].code).await.assert_error(400, "code_invalid");
    assert_eq!(me(&ada).await["email"], "two@example.com");
}

#[tokio::test]
async fn a_code_is_read_however_it_is_typed_and_what_is_none_is_refused() {
    for typed in ["{a}{b}", " {a} {b} ", "{a}-{b}", "{a}\u{a0}{b}", "code: {a}.{b}"] {
        let app = TestApp::start().await;
        let (_, held) = newcomer(&app, "ada").await;
        let (a, b) = held.code.split_once(' ').unwrap();
        let typed = typed.replace("{a}", a).replace("{b}", b);
        confirm(&app, &held.handle, &typed).await.assert_ok(200);
    }
    let app = TestApp::start().await;
    let (ada, held) = newcomer(&app, "ada").await;
    let full_width: String =
        held.code.chars().filter_map(|c| char::from_u32(u32::from(c) + 0xfee0)).collect();
    for typed in [&*format!("{}0", held.code), &*format!("0{}", held.code), &full_width, ""] {
        confirm(&app, &held.handle, typed).await.assert_error(400, "code_invalid");
    }
    let with_token = format!("{CONFIRM}?token=a");
    let (handle, code) = (&held.handle, &held.code);
    for (path, body, field, refused) in [
        (CONFIRM, json!({ "challenge": handle, "code": 12_345_678 }), "code", "invalid_type"),
        (CONFIRM, json!({ "challenge": 1, "code": code }), "challenge", "invalid_type"),
        (CONFIRM, json!({ "challenge": handle, "code": "1\u{0}" }), "code", "invalid_characters"),
        (CONFIRM, json!({ "challenge": handle }), "code", "required"),
        (CONFIRM, json!({ "challenge": handle, "code": null }), "code", "required"),
        (CONFIRM, json!({ "code": code }), "challenge", "required"),
        (&with_token, json!({ "challenge": handle, "code": code }), "token", "not_allowed"),
        (&with_token, json!({ "challenge": handle }), "token", "not_allowed"),
        (&held.link, json!({ "challenge": handle, "code": code }), "token", "not_allowed"),
    ] {
        app.anonymous().post(path, &body).await.assert_fields(&[(field, refused)]);
    }
    assert_eq!(me(&ada).await["email_verified"], false);
    confirm(&app, handle, code).await.assert_ok(200);
}

/// The page's own form has neither, and a GET confirms by no code.
#[tokio::test]
async fn a_get_takes_no_code_and_the_pages_form_goes_on_working() {
    let app = TestApp::start().await;
    let (ada, held) = newcomer(&app, "ada").await;
    let path = format!("{CONFIRM}?challenge={}&code={}", held.handle, held.code.replace(' ', ""));
    app.anonymous().get(&path).await.assert_error(400, "link_invalid");
    let bare = app.anonymous().post(CONFIRM, &json!({})).await;
    bare.assert_error(400, "link_invalid");
    assert_eq!(me(&ada).await["email_verified"], false);
    let form = app
        .anonymous()
        .call(Method::POST, &held.link)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
        .body("");
    let page = form.send().await;
    assert!(page.status == 200 && page.text.contains("E-mail address confirmed"), "{}", page.text);
}

/// Neither code nor handle rests in the database.
#[tokio::test]
async fn whoever_reads_the_database_confirms_nothing() {
    let app = TestApp::start().await;
    let (_, held) = newcomer(&app, "ada").await;
    let rows: Vec<serde_json::Value> = sqlx::query_scalar(
        "select to_jsonb(c) from challenges c union all select to_jsonb(o) from outbox o",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    let dump = serde_json::to_string(&rows).unwrap();
    for secret in [&held.handle, &held.code, &held.code.replace(' ', "")] {
        assert!(!dump.contains(secret.as_str()), "{secret}");
    }
}
