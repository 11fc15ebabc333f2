//! `POST /users/`.

use serde_json::json;

use crate::support::{PASSWORD, TestApp};

#[tokio::test]
async fn whoever_registers_is_shown_what_was_kept_and_gets_a_letter() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "Ada", "email": "Ada@Example.com", "password": PASSWORD,
        "first_name": "Ada", "last_name": "Lovelace",
    });
    let answer = app.anonymous().post("/api/v1/users/", &body).await;
    let user = &answer.assert_ok(201)["user"];
    assert_eq!(user["username"], "Ada");
    assert_eq!(user["email"], "Ada@Example.com");
    assert_eq!(user["email_verified"], false);
    assert_eq!(user["role"], "user");
    assert_eq!(user["created_at"], "2026-01-02T03:04:05.678Z");
    let letter = app.letter_to("Ada@Example.com").await;
    assert!(letter.text.contains("https://auth.example.com/api/v1/confirm?token="));
}
