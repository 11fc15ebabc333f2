//! Security events: each logged once, under stable names, and in the audit table where it changed
//! something.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::app::PUBLIC_URL;
use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::markdown::{in_backticks, readme, rows, section};
use crate::harness::person::PASSWORD;
use crate::harness::process::Process;
use crate::harness::smtp_sink::SmtpSink;
use crate::harness::wait::eventually;

const ME: &str = "/api/v1/users/me";
const NEW_PASSWORD: &str = "quite another horse";
const BOSS: [(&str, &str); 2] = [("ADMIN_EMAIL", "boss@example.com"), ("ADMIN_PASSWORD", PASSWORD)];

/// A service whose log and audit table are read after each call.
struct Watch<'a> {
    home: &'a Home,
    service: Process,
    pool: PgPool,
    calls: usize,
    /// Every event so far, and whether it was recorded.
    seen: BTreeSet<(String, bool)>,
}

/// A new database with an admin, and mail to a server.
async fn home_with(sink: &SmtpSink) -> (Home, PgPool) {
    let (mut home, database) = Home::with_database(&BOSS).await;
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "no-reply@example.com");
    home.set("RATE_LIMITS", "on");
    // Some thousand logins are made until one looks for what is too many.
    home.set("LIMIT_LOGIN_SUCCESS_ACCOUNT", "100000");
    home.set("LIMIT_LOGIN_SUCCESS_ADDRESS", "100000");
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    (home, pool)
}

impl<'a> Watch<'a> {
    async fn start(home: &'a Home, pool: PgPool) -> Self {
        let service = home.start().await;
        let mut watch = Self { home, service, pool, calls: 0, seen: BTreeSet::new() };
        let made = watch.take_logged();
        assert_eq!(made.len(), 1, "{made:?}");
        watch.note_outside("first_admin", &made[0]["event"]).await;
        watch
    }

    /// What was logged since the last look, without what every line has.
    fn take_logged(&self) -> Vec<Value> {
        let log = self.service.take_log();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut events: Vec<Value> = lines.collect();
        events.retain(|line| line["target"] == "security");
        for event in &mut events {
            let fields = event.as_object_mut().unwrap();
            assert_eq!(fields.remove("level"), Some(json!("INFO")));
            assert!(fields.remove("timestamp").is_some() && fields.remove("target").is_some());
            // In a log details are text, as every value is.
            if let Some(Value::String(details)) = fields.get("details") {
                fields["details"] = serde_json::from_str(details).unwrap();
            }
        }
        events
    }

