//! Where the page behind a letter's link leads: to the frontend, and below the path of the service.

use axum::http::Method;
use serde_json::json;

use crate::auth::confirm_page::{
    assert_page, assert_way_on, browse, is_verified, newcomer_with_link, press,
};
use crate::harness::app::TestApp;

#[tokio::test]
async fn every_end_of_the_page_leads_to_the_frontend() {
    let frontend = "https://app.example.com:8443/welcome?from=mail&x=%C3%A4#top";
    let leads_to =
        |what: &str| format!("https://app.example.com:8443/welcome?from=mail&x=%C3%A4&{what}#top");
    let app = TestApp::with(&[("CONFIRM_REDIRECT_URL", frontend)]).await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    // Browsers hold form-action against where the form's answer leads, too, and where that leads in
    // its turn.
    let answer = browse(&app, Method::GET, &link).await;
    assert!(assert_page(&answer, 200).ends_with("; form-action 'self' https:"));
    assert!(!is_verified(&ada).await);
    let (_, other) = newcomer_with_link(&app, "bob").await;
    let invalid = format!("{link}x");
    for (link, form, what) in [
        (&link, "", "confirmed=true"),
        (&link, "", "confirmed=true"),
        (&link, "action=not_me", "error=email_already_verified"),
        (&other, "action=not_me", "confirmed=false"),
        (&other, "", "error=link_expired"),
        (&invalid, "", "error=link_invalid"),
        (&link, "action=nothing", "error=validation_failed"),
    ] {
        let answer = press(&app, link, form).await;
        assert_page(&answer, 303);
        assert_eq!(answer.header("location"), Some(&*leads_to(what)));
        // For a browser that does not follow.
        assert_eq!(assert_way_on(&answer).replace("&#38;", "&"), leads_to(what));
    }
    assert!(is_verified(&ada).await);
    // Opening the link leads nowhere by itself: a scanner would be led along.
    let answer = browse(&app, Method::GET, &other).await;
    assert_page(&answer, 410);
    assert_eq!(assert_way_on(&answer).replace("&#38;", "&"), leads_to("error=link_expired"));
    // Programs are redirected nowhere.
    app.anonymous().get(&link).await.assert_ok(200);
    app.anonymous().post(&link, &json!({})).await.assert_ok(200);
    app.anonymous().post(&other, &json!({})).await.assert_error(410, "link_expired");
}

#[tokio::test]
async fn below_a_path_that_a_proxy_strips_the_links_of_a_page_lead_below_it() {
    let url = "https://example.com/auth";
    let app = TestApp::with(&[("PUBLIC_URL", url), ("APP_NAME", "auth.example.com")]).await;
    app.newcomer("ada").await;
    let letter = app.letter_to("ada@example.com").await;
    let link = letter.text.split_whitespace().find(|word| word.starts_with(url)).unwrap();
    let answer = press(&app, &link[url.len()..], "").await;
    assert_page(&answer, 200);
    assert!(answer.text.contains(r#"<link rel="icon" href="/auth/favicon.ico">"#));
    assert_eq!(assert_way_on(&answer), "/auth/");
    for path in ["/", "/nowhere"] {
        let page = browse(&app, Method::GET, path).await;
        let links = page.text.split("<a href=\"").skip(1);
        assert!(links.clone().count() > 0);
        for link in links {
            assert!(link.starts_with("/auth/"), "{link}");
        }
    }
}
