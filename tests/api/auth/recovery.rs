//! A forgotten password: asked for, and set by the link or the code of the letter.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use doorward::mail::Letter;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;

const FORGOT: &str = "/api/v1/password/forgot";
const RESET: &str = "/api/v1/password/reset";
const NEW: &str = "a new horse battery";

/// Asks for a letter to this address; the handle that the answer has.
async fn forgot(app: &TestApp, email: &str) -> String {
    let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
    answer.assert_ok(202)["challenge"].as_str().unwrap().to_owned()
}

/// What a letter of a reset holds.
struct Asked {
    handle: String,
    token: String,
    code: String,
}

async fn asked(app: &TestApp, name: &str) -> Asked {
    let handle = forgot(app, &email_of(name)).await;
    let letters = app.deliver_mail().await;
    let is_it = |letter: &&Letter| letter.to == email_of(name) && letter.subject.starts_with("Set");
    let letter = letters.iter().find(is_it).expect("a letter");
    Asked { handle, token: token_in(letter), code: code_in(letter) }
}

fn token_in(letter: &Letter) -> String {
    let link = link_in(letter);
    link.strip_prefix("/api/v1/password/reset?token=").expect("our own page").to_owned()
}

fn code_in(letter: &Letter) -> String {
    let is_code = |line: &&str| {
        line.len() == 9
            && line.chars().enumerate().all(
                |(at, c)| {
                    if at == 4 { c == ' ' } else { c.is_ascii_digit() }
                },
            )
    };
    letter.text.lines().find(is_code).expect("a code").to_owned()
}

async fn by_link(app: &TestApp, token: &str, new: &str) -> Answer {
    app.anonymous().post(RESET, &json!({ "token": token, "new_password": new })).await
}

async fn by_code(app: &TestApp, handle: &str, code: &str, new: &str) -> Answer {
    let body = json!({ "challenge": handle, "code": code, "new_password": new });
    app.anonymous().post(RESET, &body).await
}

async fn can_log_in(app: &TestApp, password: &str) -> bool {
    app.anonymous().log_in("ada", password).await.status == 200
}

#[tokio::test]
async fn a_link_or_a_code_sets_the_password_ends_every_session_and_logs_nobody_in() {
    for by in ["link", "code"] {
        let app = TestApp::start().await;
        let ada = app.newcomer("ada").await;
        app.deliver_mail().await;
        let asked = asked(&app, "ada").await;
        let answer = match by {
            "link" => by_link(&app, &asked.token, NEW).await,
            _ => by_code(&app, &asked.handle, &asked.code, NEW).await,
        };
        let said = answer.assert_ok(200);
        assert!(said.get("token").is_none() && answer.header("set-cookie").is_none());
        ada.get("/api/v1/users/me").await.assert_error(401, "session_ended");
        ada.refresh_with(ada.refresh_token()).await.assert_error(401, "session_ended");
        assert!(!can_log_in(&app, PASSWORD).await);
        let again = app.log_in("ada", NEW).await;
        assert_eq!(again.user["email_verified"], json!(true), "the letter proves the address");
        let told = app.letter_to(&email_of("ada")).await;
        assert!(told.subject.contains("was changed") && told.text.contains("ada"), "{told:?}");
        // Nothing is good twice, nor by the other way.
        by_link(&app, &asked.token, PASSWORD).await.assert_error(410, "link_expired");
        by_code(&app, &asked.handle, &asked.code, PASSWORD).await.assert_error(400, "code_invalid");
        assert!(can_log_in(&app, NEW).await);
        let events: Vec<String> = sqlx::query_scalar(
            "select event from audit_log where event in ('reset_asked', 'password_reset') order by id",
        )
        .fetch_all(&app.pool)
        .await
        .unwrap();
        assert_eq!(events, ["reset_asked", "password_reset"]);
    }
}

/// An owner whose address a stranger signed up with first.
#[tokio::test]
async fn the_owner_of_an_address_gets_the_account_that_a_stranger_made_with_it() {
    let app = TestApp::start().await;
    let stranger = app.newcomer("ada").await;
    app.deliver_mail().await;
    let mut elsewhere = app.log_in("ada", PASSWORD).await;
    let asked = asked(&app, "ada").await;
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
    stranger.get("/api/v1/users/me").await.assert_error(401, "session_ended");
    elsewhere.refresh().await.assert_error(401, "session_ended");
    stranger.log_in(&email_of("ada"), PASSWORD).await.assert_error(401, "invalid_credentials");
    assert!(can_log_in(&app, NEW).await);
}

