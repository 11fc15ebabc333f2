//! What people do with their accounts, with the real binary and a real mail server: each flow from
//! its first call to its letter and on.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use doorward::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::app::PUBLIC_URL;
use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::process::Process;
use crate::harness::smtp_sink::SmtpSink;
use crate::harness::wait::eventually;

const NEW_PASSWORD: &str = "quite another horse";
const ME: &str = "/api/v1/users/me";
/// Where people call from, unless they are elsewhere.
const AT_HOME: &str = "203.0.113.7";
const ELSEWHERE: &str = "198.51.100.9";

struct Town {
    home: Home,
    service: Process,
    sink: SmtpSink,
    pool: PgPool,
}

impl Town {
    async fn start() -> Self {
        let sink = SmtpSink::start().await;
        let boss = [("ADMIN_EMAIL", "boss@example.com"), ("ADMIN_PASSWORD", PASSWORD)];
        let (mut home, database) = Home::with_database(&boss).await;
        home.set("SMTP_URL", &sink.url());
        home.set("MAIL_FROM", "no-reply@example.com");
        home.set("TRUSTED_PROXY_HOPS", "1");
        let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
        let service = home.start().await;
        Self { home, service, sink, pool }
    }

    fn call(&self, method: Method, path: &str) -> HttpCall {
        self.home.call(method, path).header("x-forwarded-for", AT_HOME)
    }

    async fn post(&self, path: &str, body: Value, status: u16) -> Value {
        self.call(Method::POST, path).json(&body).send().await.expect(status)
    }

    /// Logs in, or is refused.
    async fn log_in(&self, name: &str, password: &str, status: u16) -> Value {
        self.log_in_from(AT_HOME, name, password, status).await
    }

    async fn log_in_from(&self, ip: &str, name: &str, password: &str, status: u16) -> Value {
        let call = self.home.log_in_with(name, password).header("x-forwarded-for", ip);
        call.send().await.expect(status)
    }

    /// Somebody with a verified address, who is logged in.
    async fn user(&self, name: &str) -> Value {
        let email = email_of(name);
        let body = json!({ "username": name, "email": email, "password": PASSWORD });
        self.post("/api/v1/users/", body, 201).await;
        let token = self.token("confirm", &email, 1).await;
        let link = format!("/api/v1/confirm?token={token}");
        self.call(Method::POST, &link).send().await.expect(200);
        self.log_in(name, PASSWORD, 200).await
    }

    /// The texts of the letters to an address that link to a page of ours, oldest first.
    fn letters(&self, page: &str, address: &str) -> Vec<String> {
        let link = format!("{PUBLIC_URL}/api/v1/{page}?token=");
        let letters = self.sink.received().into_iter().filter(|letter| letter.to == [address]);
        letters.map(|letter| letter.text()).filter(|text| text.contains(&link)).collect()
    }

    /// The text of letter number `count` of those.
    async fn letter(&self, page: &str, address: &str, count: usize) -> String {
        let what = format!("letter {count} for {page} to {address} has come");
        eventually(&what, async || self.letters(page, address).len() >= count).await;
        self.letters(page, address).swap_remove(count - 1)
    }

    async fn token(&self, page: &str, address: &str, count: usize) -> String {
        let text = self.letter(page, address, count).await;
        let (_, rest) = text.split_once(&format!("{page}?token=")).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }
}

