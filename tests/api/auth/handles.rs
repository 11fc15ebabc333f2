//! Tokens and handles of every kind, in every place where another kind belongs: all are refused,
//! and none is used up by that.

use axum::http::Method;
use doorward::mail::Letter;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person, email_of};

const ME: &str = "/api/v1/users/me";
const NEW_PASSWORD: &str = "quite another horse";

/// Where a token can be handed in; of a challenge with the code that belongs to the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Access,
    Refresh,
    ConfirmLink,
    ConfirmCode,
    ResetLink,
    ResetCode,
    Restore,
    NotMe,
    Invitation,
}

const PLACES: [Place; 9] = [
    Place::Access,
    Place::Refresh,
    Place::ConfirmLink,
    Place::ConfirmCode,
    Place::ResetLink,
    Place::ResetCode,
    Place::Restore,
    Place::NotMe,
    Place::Invitation,
];

/// What a token of another kind is told.
const REFUSALS: [&str; 6] = [
    "token_invalid",
    "refresh_token_invalid",
    "link_invalid",
    "link_expired",
    "code_invalid",
    "challenge_expired",
];

struct Tokens {
    app: TestApp,
    /// Each with the place where it belongs.
    all: Vec<(Place, &'static str, String)>,
    confirm_code: String,
    reset_code: String,
}

fn token_in(letter: &Letter) -> String {
    link_in(letter).split_once("token=").unwrap().1.to_owned()
}

fn code_in(letter: &Letter) -> String {
    let is_code = |line: &&str| {
        line.len() == 9 && line.bytes().all(|byte| byte.is_ascii_digit() || byte == b' ')
    };
    letter.text.lines().find(is_code).unwrap().to_owned()
}

fn text(answer: &Answer, field: &str) -> String {
    answer.json[field].as_str().unwrap_or_else(|| panic!("no {field}: {}", answer.text)).to_owned()
}

impl Tokens {
    async fn collect() -> Self {
        let app = TestApp::start().await;
        let boss = app.admin().await;
        let mut all = vec![
            (Place::Access, "access", boss.access_token().to_owned()),
            (Place::Refresh, "refresh", boss.refresh_token().to_owned()),
        ];
        let stranger = app.anonymous();

        let body = json!({ "username": "ada", "email": email_of("ada"), "password": PASSWORD });
        let registered = stranger.post("/api/v1/users/", &body).await;
        registered.assert_ok(201);
        let letter = app.letter_to(&email_of("ada")).await;
        let confirm_code = code_in(&letter);
        all.push((Place::ConfirmLink, "confirmation's link", token_in(&letter)));
        all.push((Place::ConfirmCode, "confirmation's challenge", text(&registered, "challenge")));

        app.user("bob").await;
        let body = json!({ "email": email_of("bob") });
        let asked = stranger.post("/api/v1/password/forgot", &body).await;
        let letter = app.letter_to(&email_of("bob")).await;
        let reset_code = code_in(&letter);
        all.push((Place::ResetLink, "reset's link", token_in(&letter)));
        all.push((Place::ResetCode, "reset's challenge", text(&asked, "challenge")));

        let cid = app.user("cid").await;
        let body = json!({ "password": PASSWORD });
        cid.call(Method::DELETE, ME).json(&body).send().await.assert_ok(202);
        let letter = app.letter_to(&email_of("cid")).await;
        all.push((Place::Restore, "deletion's link", token_in(&letter)));
        let refused = stranger.log_in("cid", PASSWORD).await;
        all.push((Place::Restore, "deletion's token", text(&refused, "restore_token")));

        let dan = app.user("dan").await;
        let body = json!({ "old_password": PASSWORD, "new_password": NEW_PASSWORD });
        dan.put("/api/v1/users/me/change_password", &body).await.assert_ok(200);
        let letter = app.letter_to(&email_of("dan")).await;
        all.push((Place::NotMe, "link of not me", token_in(&letter)));

        let body = json!({ "email": email_of("eve") });
        boss.post("/api/v1/admin/invitations", &body).await.assert_ok(201);
        let letter = app.letter_to(&email_of("eve")).await;
        all.push((Place::Invitation, "invitation", token_in(&letter)));
        Self { app, all, confirm_code, reset_code }
    }

    async fn hand_in(&self, place: Place, token: &str) -> Answer {
        let stranger = self.app.anonymous();
        let header = |method, path, name| stranger.call(method, path).header(name, token).send();
        let post = |path: &'static str, body: Value| {
            let stranger = self.app.anonymous();
            async move { stranger.post(path, &body).await }
        };
        let reset = "/api/v1/password/reset";
        match place {
            Place::Access => header(Method::GET, ME, "x-access-token").await,
            Place::Refresh => header(Method::POST, "/api/v1/refresh", "x-refresh-token").await,
            Place::ConfirmLink => {
                let path = format!("/api/v1/confirm?token={token}");
                stranger.call(Method::POST, &path).send().await
            }
            Place::ConfirmCode => {
                post("/api/v1/confirm", json!({ "challenge": token, "code": self.confirm_code }))
                    .await
            }
            Place::ResetLink => {
                post(reset, json!({ "token": token, "new_password": NEW_PASSWORD })).await
            }
            Place::ResetCode => {
                let body = json!({ "challenge": token, "code": self.reset_code, "new_password": PASSWORD });
                post(reset, body).await
            }
            Place::Restore => post("/api/v1/restore", json!({ "restore_token": token })).await,
            Place::NotMe => post("/api/v1/not_me", json!({ "token": token })).await,
            Place::Invitation => {
                let body = json!({ "token": token, "username": "eve", "password": PASSWORD });
                post("/api/v1/invitations/accept", body).await
            }
        }
    }
}

#[tokio::test]
async fn a_token_of_one_kind_is_none_of_another() {
    let tokens = Tokens::collect().await;
    let mut refused = 0;
    for place in PLACES {
        for (own, what, token) in &tokens.all {
            if *own == place {
                continue;
            }
            let answer = tokens.hand_in(place, token).await;
            let code = answer.json["code"].as_str().unwrap_or_default();
            assert!(REFUSALS.contains(&code), "{what} at {place:?}: {}", answer.text);
            refused += 1;
        }
    }
    assert_eq!(refused, PLACES.len() * tokens.all.len() - tokens.all.len());
    // Each still is what it was: nothing was used up, and no code was tried too often.
    for (place, what, token) in &tokens.all {
        // The confirmation's two are one account's, and so are the deletion's, and the reset's.
        if ["confirmation's link", "deletion's link", "reset's link"].contains(what) {
            continue;
        }
        let answer = tokens.hand_in(*place, token).await;
        assert!(answer.status.is_success(), "{what} at {place:?}: {}", answer.text);
    }
}

/// A link that is opened, by GET, with the token of another kind.
#[tokio::test]
async fn a_page_opens_with_its_own_link_alone() {
    let tokens = Tokens::collect().await;
    for (place, path) in [
        (Place::ConfirmLink, "/api/v1/confirm"),
        (Place::ResetLink, "/api/v1/password/reset"),
        (Place::Restore, "/api/v1/restore"),
        (Place::NotMe, "/api/v1/not_me"),
        (Place::Invitation, "/api/v1/invitations"),
    ] {
        for (own, what, token) in &tokens.all {
            let stranger: Person = tokens.app.anonymous();
            let call = stranger.call(Method::GET, &format!("{path}?token={token}"));
            let answer = call.header("accept", "text/html").send().await;
            let expected = if *own == place { 200 } else { 400 };
            assert_eq!(answer.status, expected, "{what} at {path}: {}", answer.text);
        }
    }
}
