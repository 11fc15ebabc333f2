//! The pages for people who find their way to the service with a browser.

use axum::http::Method;

use crate::auth::confirm_page::{assert_page, browse};
use crate::harness::app::TestApp;

#[tokio::test]
async fn a_browser_finds_a_start_page_and_a_program_the_links() {
    let app = TestApp::start().await;
    let page = browse(&app, Method::GET, "/").await;
    assert!(assert_page(&page, 200).ends_with("; form-action 'none'"));
    assert!(page.text.contains("<h1>Accounts of auth.example.com</h1>"), "{}", page.text);
    let links: Vec<_> = page.text.split("<a href=\"").skip(1).collect();
    assert_eq!(links.len(), 3, "{}", page.text);
    for link in links {
        let path = link.split_once('"').unwrap().0;
        assert_eq!(browse(&app, Method::GET, path).await.status, 200, "{path}");
    }
    for accept in ["*/*", "application/json", "text/html;q=0"] {
        let answer = app.anonymous().call(Method::GET, "/").header("accept", accept).send().await;
        answer.assert_ok(200);
        assert_eq!(answer.header("vary"), Some("accept"));
    }
}

#[tokio::test]
async fn buttons_have_the_services_own_colour() {
    for (color, words) in [("#0f766e", "#ffffff"), ("#ffd400", "#000000")] {
        let app = TestApp::with(&[("APP_COLOR", color)]).await;
        let page = browse(&app, Method::GET, "/").await;
        assert_page(&page, 200);
        let style = format!("--button: {color}; --on-button: {words};");
        assert!(page.text.contains(&style), "{}", page.text);
    }
}

#[tokio::test]
async fn a_browser_that_finds_nothing_is_led_to_the_start_page() {
    let app = TestApp::start().await;
    for path in ["/nowhere", "/docs/index.html", "/api/v1/nowhere", "/%3Cscript%3E", "/dev/mailbox"]
    {
        let page = browse(&app, Method::GET, path).await;
        assert_page(&page, 404);
        assert!(page.text.contains("<h1>Page not found</h1>"), "{}", page.text);
        assert!(page.text.contains("<a href=\"/\">"), "{}", page.text);
        let id = page.header("x-request-id").unwrap();
        assert!(page.text.contains(id), "{}", page.text);
        let head = browse(&app, Method::HEAD, path).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (404, ""));
        assert_eq!(head.header("content-length"), Some(&*page.text.len().to_string()));
        let json = app.anonymous().call(Method::GET, path).header("accept", "*/*").send().await;
        json.assert_error(404, "not_found");
        assert_eq!(json.header("vary"), Some("accept"));
    }
    // Calls of the API are answered in JSON, whoever makes them.
    let answer = browse(&app, Method::GET, "/api/v1/users/me").await;
    answer.assert_error(401, "token_missing");
    let answer = browse(&app, Method::PUT, "/healthz").await;
    answer.assert_error(405, "method_not_allowed");
}

#[tokio::test]
async fn a_page_says_which_origin_asked_beside_what_it_was_asked_for() {
    let app = TestApp::with(&[("CORS_ORIGINS", "https://app.example.com")]).await;
    let call = app.anonymous().call(Method::GET, "/nowhere").header("accept", "text/html");
    let page = call.header("origin", "https://app.example.com").send().await;
    let vary: Vec<_> = page.headers.get_all("vary").iter().map(|v| v.to_str().unwrap()).collect();
    assert!(vary.contains(&"accept") && vary.concat().contains("origin"), "{vary:?}");
}

#[tokio::test]
async fn there_is_an_icon() {
    let app = TestApp::start().await;
    let icon = app.anonymous().get("/favicon.ico").await;
    assert_eq!((icon.status.as_u16(), icon.header("content-type")), (200, Some("image/x-icon")));
    assert!(icon.bytes.starts_with(&[0, 0, 1, 0]) && icon.bytes.len() < 1_000);
}
