//! The page behind the link of an invitation.

use axum::http::Method;

use crate::admin::invitations::{ACCEPT, accept, invited};
use crate::auth::confirm_page::{assert_page, browse};
use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::PASSWORD;

const OWN: [(&str, &str); 1] = [("sec-fetch-site", "same-origin")];

async fn send_form(app: &TestApp, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let call = app.anonymous().call(Method::POST, ACCEPT).header("accept", "text/html");
    let call = call.header("content-type", "application/x-www-form-urlencoded");
    let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
    call.body(body).send().await
}

#[tokio::test]
async fn a_browser_makes_the_account_on_our_own_page() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let token = invited(&app, &boss, "ada", "user").await;
    let link = format!("/api/v1/invitations?token={token}");
    for _ in 0..2 {
        let page = browse(&app, Method::GET, &link).await;
        let policy = assert_page(&page, 200);
        assert!(policy.ends_with("; form-action 'self'"), "{policy}");
        for part in [
            r#"<form method="post" action="/api/v1/invitations/accept">"#,
            r#"name="username" value="""#,
            r#"name="first_name" value="Ada""#,
            r#"name="last_name" value="L""#,
            "<strong>ada@example.com</strong>",
            r#"<meta name="referrer" content="strict-origin">"#,
        ] {
            assert!(page.text.contains(part), "{part} in {}", page.text);
        }
        assert!(page.text.contains(&token) && !page.text.contains(PASSWORD));
    }
    let fields = [
        ("token", &*token),
        ("username", "countess"),
        ("password", PASSWORD),
        ("first_name", "<b>Augusta"),
        ("last_name", ""),
    ];
    let strangers = [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", PUBLIC_URL)],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ];
    for headers in strangers {
        assert_page(&send_form(&app, &fields, headers).await, 403);
    }
    let mut bad = fields;
    (bad[1].1, bad[2].1) = ("boss", "short");
    let page = send_form(&app, &bad, &OWN).await;
    assert_page(&page, 422);
    for part in [r#"role="alert""#, r#"value="boss""#, r#"value="&#60;b&#62;Augusta""#, &token] {
        assert!(page.text.contains(part), "{part} in {}", page.text);
    }
    assert!(!page.text.contains("short\""), "{}", page.text);
    bad[2].1 = PASSWORD;
    let page = send_form(&app, &bad, &OWN).await;
    assert_page(&page, 409);
    assert!(page.text.contains("This username is taken."), "{}", page.text);
    let page = send_form(&app, &fields, &[("origin", PUBLIC_URL)]).await;
    assert!(assert_page(&page, 201).ends_with("; form-action 'none'"));
    assert!(page.text.contains("<h1>Your account is made</h1>"), "{}", page.text);
    assert!(page.header("set-cookie").is_none());
    let ada = app.log_in("countess", PASSWORD).await;
    assert_eq!(
        (&ada.user["first_name"], &ada.user["last_name"]),
        (&"<b>Augusta".into(), &"".into())
    );
    for page in [send_form(&app, &fields, &OWN).await, browse(&app, Method::GET, &link).await] {
        assert!(assert_page(&page, 410).ends_with("; form-action 'none'"));
        assert!(page.text.contains("This link has run out"), "{}", page.text);
    }
}

#[tokio::test]
async fn a_page_tells_what_is_wrong_with_a_link() {
    let app = TestApp::start().await;
    for path in ["/api/v1/invitations", "/api/v1/invitations?token=nonsense"] {
        let page = browse(&app, Method::GET, path).await;
        assert_page(&page, 400);
        assert!(page.text.contains("This link is not valid"), "{}", page.text);
    }
    let twice = browse(&app, Method::GET, "/api/v1/invitations?token=a&token=b").await;
    assert_page(&twice, 400);
    assert_page(&send_form(&app, &[("token", "nonsense")], &OWN).await, 400);
    assert_page(&send_form(&app, &[], &OWN).await, 422);
    let page = app.anonymous().call(Method::POST, ACCEPT).header("accept", "text/html").body("x");
    assert_eq!(page.send().await.status, 415);
    accept(&app, "nonsense", "ada").await.assert_error(400, "link_invalid");
}