/// The same bytes, but for the handle, and as long a handle.
#[tokio::test]
async fn an_address_that_nobody_has_is_answered_as_one_that_somebody_has() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let ask = async |email: &str| {
        let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
        let mut body = answer.assert_ok(202).clone();
        let handle = body["challenge"].take();
        (body, handle.as_str().unwrap().len(), answer.headers.len())
    };
    let known = ask("ada@example.com").await;
    assert_eq!(known, ask("ADA@example.com").await);
    assert_eq!(known, ask("nobody@example.com").await);
    let letters = app.deliver_mail().await;
    let to: Vec<&str> = letters.iter().map(|letter| &*letter.to).collect();
    assert_eq!(to, ["ada@example.com", "ada@example.com"], "nobody gets one");
    // What a stranger typed is not kept.
    let left: i64 =
        sqlx::query_scalar("select count(*) from outbox where recipient like 'nobody%'")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(left, 0);
    app.anonymous()
        .post(FORGOT, &json!({ "email": "nonsense" }))
        .await
        .assert_fields(&[("email", "invalid_email")]);
    app.anonymous().post(FORGOT, &json!({})).await.assert_fields(&[("email", "required")]);
}

#[tokio::test]
async fn of_twenty_uses_at_once_one_succeeds_over_two_instances_too() {
    for by in ["link", "code"] {
        let database = new_database().await;
        let apps = [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await];
        apps[0].user("ada").await;
        let Asked { handle, token, code } = asked(&apps[0], "ada").await;
        let answers = at_once(20, |number| {
            let (app, handle, token, code) =
                (apps[number % 2].clone(), handle.clone(), token.clone(), code.clone());
            async move {
                match by {
                    "link" => by_link(&app, &token, NEW).await,
                    _ => by_code(&app, &handle, &code, NEW).await,
                }
            }
        })
        .await;
        let (status, refused) =
            if by == "link" { (410, "link_expired") } else { (400, "code_invalid") };
        let done = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(done, 1, "{by}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.assert_error(status, refused);
        }
        assert!(can_log_in(&apps[0], NEW).await);
    }
}

#[tokio::test]
async fn five_wrong_codes_end_a_handle_at_once_too_and_the_link_goes_on() {
    for together in [false, true] {
        let app = TestApp::start().await;
        app.user("ada").await;
        let asked = asked(&app, "ada").await;
        let wrong = if asked.code.starts_with('0') { "1111 1111" } else { "0000 0000" };
        if together {
            let answers = at_once(6, |_| {
                let (app, handle) = (app.clone(), asked.handle.clone());
                async move { by_code(&app, &handle, wrong, NEW).await }
            })
            .await;
            for answer in &answers {
                answer.assert_error(400, "code_invalid");
            }
        } else {
            for _ in 0..5 {
                by_code(&app, &asked.handle, wrong, NEW).await.assert_error(400, "code_invalid");
            }
        }
        let right = by_code(&app, &asked.handle, &asked.code, NEW).await;
        right.assert_error(400, "code_invalid");
        by_link(&app, &asked.token, NEW).await.assert_ok(200);
    }
}

/// Whoever guesses from handle to handle has twenty tries a day, and a stranger's address as well
/// as an account's.
#[tokio::test]
async fn wrong_codes_are_counted_by_the_address_whoever_has_it() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    for email in ["ada@example.com", "nobody@example.com"] {
        let mut refused = 0;
        for round in 0..5 {
            app.clock.advance(TimeDelta::hours(1));
            let handle = forgot(&app, email).await;
            for _ in 0..5 {
                let answer = by_code(&app, &handle, "1", NEW).await;
                if answer.status == 429 {
                    answer.assert_error(429, "rate_limited");
                    refused += 1;
                } else {
                    answer.assert_error(400, "code_invalid");
                }
            }
            assert_eq!(refused, if round < 4 { 0 } else { 5 }, "{email}");
        }
    }
}

/// Whoever goes on with a handle that is dead has nothing compared, and uses up nobody's budget.
#[tokio::test]
async fn a_dead_handle_uses_up_no_budget_of_its_addresses_owner() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    let handle = forgot(&app, "ada@example.com").await;
    for _ in 0..30 {
        by_code(&app, &handle, "1", NEW).await.assert_error(400, "code_invalid");
    }
    app.deliver_mail().await;
    let own = asked(&app, "ada").await;
    by_code(&app, &own.handle, &own.code, NEW).await.assert_ok(200);
}

