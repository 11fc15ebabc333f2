//! `GET /users/`: what staff may ask for, and what the filters leave.

use axum::http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::admin::users::managed;
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person};

const LIST: &str = "/api/v1/users";

/// Registers somebody with these names; their username is `name`.
async fn register(app: &TestApp, name: &str, email: &str, first_name: &str, last_name: &str) {
    let form = json!({
        "username": name, "email": email, "password": crate::harness::person::PASSWORD,
        "first_name": first_name, "last_name": last_name,
    });
    app.anonymous().post(LIST, &form).await.assert_ok(201);
}

fn usernames(answer: &Answer) -> Vec<String> {
    let users = answer.assert_ok(200)["users"].as_array().unwrap();
    users.iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
}

/// The usernames that a query leaves, by name.
async fn found(boss: &Person, query: &[(&str, &str)]) -> Vec<String> {
    let mut serializer = form_urlencoded::Serializer::new(String::new());
    let query = serializer.extend_pairs(query).append_pair("sort", "username").finish();
    usernames(&boss.get(&format!("{LIST}?{query}")).await)
}

#[tokio::test]
async fn the_list_shows_users_as_they_see_themselves_and_how_their_accounts_stand() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    let own = [boss.get("/api/v1/users/me").await, ada.get("/api/v1/users/me").await];
    let users: Vec<Value> = own.iter().map(|answer| managed(&answer.json["user"])).collect();
    let expected = json!({ "success": true, "users": users, "next": null });
    for path in [LIST, "/api/v1/users/"] {
        let answer = boss.get(path).await;
        assert_eq!(answer.assert_ok(200), &expected);
        assert_eq!(answer.header("link"), None);
        let head = boss.call(Method::HEAD, path).send().await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    }
    let mut counted = expected;
    counted["count"] = json!(2);
    assert_eq!(boss.get("/api/v1/users?count=true").await.assert_ok(200), &counted);
}

#[tokio::test]
async fn the_list_is_for_staff_whatever_others_ask_for() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for query in ["", "?limit=0", "?limit=1&limit=2", "?after=garbage", "?q=%00", "?count=true"] {
        let path = format!("{LIST}{query}");
        app.anonymous().get(&path).await.assert_error(401, "token_missing");
        ada.get(&path).await.assert_error(403, "forbidden");
        let call = ada.call(Method::GET, &path).header("accept", "application/x-ndjson");
        call.send().await.assert_error(403, "forbidden");
    }
}

#[tokio::test]
async fn a_limit_is_from_1_to_500() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for n in 0..3 {
        app.newcomer(&format!("user{n}")).await;
    }
    for (limit, users) in [("1", 1), ("3", 3), ("4", 4), ("500", 4)] {
        let answer = boss.get(&format!("{LIST}?limit={limit}")).await;
        assert_eq!(usernames(&answer).len(), users);
        assert_eq!(answer.json["next"].is_null(), users == 4, "{limit}");
    }
    for limit in ["0", "501", "-1", "1.5", "x", "9999999999999999999999", "%201", "1e2"] {
        let answer = boss.get(&format!("{LIST}?limit={limit}")).await;
        answer.assert_fields(&[("limit", "out_of_range")]);
    }
}

