//! Who is known to an account, and keeps getting in while strangers have used up their budget: an
//! address, or a program that still has a refresh token of the account's.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{SECRET_KEY, TestApp};
use crate::harness::forge::{Key, read};
use crate::harness::person::{PASSWORD, Person};
use crate::limits::{HOME, assert_limited, guess, limited, login, register, use_up_strangers};

/// Where nobody has ever logged in from.
const NEW_PLACE: &str = "192.0.2.33";
const NEW_PASSWORD: &str = "a different good one";

async fn log_in_holding(app: &TestApp, refresh_token: &str) -> Answer {
    let call = login(app, NEW_PLACE, "ann", PASSWORD);
    call.header("x-refresh-token", refresh_token).send().await
}

/// A session that was opened from this address.
async fn session_from(app: &TestApp, from: &str, name: &str) -> Person {
    let answer = guess(app, from, name, PASSWORD).await;
    let text = |field: &str| answer.assert_ok(200)[field].as_str().map(str::to_owned);
    let (access, refresh) = (text("token"), text("refresh_token"));
    Person { access, refresh, user: answer.json["user"].clone(), ..app.anonymous() }
}

/// Ann, who has registered from home and is logged in there.
async fn ann(app: &TestApp) -> Person {
    register(app, HOME, "ann").await.assert_ok(201);
    session_from(app, HOME, "ann").await
}

async fn change_password(person: &Person, renew: bool) -> Answer {
    let body = json!({ "old_password": PASSWORD, "new_password": NEW_PASSWORD, "renew": renew });
    person.put("/api/v1/users/me/change_password", &body).await
}

