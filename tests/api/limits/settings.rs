//! The settings of the limits: how much each allows, and whom they bind.

use axum::http::Method;
use doorward::limits::{
    Allowances, CODE_ACCOUNT, EXPORT, INVITE, LIMITS, LOGIN_ACCOUNT, LOGIN_ADDRESS, LOGIN_NETWORK,
    LOGIN_STRANGERS, LOGIN_SUCCESS_ACCOUNT, LOGIN_SUCCESS_ADDRESS, MAIL_ADDRESS, MAIL_FIRST,
    MAIL_NETWORK, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR, PASSWORD as PASSWORD_LIMIT,
    PASSWORD_USER, PROFILE, REFRESH, REGISTER_DAY, REGISTER_HOUR, REGISTER_NETWORK, REGISTER_TAKEN,
};
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::limits::{HOME, assert_limited, guess, limited, limited_with, register, register_as};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

#[test]
fn each_limit_allows_what_the_contract_says_unless_it_is_set() {
    let by_default = Allowances::default();
    let table = [
        (&LOGIN_ADDRESS, "30/4"),
        (&LOGIN_NETWORK, "120/1"),
        (&LOGIN_ACCOUNT, "5/60"),
        (&LOGIN_STRANGERS, "50"),
        (&LOGIN_SUCCESS_ACCOUNT, "600"),
        (&LOGIN_SUCCESS_ADDRESS, "2000"),
        (&REGISTER_HOUR, "60"),
        (&REGISTER_DAY, "300"),
        (&REGISTER_NETWORK, "300"),
        (&REGISTER_TAKEN, "30"),
        (&MAIL_RECIPIENT_HOUR, "3"),
        (&MAIL_RECIPIENT_DAY, "10"),
        (&MAIL_ADDRESS, "20"),
        (&MAIL_FIRST, "30"),
        (&MAIL_NETWORK, "100"),
        (&CODE_ACCOUNT, "20"),
        (&PASSWORD_LIMIT, "5"),
        (&PASSWORD_USER, "15"),
        (&REFRESH, "30"),
        (&INVITE, "200"),
        (&PROFILE, "60"),
        (&EXPORT, "5"),
    ];
    assert_eq!(table.len(), LIMITS.len());
    for (limit, allowed) in table {
        assert_eq!(by_default[limit].to_string(), allowed, "{}", limit.name);
    }
}

/// The person's calls to another service on the same database.
fn at(app: &TestApp, person: &Person) -> Person {
    Person { app: app.clone(), ..person.clone() }
}

async fn change_password(person: &Person) -> Answer {
    let body = json!({ "old_password": "wrong", "new_password": "a different good one" });
    person.put("/api/v1/users/me/change_password", &body).await
}

/// What a limit is asked for by, at this service.
async fn call(app: &TestApp, ann: &Person, limit: &str) -> Answer {
    let mut ann = at(app, ann);
    match limit {
        "login_network" => guess(app, "2001:db8::1", "ann", PASSWORD).await,
        "register_network" => register(app, "2001:db8::1", "bea").await,
        "register_taken" => register(app, HOME, "ann").await,
        "refresh" => ann.refresh().await,
        "export" => ann.get("/api/v1/users/me/export").await,
        "profile" => ann.put("/api/v1/users/me", &json!({ "first_name": "Ann" })).await,
        "invite" => {
            let boss = "update users set role = $1";
            sqlx::query(boss).bind("admin").execute(&app.pool).await.unwrap();
            let bea = json!({ "email": email_of("bea") });
            let answer = ann.post("/api/v1/admin/invitations", &bea).await;
            sqlx::query(boss).bind("user").execute(&app.pool).await.unwrap();
            answer
        }
        "code_account" => {
            let email = json!({ "email": email_of("ann") });
            let asked = ann.post("/api/v1/password/forgot", &email);
            let body = json!({
                "challenge": asked.await.assert_ok(202)["challenge"],
                "code": "1", "new_password": "a different good one",
            });
            ann.post("/api/v1/password/reset", &body).await
        }
        limit if limit.starts_with("login") => guess(app, "192.0.2.1", "ann", PASSWORD).await,
        limit if limit.starts_with("register") => register(app, HOME, "bea").await,
        limit if limit.starts_with("mail") => {
            ann.post("/api/v1/users/me/verify_email", &json!({})).await
        }
        limit if limit.starts_with("password") => change_password(&ann).await,
        other => panic!("{other} has no call"),
    }
}

