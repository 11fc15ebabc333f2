//! `/confirm`: what the link in the mail does, and when it does nothing. Its page has a file of its
//! own.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::app::{SECRET_KEY, TestApp, link_in};
use crate::harness::forge::{self, link_claims};
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

/// Somebody new, and the link that was sent to them.
async fn newcomer_with_link(app: &TestApp, name: &str) -> (Person, String) {
    let person = app.newcomer(name).await;
    (person, link_in(&app.letter_to(&email_of(name)).await))
}

async fn me(person: &Person) -> Value {
    person.get("/api/v1/users/me").await.assert_ok(200)["user"].clone()
}

/// Asks for another address; the link that was sent to it.
async fn move_to(person: &Person, email: &str) -> String {
    let body = json!({ "email": email, "password": PASSWORD });
    person.put("/api/v1/users/me", &body).await.assert_ok(200);
    let letters = person.app.deliver_mail().await;
    link_in(letters.iter().find(|letter| letter.to == email).unwrap())
}

async fn audited(app: &TestApp, event: &str) -> i64 {
    let sql = "select count(*) from audit_log where event = $1";
    sqlx::query_scalar(sql).bind(event).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn the_link_confirms_the_address_and_logs_nobody_in() {
    for method in [Method::GET, Method::POST] {
        let app = TestApp::start().await;
        let (ada, link) = newcomer_with_link(&app, "ada").await;
        app.clock.advance(TimeDelta::minutes(1));
        let call = app.anonymous().call(method, &link).header("accept", "application/json");
        let answer = call.send().await;
        assert_eq!(
            *answer.assert_ok(200),
            json!({
                "success": true, "message": "The e-mail address is confirmed.",
                "email_verified": true,
            })
        );
        assert_eq!(answer.header("set-cookie"), None);
        let mut expected = ada.user.clone();
        expected["email_verified"] = json!(true);
        expected["modified_at"] = json!("2026-01-02T03:05:05.678Z");
        assert_eq!(me(&ada).await, expected);
        assert_eq!(audited(&app, "email_verified").await, 1);
    }
}

#[tokio::test]
async fn head_changes_nothing_whoever_asks() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    for accept in ["*/*", "text/html", "application/json"] {
        let call = app.anonymous().call(Method::HEAD, &link).header("accept", accept);
        assert_eq!(call.send().await.status, 200);
        let call = app.anonymous().call(Method::HEAD, &link).header("sec-fetch-mode", "cors");
        assert_eq!(call.send().await.status, 200);
        let call = app.anonymous().call(Method::HEAD, &format!("{link}x")).header("accept", accept);
        assert_eq!(call.send().await.status, 400);
    }
    assert_eq!(me(&ada).await["email_verified"], false);
}

#[tokio::test]
async fn confirming_again_is_the_same_success() {
    let app = TestApp::start().await;
    let (mut ada, link) = newcomer_with_link(&app, "ada").await;
    let first = app.anonymous().get(&link).await;
    app.clock.advance(TimeDelta::hours(23));
    ada.refresh().await.assert_ok(200);
    for again in [
        app.anonymous().get(&link).await,
        app.anonymous().post(&link, &json!({})).await,
        // Whoever is logged in, as whomever, makes no difference.
        ada.get(&link).await,
        app.newcomer("bob").await.get(&link).await,
    ] {
        assert_eq!(again.assert_ok(200), first.assert_ok(200));
    }
    assert_eq!(me(&ada).await["modified_at"], ada.user["modified_at"]);
    assert_eq!(audited(&app, "email_verified").await, 1);
}

#[tokio::test]
async fn a_link_is_good_for_24_hours() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    app.clock.advance(TimeDelta::hours(24) - TimeDelta::seconds(1));
    let (bob, second) = newcomer_with_link(&app, "bob").await;
    app.clock.advance(TimeDelta::seconds(1));
    for _ in 0..2 {
        app.anonymous().get(&link).await.assert_error(410, "link_expired");
        app.anonymous().post(&link, &json!({})).await.assert_error(410, "link_expired");
    }
    assert_eq!(me(&bob).await["email_verified"], false);
    app.clock.advance(TimeDelta::hours(24) - TimeDelta::seconds(2));
    app.anonymous().get(&second).await.assert_ok(200);
    assert_eq!(me(&app.log_in("bob", PASSWORD).await).await["email_verified"], true);
    // A new letter has a new link.
    let ada = app.log_in(ada.user["username"].as_str().unwrap(), PASSWORD).await;
    let asked = ada.post("/api/v1/users/me/verify_email", &json!({})).await;
    asked.assert_ok(202);
    let link = link_in(&app.letter_to("ada@example.com").await);
    app.anonymous().get(&link).await.assert_ok(200);
}

