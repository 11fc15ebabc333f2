//! `PUT /users/me/change_password`: the old password once more, and every other session ends.

use axum::http::Method;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::ended_half_way;

const PATH: &str = "/api/v1/users/me/change_password";
const NEW: &str = "quite another horse";

async fn change(person: &Person, old: &str, new: &str) -> Answer {
    person.put(PATH, &json!({ "old_password": old, "new_password": new })).await
}

#[tokio::test]
async fn the_new_password_counts_from_then_on_and_the_old_one_no_longer() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = change(&ada, PASSWORD, NEW).await;
    let expected = json!({
        "success": true,
        "message": "The password is changed. Every other session has ended.",
    });
    assert_eq!(answer.assert_ok(200), &expected);
    ada.log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    app.log_in("ada", NEW).await;
    // A replay knows the old password no longer.
    change(&ada, PASSWORD, NEW).await.assert_error(403, "wrong_password");
    change(&ada, NEW, PASSWORD).await.assert_ok(200);
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn every_other_session_ends_and_this_one_goes_on() {
    let app = TestApp::start().await;
    let mut ada = app.user("ada").await;
    let (mut phone, bob) = (app.log_in("ada", PASSWORD).await, app.user("bob").await);
    change(&ada, PASSWORD, NEW).await.assert_ok(200);

    phone.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    phone.refresh().await.assert_error(401, "session_ended");
    ada.get("/api/v1/users/me").await.assert_ok(200);
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    bob.get("/api/v1/users/me").await.assert_ok(200);
    app.log_in("bob", PASSWORD).await;
}

#[tokio::test]
async fn a_wrong_old_password_changes_nothing() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let phone = app.log_in("ada", PASSWORD).await;
    for wrong in ["", "not it at all", " correct horse battery", "Correct horse battery", NEW] {
        change(&ada, wrong, NEW).await.assert_error(403, "wrong_password");
    }
    app.log_in("ada", PASSWORD).await;
    ada.log_in("ada", NEW).await.assert_error(401, "invalid_credentials");
    phone.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn a_weak_new_password_is_refused_and_the_answer_says_why() {
    let app = TestApp::start().await;
    let ada = app.user("ada-lovelace").await;
    let names = json!({ "first_name": "Augusta Ada", "last_name": "Byron-King" });
    ada.put("/api/v1/users/me", &names).await.assert_ok(200);
    let phone = app.log_in("ada-lovelace", PASSWORD).await;
    let (too_long, too_short) = ("x".repeat(257), "e\u{301}".repeat(4));
    for (weak, code) in [
        ("", "too_short"),
        ("xkqzwvj", "too_short"),
        (&too_short, "too_short"),
        (&too_long, "too_long"),
        ("xkqzwvjyh\u{0}", "invalid_characters"),
        ("PASSWORD1", "too_common"),
        ("Ada-Lovelace", "same_as_username"),
        ("ADA-LOVELACE@example.com", "same_as_email"),
        ("augusta ada", "same_as_name"),
        ("byron-KING", "same_as_name"),
        ("Augusta Ada Byron-King", "same_as_name"),
        ("doorWARD", "same_as_service"),
    ] {
        change(&ada, PASSWORD, weak).await.assert_fields(&[("new_password", code)]);
        // Whoever does not know the old one learns no more.
        change(&ada, "not it", weak).await.assert_fields(&[("new_password", code)]);
    }
    phone.get("/api/v1/users/me").await.assert_ok(200);
    app.log_in("ada-lovelace", PASSWORD).await;
}

#[tokio::test]
async fn the_operator_may_raise_the_shortest_password() {
    let app = TestApp::with(&[("MIN_PASSWORD_LENGTH", "20")]).await;
    let ada = app.user("ada").await;
    change(&ada, PASSWORD, NEW).await.assert_fields(&[("new_password", "too_short")]);
    change(&ada, PASSWORD, "quite another horse!").await.assert_ok(200);
}

