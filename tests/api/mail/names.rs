//! What a letter calls the service and where its link leads, from the settings to the letter.

use serde_json::json;

use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::person::PASSWORD;

#[tokio::test]
async fn letters_are_from_the_service_by_its_name() {
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("APP_NAME", "Acme & Söhne")], "Acme & Söhne"),
        (&[("MAIL_FROM", "Acme <no-reply@example.com>")], "Acme"),
        (&[], "auth.example.com"),
    ];
    for (settings, name) in cases {
        let app = TestApp::with(settings).await;
        let ada = app.user("www.evil.example").await;
        ada.post("/api/v1/users/me/verify_email", &json!({})).await;
        let body =
            json!({ "email": "new@example.com", "password": PASSWORD, "first_name": "Pills" });
        ada.put("/api/v1/users/me", &body).await.assert_ok(200);
        let letters = app.deliver_mail().await;
        assert_eq!(letters.len(), 2);
        for letter in letters {
            assert!(letter.subject.contains(name), "{}", letter.subject);
            assert!(letter.text.contains(name), "{}", letter.text);
            // The Message-ID is a machine's: it has the host.
            assert!(letter.message_id.ends_with("@auth.example.com>"), "{}", letter.message_id);
            // What a stranger could choose stands in no letter but that to a confirmed address.
            let is_to_confirmed = letter.to == "www.evil.example@example.com";
            for part in [&letter.text, &letter.html] {
                assert_eq!(part.contains("www.evil.example"), is_to_confirmed, "{part}");
                assert!(!part.contains("Pills"), "{part}");
            }
        }
    }
}

#[tokio::test]
async fn the_link_leads_to_the_frontends_page_where_one_is_set() {
    let page = "https://app.example.com/confirm?from=mail";
    let app = TestApp::with(&[("CONFIRM_URL", page)]).await;
    let ada = app.newcomer("ada").await;
    let letter = app.letter_to("ada@example.com").await;
    assert!(!letter.text.contains(PUBLIC_URL) && !letter.html.contains(PUBLIC_URL));
    let start = format!("{page}#token=");
    let link = letter.text.split_whitespace().find(|word| word.starts_with(&start)).unwrap();
    assert!(letter.html.contains(&format!("href=\"{link}\"")), "{}", letter.html);
    // As the page's script does.
    let token = &link[start.len()..];
    let call = app.anonymous().post(&format!("/api/v1/confirm?token={token}"), &json!({})).await;
    assert_eq!(call.assert_ok(200)["email_verified"], true);
    let me = ada.get("/api/v1/users/me").await;
    assert_eq!(me.assert_ok(200)["user"]["email_verified"], true);
}

#[tokio::test]
async fn below_a_path_the_link_begins_with_all_of_the_public_url() {
    let url = "https://example.com/auth";
    let app = TestApp::with(&[("PUBLIC_URL", url)]).await;
    app.newcomer("ada").await;
    let letter = app.letter_to("ada@example.com").await;
    let start = format!("{url}/api/v1/confirm?token=");
    assert!(letter.text.split_whitespace().any(|word| word.starts_with(&start)), "{}", letter.text);
    assert!(letter.html.contains(&format!("href=\"{start}")), "{}", letter.html);
    assert_eq!(letter.subject, "Confirm your e-mail address for example.com");
    let links = app.anonymous().get("/").await.json["links"].clone();
    for (name, link) in links.as_object().unwrap() {
        assert!(link.as_str().unwrap().starts_with(&format!("{url}/")), "{name}");
    }
}