/// Guesses at the old password, the owner's and strangers', keep nobody from the new one; and
/// whoever was known by the old one is a stranger.
#[tokio::test]
async fn after_a_reset_the_owner_logs_in_and_the_thief_is_a_stranger() {
    let settings =
        [("RATE_LIMITS", "on"), ("TRUSTED_PROXY_HOPS", "1"), ("LIMIT_LOGIN_STRANGERS", "6")];
    let app = TestApp::with(&settings).await;
    let ada = app.user("ada").await;
    let guess = async |ip: &str, password: &str| {
        let value = format!("Basic {}", STANDARD.encode(format!("ada:{password}")));
        let call = app.anonymous().call(Method::POST, "/api/v1/login").from(ip);
        call.header("authorization", &value).send().await.status.as_u16()
    };
    let thief = "198.51.100.9";
    assert_eq!(guess(thief, PASSWORD).await, 200);
    for number in 0..8 {
        guess(&format!("203.0.113.{number}"), "wrong").await;
    }
    let asked = asked(&app, "ada").await;
    let body = json!({ "token": asked.token, "new_password": NEW });
    let call = ada.call(Method::POST, RESET).from("203.0.113.1");
    call.json(&body).send().await.assert_ok(200);
    // Another instance remembers its own refusals for half a minute.
    app.clock.advance(TimeDelta::seconds(31));
    assert_eq!(guess("203.0.113.1", NEW).await, 200, "from where she had guessed");
    // The strangers' budget is begun anew, and the thief has no other.
    let mut refused = 0;
    for _ in 0..8 {
        refused += u32::from(guess(thief, "wrong").await == 429);
    }
    assert!(refused > 0, "a known client would have a budget of its own");
}

/// A letter that was held up says what is still true of it.
#[tokio::test]
async fn a_late_letter_says_how_long_its_link_still_works_and_has_no_dead_code() {
    let app = TestApp::start().await;
    app.user("ada").await;
    forgot(&app, "ada@example.com").await;
    app.clock.advance(TimeDelta::minutes(12));
    let letter = app.letter_to("ada@example.com").await;
    assert!(
        letter.text.contains("works for 18 minutes") && !letter.text.contains("code"),
        "{letter:?}"
    );
    by_link(&app, &token_in(&letter), NEW).await.assert_ok(200);
    app.deliver_mail().await;
    forgot(&app, "ada@example.com").await;
    app.clock.advance(TimeDelta::minutes(31));
    assert_eq!(app.deliver_mail().await, [], "its link has run out");
    let failed: i64 = sqlx::query_scalar(
        "select count(*) from outbox where kind = 'reset' and failed_at is not null",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn an_answer_without_a_letter_says_so_to_programs_too() {
    let app = TestApp::with(&[("RATE_LIMITS", "on")]).await;
    app.user("ada").await;
    for email in ["ada@example.com", "nobody@example.com"] {
        for number in 0..4 {
            let answer = app.anonymous().post(FORGOT, &json!({ "email": email })).await;
            assert_eq!(answer.assert_ok(202)["limited"], json!(number == 3), "{email}");
        }
    }
}

#[tokio::test]
async fn a_right_code_is_looked_at_before_the_password_and_goes_on_after_a_bad_one() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    by_code(&app, &asked.handle, "0", "short").await.assert_error(400, "code_invalid");
    for _ in 0..6 {
        let answer = by_code(&app, &asked.handle, &asked.code, "short").await;
        answer.assert_fields(&[("new_password", "too_short")]);
        by_link(&app, &asked.token, "ada@example.com").await.assert_error(422, "validation_failed");
    }
    by_code(&app, &asked.handle, &asked.code, NEW).await.assert_ok(200);
}

#[tokio::test]
async fn a_code_is_read_however_it_is_typed() {
    for typed in ["{a}{b}", " {a} {b} ", "{a}-{b}", "{a}\u{a0}{b}", "code: {a}.{b}"] {
        let app = TestApp::start().await;
        app.user("ada").await;
        let asked = asked(&app, "ada").await;
        let (a, b) = asked.code.split_once(' ').unwrap();
        let typed = typed.replace("{a}", a).replace("{b}", b);
        by_code(&app, &asked.handle, &typed, NEW).await.assert_ok(200);
    }
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let full_width: String =
        asked.code.chars().filter_map(|c| char::from_u32(u32::from(c) + 0xfee0)).collect();
    for typed in [&*format!("{}0", asked.code), &*format!("0{}", asked.code), &full_width, ""] {
        by_code(&app, &asked.handle, typed, NEW).await.assert_error(400, "code_invalid");
    }
    let body = json!({ "challenge": asked.handle, "code": 12_345_678, "new_password": NEW });
    app.anonymous().post(RESET, &body).await.assert_fields(&[("code", "invalid_type")]);
    let body = json!({ "challenge": asked.handle, "code": "1\u{0}", "new_password": NEW });
    app.anonymous().post(RESET, &body).await.assert_fields(&[("code", "invalid_characters")]);
}

#[tokio::test]
async fn a_letter_is_void_once_the_password_or_the_address_is_another_or_its_time_is_over() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    // The password.
    let before = asked(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(1));
    let change = json!({ "old_password": PASSWORD, "new_password": NEW });
    ada.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
    by_link(&app, &before.token, PASSWORD).await.assert_error(410, "link_expired");
    by_code(&app, &before.handle, &before.code, PASSWORD).await.assert_error(400, "code_invalid");
    // A reset voids every other letter, and a new letter leaves the older one as it is.
    let (first, second) = (asked(&app, "ada").await, asked(&app, "ada").await);
    by_code(&app, &first.handle, &first.code, PASSWORD).await.assert_ok(200);
    app.clock.advance(TimeDelta::seconds(1));
    by_link(&app, &second.token, NEW).await.assert_error(410, "link_expired");
    // Its time.
    app.clock.advance(TimeDelta::hours(1));
    let late = asked(&app, "ada").await;
    app.clock.advance(TimeDelta::minutes(10));
    by_code(&app, &late.handle, &late.code, NEW).await.assert_error(400, "code_invalid");
    app.clock.advance(TimeDelta::minutes(20));
    by_link(&app, &late.token, NEW).await.assert_error(410, "link_expired");
    // The address.
    app.clock.advance(TimeDelta::hours(1));
    let moved = asked(&app, "ada").await;
    let sql = "update users set email = 'elsewhere@example.com' where username = 'ada'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    by_link(&app, &moved.token, NEW).await.assert_error(410, "link_expired");
    by_code(&app, &moved.handle, &moved.code, NEW).await.assert_error(400, "code_invalid");
    assert!(can_log_in(&app, PASSWORD).await);
}

