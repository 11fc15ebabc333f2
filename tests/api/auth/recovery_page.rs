//! The page behind the link of a letter that resets a password, and the frontend's in its place.

use axum::http::Method;
use serde_json::json;

use super::recovery::{FORGOT, NEW, RESET, asked, by_link, can_log_in};
use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::{PASSWORD, Person, email_of};

/// What a browser sends for a form of the page.
async fn send_form(person: &Person, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut call = person
        .call(Method::POST, RESET)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html");
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.body(body).send().await
}

#[tokio::test]
async fn the_page_takes_a_password_and_its_form_comes_from_nowhere_else() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let person = app.anonymous();
    let path = format!("{RESET}?token={}", asked.token);
    let page = person.call(Method::GET, &path).header("accept", "text/html").send().await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("type=\"password\"") && page.text.contains(&asked.token),
        "{}",
        page.text
    );
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"));
    let fields = [("token", &*asked.token), ("new_password", NEW)];
    let strangers = [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", PUBLIC_URL)],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ];
    for headers in strangers {
        let answer = send_form(&person, &fields, headers).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    let own = [("sec-fetch-site", "same-origin")];
    let short =
        send_form(&person, &[("token", &asked.token), ("new_password", "short")], &own).await;
    assert_eq!(short.status, 422);
    assert!(
        short.text.contains("role=\"alert\"") && short.text.contains(&asked.token),
        "{}",
        short.text
    );
    assert!(can_log_in(&app, PASSWORD).await);
    // What a browser needs to name an origin with the form over plain HTTP.
    assert!(page.text.contains(r#"<meta name="referrer" content="strict-origin">"#));
    let done = send_form(&person, &fields, &[("origin", PUBLIC_URL)]).await;
    assert!(done.status == 200 && done.text.contains("Your new password is set"), "{}", done.text);
    assert!(can_log_in(&app, NEW).await);
    let again = send_form(&person, &fields, &own).await;
    assert!(again.status == 410 && again.text.contains("Ask for a new letter"), "{}", again.text);
}

#[tokio::test]
async fn the_letter_leads_to_the_frontend_where_one_is_set_and_no_header_changes_it() {
    let url = "https://app.example.com/new-password?from=mail";
    let app = TestApp::with(&[("PASSWORD_RESET_URL", url)]).await;
    app.user("ada").await;
    let call = app.anonymous().call(Method::POST, FORGOT);
    let call = call.header("host", "evil.example").header("x-forwarded-host", "evil.example");
    call.json(&json!({ "email": email_of("ada") })).send().await.assert_ok(202);
    let letter = app.letter_to(&email_of("ada")).await;
    let link = letter.text.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    let token = link.strip_prefix(&format!("{url}#token=")).expect("the frontend's own page");
    assert!(!letter.text.contains("evil") && !letter.html.contains("evil"));
    by_link(&app, token, NEW).await.assert_ok(200);
}
