//! `POST /login`: what is taken for credentials, and what is answered.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::TimeDelta;
use doorward::account::sessions::MAX_SESSIONS;
use doorward::store::logins::{self, LoginLookup};
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;

const PATH: &str = "/api/v1/login";
const CHALLENGE: &str = r#"Basic realm="Login required!", charset="UTF-8""#;
const SCRIPT_CHALLENGE: &str = r#"xBasic realm="Login required!", charset="UTF-8""#;

/// A login with these bytes as the value of `authorization`.
async fn log_in_with(app: &TestApp, authorization: &[u8]) -> Answer {
    let call = app.anonymous().call(Method::POST, PATH);
    call.header_bytes("authorization", authorization).send().await
}

fn basic(credentials: &[u8]) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

async fn register(app: &TestApp, name: &str, password: &str) {
    let body = json!({ "username": name, "email": email_of(name), "password": password });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
}

#[tokio::test]
async fn whoever_logs_in_gets_a_pair_of_tokens_and_sees_themselves() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "Ada", "email": "Ada@Example.com", "password": PASSWORD,
        "first_name": "Ada", "last_name": "Lovelace",
    });
    let registered = app.anonymous().post("/api/v1/users/", &body).await;
    let id = registered.assert_ok(201)["user"]["public_id"].clone();

    let answer = app.anonymous().log_in("Ada", PASSWORD).await;
    let body = answer.assert_ok(200);
    let token = body["token"].as_str().unwrap();
    assert_eq!(
        *body,
        json!({
            "success": true,
            "token": token,
            "refresh_token": body["refresh_token"].as_str().unwrap(),
            "expires_in": 1800,
            "user": {
                "public_id": id, "first_name": "Ada", "last_name": "Lovelace", "username": "Ada",
                "email": "Ada@Example.com", "email_verified": false, "pending_email": null,
                "role": "user", "is_staff": false, "is_admin": false,
                "created_at": "2026-01-02T03:04:05.678Z", "modified_at": "2026-01-02T03:04:05.678Z",
            },
        })
    );
    let call = app.anonymous().call(Method::GET, "/api/v1/users/me");
    let me = call.header("x-access-token", token).send().await;
    assert_eq!(me.assert_ok(200)["user"], body["user"]);
    let sql = "select count(*) from audit_log where event = 'login' and user_id = $1::uuid
               and ip = '127.0.0.1'";
    let audited: i64 =
        sqlx::query_scalar(sql).bind(id.as_str()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn the_name_and_the_address_are_good_in_any_case() {
    let app = TestApp::start().await;
    register(&app, "Ada", PASSWORD).await;
    for login in ["Ada", "ada", "ADA", "Ada@example.com", "ada@EXAMPLE.com", "ADA@EXAMPLE.COM"] {
        app.anonymous().log_in(login, PASSWORD).await.assert_ok(200);
    }
    // ASCII alone is folded: a look-alike is somebody else. No name is trimmed.
    for login in ["\u{410}da", "ada ", " ada", "ada@example.com ", "ad_", "a%", "example.com"] {
        app.anonymous().log_in(login, PASSWORD).await.assert_error(401, "invalid_credentials");
    }
    let answer = app.anonymous().log_in("ada", &PASSWORD.to_uppercase()).await;
    answer.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn a_password_may_hold_colons_and_any_text() {
    let app = TestApp::start().await;
    let passwords = [
        "::::::::",
        "with:colons:in:it",
        "  spaces at both ends  ",
        "\u{1f980}\u{1f980} 日本語のパスワード",
        "tab\tand\nnew\r\nlines",
        "\u{fb01}gures of speech",
        "pa\u{308}sswo\u{308}rds e\u{301}cle\u{301}s",
    ];
    for (number, password) in passwords.iter().enumerate() {
        let name = format!("user{number}");
        register(&app, &name, password).await;
        app.anonymous().log_in(&name, password).await.assert_ok(200);
        let cut = &password[..password.char_indices().last().unwrap().0];
        app.anonymous().log_in(&name, cut).await.assert_error(401, "invalid_credentials");
    }
    // A compatibility form is another text: only what is canonically the same is one password.
    app.anonymous()
        .log_in("user5", "figures of speech")
        .await
        .assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn composed_and_decomposed_are_one_password() {
    let app = TestApp::start().await;
    let composed = "p\u{e4}ssw\u{f6}rd \u{e9}cl\u{e9} \u{1e69}";
    let decomposed = "pa\u{308}sswo\u{308}rd e\u{301}cle\u{301} s\u{307}\u{323}";
    register(&app, "ada", composed).await;
    register(&app, "bob", decomposed).await;
    for name in ["ada", "bob"] {
        app.anonymous().log_in(name, composed).await.assert_ok(200);
        app.anonymous().log_in(name, decomposed).await.assert_ok(200);
    }
}

#[tokio::test]
async fn whoever_brings_no_credentials_is_asked_for_them() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let good = STANDARD.encode(format!("ada:{PASSWORD}"));
    let without = app.anonymous().call(Method::POST, PATH).header("x-request-id", "id-1");
    let without = without.send().await;
    assert_eq!(
        without.json,
        json!({
            "success": false, "code": "credentials_missing", "request_id": "id-1",
            "message": "Log in with HTTP Basic: username or e-mail address, and password.",
        })
    );
    let unreadable: &[Vec<u8>] = &[
        b"".to_vec(),
        b"Basic".to_vec(),
        b"Basic ".to_vec(),
        format!("Basic{good}").into(),
        good.clone().into(),
        format!("Basic\t{good}").into(),
        format!("Bearer {good}").into(),
        format!("Digest {good}").into(),
        format!("xBasic {good}").into(),
        b"Basic !!!!".to_vec(),
        format!("Basic {}!", &good[..good.len() - 1]).into(),
        format!("Basic {good}{good}=").into(),
        format!("Basic {good} {good}").into(),
        basic(b"ada").into(),
        basic(b"ada correct horse battery").into(),
        // Not UTF-8, which is what the challenge asks for.
        basic(b"ada:caf\xe9 au lait").into(),
        basic(b"\xff\xfe:correct horse battery").into(),
        // Header bytes that are not ASCII.
        b"Basic \xc3\xa4\xc3\xb6".to_vec(),
        b"B\xe4sic YTpi".to_vec(),
    ];
    for value in unreadable {
        let answer = log_in_with(&app, value).await;
        answer.assert_error(401, "credentials_missing");
        assert_eq!(answer.header("www-authenticate"), Some(CHALLENGE));
    }
}

#[tokio::test]
async fn what_can_be_read_but_is_nobody_is_refused() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let long = "x".repeat(12 * 1024);
    let odd: &[String] = &[
        ":".to_owned(),
        format!(":{PASSWORD}"),
        "ada:".to_owned(),
        format!("ada::{PASSWORD}"),
        format!("ada:{PASSWORD}\0"),
        format!("ada\0:{PASSWORD}"),
        format!("\0:{PASSWORD}"),
        "ada:\0".to_owned(),
        format!("ada:{long}"),
        format!("{long}:{PASSWORD}"),
        format!("nobody:{long}"),
        // Decomposes and composes without end: normalising it must stay cheap.
        format!("ada:{}", "a\u{308}\u{323}\u{fdfa}".repeat(1200)),
        format!("' or 1=1 --:{PASSWORD}"),
    ];
    for credentials in odd {
        let answer = log_in_with(&app, basic(credentials.as_bytes()).as_bytes()).await;
        answer.assert_error(401, "invalid_credentials");
        assert_eq!(answer.header("www-authenticate"), Some(CHALLENGE));
    }
}

#[tokio::test]
async fn what_other_clients_make_of_basic_is_understood() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let credentials = format!("ada:{PASSWORD}");
    let good = STANDARD.encode(&credentials);
    assert!(good.ends_with("=="), "there is padding to be left out");
    for value in [
        format!("basic {good}"),
        format!("BASIC {good}"),
        format!("bAsIc {good}"),
        format!("Basic   {good}"),
        format!("Basic {good}  "),
        format!("Basic {}", STANDARD_NO_PAD.encode(credentials)),
    ] {
        log_in_with(&app, value.as_bytes()).await.assert_ok(200);
    }
    let call = app.anonymous().call(Method::POST, "/api/v1/login/");
    call.header("authorization", &format!("Basic {good}")).send().await.assert_ok(200);
    // The body is nobody's business here, whatever it is.
    let call = app.anonymous().call(Method::POST, PATH).body("{not json");
    let call = call.header("content-type", "text/plain");
    call.header("authorization", &format!("Basic {good}")).send().await.assert_ok(200);
}