/// The eight digits of a letter.
fn code_in(text: &str) -> String {
    let is_code = |line: &&str| {
        line.len() == 9 && line.bytes().all(|byte| byte.is_ascii_digit() || byte == b' ')
    };
    text.lines().find(is_code).unwrap_or_else(|| panic!("no code in {text}")).to_owned()
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_the_link_or_the_code_of_a_letter_and_once() {
    let town = Town::start().await;
    let ada = town.user("ada").await;
    let email = email_of("ada");
    let ask = || town.post("/api/v1/password/forgot", json!({ "email": email }), 202);
    let reset = "/api/v1/password/reset";

    ask().await;
    let token = town.token("password/reset", &email, 1).await;
    let body = json!({ "token": token, "new_password": NEW_PASSWORD });
    town.post(reset, body.clone(), 200).await;
    assert_eq!(town.post(reset, body, 410).await["code"], "link_expired");
    town.log_in("ada", PASSWORD, 401).await;
    assert_eq!(town.home.get(ME).by(&ada).send().await.expect(401)["code"], "session_ended");
    town.log_in("ada", NEW_PASSWORD, 200).await;

    let asked = ask().await;
    let code = code_in(&town.letter("password/reset", &email, 2).await);
    let body = |code: &str| json!({ "challenge": asked["challenge"], "code": code, "new_password": PASSWORD });
    assert_eq!(town.post(reset, body("0000 0000"), 400).await["code"], "code_invalid");
    town.post(reset, body(&code), 200).await;
    assert_eq!(town.post(reset, body(&code), 400).await["code"], "code_invalid");
    town.log_in("ada", PASSWORD, 200).await;
}

#[tokio::test]
async fn an_account_made_with_another_persons_address_becomes_theirs_by_a_reset() {
    let town = Town::start().await;
    let email = email_of("owner");
    let body = json!({ "username": "squatter", "email": email, "password": PASSWORD,
        "first_name": "Not", "last_name": "Me" });
    town.post("/api/v1/users/", body, 201).await;
    let squatter = town.log_in("squatter", PASSWORD, 200).await;
    town.post("/api/v1/password/forgot", json!({ "email": email }), 202).await;
    let token = town.token("password/reset", &email, 1).await;
    town.post(
        "/api/v1/password/reset",
        json!({ "token": token, "new_password": NEW_PASSWORD }),
        200,
    )
    .await;
    // Nothing that the stranger put in lets them in again.
    town.log_in("squatter", PASSWORD, 401).await;
    let refresh = town.home.post("/api/v1/refresh");
    let refresh = refresh.header("x-refresh-token", squatter["refresh_token"].as_str().unwrap());
    assert_eq!(refresh.send().await.expect(401)["code"], "session_ended");
    let owner = town.log_in(&email, NEW_PASSWORD, 200).await;
    assert_eq!(owner["user"]["email_verified"], true);
}

#[tokio::test]
async fn a_login_from_a_new_device_is_told_of_and_its_link_shuts_everybody_out() {
    let town = Town::start().await;
    let ada = town.user("ada").await;
    let email = email_of("ada");
    // The first login is not told of, nor is one from the same place.
    town.log_in("ada", PASSWORD, 200).await;
    let thief = town.log_in_from(ELSEWHERE, "ada", PASSWORD, 200).await;
    let letter = town.letter("not_me", &email, 1).await;
    assert!(letter.contains(ELSEWHERE), "{letter}");
    let token = town.token("not_me", &email, 1).await;
    let page =
        town.home.get(&format!("/api/v1/not_me?token={token}")).header("accept", "text/html");
    assert_eq!(page.send().await.status, 200);
    for _ in 0..2 {
        town.post("/api/v1/not_me", json!({ "token": token }), 200).await;
    }
    for pair in [&ada, &thief] {
        assert_eq!(town.home.get(ME).by(pair).send().await.expect(401)["code"], "session_ended");
    }
    assert_eq!(town.log_in("ada", PASSWORD, 403).await["code"], "reset_required");
    let token = town.token("password/reset", &email, 1).await;
    town.post(
        "/api/v1/password/reset",
        json!({ "token": token, "new_password": NEW_PASSWORD }),
        200,
    )
    .await;
    town.log_in("ada", NEW_PASSWORD, 200).await;
    let told = town.letter("not_me", &email, 2).await;
    assert!(told.contains("password"), "{told}");
}

#[tokio::test]
async fn an_account_is_deleted_restored_deleted_again_and_gone() {
    let mut town = Town::start().await;
    let ada = town.user("ada").await;
    let email = email_of("ada");
    let delete = |pair: &Value| {
        town.call(Method::DELETE, ME).by(pair).json(&json!({ "password": PASSWORD }))
    };
    delete(&ada).send().await.expect(202);
    assert_eq!(town.home.get(ME).by(&ada).send().await.expect(401)["code"], "session_ended");
    let refused = town.log_in("ada", PASSWORD, 403).await;
    assert_eq!(refused["code"], "account_deleted");
    let by_login = json!({ "restore_token": refused["restore_token"] });
    town.post("/api/v1/restore", by_login, 200).await;
    let again = town.log_in("ada", PASSWORD, 200).await;

    delete(&again).send().await.expect(202);
    let first = town.token("restore", &email, 1).await;
    town.post("/api/v1/restore", json!({ "restore_token": first }), 410).await;
    let second = town.token("restore", &email, 2).await;
    town.post("/api/v1/restore", json!({ "restore_token": second }), 200).await;
    let last = town.log_in("ada", PASSWORD, 200).await;

    delete(&last).send().await.expect(202);
    town.token("restore", &email, 3).await;
    // As if the days had gone by.
    sqlx::query("update users set purge_at = now() where deleted_at is not null")
        .execute(&town.pool)
        .await
        .unwrap();
    town.log_in("ada", PASSWORD, 401).await;
    town.service.terminate();
    town.service.end().await;
    town.service = town.home.start().await;
    eventually("the account is gone", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from users where username = 'ada'")
            .fetch_one(&town.pool)
            .await
            .unwrap();
        left == 0
    })
    .await;
    // Name and address are free again.
    town.user("ada-again").await;
    let body = json!({ "username": "ada", "email": email, "password": PASSWORD });
    town.post("/api/v1/users/", body, 201).await;
}

