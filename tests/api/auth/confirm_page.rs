//! `/confirm` in a browser: the page, who gets it, what it knows, and what its policy allows.

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
const FORM: &str = "application/x-www-form-urlencoded";

pub async fn newcomer_with_link(app: &TestApp, name: &str) -> (Person, String) {
    let person = app.newcomer(name).await;
    (person, link_in(&app.letter_to(&email_of(name)).await))
}

/// A link that confirms another address of a person whose own is confirmed.
pub async fn pending_link(person: &Person, email: &str) -> String {
    let body = json!({ "email": email, "password": PASSWORD });
    person.put("/api/v1/users/me", &body).await.assert_ok(200);
    let letters = person.app.deliver_mail().await;
    link_in(letters.iter().find(|letter| letter.to == email).unwrap())
}

pub async fn browse(app: &TestApp, method: Method, link: &str) -> Answer {
    app.anonymous().call(method, link).header("accept", BROWSER).send().await
}

/// Presses the button that says this, as a browser sends its form.
pub async fn press(app: &TestApp, link: &str, form: &'static str) -> Answer {
    let call = app.anonymous().call(Method::POST, link).header("accept", BROWSER);
    call.header("content-type", FORM).body(form).send().await
}

pub async fn is_verified(person: &Person) -> bool {
    person.get("/api/v1/users/me").await.assert_ok(200)["user"]["email_verified"] == json!(true)
}

/// Fails unless this is a page that keeps to its own policy and names the service; the policy.
pub fn assert_page(answer: &Answer, status: u16) -> &str {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("vary"), Some("accept"));
    let page = &answer.text;
    assert_eq!(page.matches("<style>").count(), 1);
    let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains(&format!("style-src 'sha256-{hash}';")), "{policy}");
    for directive in
        ["default-src 'none'", "img-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.split("; ").any(|part| part == directive), "{policy}");
    }
    // Nothing in it that the policy would stop, or that would tell anybody the address of the page.
    for foreign in ["<script", " style=", " src=", "http:"] {
        assert!(!page.contains(foreign), "{foreign} in {page}");
    }
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{page}");
    assert!(page.contains("<header>auth.example.com</header>"), "{page}");
    policy
}

/// Fails unless the page is the end of a way, and leads on; where to.
pub fn assert_way_on(page: &Answer) -> &str {
    assert!(!page.text.contains("<form"), "{}", page.text);
    assert!(page.header("content-security-policy").unwrap().ends_with("; form-action 'none'"));
    let (_, link) = page.text.rsplit_once("<a href=\"").unwrap();
    link.split_once('"').unwrap().0
}