#[tokio::test]
async fn what_is_no_link_of_ours_is_refused() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    let (path, token) = link.split_once("?token=").unwrap();
    let (_, good) = forge::read(token);
    let key = forge::Key::link(SECRET_KEY);
    let iat = app.clock.now().timestamp();
    let claims = link_claims(ada.id(), "ada@example.com", iat);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        key.token(&claims)
    };
    let mut forged = vec![
        String::new(),
        "x".to_owned(),
        "%00".to_owned(),
        "..".to_owned(),
        format!("{token}x"),
        token[..token.len() - 1].to_owned(),
        ada.access.clone().unwrap(),
        ada.refresh.clone().unwrap(),
        // The right claims under another key, or as another kind.
        forge::Key::link("another secret, which is long enough too").token(&claims),
        forge::Key::refresh(SECRET_KEY).token(&claims),
        key.sign(&forge::Key::refresh(SECRET_KEY).header().to_string(), &claims.to_string()),
        with("purpose", json!("reset_password")),
        with("purpose", Value::Null),
        with("aud", json!("https://other.example.com")),
        with("iss", json!("https://other.example.com")),
        with("sub", json!("ada")),
        with("email", json!(["ada@example.com"])),
        with("exp", json!("2027-01-01")),
        with("nbf", json!(iat + 1)),
    ];
    let mut none = key.header();
    none["alg"] = json!("none");
    let unsigned = key.sign(&none.to_string(), &claims.to_string());
    forged.push(unsigned.clone());
    forged.push(format!("{}.", unsigned.rsplit_once('.').unwrap().0));
    for token in &forged {
        let link = format!("{path}?token={token}");
        app.anonymous().get(&link).await.assert_error(400, "link_invalid");
        app.anonymous().post(&link, &json!({})).await.assert_error(400, "link_invalid");
    }
    app.anonymous().get(path).await.assert_error(400, "link_invalid");
    let elsewhere = app.anonymous().call(Method::POST, path).header("x-access-token", token);
    elsewhere.json(&json!({ "token": token })).send().await.assert_error(400, "link_invalid");
    let twice = format!("{link}&token={token}");
    app.anonymous().get(&twice).await.assert_error(400, "malformed_request");
    assert_eq!(me(&ada).await["email_verified"], false);
    assert_eq!(app.anonymous().call(Method::PUT, &link).send().await.status, 405);
    // The forger of this test knows how it is done.
    assert_eq!(good["purpose"], "confirm_email");
    app.anonymous().get(&format!("{path}/?token={}", key.token(&claims))).await.assert_ok(200);
    assert_eq!(me(&ada).await["email_verified"], true);
}

#[tokio::test]
async fn the_link_of_an_address_that_was_given_up_is_over() {
    let app = TestApp::start().await;
    let (ada, first) = newcomer_with_link(&app, "ada").await;
    let second = move_to(&ada, "ada@other.example").await;
    app.anonymous().get(&first).await.assert_error(410, "link_expired");
    assert_eq!(me(&ada).await["email_verified"], false);
    app.anonymous().get(&second).await.assert_ok(200);
    app.anonymous().get(&first).await.assert_error(410, "link_expired");
    assert_eq!(me(&ada).await["email"], "ada@other.example");
    // The same address written otherwise is the same address.
    let (bob, link) = newcomer_with_link(&app, "bob").await;
    bob.put("/api/v1/users/me", &json!({ "email": "Bob@Example.com" })).await.assert_ok(200);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(me(&bob).await["email"], "Bob@Example.com");
}

#[tokio::test]
async fn the_link_of_a_user_who_is_gone_is_over() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    boss.delete(&format!("/api/v1/users/{}", ada.id())).await.assert_ok(200);
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    // Whoever takes the name and the address afterwards is somebody else.
    let other = app.newcomer("ada").await;
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    assert_eq!(me(&other).await["email_verified"], false);
}