#[tokio::test]
async fn credentials_given_twice_are_malformed() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let good = basic(format!("ada:{PASSWORD}").as_bytes());
    for second in [good.as_str(), "Bearer x", ""] {
        let call = app.anonymous().call(Method::POST, PATH).header("authorization", &good);
        call.header("authorization", second).send().await.assert_error(400, "malformed_request");
    }
}

#[tokio::test]
async fn a_wrong_password_is_answered_like_an_unknown_user() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let gone = app.user("gone").await;
    app.admin().await.delete(&format!("/api/v1/users/{}", gone.id())).await.assert_ok(200);
    let answer = async |login: &str| {
        let value = basic(format!("{login}:not the password").as_bytes());
        let call = app.anonymous().call(Method::POST, PATH).header("x-request-id", "id-1");
        call.header("authorization", &value).send().await
    };
    let wrong = answer("ada").await;
    assert_eq!(
        wrong.text,
        json_text(&[
            ("success", json!(false)),
            ("code", json!("invalid_credentials")),
            ("message", json!("The username or the password is wrong.")),
            ("request_id", json!("id-1")),
        ])
    );
    assert_eq!(wrong.status, 401);
    for login in ["nobody", "ada@example.com", "nobody@example.com", "gone", "", "\0"] {
        let other = answer(login).await;
        assert_eq!((other.status, &other.text), (wrong.status, &wrong.text), "{login}");
        assert_eq!(other.headers, wrong.headers, "{login}");
    }
}