/// Nothing of one kind passes for another.
#[tokio::test]
async fn no_other_token_resets_and_a_reset_opens_nothing_else() {
    let app = TestApp::start().await;
    let newcomer = app.newcomer("ada").await;
    let confirmation = link_in(&app.letter_to(&email_of("ada")).await);
    let confirmation = confirmation.split_once("token=").unwrap().1.to_owned();
    let asked = asked(&app, "ada").await;
    let (access, refresh) = (newcomer.access_token(), newcomer.refresh_token());
    for token in [&confirmation, access, refresh, &asked.handle, "nonsense", ""] {
        by_link(&app, token, NEW).await.assert_error(400, "link_invalid");
    }
    for handle in [&confirmation, access, refresh, &asked.token, "nonsense", ""] {
        by_code(&app, handle, &asked.code, NEW).await.assert_error(400, "code_invalid");
    }
    for token in [&asked.token, &asked.handle] {
        let as_access =
            app.anonymous().call(Method::GET, "/api/v1/users/me").header("x-access-token", token);
        as_access.send().await.assert_error(401, "token_invalid");
        app.anonymous().refresh_with(token).await.assert_error(401, "refresh_token_invalid");
        let confirm = format!("/api/v1/confirm?token={token}");
        app.anonymous().post(&confirm, &json!({})).await.assert_error(400, "link_invalid");
    }
    for (body, field, code) in [
        (json!({ "new_password": NEW }), "token", "required"),
        (json!({ "challenge": "a", "new_password": NEW }), "code", "required"),
        (json!({ "code": "1", "new_password": NEW }), "challenge", "required"),
        (
            json!({ "token": "a", "code": "1", "challenge": "b", "new_password": NEW }),
            "token",
            "not_allowed",
        ),
        (json!({ "token": 1, "new_password": NEW }), "token", "invalid_type"),
    ] {
        app.anonymous().post(RESET, &body).await.assert_fields(&[(field, code)]);
    }
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
}

