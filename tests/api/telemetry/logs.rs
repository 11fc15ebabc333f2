//! What the log never says, at the most talkative setting and in both of its forms: no password,
//! token, link, address or name. One life is lived with marked values, errors and faults among it,
//! and the log is searched for the marks.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::marks::Marks;
use crate::harness::smtp_sink::{Encryption, Kind, Mode, Received, SmtpSink};
use crate::harness::wait::eventually;
use crate::telemetry::forged_lines::requests_in;

const ME: &str = "/api/v1/users/me";
const PASSWORD_PATH: &str = "/api/v1/users/me/change_password";

/// Everything that can be asked for, each library by its own name too: the most particular
/// directive wins.
const TALKATIVE: &str = "trace,doorward=trace,axum=trace,axum::rejection=trace,hyper=trace,hyper::proto=trace,\
    hyper_util=trace,sqlx=trace,sqlx::query=trace,sqlx_core=trace,sqlx_postgres=trace,lettre=trace,rustls=trace,\
    tower_http=trace,tokio=trace,mio=trace";

const SMTP_LOGIN: (&str, &str) = ("smtp-user-zq4171", "smtp-password-zq4172");
const REFUSAL: &str = "550 5.1.1 <recipient-zq4173@example.com> is unknown here";
const DELAY: &str = "451 4.3.0 <recipient-zq4173@example.com> later";

/// One life in a home, and what was secret in it.
struct Life<'a> {
    home: &'a Home,
    /// `None`: letters are kept for /dev/mailbox.
    sink: Option<&'a SmtpSink>,
    marks: Marks,
}