/// An object with its fields in this order.
fn json_text(fields: &[(&str, Value)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[tokio::test]
async fn no_browser_opens_its_own_dialog_over_a_frontend() {
    let app = TestApp::start().await;
    let wrong = basic(b"ada:wrong");
    for (name, value, expected) in [
        ("accept", "*/*", CHALLENGE),
        ("sec-fetch-mode", "navigate", CHALLENGE),
        ("sec-fetch-mode", "cors", SCRIPT_CHALLENGE),
        ("sec-fetch-mode", "same-origin", SCRIPT_CHALLENGE),
        ("sec-fetch-mode", "no-cors", SCRIPT_CHALLENGE),
        ("x-requested-with", "XMLHttpRequest", SCRIPT_CHALLENGE),
        ("x-requested-with", "", SCRIPT_CHALLENGE),
    ] {
        for authorization in ["", &wrong] {
            let call = app.anonymous().call(Method::POST, PATH).header(name, value);
            let answer = call.header("authorization", authorization).send().await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.header("www-authenticate"), Some(expected), "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn tokens_that_are_still_held_do_no_harm_at_login() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let bob = app.newcomer("bob").await;
    let value = basic(format!("ada:{PASSWORD}").as_bytes());
    let (access, refresh) = (bob.access_token(), bob.refresh_token());
    for tokens in [
        &[("x-access-token", access)][..],
        &[("x-access-token", access), ("x-refresh-token", refresh)],
        &[("x-access-token", "rubbish"), ("x-refresh-token", "rubbish")],
        &[("x-access-token", access), ("x-access-token", "rubbish")],
        &[("x-access-token", "")],
    ] {
        let call = app.anonymous().call(Method::POST, PATH).header("authorization", &value);
        let call = tokens.iter().fold(call, |call, (name, token)| call.header(name, token));
        let answer = call.send().await;
        assert_eq!(answer.assert_ok(200)["user"]["public_id"], ada.id());
    }
    app.clock.advance(TimeDelta::minutes(31));
    let call = app.anonymous().call(Method::POST, PATH).header("authorization", &value);
    call.header("x-access-token", ada.access_token()).send().await.assert_ok(200);
}

#[tokio::test]
async fn login_is_a_post() {
    let app = TestApp::start().await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let answer = app.anonymous().call(method, PATH).send().await;
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_20_logins_at_once_has_a_session_of_its_own() {
    let app = TestApp::start().await;
    register(&app, "ada", PASSWORD).await;
    let answers = at_once(20, |_| {
        let person = app.anonymous();
        async move { person.log_in("ada", PASSWORD).await }
    })
    .await;
    let mut people = Vec::new();
    for answer in answers {
        let mut person = app.anonymous();
        person.access = answer.assert_ok(200)["token"].as_str().map(str::to_owned);
        people.push(person);
    }
    // Ending one ends no other.
    people[0].post("/api/v1/logout", &json!({})).await.assert_ok(200);
    people[0].get("/api/v1/users/me").await.assert_error(401, "session_ended");
    for person in &people[1..] {
        person.get("/api/v1/users/me").await.assert_ok(200);
    }
}

#[tokio::test]
async fn an_account_with_too_many_sessions_loses_those_not_used_for_the_longest_time() {
    let app = TestApp::start().await.alone();
    let mut ada = app.newcomer("ada").await;
    app.newcomer("bob").await;
    // Hers is the oldest, but refreshed. Of the others the last ones have ended.
    sqlx::query("update sessions set created_at = '2000-01-01'").execute(&app.pool).await.unwrap();
    ada.refresh().await.assert_ok(200);
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ended_at)
        select gen_random_uuid(), id, u.created_at - i * interval '1 second', 'infinity', 'infinity',
            case when i <= 100 then u.created_at end
        from generate_series(1, 50500) i, users u";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    let count = async |name: &str, which: &str| -> i64 {
        let sql = format!(
            "select count(*) from sessions s join users u on u.id = s.user_id
             where username = '{name}' and {which}"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&app.pool).await.unwrap()
    };
    let removed = async || -> Option<i64> {
        let sql = "select sum((details->>'count')::bigint)::bigint from audit_log where event = 'sessions_removed'";
        sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
    };
    let (mut logins, mut newest) = (1, ada.clone());
    while removed().await.is_none() {
        logins += 1;
        assert!(logins < 3_000, "one login in 128 looks");
        newest = app.log_in("ada", PASSWORD).await;
    }
    // Until that is done.
    drop(doorward::account::sessions::SURPLUS_REMOVAL.lock().await);
    let removed = removed().await.unwrap();
    let left = 50_500 + logins - removed;
    assert!((MAX_SESSIONS..MAX_SESSIONS + logins).contains(&left), "{left}");
    assert_eq!(count("ada", "true").await, left);
    assert_eq!(count("ada", "ended_at is null").await, left, "those that had ended went first");
    let oldest = 50_500 - (removed - 100);
    let kept = format!("s.created_at >= u.created_at - {oldest} * interval '1 second'");
    assert_eq!(count("ada", &kept).await, left - 1, "then those not used for the longest time");
    for person in [&ada, &newest] {
        person.get("/api/v1/users/me").await.assert_ok(200);
    }
    assert_eq!(count("bob", "true").await, 50_501, "nobody else's");
}

#[tokio::test]
async fn however_many_sessions_an_account_has_few_are_read_to_tell_whether_an_address_is_known() {
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    let sql = "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip)
               select gen_random_uuid(), id, now(), now(), now(), '10.0.0.0'::inet + n
               from users, generate_series(1, 5000) n
               union all
               select gen_random_uuid(), id, now(), now(), now(), '2001:db8:1:2::ffff' from users";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    sqlx::query("analyze").execute(&app.pool).await.unwrap();
    let mut tx = app.state.db.begin().await.unwrap();
    let expected = [
        ("ada", "10.0.0.0", false),
        ("ada", "10.0.0.1", true),
        ("ada", "10.0.19.136", true),
        ("ada", "10.0.19.137", false),
        ("ada", "2001:db8:1:1:ffff:ffff:ffff:ffff", false),
        ("ada", "2001:db8:1:2::", true),
        ("ada", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
        ("ada", "2001:db8:1:3::", false),
        ("ada", "nowhere", false),
        ("nobody", "10.0.0.1", false),
    ];
    let claim = |(login, address, _): &(&str, &str, bool)| LoginLookup {
        login: (*login).to_owned(),
        address: address.parse().ok(),
    };
    let claims: Vec<LoginLookup> = expected.iter().map(claim).collect();
    let all = logins::find_all(&mut tx, &claims).await.unwrap();
    assert_eq!(all.len(), expected.len());
    for ((login, address, is_known), found) in expected.iter().zip(all) {
        let (user, found) = found.unwrap();
        assert_eq!((user.is_some(), found), (*login == "ada", *is_known), "{address}");
    }
    let sql = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
               from pg_stat_xact_user_tables where relname = 'sessions'";
    let read: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
    assert!(read <= 10, "{read}");
}