#[tokio::test]
async fn a_browser_sees_a_page_with_a_button_and_following_the_link_changes_nothing() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    for accept in [BROWSER, "text/html", "application/json, TEXT/HTML;q=0.1"] {
        let call = app.anonymous().call(Method::GET, &link).header("accept", accept);
        let answer = call.send().await;
        let policy = assert_page(&answer, 200);
        assert!(policy.ends_with("; form-action 'self'"), "{policy}");
        // No action: each form is sent to the page's own address, with the token in it.
        let forms: Vec<_> = answer.text.split("<form").skip(1).collect();
        assert_eq!(forms.len(), 2);
        assert!(forms[0].starts_with(r#" method="post"><button>Confirm this address</button>"#));
        let not_me = r#" method="post"><input type="hidden" name="action" value="not_me"><button"#;
        assert!(forms[1].starts_with(not_me) && forms[1].contains(">I did not sign up</button>"));
        for told in ["<strong>ada@example.com</strong>", "<strong>ada</strong>"] {
            assert!(answer.text.contains(told), "{}", answer.text);
        }
    }
    assert!(!is_verified(&ada).await);
}

#[tokio::test]
async fn only_a_client_that_plainly_chose_to_confirms_by_following_the_link() {
    let app = TestApp::start().await;
    let json = ("accept", "application/json, text/plain, */*");
    let html = ("accept", BROWSER);
    let mode = |mode| ("sec-fetch-mode", mode);
    let ask = async |link: &str, headers: &[(&str, &str)]| {
        let call = app.anonymous().call(Method::GET, link);
        headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
    };
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    let followers: [&[(&str, &str)]; 15] = [
        &[],
        &[("accept", "*/*")],
        &[("accept", "text/*, application/*")],
        &[("accept", "application/jsonx, text/htmlx")],
        &[("accept", "application/json;q=0, */*")],
        &[html],
        &[("accept", "application/json, text/html")],
        &[json, mode("navigate")],
        &[json, mode("no-cors")],
        &[json, mode("websocket")],
        &[json, mode("")],
        &[html, mode("navigate"), ("sec-purpose", "prefetch;prerender")],
        // <link rel="prefetch" crossorigin>, which a preview of the mail might hold.
        &[json, mode("cors"), ("sec-purpose", "prefetch")],
        &[json, mode("cors"), ("purpose", "prefetch")],
        &[("accept", "image/avif,image/webp,*/*;q=0.8"), mode("no-cors")],
    ];
    for headers in followers {
        assert_page(&ask(&link, headers).await, 200);
        assert!(!is_verified(&ada).await, "{headers:?}");
    }
    let choosers: [&[(&str, &str)]; 5] = [
        &[json],
        &[("accept", "Application/JSON")],
        &[mode("cors")],
        &[mode("same-origin"), ("accept", "*/*")],
        // The mode alone decides where it is sent.
        &[mode("cors"), html],
    ];
    for (number, headers) in choosers.iter().enumerate() {
        let (person, link) = newcomer_with_link(&app, &format!("chooser{number}")).await;
        assert_eq!(ask(&link, headers).await.assert_ok(200)["email_verified"], true);
        assert!(is_verified(&person).await, "{headers:?}");
    }
}

#[tokio::test]
async fn the_button_confirms_and_pressing_it_again_is_no_error() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    // A form without fields, and one that says what it is for.
    for form in ["", "action=confirm"] {
        let answer = press(&app, &link, form).await;
        assert_page(&answer, 200);
        assert!(answer.text.contains("<h1>E-mail address confirmed</h1>"), "{}", answer.text);
        assert_eq!(assert_way_on(&answer), "/");
        assert_eq!((answer.header("set-cookie"), answer.header("location")), (None, None));
        assert!(is_verified(&ada).await);
    }
    // What the link has done already is told, and there is nothing to press, also when its time is
    // over.
    for _ in 0..2 {
        let answer = browse(&app, Method::GET, &link).await;
        assert_page(&answer, 200);
        assert!(answer.text.contains("<h1>E-mail address confirmed</h1>"), "{}", answer.text);
        assert_way_on(&answer);
        app.clock.advance(TimeDelta::hours(25));
    }
    app.anonymous().post(&link, &json!({})).await.assert_ok(200);
}

#[tokio::test]
async fn a_form_is_answered_with_a_page_and_a_script_in_json() {
    let app = TestApp::start().await;
    let (_, link) = newcomer_with_link(&app, "ada").await;
    let post = async |headers: &[(&str, &str)]| {
        let call = app.anonymous().call(Method::POST, &link);
        headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
    };
    assert_page(&post(&[("accept", BROWSER)]).await, 200);
    assert_page(&post(&[("sec-fetch-mode", "navigate"), ("accept", "*/*")]).await, 200);
    post(&[]).await.assert_ok(200);
    post(&[("accept", "*/*")]).await.assert_ok(200);
    post(&[("sec-fetch-mode", "cors"), ("accept", BROWSER)]).await.assert_ok(200);
}

#[tokio::test]
async fn a_browser_is_told_on_a_page_that_a_link_is_not_valid() {
    let app = TestApp::start().await;
    let (_, link) = newcomer_with_link(&app, "ada").await;
    for method in [Method::GET, Method::POST] {
        for link in ["/api/v1/confirm", "/api/v1/confirm?token=%3Cscript%3E", &format!("{link}x")] {
            let answer = browse(&app, method.clone(), link).await;
            assert_page(&answer, 400);
            assert!(answer.text.contains("<h1>This link is not valid</h1>"), "{}", answer.text);
            assert_eq!(assert_way_on(&answer), "/");
        }
    }
}