#[tokio::test]
async fn a_missing_or_mistyped_field_is_named() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let put = async |body: Value| ada.put(PATH, &body).await;
    let both = [("old_password", "required"), ("new_password", "required")];
    put(json!({})).await.assert_fields(&both);
    put(json!({ "old_password": null, "new_password": null })).await.assert_fields(&both);
    put(json!({ "password": PASSWORD, "newPassword": NEW })).await.assert_fields(&both);
    put(json!({ "new_password": NEW })).await.assert_fields(&both[..1]);
    put(json!({ "old_password": PASSWORD })).await.assert_fields(&both[1..]);
    put(json!({ "old_password": 1, "new_password": [NEW] }))
        .await
        .assert_fields(&[("old_password", "invalid_type"), ("new_password", "invalid_type")]);
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn a_password_is_the_same_however_its_letters_are_composed() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    change(&ada, PASSWORD, "caf\u{e9} au lait").await.assert_ok(200);
    change(&ada, "cafe\u{301} au lait", "cre\u{300}me bru\u{302}le\u{301}e").await.assert_ok(200);
    app.log_in("ada", "cr\u{e8}me br\u{fb}l\u{e9}e").await;
}

#[tokio::test]
async fn only_the_callers_password_changes_whatever_else_is_sent() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let body = json!({
        "old_password": PASSWORD, "new_password": NEW, "public_id": bob.id(), "user_id": bob.id(),
        "username": "bob", "role": "admin", "password_hash": "x",
    });
    ada.put(PATH, &body).await.assert_ok(200);
    app.log_in("bob", PASSWORD).await;
    assert_eq!(app.log_in("ada", NEW).await.user["role"], "user");
}

#[tokio::test]
async fn of_changes_at_once_exactly_one_wins() {
    let app = TestApp::start().await;
    for (round, callers) in [2, 20].into_iter().enumerate() {
        let name = format!("ada{round}");
        let mut sessions = vec![app.user(&name).await];
        for _ in 1..callers {
            sessions.push(app.log_in(&name, PASSWORD).await);
        }
        let new = |n: usize| format!("{NEW} {n}");
        let calls = sessions.iter().enumerate();
        let calls = calls.map(async |(n, session)| change(session, PASSWORD, &new(n)).await);
        let answers = join_all(calls).await;
        let won: Vec<usize> = (0..callers).filter(|&n| answers[n].status == 200).collect();
        assert_eq!(won.len(), 1, "of {callers}");
        for (n, answer) in answers.iter().enumerate().filter(|(n, _)| !won.contains(n)) {
            // The loser's session may have ended before its call was looked at.
            assert!(
                ["wrong_password", "session_ended"].contains(&answer.code()),
                "{}",
                answer.text
            );
            sessions[n].log_in(&name, &new(n)).await.assert_error(401, "invalid_credentials");
            sessions[n].get("/api/v1/users/me").await.assert_error(401, "session_ended");
        }
        sessions[won[0]].get("/api/v1/users/me").await.assert_ok(200);
        app.log_in(&name, &new(won[0])).await;
    }
}

#[tokio::test]
async fn a_login_at_the_same_time_leaves_no_session_that_knew_only_the_old_password() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let logins = async { join_all((0..20).map(|_| ada.log_in("ada", PASSWORD))).await };
    let (logins, changed) = tokio::join!(logins, change(&ada, PASSWORD, NEW));
    changed.assert_ok(200);
    for answer in logins {
        if answer.status == 200 {
            let mut session = ada.clone();
            session.access = answer.json["token"].as_str().map(str::to_owned);
            session.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        } else {
            answer.assert_error(401, "invalid_credentials");
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_half_way_through_changes_no_password() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = ended_half_way(&app, change(&ada, PASSWORD, NEW)).await;
    answer.assert_error(401, "session_ended");
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn there_is_no_other_method() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "old_password": PASSWORD, "new_password": NEW });
    for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
        let answer = ada.call(method, PATH).json(&body).send().await;
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("PUT"));
    }
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn an_address_that_waits_is_dropped_with_the_password_by_which_it_was_set() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    app.deliver_mail().await;
    // By somebody who knew the password.
    let address = json!({ "email": "thief@example.com", "password": PASSWORD });
    ada.put("/api/v1/users/me", &address).await.assert_ok(200);
    let link = link_in(&app.letter_to("thief@example.com").await);
    change(&ada, PASSWORD, NEW).await.assert_ok(200);
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    let answer = ada.get("/api/v1/users/me").await;
    let user = &answer.assert_ok(200)["user"];
    assert_eq!((&user["email"], &user["pending_email"]), (&json!("ada@example.com"), &json!(null)));
}