impl Life<'_> {
    /// The path of the newest link that was sent to an address.
    async fn link_to(&mut self, address: &str) -> String {
        self.newest_link("/api/v1/confirm?token=", address).await
    }

    async fn newest_link(&mut self, path: &str, address: &str) -> String {
        let mut text = String::new();
        eventually("a letter has come", async || {
            text = if let Some(sink) = self.sink {
                let letters = sink.received();
                let own = letters.iter().rev().find(|letter| letter.to == [address]);
                own.map(Received::text).unwrap_or_default()
            } else {
                let kept = self.home.get("/dev/mailbox").send().await.expect(200);
                let letters = kept["letters"].as_array().unwrap();
                let own = letters.iter().find(|letter| letter["to"] == address);
                own.map(|letter| letter["text"].to_string()).unwrap_or_default()
            };
            text.contains(path)
        })
        .await;
        let (_, token) = text.split_once(path).unwrap();
        let end = |c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c);
        let token = self.marks.add_token(token.split(end).next().unwrap());
        format!("{path}{token}")
    }

    /// Registers with a mark in every field, and in some that nobody asked for.
    fn registration(&mut self, name: &str) -> Value {
        let mut mark = |kind: &str| self.marks.add(&format!("{kind}-{name}-zq41"));
        json!({
            "username": mark("username"), "email": format!("{}@example.com", mark("mail")),
            "password": mark("password"), "first_name": mark("first"), "last_name": mark("last"),
            "password2": mark("repeated"), "note": { "card": [mark("unknown")] },
        })
    }

    /// A call that carries a mark wherever a client may put one, and that nobody should have sent.
    async fn refused(&mut self, call: HttpCall, status: u16) {
        let call = call
            .header("cookie", &self.marks.add("session=cookie-zq4190"))
            .header("user-agent", &self.marks.add("agent-zq4191"))
            .header("referer", &self.marks.add("https://referer-zq4192.example/?token=x"))
            .header("x-forwarded-for", &self.marks.add("forwarded-zq4193"))
            .header("x-request-id", &self.marks.add("request id-zq4194"));
        call.send().await.expect(status);
    }

    /// Everything that one person does with the service.
    async fn lead(&mut self, database: &str) -> Value {
        let home = self.home;
        let ada = self.registration("ada");
        let text = |field: &str| ada[field].as_str().unwrap().to_owned();
        let (username, email, password) = (text("username"), text("email"), text("password"));
        home.post("/api/v1/users").json(&ada).send().await.expect(201);
        let link = self.link_to(&email).await;
        let page = home.get(&link).header("accept", "text/html").send().await;
        assert_eq!(page.status, 200);
        home.post(&link).send().await.expect(200);
        home.post(&link).send().await.expect(200);

        let by_address = home.log_in_with(&email, &password).send().await.expect(200);
        self.marks.add_pair(by_address);
        let first = home.log_in_with(&username, &password).send().await.expect(200);
        let first = self.marks.add_pair(first);
        home.get(ME).by(&first).send().await.expect(200);
        let bearer = format!("Bearer {}", first["token"].as_str().unwrap());
        home.post(ME).header("authorization", &bearer).send().await.expect(200);
        let name = json!({ "first_name": self.marks.add("first-two-zq41") });
        home.put(ME).by(&first).json(&name).send().await.expect(200);
        let new = self.marks.add("mail-new-zq41@example.com");
        let change = json!({ "email": new, "password": password });
        home.call(Method::PATCH, ME).by(&first).json(&change).send().await.expect(200);
        let ask = home.post("/api/v1/users/me/verify_email").by(&first);
        let asked = ask.send().await.expect(202);
        let handle = self.marks.add_token(asked["challenge"].as_str().unwrap());
        let wrong = json!({ "challenge": handle, "code": self.marks.add("code-zq4178") });
        self.refused(home.post("/api/v1/confirm").json(&wrong), 400).await;
        let link = self.link_to(&new).await;
        home.post(&link).send().await.expect(200);
        let proof = home.post("/api/v1/step_up").by(&first).json(&json!({ "password": password }));
        let proven = proof.send().await.expect(200);
        self.marks.add_token(proven["token"].as_str().unwrap());
        self.end_sessions(&first).await;
        let changed = self.marks.add("password-new-zq41");
        let change = json!({ "old_password": password, "new_password": changed });
        home.put(PASSWORD_PATH).by(&first).json(&change).send().await.expect(200);
        self.refresh_until_reused(database, &first).await;
        self.take_back(&new).await;
        let changed = self.recover(&new).await;
        self.leave_and_come_back(&username, &changed, &new).await;
        let last = home.log_in_with(&username, &changed).send().await.expect(200);
        self.marks.add_pair(last)
    }

    /// Ends one other session, and all of them.
    async fn end_sessions(&self, first: &Value) {
        let (home, path) = (self.home, "/api/v1/users/me/sessions");
        let list = home.get(path).by(first).send().await.expect(200);
        let mut sessions = list["sessions"].as_array().unwrap().iter();
        let other = sessions.find(|session| session["current"] == false).unwrap();
        let one = format!("{path}/{}", other["public_id"].as_str().unwrap());
        for path in [&one, path] {
            home.call(Method::DELETE, path).by(first).send().await.expect(200);
        }
    }

    /// Says that the change that a letter tells of was somebody else's.
    async fn take_back(&mut self, email: &str) {
        let link = self.newest_link("/api/v1/not_me?token=", email).await;
        let page = self.home.get(&link).header("accept", "text/html").send().await;
        assert_eq!(page.status, 200);
        let token = json!({ "token": link.split_once('=').unwrap().1 });
        self.home.post("/api/v1/not_me").json(&token).send().await.expect(200);
    }

    /// Sets a new password by a letter, after a code that is wrong; the password.
    async fn recover(&mut self, email: &str) -> String {
        let home = self.home;
        let ask = home.post("/api/v1/password/forgot").json(&json!({ "email": email }));
        let asked = ask.send().await.expect(202);
        let handle = self.marks.add_token(asked["challenge"].as_str().unwrap());
        let code = self.marks.add("code-zq4176");
        let wrong = json!({ "challenge": handle, "code": code, "new_password": code });
        self.refused(home.post("/api/v1/password/reset").json(&wrong), 400).await;
        let link = self.newest_link("/api/v1/password/reset?token=", email).await;
        let page = home.get(&link).header("accept", "text/html").send().await;
        assert_eq!(page.status, 200);
        let new = self.marks.add("password-reset-zq4177");
        let set = json!({ "token": link.split_once('=').unwrap().1, "new_password": new });
        home.post("/api/v1/password/reset").json(&set).send().await.expect(200);
        home.post("/api/v1/password/reset").json(&set).send().await.expect(410);
        new
    }

    /// Takes along what is held, deletes the account, and restores it by the letter's link.
    async fn leave_and_come_back(&mut self, username: &str, password: &str, email: &str) {
        let home = self.home;
        let pair = home.log_in_with(username, password).send().await.expect(200);
        let pair = self.marks.add_pair(pair);
        for path in ["/api/v1/users/me/activity", "/api/v1/users/me/export"] {
            home.get(path).by(&pair).send().await.expect(200);
        }
        let proof = json!({ "password": password });
        home.call(Method::DELETE, ME).by(&pair).json(&proof).send().await.expect(202);
        let refused = home.log_in_with(username, password).send().await.expect(403);
        self.marks.add_token(refused["restore_token"].as_str().unwrap());
        let link = self.newest_link("/api/v1/restore?token=", email).await;
        let page = home.get(&link).header("accept", "text/html").send().await;
        assert_eq!(page.status, 200);
        let handle = json!({ "restore_token": link.split_once('=').unwrap().1 });
        home.post("/api/v1/restore").json(&handle).send().await.expect(200);
        home.post("/api/v1/restore").json(&handle).send().await.expect(410);
    }

    async fn refresh_until_reused(&mut self, database: &str, first: &Value) {
        let pool = PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap();
        let refresh = |token: &Value| {
            let call = self.home.post("/api/v1/refresh");
            call.header("x-refresh-token", token["refresh_token"].as_str().unwrap())
        };
        let second = refresh(first).send().await.expect(200);
        let third = refresh(&second).send().await.expect(200);
        // As if 20 seconds had passed.
        sqlx::query("update sessions set replaced_at = '{}'").execute(&pool).await.unwrap();
        pool.close().await;
        assert_eq!(refresh(first).send().await.expect(401)["code"], "refresh_token_reused");
        refresh(&third).send().await.expect(401);
        for pair in [second, third] {
            self.marks.add_pair(pair);
        }
    }

    /// What goes wrong by the client's fault.
    async fn err(&mut self, pair: &Value) {
        let home = self.home;
        let mark = self.marks.add("mistake-zq4180");
        let taken = self.registration("ada");
        self.refused(home.post("/api/v1/users").json(&taken), 409).await;
        let again = json!({ "username": "other-name", "email": taken["email"], "password": mark });
        self.refused(home.post("/api/v1/users").json(&again), 201).await;
        for (body, status) in [
            (format!(r#"{{"password": "{mark}", "#), 400),
            (format!(r#"{{"email": "{mark}", "email": "{mark}"}}"#), 400),
            (
                format!(
                    r#"{{"username": ["{mark}"], "email": "{mark}", "password": "{mark}\u0000"}}"#
                ),
                422,
            ),
            (format!(r#"{{"password": "{}"}}"#, mark.repeat(9000)), 413),
        ] {
            self.refused(home.post("/api/v1/users").body(body), status).await;
        }
        self.refused(home.post("/api/v1/users").header("content-type", &mark), 415).await;
        self.refused(home.get(&format!("/api/v1/{mark}?password={mark}")), 404).await;
        self.refused(home.call(Method::DELETE, &format!("/api/v1/login?{mark}")), 405).await;
        self.refused(home.get(&format!("/api/v1/confirm?token={mark}")), 400).await;
        let forged = format!("{}{mark}", pair["token"].as_str().unwrap());
        self.refused(home.get(ME).header("x-access-token", &forged), 401).await;
        self.refused(home.post("/api/v1/refresh").header("x-refresh-token", &forged), 401).await;
        self.refused(home.get("/api/v1/users").by(pair), 403).await;
        let wrong = json!({ "old_password": mark, "new_password": format!("{mark} and more") });
        self.refused(home.put(PASSWORD_PATH).by(pair).json(&wrong), 403).await;
        let wrong = json!({ "email": format!("{mark}@example.com"), "password": mark });
        self.refused(home.put(ME).by(pair).json(&wrong), 403).await;
        self.refused(home.post("/api/v1/login").header("authorization", "Basic zq4181!!"), 401)
            .await;
        // The password where the name belongs. The sixth is the limit's.
        for number in 0..6 {
            let status = if number < 5 { 401 } else { 429 };
            self.refused(home.log_in_with(&mark, "wrong-password-zq4182"), status).await;
        }
        self.marks.add("wrong-password-zq4182");
    }

    /// What an admin does, made from the settings.
    async fn rule(&mut self, password: &str) {
        let home = self.home;
        let boss = home.log_in_with("admin-zq4160", password).send().await.expect(200);
        let boss = self.marks.add_pair(boss);
        let list = "/api/v1/users?count=true&limit=1&q=mail-new-zq41%40example.com";
        let list = home.get(list).by(&boss).send().await.expect(200);
        let id = list["users"][0]["public_id"].as_str().unwrap();
        let lines = home.get("/api/v1/users").by(&boss).header("accept", "application/x-ndjson");
        assert_eq!(lines.send().await.status, 200);
        let user = format!("/api/v1/users/{id}");
        home.get(&user).by(&boss).send().await.expect(200);
        home.put(&format!("{user}?role=Staff")).by(&boss).send().await.expect(200);
        let name = json!({ "last_name": self.marks.add("last-edited-zq41") });
        home.call(Method::PATCH, &user).by(&boss).json(&name).send().await.expect(200);
        let letter = json!({ "letter": "reset" });
        home.post(&format!("{user}/send")).by(&boss).json(&letter).send().await.expect(202);
        let sessions = format!("{user}/sessions");
        let list = home.get(&sessions).by(&boss).send().await.expect(200);
        let one = list["sessions"][0]["public_id"].as_str().unwrap();
        for path in [&format!("{sessions}/{one}"), &sessions] {
            home.call(Method::DELETE, path).by(&boss).send().await.expect(200);
        }
        let ban = json!({ "reason": self.marks.add("reason-zq4186@example.com") });
        home.put(&format!("{user}/ban")).by(&boss).json(&ban).send().await.expect(200);
        home.call(Method::DELETE, &format!("{user}/ban")).by(&boss).send().await.expect(200);
        let line = json!({ "op": "ban", "public_id": id, "reason": ban["reason"] });
        let bulk = home.post("/api/v1/admin/bulk").by(&boss).lines(line.to_string());
        assert_eq!(bulk.send().await.expect(200)["success"], true);
        home.call(Method::DELETE, &user).by(&boss).send().await.expect(200);
        home.post("/api/v1/logout?everywhere=true").by(&boss).send().await.expect(200);
        for path in ["/", "/healthz", "/readyz", "/openapi.json", "/.well-known/jwks.json"] {
            home.get(path).send().await.expect(200);
        }
    }

    /// What staff look at, and somebody who is invited.
    async fn invite(&mut self, database: &str, password: &str) {
        let home = self.home;
        let boss = home.log_in_with("admin-zq4160", password).send().await.expect(200);
        let boss = self.marks.add_pair(boss);
        let pool = PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap();
        for path in ["/api/v1/admin/audit?event=login", "/api/v1/admin/mails?state=sent"] {
            home.get(path).by(&boss).send().await.expect(200);
        }
        let failed = "update outbox set sent_at = null, failed_at = now()
                      where id = (select id from outbox where sent_at is not null limit 1) returning id::text";
        let letter: String = sqlx::query_scalar(failed).fetch_one(&pool).await.unwrap();
        let retry = format!("/api/v1/admin/mails/{letter}/retry");
        home.post(&retry).by(&boss).send().await.expect(202);
        pool.close().await;

        let invitations = "/api/v1/admin/invitations";
        let email = self.marks.add("guest-zq4190@example.com");
        let name = self.marks.add("guest-first-zq4191");
        let guest = json!({ "email": email, "first_name": name });
        home.post(invitations).by(&boss).json(&guest).send().await.expect(201);
        let link = self.newest_link("/api/v1/invitations?token=", &email).await;
        home.get(&link).send().await.expect(200);
        let page = home.get(&link).header("accept", "text/html").send().await;
        assert_eq!(page.status, 200);
        let account = json!({
            "token": link.split_once('=').unwrap().1,
            "username": self.marks.add("guest-zq4192"),
            "password": self.marks.add("password-guest-zq4193"),
        });
        let accept = || home.post("/api/v1/invitations/accept").json(&account);
        accept().send().await.expect(201);
        accept().send().await.expect(410);
        let other = json!({ "email": self.marks.add("other-zq4194@example.com") });
        let other = home.post(invitations).by(&boss).json(&other).send().await.expect(201);
        let id = other["invitation"]["public_id"].as_str().unwrap();
        home.call(Method::DELETE, &format!("{invitations}/{id}"))
            .by(&boss)
            .send()
            .await
            .expect(200);
        home.get(invitations).by(&boss).send().await.expect(200);
    }

    /// The database fails half way, and has values to tell about it.
    async fn meet_faults(&mut self, database: &str, pair: &Value) {
        let pool = PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap();
        let mark = self.marks.add("fault-zq4185");
        let change = json!({ "last_name": "Other" });
        for code in ["22P02", "23514"] {
            let message = if code == "22P02" { &mark } else { "violates a constraint" };
            let sql = format!(
                "create or replace function fail() returns trigger language plpgsql as $$ begin raise exception
                     using errcode = '{code}', message = '{message}', detail = 'Key (email)=({mark}) already exists.',
                     hint = '{mark}'; end $$;
                 create or replace trigger fail before update on users execute function fail();"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
            self.home.put(ME).by(pair).json(&change).send().await.expect(500);
        }
        sqlx::raw_sql("drop trigger fail on users").execute(&pool).await.unwrap();
        pool.close().await;
    }
}

/// A home with marks in its settings, and what else has to be set.
async fn settled(marks: &mut Marks, settings: &[(&str, &str)]) -> (Home, String) {
    let (mut home, database) = Home::with_database(settings).await;
    // PostgreSQL trusts whoever reaches its socket: the password is looked at by nobody, but it is
    // there.
    let password = marks.add("database-password-zq4161");
    let url = cluster().await.url(&database).replacen('@', &format!(":{password}@"), 1);
    home.set("DATABASE_URL", &url);
    home.set("SECRET_KEY", &marks.add("secret-key-zq4162-0123456789abcdefghijklmnop"));
    home.set("SECRET_KEY_PREVIOUS", &marks.add("previous-key-zq4163-0123456789abcdefghijk"));
    home.set("ADMIN_EMAIL", &marks.add("admin-zq4160@example.com"));
    home.set("ADMIN_PASSWORD", &marks.add("admin password zq4164"));
    home.set("LOG", TALKATIVE);
    home.set("RUST_LOG", "trace");
    home.set("RATE_LIMITS", "on");
    (home, database)
}

async fn live(life: &mut Life<'_>, database: &str) -> Value {
    let pair = life.lead(database).await;
    life.err(&pair).await;
    life.meet_faults(database, &pair).await;
    life.invite(database, "admin password zq4164").await;
    life.rule("admin password zq4164").await;
    pair
}

/// Every operation of the document, as `GET /path`.
async fn operations(home: &Home) -> BTreeSet<String> {
    let document = home.get("/openapi.json").send().await.expect(200);
    let paths = document["paths"].as_object().unwrap().clone();
    let operations = paths.into_iter().flat_map(|(path, operations)| {
        let methods: Vec<String> = operations.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_log_of_production_holds_no_secret_whatever_happens() {
    let kind = Kind { tls: Encryption::Implicit, login: Some(SMTP_LOGIN), ..Kind::default() };
    let sink = SmtpSink::of(kind).await;
    let mut marks = Marks::default();
    for mark in [SMTP_LOGIN.0, SMTP_LOGIN.1, "recipient-zq4173@example.com", "sender-zq4174"] {
        marks.add(mark);
    }
    let (mut home, database) = settled(&mut marks, &[("SMTP_URL", &sink.url())]).await;
    home.set("MAIL_FROM", "Sender <sender-zq4174@example.com>");
    home.set("SSL_CERT_FILE", sink.certificate().to_str().unwrap());
    let url = home.setting("DATABASE_URL");
    let next = if url.contains('?') { '&' } else { '?' };
    marks.add("ssl-password-zq4175");
    home.set("DATABASE_URL", &format!("{url}{next}sslpassword=ssl-password-zq4175"));
    let service = home.start().await;
    service.wait_for_log("database: a parameter of the URL is left out").await;
    let mut life = Life { home: &home, sink: Some(&sink), marks };
    live(&mut life, &database).await;
    for (mode, said) in [
        (Mode::RefuseRecipient(REFUSAL), "a letter was given up"),
        (Mode::RefuseSender(DELAY), "a letter could not be sent yet"),
        (Mode::Down, "a letter could not be sent yet"),
    ] {
        service.wait_for_log("email_verified").await;
        let before = service.log().matches(said).count();
        sink.behave(mode);
        let more = life.registration(&format!("later{before}{}", said.len()));
        home.post("/api/v1/users").json(&more).send().await.expect(201);
        eventually(said, async || service.log().matches(said).count() > before).await;
    }
    let operations = operations(&home).await;

    let log = service.stop().await;
    life.marks.assert_not_in(&log);
    // Otherwise the search says nothing.
    let answered: BTreeSet<String> = requests_in(&log)
        .iter()
        .filter(|line| (200..300).contains(&line["status"].as_u64().unwrap()))
        .map(|line| {
            format!("{} {}", line["method"].as_str().unwrap(), line["route"].as_str().unwrap())
        })
        .collect();
    assert_eq!(operations.difference(&answered).collect::<Vec<_>>(), Vec::<&String>::new());
    for word in
        ["refresh_token_reused", "rate_limited", "request failed", "database refused a value"]
    {
        assert!(log.contains(word), "{word}");
    }
    assert!(life.marks.len() > 60, "{}", life.marks.len());
}

#[tokio::test]
async fn the_log_of_development_holds_the_links_of_the_mailbox_and_no_other_secret() {
    let mut marks = Marks::default();
    let (mut home, database) = settled(&mut marks, &[("DOORWARD_ENV", "development")]).await;
    home.set("PUBLIC_URL", "http://127.0.0.1:1");
    let service = home.start().await;
    let mut life = Life { home: &home, sink: None, marks };
    live(&mut life, &database).await;

    let log = service.stop().await;
    let (links, rest): (Vec<&str>, Vec<&str>) =
        log.lines().partition(|line| line.contains("a letter is in /dev/mailbox"));
    assert!(links.iter().any(|line| line.contains("/api/v1/confirm?token=")), "{links:?}");
    assert!(!links.iter().any(|line| line.contains("zq41")), "{links:?}");
    // It went nowhere.
    assert!(!log.contains("a letter was sent"), "{log}");
    life.marks.assert_not_in(&rest.join("\n"));
    assert!(log.contains(" request_id=") && log.contains("database refused a value"), "{log}");
}
