//! `/confirm` in a browser: the page with one button, and what its policy allows.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{SECRET_KEY, TestApp, link_in};
use crate::harness::forge::{self, link_claims};
use crate::harness::person::{PASSWORD, Person, email_of};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

async fn newcomer_with_link(app: &TestApp, name: &str) -> (Person, String) {
    let person = app.newcomer(name).await;
    (person, link_in(&app.letter_to(&email_of(name)).await))
}

async fn browse(app: &TestApp, method: Method, link: &str) -> Answer {
    app.anonymous().call(method, link).header("accept", BROWSER).send().await
}

async fn is_verified(person: &Person) -> bool {
    person.get("/api/v1/users/me").await.assert_ok(200)["user"]["email_verified"] == json!(true)
}

/// Fails unless this is a page that keeps to its own policy; the policy.
fn assert_page(answer: &Answer, status: u16) -> &str {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("vary"), Some("accept"));
    let page = &answer.text;
    assert_eq!(page.matches("<style>").count(), 1);
    let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains(&format!("style-src 'sha256-{hash}';")), "{policy}");
    for directive in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.split("; ").any(|part| part == directive), "{policy}");
    }
    // Nothing in it that the policy would stop, or that would tell anybody the address of the page.
    for foreign in ["<script", " style=", " src=", " href=", "http:", "https:"] {
        assert!(!page.contains(foreign), "{foreign} in {page}");
    }
    policy
}

#[tokio::test]
async fn a_browser_sees_a_page_with_one_button_and_following_the_link_changes_nothing() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    for accept in [BROWSER, "text/html", "application/json, TEXT/HTML;q=0.1"] {
        let call = app.anonymous().call(Method::GET, &link).header("accept", accept);
        let answer = call.send().await;
        let policy = assert_page(&answer, 200);
        assert!(policy.ends_with("; form-action 'self'"), "{policy}");
        assert_eq!(answer.text.matches("<form").count(), 1);
        assert_eq!(answer.text.matches("<button").count(), 1);
        assert!(!answer.text.contains("<input"), "{}", answer.text);
        // No action: the form is sent to the page's own address, with the token in it.
        assert!(answer.text.contains(r#"<form method="post"><button>"#), "{}", answer.text);
        assert!(answer.text.contains("<strong>ada@example.com</strong>"), "{}", answer.text);
    }
    assert!(!is_verified(&ada).await);
    // Who does not name a page gets none.
    for accept in ["*/*", "application/json", "text/*", "text/htmlx"] {
        let (_, link) = newcomer_with_link(&app, &format!("user{}", accept.len())).await;
        let call = app.anonymous().call(Method::GET, &link).header("accept", accept);
        call.send().await.assert_ok(200);
    }
}

#[tokio::test]
async fn the_button_confirms_and_pressing_it_again_is_no_error() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    for _ in 0..2 {
        let call = app.anonymous().call(Method::POST, &link).header("accept", BROWSER);
        // As a browser sends a form without fields.
        let call = call.header("content-type", "application/x-www-form-urlencoded");
        let answer = call.send().await;
        assert_page(&answer, 200);
        assert!(answer.text.contains("<h1>E-mail address confirmed</h1>"), "{}", answer.text);
        assert!(!answer.text.contains("<form"), "{}", answer.text);
        assert_eq!((answer.header("set-cookie"), answer.header("location")), (None, None));
        assert!(is_verified(&ada).await);
    }
}

#[tokio::test]
async fn a_browser_is_told_on_a_page_what_did_not_work() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    for method in [Method::GET, Method::POST] {
        for link in ["/api/v1/confirm", "/api/v1/confirm?token=%3Cscript%3E", &format!("{link}x")] {
            let answer = browse(&app, method.clone(), link).await;
            assert_page(&answer, 400);
            assert!(answer.text.contains("This link is not valid."), "{}", answer.text);
            assert!(!answer.text.contains("<form"), "{}", answer.text);
        }
    }
    ada.put("/api/v1/users/me", &json!({ "email": "other@example.com" })).await.assert_ok(200);
    let answer = browse(&app, Method::POST, &link).await;
    assert_page(&answer, 410);
    assert!(answer.text.contains("This link is no longer valid"), "{}", answer.text);
    app.clock.advance(TimeDelta::hours(24));
    for method in [Method::GET, Method::POST] {
        assert_page(&browse(&app, method, &link).await, 410);
    }
}