/// Scanners, previews and people who look twice.
#[tokio::test]
async fn looking_at_a_link_uses_nothing_up() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let path = format!("{RESET}?token={}&utm_source=mail", asked.token);
    for method in [Method::GET, Method::HEAD].iter().cycle().take(10) {
        let answer = app.anonymous().call(method.clone(), &path).send().await;
        assert_eq!(answer.status, 200, "{method}");
    }
    let said = app.anonymous().get(&path).await;
    assert_eq!(said.assert_ok(200)["expires_in"], json!(1800));
    app.anonymous().get(&format!("{RESET}?token=nonsense")).await.assert_error(400, "link_invalid");
    app.anonymous().get(RESET).await.assert_error(400, "link_invalid");
    by_link(&app, &asked.token, NEW).await.assert_ok(200);
    app.anonymous().get(&path).await.assert_error(410, "link_expired");
}

/// What a browser sends for a form of the page.
async fn send_form(person: &Person, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut call = person
        .call(Method::POST, RESET)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html");
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.body(body).send().await
}

#[tokio::test]
async fn the_page_takes_a_password_and_its_form_comes_from_nowhere_else() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let asked = asked(&app, "ada").await;
    let person = app.anonymous();
    let path = format!("{RESET}?token={}", asked.token);
    let page = person.call(Method::GET, &path).header("accept", "text/html").send().await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("type=\"password\"") && page.text.contains(&asked.token),
        "{}",
        page.text
    );
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"));
    let fields = [("token", &*asked.token), ("new_password", NEW)];
    let strangers = [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", PUBLIC_URL)],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ];
    for headers in strangers {
        let answer = send_form(&person, &fields, headers).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    let own = [("sec-fetch-site", "same-origin")];
    let short =
        send_form(&person, &[("token", &asked.token), ("new_password", "short")], &own).await;
    assert_eq!(short.status, 422);
    assert!(
        short.text.contains("role=\"alert\"") && short.text.contains(&asked.token),
        "{}",
        short.text
    );
    assert!(can_log_in(&app, PASSWORD).await);
    // What a browser needs to name an origin with the form over plain HTTP.
    assert!(page.text.contains(r#"<meta name="referrer" content="strict-origin">"#));
    let done = send_form(&person, &fields, &[("origin", PUBLIC_URL)]).await;
    assert!(done.status == 200 && done.text.contains("Your new password is set"), "{}", done.text);
    assert!(can_log_in(&app, NEW).await);
    let again = send_form(&person, &fields, &own).await;
    assert!(again.status == 410 && again.text.contains("Ask for a new letter"), "{}", again.text);
}

#[tokio::test]
async fn the_letter_leads_to_the_frontend_where_one_is_set_and_no_header_changes_it() {
    let url = "https://app.example.com/new-password?from=mail";
    let app = TestApp::with(&[("PASSWORD_RESET_URL", url)]).await;
    app.user("ada").await;
    let call = app.anonymous().call(Method::POST, FORGOT);
    let call = call.header("host", "evil.example").header("x-forwarded-host", "evil.example");
    call.json(&json!({ "email": email_of("ada") })).send().await.assert_ok(202);
    let letter = app.letter_to(&email_of("ada")).await;
    let link = letter.text.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    let token = link.strip_prefix(&format!("{url}#token=")).expect("the frontend's own page");
    assert!(!letter.text.contains("evil") && !letter.html.contains("evil"));
    by_link(&app, token, NEW).await.assert_ok(200);
}

/// Nothing that the account's maker typed, and nothing that lets in whoever reads the database.
#[tokio::test]
async fn neither_the_letter_nor_the_database_says_more_than_it_has_to() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "cheap-pills.example", "email": "ada@example.com", "password": PASSWORD,
        "first_name": "Visit evil", "last_name": "example now",
    });
    app.anonymous().post("/api/v1/users", &body).await.assert_ok(201);
    app.deliver_mail().await;
    let handle = forgot(&app, "ada@example.com").await;
    let letter = app.letter_to("ada@example.com").await;
    for typed in ["cheap-pills", "Visit evil", "example now"] {
        assert!(!letter.text.contains(typed) && !letter.html.contains(typed), "{typed}");
    }
    let rows: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(c) from challenges c union all select to_jsonb(o) from outbox o",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let dump = serde_json::to_string(&rows).unwrap();
    let code = code_in(&letter).replace(' ', "");
    for secret in [&handle, &token_in(&letter), &code] {
        assert!(!dump.contains(secret.as_str()), "{secret}");
    }
}