#[tokio::test]
async fn a_pending_address_takes_the_place_of_the_old_one_when_it_is_confirmed() {
    let app = TestApp::start().await;
    let (ada, old) = newcomer_with_link(&app, "ada").await;
    app.anonymous().get(&old).await.assert_ok(200);
    let given_up = move_to(&ada, "one@other.example").await;
    let link = move_to(&ada, "Two@other.example").await;
    app.anonymous().get(&given_up).await.assert_error(410, "link_expired");
    // The old address is still the address, and its own link still the same success.
    app.anonymous().get(&old).await.assert_ok(200);
    let user = me(&ada).await;
    assert_eq!(
        (&user["email"], &user["pending_email"]),
        (&json!("ada@example.com"), &json!("Two@other.example"))
    );
    app.anonymous().get(&link).await.assert_ok(200);
    let user = me(&ada).await;
    assert_eq!(user["email"], "Two@other.example");
    assert_eq!((&user["pending_email"], &user["email_verified"]), (&Value::Null, &json!(true)));
    app.anonymous().get(&link).await.assert_ok(200);
    app.anonymous().get(&old).await.assert_error(410, "link_expired");
    assert_eq!(audited(&app, "email_changed").await, 1);
    app.log_in("two@OTHER.example", PASSWORD).await;
    let gone = app.anonymous().log_in("ada@example.com", PASSWORD).await;
    gone.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn a_pending_address_that_somebody_took_meanwhile_is_taken() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let link = move_to(&ada, "wanted@example.com").await;
    // Registered, though not verified: it is theirs.
    let mut wanted = app.newcomer("wanted").await;
    for method in [Method::GET, Method::POST] {
        let call = app.anonymous().call(method, &link).header("accept", "application/json");
        call.send().await.assert_error(409, "email_taken");
    }
    let user = me(&ada).await;
    assert_eq!(
        (&user["email"], &user["email_verified"]),
        (&json!("ada@example.com"), &json!(true))
    );
    // Once they have left it, it can be had.
    wanted.put("/api/v1/users/me", &json!({ "email": "other@example.com" })).await.assert_ok(200);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(me(&ada).await["email"], "wanted@example.com");
    wanted.refresh().await.assert_ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_link_followed_20_times_at_once_confirms_once() {
    let app = TestApp::start().await;
    let (ada, link) = newcomer_with_link(&app, "ada").await;
    // Nobody gets at the user's row before they want it; of one instance one waits there, and the
    // others behind that one.
    let mut row = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *row).await.unwrap();
    let calls = at_once(20, |number| {
        let (anyone, link) = (app.anonymous(), link.clone());
        let method = if number % 2 == 0 { Method::GET } else { Method::POST };
        let call = anyone.call(method, &link).header("accept", "application/json");
        async move { call.send().await }
    });
    let release = async {
        lock_waits(&app.pool, 1).await;
        row.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(calls, release);
    for answer in &answers {
        answer.assert_ok(200);
    }
    assert_eq!(me(&ada).await["email_verified"], true);
    assert_eq!(audited(&app, "email_verified").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_accounts_that_confirm_one_address_at_once_one_has_it() {
    let app = TestApp::start().await;
    let people = [app.user("ada").await, app.user("bob").await];
    for round in 0..20 {
        let address = format!("wanted{round}@example.com");
        let mut links = Vec::new();
        for person in &people {
            links.push(move_to(person, &address).await);
        }
        let answers = at_once(20, |number| {
            let (anyone, link) = (app.anonymous(), links[number % 2].clone());
            async move { anyone.get(&link).await }
        })
        .await;
        let mut winners = Vec::new();
        for (number, person) in people.iter().enumerate() {
            let own: Vec<_> = answers.iter().skip(number).step_by(2).collect();
            let is_winner = own[0].status == 200;
            for answer in own {
                if is_winner {
                    answer.assert_ok(200);
                } else {
                    answer.assert_error(409, "email_taken");
                }
            }
            let has_it = me(person).await["email"] == json!(address);
            assert_eq!(has_it, is_winner);
            winners.extend(has_it.then_some(number));
        }
        assert_eq!(winners.len(), 1, "round {round}");
    }
}

#[tokio::test]
async fn a_link_that_is_followed_once_more_waits_for_nobody() {
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    let link = link_in(&app.letter_to("ada@example.com").await);
    app.anonymous().get(&link).await.assert_ok(200);
    let mut hold = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *hold).await.unwrap();
    app.anonymous().get(&link).await.assert_ok(200);
    hold.rollback().await.unwrap();
}
