//! A password that is set by the code of a letter.

use chrono::TimeDelta;
use serde_json::json;

use super::recovery::{NEW, RESET, asked, by_code, by_link, forgot};
use crate::harness::app::TestApp;
use crate::harness::races::at_once;

#[tokio::test]
async fn five_wrong_codes_end_a_handle_at_once_too_and_the_link_goes_on() {
    for together in [false, true] {
        let app = TestApp::start().await;
        app.user("ada").await;
        let asked = asked(&app, "ada").await;
        let wrong = if asked.code.starts_with('0') { "1111 1111" } else { "0000 0000" };
        if together {
            let answers = at_once(6, |_| {
                let (app, handle) = (app.clone(), asked.handle.clone());
                async move { by_code(&app, &handle, wrong, NEW).await }
            })
            .await;
            for answer in &answers {
                answer.assert_error(400, "code_invalid");
            }
        } else {
            for _ in 0..5 {
                by_code(&app, &asked.handle, wrong, NEW).await.assert_error(400, "code_invalid");
            }
        }
        let right = by_code(&app, &asked.handle, &asked.code, NEW).await;
        right.assert_error(400, "code_invalid");
        by_link(&app, &asked.token, NEW).await.assert_ok(200);
    }
}

/// Whoever guesses from handle to handle has twenty tries a day, and a stranger's address as well
/// as an account's.
#[tokio::test]
async fn wrong_codes_are_counted_by_the_address_whoever_has_it() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    for email in ["ada@example.com", "nobody@example.com"] {
        let mut refused = 0;
        for round in 0..5 {
            app.clock.advance(TimeDelta::hours(1));
            let handle = forgot(&app, email).await;
            for _ in 0..5 {
                let answer = by_code(&app, &handle, "1", NEW).await;
                if answer.status == 429 {
                    answer.assert_error(429, "rate_limited");
                    refused += 1;
                } else {
                    answer.assert_error(400, "code_invalid");
                }
            }
            assert_eq!(refused, if round < 4 { 0 } else { 5 }, "{email}");
        }
    }
}

/// Whoever goes on with a handle that is dead has nothing compared, and uses up nobody's budget.
#[tokio::test]
async fn a_dead_handle_uses_up_no_budget_of_its_addresses_owner() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    let handle = forgot(&app, "ada@example.com").await;
    for _ in 0..30 {
        by_code(&app, &handle, "1", NEW).await.assert_error(400, "code_invalid");
    }
    app.deliver_mail().await;
    let own = asked(&app, "ada").await;
    by_code(&app, &own.handle, &own.code, NEW).await.assert_ok(200);
}

#[tokio::test]
async fn a_right_code_is_looked_at_before_the_password_and_goes_on_after_a_bad_one() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    by_code(&app, &asked.handle, "0", "short").await.assert_error(400, "code_invalid");
    for _ in 0..6 {
        let answer = by_code(&app, &asked.handle, &asked.code, "short").await;
        answer.assert_fields(&[("new_password", "too_short")]);
        by_link(&app, &asked.token, "ada@example.com").await.assert_error(422, "validation_failed");
    }
    by_code(&app, &asked.handle, &asked.code, NEW).await.assert_ok(200);
}

#[tokio::test]
async fn a_code_is_read_however_it_is_typed() {
    for typed in ["{a}{b}", " {a} {b} ", "{a}-{b}", "{a}\u{a0}{b}", "code: {a}.{b}"] {
        let app = TestApp::start().await;
        app.user("ada").await;
        let asked = asked(&app, "ada").await;
        let (a, b) = asked.code.split_once(' ').unwrap();
        let typed = typed.replace("{a}", a).replace("{b}", b);
        by_code(&app, &asked.handle, &typed, NEW).await.assert_ok(200);
    }
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let full_width: String =
        asked.code.chars().filter_map(|c| char::from_u32(u32::from(c) + 0xfee0)).collect();
    for typed in [&*format!("{}0", asked.code), &*format!("0{}", asked.code), &full_width, ""] {
        by_code(&app, &asked.handle, typed, NEW).await.assert_error(400, "code_invalid");
    }
    let body = json!({ "challenge": asked.handle, "code": 12_345_678, "new_password": NEW });
    app.anonymous().post(RESET, &body).await.assert_fields(&[("code", "invalid_type")]);
    let body = json!({ "challenge": asked.handle, "code": "1\u{0}", "new_password": NEW });
    app.anonymous().post(RESET, &body).await.assert_fields(&[("code", "invalid_characters")]);
}