#[tokio::test]
async fn a_browser_is_told_on_a_page_that_the_address_is_taken() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "email": "wanted@example.com", "password": PASSWORD });
    ada.put("/api/v1/users/me", &body).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let link = link_in(letters.iter().find(|letter| letter.to == "wanted@example.com").unwrap());
    app.newcomer("wanted").await;
    let answer = browse(&app, Method::POST, &link).await;
    assert_page(&answer, 409);
    assert!(answer.text.contains("This e-mail address is taken."), "{}", answer.text);
}

#[tokio::test]
async fn an_address_is_text_on_the_page_whatever_it_holds() {
    let app = TestApp::start().await;
    let email = "o'neil&amp{{7*7}}`x`@example.com";
    let body = json!({ "username": "ada", "email": email, "password": PASSWORD });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
    let link = link_in(&app.letter_to(email).await);
    let answer = browse(&app, Method::GET, &link).await;
    assert_page(&answer, 200);
    let shown = "<strong>o&#39;neil&#38;amp{{7*7}}`x`@example.com</strong>";
    assert!(answer.text.contains(shown), "{}", answer.text);

    // Addresses with brackets are refused at the door; the page does not rely on that.
    let id = "01900000-0000-7000-8000-000000000000";
    let claims = link_claims(id, "\"><script>alert(1)</script>", app.clock.now().timestamp());
    let token = forge::Key::link(SECRET_KEY).token(&claims);
    let answer = browse(&app, Method::GET, &format!("/api/v1/confirm?token={token}")).await;
    assert_page(&answer, 200);
    assert!(answer.text.contains("&#34;&#62;&#60;script&#62;alert(1)&#60;/script&#62;"));
}

#[tokio::test]
async fn a_browser_goes_on_to_the_frontend_afterwards() {
    let redirect = "https://app.example.com:8443/welcome?from=mail#top";
    let app = TestApp::with(&[("CONFIRM_REDIRECT_URL", redirect)]).await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    // Browsers hold form-action against where the form's answer leads, too, and where that leads in
    // its turn.
    let expected = "; form-action 'self' https:";
    let answer = browse(&app, Method::GET, &link).await;
    assert!(assert_page(&answer, 200).ends_with(expected));
    assert!(!is_verified(&ada).await);
    for _ in 0..2 {
        let answer = browse(&app, Method::POST, &link).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some(redirect)));
        assert_eq!(answer.text, "");
        assert!(is_verified(&ada).await);
    }
    // What did not work is told here, and another client is redirected nowhere.
    let answer = browse(&app, Method::POST, &format!("{link}x")).await;
    assert!(assert_page(&answer, 400).ends_with("; form-action 'self'"));
    assert_eq!(answer.header("location"), None);
    app.anonymous().get(&link).await.assert_ok(200);
    app.anonymous().post(&link, &json!({})).await.assert_ok(200);
}

#[tokio::test]
async fn a_page_that_tells_of_trouble_says_when_to_come_back_and_the_trouble_is_counted() {
    let app = TestApp::start().await.alone();
    let (_, link) = newcomer_with_link(&app, "ada").await;
    let trouble = "create function trouble() returns trigger language plpgsql as $$ begin
            raise exception 'no space left' using errcode = '53100';
        end $$;
        create trigger trouble before update on users for each row execute function trouble()";
    sqlx::raw_sql(trouble).execute(&app.pool).await.unwrap();
    let answer = browse(&app, Method::POST, &link).await;
    assert_page(&answer, 503);
    assert_eq!(answer.header("retry-after"), Some("2"));
    let counted = app.state.metrics.errors.read(["database_unavailable"]);
    assert_eq!(counted[0].1, 1);
    sqlx::raw_sql("drop function trouble cascade").execute(&app.pool).await.unwrap();
    assert_page(&browse(&app, Method::POST, &link).await, 200);
}