#[tokio::test]
async fn what_else_stands_in_the_query_is_let_be() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    let tracked = format!("{link}&utm_source=a&utm_source=a&%00=%00");
    let answer = browse(&app, Method::GET, &tracked).await;
    assert_page(&answer, 200);
    assert!(answer.text.contains("<form"), "{}", answer.text);
    // Two tokens are two links; a browser is told so on a page.
    let twice = format!("{link}&token=x");
    for method in [Method::GET, Method::POST] {
        let answer = browse(&app, method, &twice).await;
        assert_page(&answer, 400);
        assert!(answer.text.contains("The token is given twice."), "{}", answer.text);
    }
    assert!(!is_verified(&ada).await);
    assert_page(&press(&app, &tracked, "").await, 200);
    assert!(is_verified(&ada).await);
    app.anonymous().get(&tracked).await.assert_ok(200);
}

#[tokio::test]
async fn a_page_tells_apart_what_became_of_the_account() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (bob, of_bob) = newcomer_with_link(&app, "bob").await;
    boss.delete(&format!("/api/v1/users/{}", bob.id())).await.assert_ok(200);
    let (cid, of_cid) = newcomer_with_link(&app, "cid").await;
    cid.put("/api/v1/users/me", &json!({ "email": "other@example.com" })).await.assert_ok(200);
    let dan = app.user("dan").await;
    let of_dan = pending_link(&dan, "wanted@example.com").await;
    app.newcomer("wanted").await;
    let (_, of_eve) = newcomer_with_link(&app, "eve").await;
    let cases = [
        (of_bob, 410, "link_expired", "This account does not exist any more", "sign up again"),
        (of_cid, 410, "link_expired", "The account has another e-mail address", "a new letter"),
        (of_dan, 409, "email_taken", "This e-mail address is taken", "as dan"),
        (of_eve, 410, "link_expired", "This link has run out", "ask for a new letter"),
    ];
    for (link, status, code, title, hint) in cases {
        if hint.starts_with("ask") {
            app.clock.advance(TimeDelta::hours(24));
        }
        for method in [Method::GET, Method::POST] {
            let answer = browse(&app, method.clone(), &link).await;
            assert_page(&answer, status);
            assert!(answer.text.contains(&format!("<h1>{title}</h1>")), "{}", answer.text);
            assert!(answer.text.contains(hint), "{}", answer.text);
            assert_eq!(assert_way_on(&answer), "/");
        }
        app.anonymous().get(&link).await.assert_error(status, code);
        app.anonymous().post(&link, &json!({})).await.assert_error(status, code);
    }
}

#[tokio::test]
async fn a_new_address_of_a_confirmed_account_has_its_own_words() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let link = pending_link(&ada, "countess@example.com").await;
    let answer = browse(&app, Method::GET, &link).await;
    assert_page(&answer, 200);
    for told in ["<strong>countess@example.com</strong>", "<strong>ada</strong>", "did not ask"] {
        assert!(answer.text.contains(told), "{}", answer.text);
    }
    assert_page(&press(&app, &link, "").await, 200);
    let user = ada.get("/api/v1/users/me").await.json["user"].clone();
    assert_eq!(user["email"], "countess@example.com");
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
    let email = "\"><script>alert(1)</script>";
    sqlx::query("update users set email = $1").bind(email).execute(&app.pool).await.unwrap();
    let id: String =
        sqlx::query_scalar("select id::text from users").fetch_one(&app.pool).await.unwrap();
    let claims = link_claims(&id, email, app.clock.now().timestamp());
    let token = forge::Key::link(SECRET_KEY).token(&claims);
    let answer = browse(&app, Method::GET, &format!("/api/v1/confirm?token={token}")).await;
    assert_page(&answer, 200);
    assert!(answer.text.contains("&#34;&#62;&#60;script&#62;alert(1)&#60;/script&#62;"));
}

#[tokio::test]
async fn a_browser_gets_a_page_also_where_it_is_not_let_in() {
    let app = TestApp::start().await;
    let call = app.anonymous().call(Method::GET, "/api/v1/confirm?token=x").crowded();
    let answer = call.header("accept", BROWSER).send().await;
    assert_page(&answer, 503);
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.text.matches("<small>Request ").count(), 1);
    let call = app.anonymous().call(Method::GET, "/api/v1/confirm?token=x").crowded();
    call.send().await.assert_error(503, "busy");
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