#[tokio::test]
async fn a_program_that_has_logged_in_before_is_known_wherever_it_calls_from() {
    let app = limited().await;
    let (active, left) = (ann(&app).await, session_from(&app, HOME, "ann").await);
    left.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    use_up_strangers(&app, "ann").await;
    // The right password is not enough.
    let stranger = guess(&app, "192.0.2.44", "ann", PASSWORD).await;
    assert_limited(&stranger, "login_strangers", 3600);
    for token in [&active, &left] {
        log_in_holding(&app, token.refresh_token()).await.assert_ok(200);
        // The address is a known one from then on: as if that had not been.
        let sql = "delete from sessions where host(ip) = $1";
        sqlx::query(sql).bind(NEW_PLACE).execute(&app.pool).await.unwrap();
    }
    assert_limited(&guess(&app, NEW_PLACE, "ann", PASSWORD).await, "login_strangers", 3600);
    // The session that had ended stays so.
    left.get("/api/v1/users/me").await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn a_token_that_has_expired_shows_that_a_program_has_logged_in_before() {
    let app = limited().await;
    let mut ann = ann(&app).await;
    app.clock.advance(TimeDelta::days(31));
    ann.refresh().await.assert_error(401, "refresh_token_expired");
    use_up_strangers(&app, "ann").await;
    assert_eq!(guess(&app, "192.0.2.44", "ann", PASSWORD).await.status, 429);
    log_in_holding(&app, ann.refresh_token()).await.assert_ok(200);
}

#[tokio::test]
async fn a_stranger_behind_the_same_address_keeps_no_program_out_that_is_known() {
    // What was refused is remembered by each process.
    let app = limited().await.alone();
    let ann = ann(&app).await;
    use_up_strangers(&app, "ann").await;
    assert_limited(&guess(&app, NEW_PLACE, "ann", "wrong").await, "login_strangers", 3600);
    log_in_holding(&app, ann.refresh_token()).await.assert_ok(200);
}

#[tokio::test]
async fn a_session_that_a_change_of_the_password_ended_makes_nobody_known() {
    let app = limited().await;
    let owner = ann(&app).await;
    // The thief of the old password had logged in, too.
    let thief = session_from(&app, NEW_PLACE, "ann").await;
    change_password(&owner, false).await.assert_ok(200);
    use_up_strangers(&app, "ann").await;
    let try_with = async |from: &str, token: &str| {
        let call = login(&app, from, "ann", NEW_PASSWORD).header("x-refresh-token", token);
        call.send().await
    };
    // Neither by its address nor by its token.
    let answer = try_with(NEW_PLACE, thief.refresh_token()).await;
    assert_limited(&answer, "login_strangers", 3600);
    try_with("192.0.2.99", owner.refresh_token()).await.assert_ok(200);
    try_with(HOME, "undefined").await.assert_ok(200);
}

#[tokio::test]
async fn whoever_has_the_session_replaced_along_with_the_password_stays_known() {
    let app = limited().await;
    let owner = ann(&app).await;
    let answer = change_password(&owner, true).await;
    let renewed = answer.assert_ok(200)["refresh_token"].as_str().unwrap().to_owned();
    use_up_strangers(&app, "ann").await;
    let try_with = async |from: &str, token: &str| {
        let call = login(&app, from, "ann", NEW_PASSWORD).header("x-refresh-token", token);
        call.send().await
    };
    let old = try_with("192.0.2.44", owner.refresh_token()).await;
    assert_limited(&old, "login_strangers", 3600);
    try_with(NEW_PLACE, &renewed).await.assert_ok(200);
}

#[tokio::test]
async fn a_session_that_ended_because_its_token_was_stolen_makes_nobody_known() {
    let app = limited().await;
    register(&app, HOME, "ann").await.assert_ok(201);
    let mut stolen = session_from(&app, HOME, "ann").await;
    let first = stolen.refresh_token().to_owned();
    for _ in 0..2 {
        stolen.refresh().await.assert_ok(200);
        app.clock.advance(TimeDelta::seconds(30));
    }
    stolen.refresh_with(&first).await.assert_error(401, "refresh_token_reused");
    use_up_strangers(&app, "ann").await;
    for token in [&first, stolen.refresh_token()] {
        let answer = log_in_holding(&app, token).await;
        assert_limited(&answer, "login_strangers", 3600);
        // Nor is the address at which the session was opened.
        let call = login(&app, HOME, "ann", PASSWORD).header("x-refresh-token", token);
        assert_limited(&call.send().await, "login_strangers", 3600);
    }
}

#[tokio::test]
async fn nobody_is_known_by_a_token_of_another_account_or_by_none_of_ours() {
    let app = limited().await;
    let ann = ann(&app).await;
    register(&app, HOME, "eve").await.assert_ok(201);
    let eve = session_from(&app, HOME, "eve").await;
    use_up_strangers(&app, "ann").await;
    let (header, claims) = read(ann.refresh_token());
    let other_key = Key::refresh("another secret, which is long enough, too");
    let forged = other_key.sign(&header.to_string(), &claims.to_string());
    // Genuine, but of a session that there is not.
    let mut nowhere = claims.clone();
    nowhere["sid"] = json!("00000000-0000-7000-8000-000000000000");
    let nowhere = Key::refresh(SECRET_KEY).token(&nowhere);
    let mut cut_off = ann.refresh_token().to_owned();
    cut_off.pop();
    for token in [
        eve.refresh_token(),
        &forged,
        &nowhere,
        &cut_off,
        ann.access_token(),
        "",
        "null",
        "undefined",
        "nonsense",
    ] {
        let answer = log_in_holding(&app, token).await;
        assert_limited(&answer, "login_strangers", 3600);
    }
    // Two of them are none, and no reason to refuse the login of somebody who is known.
    let call = login(&app, HOME, "ann", PASSWORD).header("x-refresh-token", ann.refresh_token());
    call.header("x-refresh-token", eve.refresh_token()).send().await.assert_ok(200);
}

#[tokio::test]
async fn known_clients_share_the_budgets_of_account_and_address() {
    let app = limited().await;
    let ann = ann(&app).await;
    let try_with = async |from: &str, name: &str, password: &str| {
        let call = login(&app, from, name, password);
        call.header("x-refresh-token", ann.refresh_token()).send().await
    };
    // A thief of the token guesses no more often than others in that network.
    for _ in 0..5 {
        try_with(NEW_PLACE, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&try_with(NEW_PLACE, "ann", PASSWORD).await, "login_account", 60);
    for number in 0..25 {
        let name = format!("nobody{number}");
        try_with(NEW_PLACE, &name, "wrong").await.assert_error(401, "invalid_credentials");
    }
    let other = try_with(NEW_PLACE, "ann@example.com", PASSWORD).await;
    assert_limited(&other, "login_address", 4);
    try_with(HOME, "ann", PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn a_token_beside_a_login_changes_nothing_of_its_session() {
    let app = limited().await;
    let mut ann = ann(&app).await;
    log_in_holding(&app, ann.refresh_token()).await.assert_ok(200);
    ann.get("/api/v1/users/me").await.assert_ok(200);
    ann.refresh().await.assert_ok(200);
    ann.call(Method::POST, "/api/v1/logout").send().await.assert_ok(200);
}