#[tokio::test]
async fn nothing_at_all_is_what_0_allows_of_any_limit() {
    let database = new_database().await;
    let free = TestApp::on(&database, &[]).await;
    let ann = free.newcomer("ann").await;
    free.deliver_mail().await;
    let waits = [
        ("login_address", 4),
        ("login_network", 1),
        ("login_account", 60),
        ("register_day", DAY),
        ("mail_recipient_day", DAY),
        ("code_account", DAY),
        ("export", DAY),
        ("invite", DAY),
        ("password", 900),
        ("password_user", 900),
        ("refresh", 60),
    ];
    // These letters are left out in silence.
    let silent = [MAIL_FIRST.name, MAIL_NETWORK.name];
    for limit in LIMITS.iter().filter(|limit| !silent.contains(&limit.name)) {
        let app = TestApp::on(&database, &[("RATE_LIMITS", "on"), (limit.variable, "0")]).await;
        let wait = waits.iter().find(|(name, _)| *name == limit.name).map_or(HOUR, |(_, s)| *s);
        for _ in 0..2 {
            assert_limited(&call(&app, &ann, limit.name).await, limit.name, wait);
        }
    }
    let sessions: i64 =
        sqlx::query_scalar("select count(*) from sessions").fetch_one(&free.pool).await.unwrap();
    let users: i64 =
        sqlx::query_scalar("select count(*) from users").fetch_one(&free.pool).await.unwrap();
    assert_eq!((sessions, users), (1, 1), "nothing came of it");
    // To ask for a reset is none of those that were set.
    let letters = free.deliver_mail().await;
    let resets = letters.iter().filter(|letter| letter.subject.starts_with("Set a new password"));
    assert_eq!((letters.len(), resets.count()), (2, 2), "{letters:?}");
}

#[tokio::test]
async fn what_a_limit_forbids_does_not_bind_what_it_is_not_about() {
    let app = limited_with(&[
        ("LIMIT_LOGIN_NETWORK", "0"),
        ("LIMIT_REGISTER_NETWORK", "0"),
        ("LIMIT_REGISTER_TAKEN", "0"),
        ("LIMIT_MAIL_FIRST", "0"),
        ("LIMIT_REFRESH", "0"),
    ])
    .await;
    let ann = app.newcomer("ann").await;
    assert_eq!(app.deliver_mail().await, [], "merged in silence");
    ann.get("/api/v1/users/me").await.assert_ok(200);
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    register(&app, HOME, "bea").await.assert_ok(201);
}

#[tokio::test]
async fn who_is_known_gets_in_where_strangers_may_not_even_try() {
    let database = new_database().await;
    let free = TestApp::on(&database, &[]).await;
    register(&free, HOME, "ann").await.assert_ok(201);
    guess(&free, HOME, "ann", PASSWORD).await.assert_ok(200);
    let settings = [("RATE_LIMITS", "on"), ("LIMIT_LOGIN_STRANGERS", "0")];
    let app = TestApp::on(&database, &settings).await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    let stranger = guess(&app, "192.0.2.1", "ann", PASSWORD).await;
    assert_limited(&stranger, "login_strangers", HOUR);
}