    /// What was recorded since the last look, in the log's words; the reason of a ban, which a
    /// person wrote, is not logged.
    async fn take_recorded(&self) -> Vec<Value> {
        let sql = "with taken as (delete from audit_log returning *)
            select jsonb_strip_nulls(jsonb_build_object('event', event, 'user_id', user_id, 'actor_id', actor_id,
                'session_id', session_id, 'ip', host(ip), 'details', nullif(details - 'reason', '{}')))
            from taken order by id";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// Takes note of an event that came of no call.
    async fn note_outside(&mut self, event: &str, logged: &Value) {
        assert_eq!(logged, event);
        let recorded = self.take_recorded().await;
        assert_eq!(recorded.len(), 1, "{recorded:?}");
        assert_eq!(recorded[0]["event"], event);
        self.seen.insert((event.to_owned(), true));
    }

    /// Makes a call that leads to exactly one event, with exactly these fields beside those that
    /// every one has; `*` is any value. The body of the answer.
    async fn one(&mut self, call: HttpCall, status: u16, event: &str, fields: Value) -> Value {
        self.calls += 1;
        let request_id = format!("call-{}", self.calls);
        let body = call.header("x-request-id", &request_id).send().await.expect(status);
        let (mut logged, recorded) = (self.take_logged(), self.take_recorded().await);
        assert_eq!(logged.len(), 1, "{event}: {logged:?}");
        let mut logged = logged.remove(0);
        assert_eq!(logged.as_object_mut().unwrap().remove("request_id"), Some(json!(request_id)));
        if !recorded.is_empty() {
            assert_eq!(recorded, [logged.clone()], "{event}: once, and the same in both places");
        }
        let mut expected = json!({ "event": event, "ip": "127.0.0.1" });
        for (name, value) in fields.as_object().unwrap() {
            expected[name] = if value == "*" { logged[name].clone() } else { value.clone() };
        }
        assert_eq!(logged, expected);
        self.seen.insert((event.to_owned(), !recorded.is_empty()));
        body
    }

    /// Makes a call that leads to none.
    async fn none(&mut self, call: HttpCall, status: u16) -> Value {
        let body = call.send().await.expect(status);
        let (logged, recorded) = (self.take_logged(), self.take_recorded().await);
        assert!(logged.is_empty() && recorded.is_empty(), "{logged:?} {recorded:?}");
        body
    }

    async fn log_in(&mut self, name: &str, password: &str) -> Value {
        let fields = json!({ "user_id": "*", "actor_id": "*", "session_id": "*" });
        self.one(self.home.log_in_with(name, password), 200, "login", fields).await
    }
}

/// The newest link in a letter to an address.
async fn link_to(sink: &SmtpSink, address: &str) -> String {
    let mut link = String::new();
    eventually("a letter with a link has come", async || {
        let letters = sink.received();
        let own = letters.iter().rev().filter(|letter| letter.to == [address]);
        let found = own.filter_map(|letter| {
            let text = letter.text();
            let (_, path) = text.split_once(PUBLIC_URL)?;
            path.split_whitespace().next().map(str::to_owned)
        });
        link = found.take(1).collect();
        !link.is_empty()
    })
    .await;
    link
}

fn refresh(home: &Home, pair: &Value) -> HttpCall {
    home.post("/api/v1/refresh").header("x-refresh-token", pair["refresh_token"].as_str().unwrap())
}

/// Registers, confirms, logs in and changes what there is to change; her id.
async fn account_of_ada(watch: &mut Watch<'_>, sink: &SmtpSink) -> Value {
    let home = watch.home;
    let made = json!({ "user_id": "*", "actor_id": "*" });
    let ada = watch.one(home.register("ada"), 201, "registered", made).await;
    let ada = &ada["user"]["public_id"];
    let own = json!({ "user_id": ada, "actor_id": ada });
    let taken = |code: &str| json!({ "details": { "code": code } });
    watch.one(home.register("ada"), 409, "already_taken", taken("username_taken")).await;
    let link = link_to(sink, "ada@example.com").await;
    watch.one(home.post(&link), 200, "email_verified", own.clone()).await;
    watch.none(home.post(&link), 200).await;

    let refused = home.log_in_with("ada", "not it");
    watch.one(refused, 401, "login_refused", json!({ "user_id": ada })).await;
    watch.one(home.log_in("nobody"), 401, "login_refused", json!({})).await;
    let pair = watch.log_in("ada", PASSWORD).await;
    watch.none(home.get(ME).by(&pair), 200).await;

    let with_details = |fields: &[&str]| {
        let details = json!({ "fields": fields });
        json!({ "user_id": ada, "actor_id": ada, "session_id": "*", "details": details })
    };
    let put = |path: &str, body: Value| home.put(path).by(&pair).json(&body);
    let name = json!({ "first_name": "Ada" });
    watch.one(put(ME, name.clone()), 200, "profile_updated", with_details(&["first_name"])).await;
    watch.none(put(ME, name), 200).await;
    let mut taken = taken("username_taken");
    taken["actor_id"] = ada.clone();
    taken["session_id"] = "*".into();
    let boss = json!({ "username": "Boss" });
    watch.one(put(ME, boss), 409, "already_taken", taken).await;
    let refusal = json!({ "user_id": ada, "session_id": "*" });
    let change = |password: &str| json!({ "email": "new@example.com", "password": password });
    watch.one(put(ME, change("not it")), 403, "wrong_password", refusal.clone()).await;
    let fields = with_details(&["pending_email"]);
    watch.one(put(ME, change(PASSWORD)), 200, "profile_updated", fields).await;
    let link = link_to(sink, "new@example.com").await;
    watch.one(home.post(&link), 200, "email_changed", own).await;

    let fields = json!({ "user_id": ada, "actor_id": ada, "session_id": "*" });
    let proof = home.post("/api/v1/step_up").by(&pair).json(&json!({ "password": PASSWORD }));
    watch.one(proof, 200, "step_up", fields).await;

    let path = "/api/v1/users/me/change_password";
    let change = |old: &str| json!({ "old_password": old, "new_password": NEW_PASSWORD });
    watch.one(put(path, change("not it")), 403, "wrong_password", refusal.clone()).await;
    let fields = json!({ "user_id": ada, "actor_id": ada, "session_id": "*" });
    watch.one(put(path, change(PASSWORD)), 200, "password_changed", fields).await;
    watch.one(home.get("/api/v1/users").by(&pair), 403, "forbidden", refusal).await;
    ada.clone()
}

/// Two who did not ask for what came to their addresses.
async fn disowned(watch: &mut Watch<'_>, sink: &SmtpSink) {
    let home = watch.home;
    let not_me = |link: &str| home.post(link).json(&json!({ "action": "not_me" }));
    let made = || json!({ "user_id": "*", "actor_id": "*" });
    let bob = watch.one(home.register("bob"), 201, "registered", made()).await;
    let link = link_to(sink, "bob@example.com").await;
    let to = |user: &Value| json!({ "user_id": user["public_id"] });
    watch.one(not_me(&link), 200, "account_disowned", to(&bob["user"])).await;
    watch.none(not_me(&link), 200).await;

    watch.one(home.register("cid"), 201, "registered", made()).await;
    let link = link_to(sink, "cid@example.com").await;
    watch.one(home.post(&link), 200, "email_verified", made()).await;
    let cid = watch.log_in("cid", PASSWORD).await;
    let change = json!({ "email": "nobodys@example.com", "password": PASSWORD });
    let changed = json!({ "user_id": "*", "actor_id": "*", "session_id": "*", "details": "*" });
    watch.one(home.put(ME).by(&cid).json(&change), 200, "profile_updated", changed).await;
    let link = link_to(sink, "nobodys@example.com").await;
    watch.one(not_me(&link), 200, "email_disowned", to(&cid["user"])).await;
    watch.none(not_me(&link), 200).await;
}

/// Asks for a letter, which the worker writes down when it is sent, and sets the password by it.
async fn recovery_of(watch: &mut Watch<'_>, sink: &SmtpSink, ada: &Value) {
    let home = watch.home;
    let ask = json!({ "email": "new@example.com" });
    home.post("/api/v1/password/forgot").json(&ask).send().await.expect(202);
    let link = loop {
        let link = link_to(sink, "new@example.com").await;
        if link.contains("/password/reset") {
            break link;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let logged = watch.take_logged();
    assert_eq!(logged, [json!({ "event": "reset_asked", "user_id": ada, "ip": "127.0.0.1" })]);
    watch.note_outside("reset_asked", &logged[0]["event"]).await;
    let (_, token) = link.split_once("token=").unwrap();
    let set = json!({ "token": token, "new_password": NEW_PASSWORD });
    let own = json!({ "user_id": ada, "actor_id": ada });
    let call = || home.post("/api/v1/password/reset").json(&set);
    watch.one(call(), 200, "password_reset", own).await;
    watch.none(call(), 410).await;
    taken_back(watch, sink, ada, &link).await;
}

/// The newest link to this page that is another one than `old`.
async fn next_link(sink: &SmtpSink, page: &str, old: &str) -> String {
    loop {
        let link = link_to(sink, "new@example.com").await;
        if link.contains(page) && link != old {
            return link;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Says that the reset was somebody else's, and sets the password once more.
async fn taken_back(watch: &mut Watch<'_>, sink: &SmtpSink, ada: &Value, old: &str) {
    let home = watch.home;
    let link = next_link(sink, "/not_me", old).await;
    let token = json!({ "token": link.split_once("token=").unwrap().1 });
    let call = || home.post("/api/v1/not_me").json(&token);
    call().send().await.expect(200);
    let link = next_link(sink, "/password/reset", old).await;
    let (mut logged, recorded) = (watch.take_logged(), watch.take_recorded().await);
    logged[0].as_object_mut().unwrap().remove("request_id");
    let details = json!({ "told": "password_changed", "address_given_back": false });
    let expected = [
        json!({ "event": "not_me", "user_id": ada, "ip": "127.0.0.1", "details": details }),
        json!({ "event": "reset_asked", "user_id": ada, "ip": "127.0.0.1" }),
    ];
    assert_eq!(logged, expected);
    assert_eq!(recorded, expected);
    watch.seen.insert(("not_me".to_owned(), true));
    watch.none(call(), 200).await;
    let token = link.split_once("token=").unwrap().1;
    let set = json!({ "token": token, "new_password": NEW_PASSWORD });
    let own = json!({ "user_id": ada, "actor_id": ada });
    watch.one(home.post("/api/v1/password/reset").json(&set), 200, "password_reset", own).await;
}

/// Takes along what is held, leaves, comes back, and leaves for good.
async fn leaving(watch: &mut Watch<'_>) {
    let home = watch.home;
    let made = json!({ "user_id": "*", "actor_id": "*" });
    let dan = watch.one(home.register("dan"), 201, "registered", made).await;
    let dan = &dan["user"]["public_id"];
    let in_session = json!({ "user_id": dan, "actor_id": dan, "session_id": "*" });
    let pair = watch.log_in("dan", PASSWORD).await;
    let export = home.get("/api/v1/users/me/export").by(&pair);
    watch.one(export, 200, "exported", in_session.clone()).await;
    watch.none(home.get("/api/v1/users/me/activity").by(&pair), 200).await;
    let delete = || home.call(Method::DELETE, ME);
    watch.one(delete().by(&pair), 202, "deletion_asked", in_session.clone()).await;
    watch.none(delete().by(&pair), 401).await;
    let barred = json!({ "user_id": dan, "details": { "because": "deleted" } });
    let told = watch.one(home.log_in("dan"), 403, "login_refused", barred).await;
    let restore = json!({ "restore_token": told["restore_token"] });
    let call = || home.post("/api/v1/restore").json(&restore);
    watch.one(call(), 200, "restored", json!({ "user_id": dan, "actor_id": dan })).await;
    watch.none(call(), 410).await;
    let pair = watch.log_in("dan", PASSWORD).await;
    watch.one(delete().by(&pair), 202, "deletion_asked", in_session).await;
    // The worker looks for such accounts once an hour: what it does at that time is done now, by an
    // admin.
    let boss = watch.log_in("boss", PASSWORD).await;
    let user = format!("/api/v1/users/{}", dan.as_str().unwrap());
    home.call(Method::DELETE, &user).by(&boss).send().await.expect(200);
    let (logged, recorded) = (watch.take_logged(), watch.take_recorded().await);
    for events in [&logged, &recorded] {
        let names: Vec<_> = events.iter().map(|event| &event["event"]).collect();
        assert_eq!(names, ["user_deleted", "purged"], "{events:?}");
        assert_eq!(&events[1]["user_id"], dan);
    }
    watch.seen.insert(("purged".to_owned(), true));
}

async fn sessions_of(watch: &mut Watch<'_>, ada: &Value) {
    let home = watch.home;
    let own = json!({ "user_id": ada, "actor_id": ada, "session_id": "*" });
    for (path, event) in
        [("/api/v1/logout", "logout"), ("/api/v1/logout?everywhere=true", "logout_everywhere")]
    {
        let pair = watch.log_in("ada", NEW_PASSWORD).await;
        watch.one(home.post(path).by(&pair), 200, event, own.clone()).await;
        watch.none(home.post(path).by(&pair), 401).await;
    }
    watch.log_in("ada", NEW_PASSWORD).await;
    let first = watch.log_in("ada", NEW_PASSWORD).await;
    let end = || home.call(Method::DELETE, "/api/v1/users/me/sessions").by(&first);
    let mut ended = own.clone();
    ended["details"] = json!({ "count": 1 });
    watch.one(end(), 200, "sessions_ended", ended).await;
    watch.none(end(), 200).await;
    watch.none(refresh(home, &first), 200).await;
    watch.none(refresh(home, &first), 200).await;
    // Nobody knows who presented it.
    let stolen = json!({ "user_id": ada, "session_id": "*" });
    let elsewhere = "update sessions set rotated_ip = '198.51.100.7' where rotated_at is not null";
    sqlx::query(elsewhere).execute(&watch.pool).await.unwrap();
    let mut repeated = stolen.clone();
    repeated["details"] = json!({ "refreshed_from": "198.51.100.7" });
    watch.one(refresh(home, &first), 200, "refresh_token_repeated", repeated).await;
    let long_ago = "update sessions set replaced_at = '{}', successor_used = true,
                        successor_given_at = null, rotated_at = now() - interval '1 minute'
                    where rotated_at is not null";
    sqlx::query(long_ago).execute(&watch.pool).await.unwrap();
    watch.one(refresh(home, &first), 401, "refresh_token_reused", stolen).await;
    watch.none(refresh(home, &first), 401).await;
}

/// One login in 128 looks for them.
async fn too_many_sessions_of(watch: &mut Watch<'_>, ada: &Value) {
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at)
        select gen_random_uuid(), $1::uuid, now(), 'infinity', 'infinity' from generate_series(1, 50001)";
    sqlx::query(sql).bind(ada.as_str().unwrap()).execute(&watch.pool).await.unwrap();
    let (mut logged, mut recorded) = (Vec::new(), Vec::new());
    let is_it = |event: &Value| event["event"] == "sessions_removed";
    for _ in 0..3_000 {
        watch.home.log_in_with("ada", NEW_PASSWORD).send().await.expect(200);
        logged.extend(watch.take_logged().into_iter().filter(is_it));
        recorded.extend(watch.take_recorded().await.into_iter().filter(is_it));
        if !logged.is_empty() && !recorded.is_empty() {
            break;
        }
    }
    logged[0].as_object_mut().unwrap().remove("request_id");
    assert_eq!(logged[0], recorded[0]);
    watch.seen.insert(("sessions_removed".to_owned(), true));
    // Of the last of those logins one may have begun to look, too.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    watch.take_logged();
    watch.take_recorded().await;
}

/// What staff and admins look at, and who is invited.
async fn what_the_office_does(watch: &mut Watch<'_>, sink: &SmtpSink) {
    let home = watch.home;
    let boss = watch.log_in("boss", PASSWORD).await;
    let id = &boss["user"]["public_id"];
    let by_boss = || json!({ "actor_id": id, "session_id": "*", "details": "*" });
    let read = || home.get("/api/v1/admin/audit?event=login").by(&boss);
    let reader = json!({ "user_id": id, "actor_id": id, "session_id": "*" });
    watch.one(read(), 200, "audit_read", reader).await;
    let invite = |email: &str| {
        home.post("/api/v1/admin/invitations").by(&boss).json(&json!({ "email": email }))
    };
    watch.one(invite("eve@example.com"), 201, "invited", by_boss()).await;
    let link = link_to(sink, "eve@example.com").await;
    let account = json!({
        "token": link.split_once("token=").unwrap().1, "username": "eve", "password": PASSWORD,
    });
    let accept = || home.post("/api/v1/invitations/accept").json(&account);
    let own = json!({ "user_id": "*", "actor_id": "*", "details": "*" });
    watch.one(accept(), 201, "invitation_accepted", own).await;
    watch.none(accept(), 410).await;
    let other = watch.one(invite("fay@example.com"), 201, "invited", by_boss()).await;
    link_to(sink, "fay@example.com").await;
    let path = other["invitation"]["public_id"].as_str().unwrap();
    let path = format!("/api/v1/admin/invitations/{path}");
    let revoke = || home.call(Method::DELETE, &path).by(&boss);
    watch.one(revoke(), 200, "invitation_revoked", by_boss()).await;
    watch.none(revoke(), 404).await;
    let failed = "update outbox set sent_at = null, failed_at = now()
                  where recipient = 'fay@example.com' and sent_at is not null returning id::text";
    let mut letter = None;
    eventually("the letter is settled", async || {
        letter = sqlx::query_scalar::<_, String>(failed).fetch_optional(&watch.pool).await.unwrap();
        letter.is_some()
    })
    .await;
    let letter = letter.unwrap();
    let retry = || home.post(&format!("/api/v1/admin/mails/{letter}/retry")).by(&boss);
    watch.one(retry(), 202, "letter_retried", by_boss()).await;
}

/// Sends a letter that resets the password, which the worker writes down when it is sent.
async fn letter_of_the_admin(watch: &mut Watch<'_>, boss: &Value, ada: &Value) {
    let path = format!("/api/v1/users/{}/send", ada.as_str().unwrap());
    let reply = watch.home.post(&path).by(boss).json(&json!({ "letter": "reset" })).send().await;
    reply.expect(202);
    let mut logged = Vec::new();
    eventually("the letter is sent", async || {
        logged.extend(watch.take_logged());
        logged.len() >= 2
    })
    .await;
    let by = (&logged[0]["user_id"], &logged[0]["actor_id"], &logged[0]["details"]);
    assert_eq!(by, (ada, &boss["user"]["public_id"], &json!({ "letter": "reset" })));
    assert_eq!(logged[1], json!({ "event": "reset_asked", "user_id": ada }));
    let recorded = watch.take_recorded().await;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    for (event, recorded) in logged.iter().zip(&recorded) {
        assert_eq!(event["event"], recorded["event"]);
        watch.seen.insert((event["event"].as_str().unwrap().to_owned(), true));
    }
}

async fn acts_of_the_admin(watch: &mut Watch<'_>, ada: &Value) {
    let home = watch.home;
    let boss = watch.log_in("boss", PASSWORD).await;
    let by_boss = |details: Value| {
        let boss = &boss["user"]["public_id"];
        json!({ "user_id": ada, "actor_id": boss, "session_id": "*", "details": details })
    };
    let user = format!("/api/v1/users/{}", ada.as_str().unwrap());
    let promote = || home.put(&format!("{user}?role=Staff")).by(&boss);
    let roles = by_boss(json!({ "from": "user", "to": "staff" }));
    watch.one(promote(), 200, "role_changed", roles).await;
    watch.none(promote(), 200).await;
    let edit = || home.call(Method::PATCH, &user).by(&boss).json(&json!({ "last_name": "King" }));
    let fields = by_boss(json!({ "fields": ["last_name"] }));
    watch.one(edit(), 200, "profile_edited", fields).await;
    watch.none(edit(), 200).await;
    letter_of_the_admin(watch, &boss, ada).await;
    let line = json!({ "op": "end_sessions", "public_id": ada }).to_string();
    let end = || home.post("/api/v1/admin/bulk").by(&boss).lines(&line);
    watch.one(end(), 200, "sessions_ended", by_boss(json!("*"))).await;
    watch.none(end(), 200).await;
    let until = json!({ "until": "2999-01-01T00:00:00.000Z" });
    let ban = json!({ "reason": "spam", "until": "2999-01-01T00:00:00Z" });
    let ban = home.put(&format!("{user}/ban")).by(&boss).json(&ban);
    watch.one(ban, 200, "banned", by_boss(until)).await;
    let mut lifted = by_boss(Value::Null);
    lifted.as_object_mut().unwrap().remove("details");
    let lift = || home.call(Method::DELETE, &format!("{user}/ban")).by(&boss);
    watch.one(lift(), 200, "unbanned", lifted).await;
    watch.none(lift(), 200).await;
    let delete = || home.call(Method::DELETE, &user).by(&boss);
    watch.one(delete(), 200, "user_deleted", by_boss(json!({ "role": "staff" }))).await;
    watch.none(delete(), 404).await;

    // A limit's first refusal is told, and the flood that follows is not.
    let user = &boss["user"]["public_id"];
    let guess = || home.log_in_with("boss", "not it");
    for _ in 0..5 {
        watch.one(guess(), 401, "login_refused", json!({ "user_id": user })).await;
    }
    let limited = json!({ "user_id": user, "details": "*" });
    watch.one(guess(), 429, "rate_limited", limited).await;
    for _ in 0..5 {
        watch.none(guess(), 429).await;
    }
}

#[tokio::test]
async fn each_event_is_logged_once_with_who_and_where_and_recorded_if_something_changed() {
    let sink = SmtpSink::start().await;
    let (home, pool) = home_with(&sink).await;
    let mut watch = Watch::start(&home, pool).await;
    let ada = account_of_ada(&mut watch, &sink).await;
    disowned(&mut watch, &sink).await;
    recovery_of(&mut watch, &sink, &ada).await;
    leaving(&mut watch).await;
    sessions_of(&mut watch, &ada).await;
    too_many_sessions_of(&mut watch, &ada).await;
    what_the_office_does(&mut watch, &sink).await;
    acts_of_the_admin(&mut watch, &ada).await;

    let create = ["create-admin", "--email", "chief@example.com", "--password-stdin"];
    let said = String::from_utf8(home.run(&create, PASSWORD).await.stderr).unwrap();
    let mut events = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let event = events.find(|line| line["target"] == "security").unwrap();
    assert!(events.all(|line| line["target"] != "security"), "{said}");
    watch.note_outside("create_admin", &event["event"]).await;

    assert_eq!(watch.seen, documented(), "README's table is what happens");
    watch.service.stop().await;
}

/// README's table: the events, and whether they are recorded.
fn documented() -> BTreeSet<(String, bool)> {
    let readme = readme();
    let table = section(&readme, "Deploying");
    let rows = rows(table).into_iter();
    rows.flat_map(|row| {
        let is_recorded = match *row.last().unwrap() {
            "yes" => true,
            "no" => false,
            other => panic!("yes or no, not {other}"),
        };
        in_backticks(row[0]).map(|event| (event.to_owned(), is_recorded)).collect::<Vec<_>>()
    })
    .collect()
}

#[tokio::test]
async fn what_was_rolled_back_is_neither_logged_nor_recorded() {
    let sink = SmtpSink::start().await;
    let (home, pool) = home_with(&sink).await;
    let mut watch = Watch::start(&home, pool.clone()).await;
    let boss = watch.log_in("boss", PASSWORD).await;
    // Fails when all is done and the transaction is committed: the very last moment.
    let sql = "create function fail() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
               create constraint trigger fail after insert on audit_log deferrable initially deferred
                   for each row execute function fail();";
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    let calls = || {
        [
            home.register("ada"),
            home.log_in("boss"),
            home.put(ME).by(&boss).json(&json!({ "first_name": "Boss" })),
            home.post("/api/v1/logout").by(&boss),
        ]
    };
    for call in calls() {
        watch.none(call, 500).await;
    }
    sqlx::raw_sql("drop trigger fail on audit_log").execute(&pool).await.unwrap();
    for (call, event) in
        calls().into_iter().zip(["registered", "login", "profile_updated", "logout"])
    {
        assert!(call.send().await.status < 300);
        let logged = watch.take_logged();
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert_eq!(logged[0]["event"], event);
        assert_eq!(watch.take_recorded().await.len(), 1);
    }
    watch.service.stop().await;
}