#[tokio::test]
async fn a_page_has_100_users_unless_asked_for_otherwise() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    insert_users(&app, 100).await;
    let answer = boss.get(LIST).await;
    assert_eq!(usernames(&answer).len(), 100);
    let next = answer.json["next"].as_str().unwrap();
    let rest = boss.get(&format!("{LIST}?after={next}")).await;
    assert_eq!((usernames(&rest).len(), &rest.json["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn a_search_finds_parts_of_names_and_addresses_in_any_case() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    register(&app, "Countess", "ada@lovelace.example", "Augusta Ada", "King-Noel").await;
    register(&app, "grace.h", "Amazing@Navy.example", "Grace", "Hopper").await;
    register(&app, "zoe", "z@example.com", "Zo\u{eb}", "\u{c4}rmel").await;
    register(&app, "inci", "i@example.com", "\u{130}nci", "").await;
    for (q, expected) in [
        ("COUNT", &["Countess"][..]),
        ("lovelace.EX", &["Countess"]),
        ("AUGUSTA", &["Countess"]),
        ("noel", &["Countess"]),
        ("ada king", &["Countess"]),
        ("amazing@NAVY", &["grace.h"]),
        ("hopper", &["grace.h"]),
        ("a", &["boss", "Countess", "grace.h", "inci", "zoe"]),
        ("zo\u{eb}", &["zoe"]),
        ("ZO\u{cb}", &["zoe"]),
        ("\u{e4}RMEL", &["zoe"]),
        ("\u{c4}rmel", &["zoe"]),
        // A letter on which languages, and libraries, disagree: its own spelling finds it in any
        // case.
        ("\u{130}nci", &["inci"]),
        ("", &["boss", "Countess", "grace.h", "inci", "zoe"]),
        ("nobody at all", &[]),
        ("argon2", &[]),
        ("countess lovelace", &["Countess"]),
        ("King-Noel, Ada", &["Countess"]),
        ("ada grace", &[]),
    ] {
        assert_eq!(found(&boss, &[("q", q)]).await, expected, "{q}");
    }
    let longest = "x".repeat(254);
    assert_eq!(found(&boss, &[("q", &longest)]).await, [""; 0]);
    let answer = boss.get(&format!("{LIST}?q={longest}x")).await;
    answer.assert_fields(&[("q", "too_long")]);
    boss.get(&format!("{LIST}?q=%00")).await.assert_fields(&[("q", "invalid_characters")]);
}

#[tokio::test]
async fn what_means_something_to_a_database_means_itself_in_a_search() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    register(&app, "percent", "p%c@example.com", "100%", "").await;
    register(&app, "under_score", "u@example.com", "", "").await;
    register(&app, "slash", "s@example.com", r"back\slash", "").await;
    register(&app, "quote", "o'neil@example.com", "", "").await;
    for (q, expected) in [
        ("%", &["percent"][..]),
        ("0%", &["percent"]),
        ("p%t", &[]),
        ("_", &["under_score"]),
        ("s_ash", &[]),
        (r"\", &["slash"]),
        (r"k\s", &["slash"]),
        ("'", &["quote"]),
        ("' or 1=1 --", &[]),
        (".*", &[]),
        ("$1", &[]),
    ] {
        assert_eq!(found(&boss, &[("q", q)]).await, expected, "{q}");
    }
}

#[tokio::test]
async fn a_search_is_words_in_any_order_an_id_or_an_address_that_waits() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    register(&app, "countess", "ada@b\u{fc}cher.example", "Ada", "Lovelace").await;
    register(&app, "zoe", "z@example.com", "Zoe\u{308}", "Quick").await;
    let eve = app.user("eve").await;
    let change = json!({ "email": "waiting@example.org", "password": PASSWORD });
    eve.put("/api/v1/users/me", &change).await.assert_ok(200);
    let id = eve.id();
    let spaced = format!(" {} ", id.to_uppercase());
    for (q, expected) in [
        ("Ada Lovelace", &["countess"][..]),
        ("lovelace ada", &["countess"]),
        ("Lovelace, Ada", &["countess"]),
        ("lace\u{a0}xn--bcher count", &["countess"]),
        ("ada z@", &[]),
        (" ada@xn--bcher-kva.example ", &["countess"]),
        ("\u{feff}z@example.com\n", &["zoe"]),
        // Composed or not, the name is the same.
        ("Zo\u{eb}", &["zoe"]),
        ("zoe\u{308} quick", &["zoe"]),
        ("WAITING@example", &["eve"]),
        (id, &["eve"]),
        (&spaced, &["eve"]),
        (" ", &["boss", "countess", "eve", "zoe"]),
        (",", &[]),
    ] {
        assert_eq!(found(&boss, &[("q", q)]).await, expected, "{q}");
    }
    assert_eq!(found(&boss, &[("email", "Ada@B\u{fc}cher.Example ")]).await, ["countess"]);
}

#[tokio::test]
async fn filters_narrow_the_list_together_and_the_count_with_them() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for name in ["ada", "adam"] {
        let person = app.user(name).await;
        let path = format!("{LIST}/{}?role=staff", person.id());
        boss.put(&path, &json!({})).await.assert_ok(200);
    }
    app.user("adele").await;
    app.newcomer("adrian").await;
    app.newcomer("bob").await;
    for (query, expected) in [
        (&[("role", "admin")][..], &["boss"][..]),
        (&[("role", "Staff")], &["ada", "adam"]),
        (&[("role", "USER")], &["adele", "adrian", "bob"]),
        (&[("email_verified", "true")], &["ada", "adam", "adele", "boss"]),
        (&[("email_verified", "1")], &["ada", "adam", "adele", "boss"]),
        (&[("email_verified", "false")], &["adrian", "bob"]),
        (&[("email_verified", "0"), ("role", "user"), ("q", "AD")], &["adrian"]),
        (&[("email_verified", "true"), ("role", "user")], &["adele"]),
        (&[("email_verified", "false"), ("role", "staff")], &[]),
        (&[("email_verified", "FALSE")], &["adrian", "bob"]),
        (&[("username", " ADA\u{200b}")], &["ada"]),
        (&[("username", "ad")], &[]),
        (&[("email", "Adam@Example.com")], &["adam"]),
        (&[("email", "adam@example.com"), ("role", "user")], &[]),
        (&[("email", "adam")], &[]),
    ] {
        assert_eq!(found(&boss, query).await, expected, "{query:?}");
        let mut serializer = form_urlencoded::Serializer::new(String::new());
        let query =
            serializer.extend_pairs(query).extend_pairs([("count", "true"), ("limit", "1")]);
        let answer = boss.get(&format!("{LIST}?{}", query.finish())).await;
        assert_eq!(answer.assert_ok(200)["count"], expected.len());
        assert_eq!(usernames(&answer).len(), expected.len().min(1));
    }
    let answer = boss.get(&format!("{LIST}?count=false")).await;
    assert!(answer.assert_ok(200).get("count").is_none());
}