#[tokio::test]
async fn a_number_that_is_set_takes_the_place_of_the_contracts() {
    let app = limited_with(&[
        ("LIMIT_LOGIN_ACCOUNT", "2/10"),
        ("LIMIT_LOGIN_ADDRESS", "4/7"),
        ("LIMIT_REGISTER_HOUR", "3"),
        ("LIMIT_REGISTER_TAKEN", "2"),
        ("LIMIT_PASSWORD", "1"),
        ("LIMIT_PASSWORD_USER", "2"),
        ("LIMIT_REFRESH", "2"),
        ("LIMIT_PROFILE", "1"),
        ("LIMIT_MAIL_RECIPIENT_HOUR", "2"),
    ])
    .await
    .alone();
    let mut ann = app.newcomer("ann").await;
    app.deliver_mail().await;
    for _ in 0..2 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, HOME, "ann", "wrong").await, "login_account", 10);
    for _ in 0..2 {
        guess(&app, HOME, "bea", "wrong").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&guess(&app, HOME, "cyd", "wrong").await, "login_address", 7);

    for _ in 0..2 {
        register(&app, HOME, "ann").await.assert_error(409, "username_taken");
    }
    for number in 0..3 {
        register(&app, HOME, &format!("user{number}")).await.assert_ok(201);
    }
    assert_limited(&register(&app, HOME, "user3").await, "register_hour", HOUR);
    app.clock.advance(chrono::TimeDelta::minutes(59));
    let taken = register_as(&app, "192.0.2.1", "ann", "free@example.com").await;
    taken.assert_error(409, "username_taken");
    app.clock.advance(chrono::TimeDelta::minutes(-59));

    change_password(&ann).await.assert_error(403, "wrong_password");
    assert_limited(&change_password(&ann).await, "password", 900);
    let session = app.log_in("ann", PASSWORD).await;
    change_password(&session).await.assert_error(403, "wrong_password");
    let session = app.log_in("ann", PASSWORD).await;
    assert_limited(&change_password(&session).await, "password_user", 900);

    for _ in 0..2 {
        ann.refresh().await.assert_ok(200);
    }
    assert_limited(&ann.refresh().await, "refresh", 60);
    let name = |name: &str| json!({ "first_name": name });
    ann.put("/api/v1/users/me", &name("Ann")).await.assert_ok(200);
    assert_limited(&ann.put("/api/v1/users/me", &name("Anne")).await, "profile", HOUR);
    let verify = "/api/v1/users/me/verify_email";
    ann.post(verify, &json!({})).await.assert_ok(202);
    app.deliver_mail().await;
    assert_limited(&ann.post(verify, &json!({})).await, "mail_recipient_hour", HOUR);
}

/// Development, with nothing said about limits.
const AT_A_DESK: [(&str, &str); 2] = [("DOORWARD_ENV", "development"), ("RATE_LIMITS", "")];

#[tokio::test]
async fn in_development_callers_from_this_machine_are_not_limited_and_others_are() {
    let app = TestApp::with(&AT_A_DESK).await;
    for here in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        for number in 0..40 {
            guess(&app, here, "ann", "wrong").await.assert_error(401, "invalid_credentials");
            register_as(&app, here, "ann", &format!("ann{number}@example.com")).await;
        }
    }
    let mut ann = app.log_in("ann", PASSWORD).await;
    for number in 0..65 {
        ann.refresh().await.assert_ok(200);
        let name = json!({ "first_name": format!("Ann {number}") });
        ann.put("/api/v1/users/me", &name).await.assert_ok(200);
        change_password(&ann).await.assert_error(403, "wrong_password");
    }
    for number in 0..6 {
        let answer = guess(&app, HOME, "ann", "wrong").await;
        if number < 5 {
            answer.assert_error(401, "invalid_credentials");
        } else {
            assert_limited(&answer, "login_account", 60);
        }
    }
    // What others have used up is no concern of this machine's.
    for _ in 0..2 {
        guess(&app, "127.0.0.1", "ann", PASSWORD).await.assert_ok(200);
    }
}

#[tokio::test]
async fn in_development_whoever_calls_through_a_proxy_on_this_machine_is_not_on_it() {
    let settings = [AT_A_DESK[0], AT_A_DESK[1], ("TRUSTED_PROXY_HOPS", "1")];
    let app = TestApp::with(&settings).await;
    let from = async |address: &str| {
        let call = app.anonymous().call(Method::POST, "/api/v1/login");
        let call = call.header("authorization", "Basic YW5uOndyb25n");
        call.header("x-forwarded-for", address).send().await
    };
    for _ in 0..5 {
        from("203.0.113.9").await.assert_error(401, "invalid_credentials");
    }
    assert_limited(&from("203.0.113.9").await, "login_account", 60);
    for _ in 0..10 {
        from("203.0.113.9, 127.0.0.1").await.assert_error(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn limits_that_are_turned_on_bind_this_machine_too_and_in_production_they_always_do() {
    let on = TestApp::with(&[AT_A_DESK[0], ("RATE_LIMITS", "on")]).await;
    let production = TestApp::with(&[("RATE_LIMITS", "")]).await;
    for app in [limited().await, on, production] {
        for _ in 0..5 {
            guess(&app, "127.0.0.1", "ann", "wrong").await.assert_error(401, "invalid_credentials");
        }
        assert_limited(&guess(&app, "127.0.0.1", "ann", "wrong").await, "login_account", 60);
    }
}