#[tokio::test]
async fn somebody_is_invited_and_joins() {
    let town = Town::start().await;
    let boss = town.log_in("boss", PASSWORD, 200).await;
    let email = email_of("grace");
    let invite = || {
        let body = json!({ "email": email, "role": "staff", "first_name": "Grace" });
        town.call(Method::POST, "/api/v1/admin/invitations").by(&boss).json(&body)
    };
    invite().send().await.expect(201);
    let older = town.token("invitations", &email, 1).await;
    invite().send().await.expect(201);
    let token = town.token("invitations", &email, 2).await;
    let accept = |token: &str| json!({ "token": token, "username": "grace", "password": PASSWORD });
    let path = "/api/v1/invitations/accept";
    assert_eq!(town.post(path, accept(&older), 410).await["code"], "link_expired");
    let shown =
        town.home.get(&format!("/api/v1/invitations?token={token}")).send().await.expect(200);
    assert_eq!((&shown["email"], &shown["first_name"]), (&json!(email), &json!("Grace")));
    let joined = town.post(path, accept(&token), 201).await;
    assert_eq!(joined["user"]["role"], "staff");
    assert_eq!(joined["user"]["email_verified"], true);
    town.post(path, accept(&token), 410).await;
    let grace = town.log_in("grace", PASSWORD, 200).await;
    town.home.get("/api/v1/users").by(&grace).send().await.expect(200);
}

#[tokio::test]
async fn somebody_is_banned_and_let_in_again() {
    let town = Town::start().await;
    let (boss, ada) = (town.log_in("boss", PASSWORD, 200).await, town.user("ada").await);
    let path = format!("/api/v1/users/{}/ban", ada["user"]["public_id"].as_str().unwrap());
    let ban = |body: Value| town.call(Method::PUT, &path).by(&boss).json(&body);
    ban(json!({ "reason": "spam" })).send().await.expect(200);
    assert_eq!(town.home.get(ME).by(&ada).send().await.expect(401)["code"], "session_ended");
    let refused = town.log_in("ada", PASSWORD, 403).await;
    assert_eq!((&refused["code"], refused.get("until")), (&json!("banned"), None));
    assert!(!refused.to_string().contains("spam"), "the reason is for staff");
    town.call(Method::DELETE, &path).by(&boss).send().await.expect(200);
    town.log_in("ada", PASSWORD, 200).await;

    // One that ends by itself.
    let until = Clock::system().now() + TimeDelta::seconds(2);
    ban(json!({ "reason": "noise", "until": until.to_rfc3339() })).send().await.expect(200);
    assert!(town.log_in("ada", PASSWORD, 403).await["until"].is_string());
    eventually("the ban has ended", async || town.home.log_in("ada").send().await.status == 200)
        .await;
}

#[tokio::test]
async fn what_people_see_of_their_account_is_their_own() {
    let town = Town::start().await;
    let ada = town.user("ada").await;
    let other = town.log_in("ada", PASSWORD, 200).await;
    let listed = town.home.get(&format!("{ME}/sessions")).by(&ada).send().await.expect(200);
    let ids: BTreeSet<&str> = listed["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["public_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    let ended = town.call(Method::DELETE, &format!("{ME}/sessions")).by(&ada);
    assert_eq!(ended.send().await.expect(200)["ended"], 1);
    town.home.get(ME).by(&other).send().await.expect(401);
    let activity = town.home.get(&format!("{ME}/activity")).by(&ada).send().await.expect(200);
    let events: Vec<&str> = activity["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert!(events.contains(&"login") && events.contains(&"registered"), "{events:?}");
    let export = town.home.get(&format!("{ME}/export")).by(&ada).send().await.expect(200);
    assert_eq!(export["user"]["username"], "ada");
    assert!(!export.to_string().contains("$argon2"), "no hash");
}