#[tokio::test]
async fn every_complaint_about_a_query_comes_at_once() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let query = "after=x&count=maybe&sort=password_hash&email_verified=yes&role=king&limit=0";
    boss.get(&format!("{LIST}?{query}")).await.assert_fields(&[
        ("limit", "out_of_range"),
        ("sort", "invalid_choice"),
        ("role", "invalid_choice"),
        ("email_verified", "invalid_choice"),
        ("after", "invalid_cursor"),
        ("count", "invalid_choice"),
    ]);
    // Of a filter that is passed over an admin would take everybody for its answer.
    boss.get(&format!("{LIST}?rol=admin&verified=true&a&q=x"))
        .await
        .assert_fields(&[("rol", "unknown_parameter"), ("verified", "unknown_parameter")]);
    let answer = boss.get(&format!("{LIST}?emial_verified=true")).await;
    let message = answer.json["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("email_verified"), "{message}");
    // A form that was not filled in narrows nothing.
    let empty = "limit=&after=&q=&role=&email_verified=&email=&username=&sort=&count=";
    assert_eq!(usernames(&boss.get(&format!("{LIST}?{empty}")).await), ["boss"]);
    for name in ["limit", "after", "q", "role", "email_verified", "sort", "count", "x", ""] {
        let answer = boss.get(&format!("{LIST}?{name}=1&{name}=1")).await;
        answer.assert_error(400, "malformed_request");
    }
    for sort in
        ["-", "--email", "+email", "Email", "role", "id", "email,username", "created_at%20desc"]
    {
        let answer = boss.get(&format!("{LIST}?sort={sort}")).await;
        answer.assert_fields(&[("sort", "invalid_choice")]);
    }
}