#[tokio::test]
async fn a_wrong_old_password_is_a_complaint_about_its_field() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = change(&ada, "not it", NEW).await;
    answer.assert_error(403, "wrong_password");
    let error = json!({
        "field": "old_password", "code": "wrong_password", "message": "The password is wrong.",
    });
    assert_eq!(answer.json["errors"], json!([error]));
}

async fn renew(person: &Person, old: &str) -> Answer {
    person.put(PATH, &json!({ "old_password": old, "new_password": NEW, "renew": true })).await
}

#[tokio::test]
async fn whoever_asks_for_it_gets_a_new_session_in_place_of_this_one_too() {
    let app = TestApp::start().await;
    let mut ada = app.user("ada").await;
    let mut phone = app.log_in("ada", PASSWORD).await;
    let answer = renew(&ada, PASSWORD).await;
    let body = answer.assert_ok(200);
    assert_eq!(body.as_object().unwrap().len(), 5);
    assert_eq!(body["expires_in"], 30 * 60);
    let text = |field: &str| body[field].as_str().map(str::to_owned);
    let mut renewed =
        Person { access: text("token"), refresh: text("refresh_token"), ..ada.clone() };

    for old in [&mut ada, &mut phone] {
        old.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        old.refresh().await.assert_error(401, "session_ended");
    }
    renewed.get("/api/v1/users/me").await.assert_ok(200);
    renewed.refresh().await.assert_ok(200);
    renewed.get("/api/v1/users/me").await.assert_ok(200);
    change(&renewed, NEW, PASSWORD).await.assert_ok(200);
    // It is a session like any other: listed as a login, and one of one.
    let sql = "select count(*) from sessions where ended_at is null";
    let sessions: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(sessions, 1);
    renewed.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    renewed.get("/api/v1/users/me").await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn a_new_session_is_given_for_the_right_password_alone() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = renew(&ada, "not it at all").await;
    answer.assert_error(403, "wrong_password");
    assert!(answer.json.get("token").is_none(), "{}", answer.text);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    let sql = "select count(*) from sessions";
    let sessions: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(sessions, 1);
}

#[tokio::test]
async fn whether_the_session_is_replaced_is_yes_or_no_and_nothing_else() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for odd in [json!("yes"), json!("true"), json!(1), json!([true]), json!({})] {
        let body = json!({ "old_password": PASSWORD, "new_password": NEW, "renew": odd });
        ada.put(PATH, &body).await.assert_fields(&[("renew", "invalid_type")]);
    }
    app.log_in("ada", PASSWORD).await;
    for (old, new, no) in [(PASSWORD, NEW, json!(false)), (NEW, PASSWORD, json!(null))] {
        let body = json!({ "old_password": old, "new_password": new, "renew": no });
        let answer = ada.put(PATH, &body).await;
        assert_eq!(answer.assert_ok(200).as_object().unwrap().len(), 2, "{}", answer.text);
        ada.get("/api/v1/users/me").await.assert_ok(200);
    }
}

#[tokio::test]
async fn of_renewals_at_once_exactly_one_gives_a_session() {
    let app = TestApp::start().await;
    let mut sessions = vec![app.user("ada").await];
    for _ in 0..9 {
        sessions.push(app.log_in("ada", PASSWORD).await);
    }
    let answers = join_all(sessions.iter().map(|session| renew(session, PASSWORD))).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1);
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        assert!(["wrong_password", "session_ended"].contains(&lost.code()), "{}", lost.text);
    }
    for session in &sessions {
        session.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    }
    let access = won[0].json["token"].as_str().map(str::to_owned);
    let renewed = Person { access, ..sessions[0].clone() };
    renewed.get("/api/v1/users/me").await.assert_ok(200);
}