/// Inserts users past the API: registering hundreds would take seconds.
async fn insert_users(app: &TestApp, users: i32) {
    let sql = "insert into users (id, username, email, password_hash, created_at, modified_at)
               select gen_random_uuid(), 'many' || n, 'many' || n || '@example.com', 'x',
                   '2026-02-01'::timestamptz + n / 10 * interval '1 second', '2026-02-01'
               from generate_series(1, $1) as n";
    sqlx::query(sql).bind(users).execute(&app.pool).await.unwrap();
}

#[tokio::test]
async fn a_stream_has_all_users_one_a_line() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    // Two full batches, and none at all after them.
    for (more, expected) in [(0, 1), (499, 500), (500, 1000), (1, 1001)] {
        if more > 0 {
            sqlx::query("update users set username = 'm' || id, email = 'm' || id || '@example.com' where username <> 'boss'").execute(&app.pool).await.unwrap();
            insert_users(&app, more).await;
        }
        for sort in ["created_at", "-username"] {
            let path = format!("{LIST}?sort={sort}&limit=3&count=true");
            let call = boss.call(Method::GET, &path).header("accept", "application/x-ndjson");
            let answer = call.send().await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
            assert_eq!((answer.header("link"), answer.header("content-length")), (None, None));
            assert!(answer.text.ends_with('\n'));
            let lines = answer.text.lines().map(|line| serde_json::from_str(line).unwrap());
            let users: Vec<Value> = lines.collect();
            let listed = boss.get(&format!("{LIST}?sort={sort}&limit=500")).await;
            let listed = listed.assert_ok(200)["users"].as_array().unwrap().clone();
            assert_eq!(users[..listed.len()], listed);
            let ids: std::collections::HashSet<&str> =
                users.iter().map(|user| user["public_id"].as_str().unwrap()).collect();
            assert_eq!((users.len(), ids.len()), (expected, expected));
        }
    }
}

#[tokio::test]
async fn a_stream_is_filtered_and_checked_like_a_page() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    app.newcomer("ada").await;
    app.newcomer("bob").await;
    let stream = async |query: &str, accept: &str| {
        let call = boss.call(Method::GET, &format!("{LIST}?{query}"));
        call.header("accept", accept).send().await
    };
    let one = stream("q=ADA", "application/x-ndjson").await;
    let line: Value = serde_json::from_str(one.text.trim_end()).unwrap();
    assert_eq!(line, boss.get("/api/v1/users?q=ada").await.json["users"][0]);
    assert_eq!(stream("q=nobody", "text/html, Application/X-NDJSON;q=0.9").await.text, "");
    let first = boss.get(&format!("{LIST}?limit=1")).await;
    let after = format!("after={}", first.json["next"].as_str().unwrap());
    assert_eq!(stream(&after, "application/x-ndjson").await.text.lines().count(), 2);
    let bad = stream("limit=0&role=king", "application/x-ndjson").await;
    bad.assert_fields(&[("limit", "out_of_range"), ("role", "invalid_choice")]);
    assert_eq!(usernames(&stream("", "application/json").await).len(), 3);
    assert_eq!(usernames(&stream("", "*/*").await).len(), 3);
}

#[tokio::test]
async fn a_stream_ends_where_its_reader_is_staff_no_more() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let eve = app.user("eve").await;
    let promoted = json!({ "role": "staff" });
    boss.put(&format!("{LIST}/{}", eve.id()), &promoted).await.assert_ok(200);
    insert_users(&app, 1_200).await;
    for ends_session in [true, false] {
        let eve = app.log_in("eve", PASSWORD).await;
        let call = eve.call(Method::GET, LIST).header("accept", "application/x-ndjson");
        let mut body = call.begin().await;
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"{\"public_id\""), "{}", String::from_utf8_lossy(&first));
        if ends_session {
            eve.post("/api/v1/logout", &json!({})).await.assert_ok(200);
        } else {
            let path = format!("/api/v1/users/{}", eve.id());
            boss.put(&path, &json!({ "role": "user" })).await.assert_ok(200);
        }
        let rest = body.collect().await;
        assert!(rest.is_err(), "the rest is not sent, and not passed off as all there is");
    }
}
