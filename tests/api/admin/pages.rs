//! `GET /users/`, page by page: in each order every user comes once, whoever else comes and goes
//! meanwhile.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::person::Person;

const LIST: &str = "/api/v1/users/";
const SORTS: [&str; 4] = ["created_at", "modified_at", "username", "email"];

/// An admin and 49 users, whose order differs in each column; ten at a time share an instant.
async fn fifty_users(app: &TestApp) -> Person {
    let boss = app.admin().await;
    for n in 1..50 {
        let name = format!("{}user{}", if n % 2 == 0 { "" } else { "X" }, n * 37 % 50);
        let form = json!({
            "username": name, "email": format!("Mail{}@example.com", n * 13 % 50),
            "password": crate::harness::person::PASSWORD, "first_name": if n % 3 == 0 { "Third" } else { "" },
        });
        if n % 10 == 0 {
            app.clock.advance(TimeDelta::seconds(1));
        }
        app.anonymous().post(LIST, &form).await.assert_ok(201);
    }
    for n in [7, 3, 11] {
        app.clock.advance(TimeDelta::seconds(1));
        let person =
            app.log_in(&format!("mail{n}@example.com"), crate::harness::person::PASSWORD).await;
        person.put("/api/v1/users/me", &json!({ "last_name": "Late" })).await.assert_ok(200);
    }
    boss
}

fn users(answer: &Answer) -> Vec<Value> {
    answer.assert_ok(200)["users"].as_array().unwrap().clone()
}

fn id(user: &Value) -> &str {
    user["public_id"].as_str().unwrap()
}

/// All users of all pages, following `next`; `between` is run between two of them.
async fn walk(boss: &Person, query: &str, mut between: impl AsyncFnMut(usize)) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    for page in 0..100 {
        let answer = boss.get(&format!("{LIST}?{query}{after}")).await;
        let found = users(&answer);
        let next = answer.json["next"].as_str().map(str::to_owned);
        assert_eq!(answer.header("link").is_some(), next.is_some());
        all.extend(found);
        let Some(next) = next else { return all };
        after = format!("&after={next}");
        between(page).await;
    }
    panic!("the pages do not end");
}

/// What `sort` sorts by, in the order of bytes.
fn key(user: &Value, sort: &str) -> (String, String) {
    (user[sort].as_str().unwrap().to_lowercase(), id(user).to_owned())
}

#[tokio::test]
async fn the_pages_of_every_order_hold_every_user_once() {
    let app = TestApp::start().await;
    let boss = fifty_users(&app).await;
    for sort in SORTS {
        let mut expected = users(&boss.get(&format!("{LIST}?limit=500")).await);
        assert_eq!(expected.len(), 50);
        expected.sort_by_key(|user| key(user, sort));
        for limit in [1, 7, 25, 49, 50] {
            let query = format!("sort={sort}&limit={limit}");
            assert_eq!(walk(&boss, &query, async |_| {}).await, expected, "{query}");
        }
        expected.reverse();
        let query = format!("sort=-{sort}&limit=7");
        assert_eq!(walk(&boss, &query, async |_| {}).await, expected, "{query}");
    }
}

#[tokio::test]
async fn users_who_come_and_go_meanwhile_shift_nobody() {
    let app = TestApp::start().await;
    let boss = fifty_users(&app).await;
    let stay = users(&boss.get(&format!("{LIST}?limit=500")).await);
    for (round, sort) in
        SORTS.into_iter().flat_map(|sort| [sort.to_owned(), format!("-{sort}")]).enumerate()
    {
        let mut guests: Vec<String> = Vec::new();
        let seen = walk(&boss, &format!("sort={sort}&limit=7"), async |page| {
            // Guests at either end of the alphabet, and one of them is gone again by the next page.
            for name in [format!("0guest{round}x{page}"), format!("zguest{round}x{page}")] {
                let form = json!({
                    "username": name, "email": format!("{name}@example.com"),
                    "password": crate::harness::person::PASSWORD,
                });
                let answer = app.anonymous().post(LIST, &form).await;
                guests.push(id(&answer.assert_ok(201)["user"]).to_owned());
            }
            let gone = guests.swap_remove(page % guests.len());
            boss.delete(&format!("{LIST}{gone}")).await.assert_ok(200);
        })
        .await;
        let mut ids: Vec<&str> = seen.iter().map(id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{sort}: somebody came twice");
        for user in &stay {
            assert!(ids.binary_search(&id(user)).is_ok(), "{sort}: {user} is missing");
        }
        for guest in guests {
            boss.delete(&format!("{LIST}{guest}")).await.assert_ok(200);
        }
    }
}

#[tokio::test]
async fn the_page_goes_on_where_its_last_user_stood_though_they_are_gone() {
    let app = TestApp::start().await;
    let boss = fifty_users(&app).await;
    let sorted = format!("{LIST}?sort=email&limit=10");
    let first = boss.get(&sorted).await;
    let second =
        users(&boss.get(&format!("{sorted}&after={}", first.json["next"].as_str().unwrap())).await);
    let last = users(&first).pop().unwrap();
    assert_ne!(id(&last), boss.id());
    boss.delete(&format!("{LIST}{}", id(&last))).await.assert_ok(200);
    let after = first.json["next"].as_str().unwrap();
    assert_eq!(users(&boss.get(&format!("{sorted}&after={after}")).await), second);
}

#[tokio::test]
async fn the_link_header_leads_through_the_same_pages() {
    let app = TestApp::start().await;
    let boss = fifty_users(&app).await;
    // Some of whom the filter keeps out.
    for letter in app.deliver_mail().await.iter().take(10) {
        app.anonymous().get(&link_in(letter)).await.assert_ok(200);
    }
    let query = "limit=5&sort=-username&q=us%65r&role=User&email_verified=false&count=true";
    let expected = walk(&boss, query, async |_| {}).await;
    assert_eq!(expected.len(), 49 - 10);
    let (mut all, mut path) = (Vec::new(), format!("{LIST}?{query}"));
    loop {
        let answer = boss.get(&path).await;
        all.extend(users(&answer));
        assert_eq!(answer.json["count"], expected.len());
        let Some(link) = answer.header("link") else { break };
        let target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        let next = answer.json["next"].as_str().unwrap();
        assert!(target.ends_with(&format!("&after={next}")), "{target}");
        target.strip_prefix(PUBLIC_URL).unwrap().clone_into(&mut path);
    }
    assert_eq!(all, expected);
}

#[tokio::test]
async fn filters_hold_on_every_page() {
    let app = TestApp::start().await;
    let boss = fifty_users(&app).await;
    let thirds = walk(&boss, "q=third&limit=3", async |_| {}).await;
    assert_eq!(thirds.len(), 16);
    assert!(thirds.iter().all(|user| user["first_name"] == "Third"));
}

#[tokio::test]
async fn a_cursor_is_good_for_the_order_that_it_was_made_in() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    app.newcomer("ada").await;
    let sorts: Vec<String> =
        SORTS.iter().flat_map(|sort| [(*sort).to_owned(), format!("-{sort}")]).collect();
    for made in &sorts {
        let page = boss.get(&format!("{LIST}?sort={made}&limit=1")).await;
        let cursor = page.assert_ok(200)["next"].as_str().unwrap();
        for used in &sorts {
            let answer = boss.get(&format!("{LIST}?sort={used}&after={cursor}")).await;
            if used == made {
                assert_eq!(users(&answer).len(), 1);
            } else {
                answer.assert_fields(&[("after", "invalid_cursor")]);
            }
        }
        let default = boss.get(&format!("{LIST}?after={cursor}")).await;
        assert_eq!(default.status == 200, made == "created_at", "{}", default.text);
    }
}

#[tokio::test]
async fn a_cursor_that_somebody_made_up_is_refused() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let good = boss.id();
    let made = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for cursor in [
        "x".into(),
        "%00".into(),
        "....".into(),
        "a".repeat(4_000),
        good.to_owned(),
        URL_SAFE_NO_PAD.encode("no JSON"),
        URL_SAFE_NO_PAD.encode(b"\xff\xff"),
        made(json!(null)),
        made(json!([])),
        made(json!(["created_at", "0"])),
        made(json!(["created_at", 0, good])),
        made(json!(["created_at", "yesterday", good])),
        made(json!(["created_at", "", good])),
        made(json!(["created_at", "0", "nobody"])),
        made(json!(["created_at", "0", good, "more"])),
        made(json!(["password_hash", "x", good])),
        // Instants that PostgreSQL has no place for, though other calendars do.
        made(json!(["created_at", "99999999999999999999999", good])),
        made(json!(["created_at", "9223372036854775807", good])),
        made(json!(["created_at", "-9223372036854775808", good])),
        made(json!(["created_at", "8200000000000000000", good])),
        made(json!(["created_at", "-6000000000000000000", good])),
        made(json!(["created_at", "-215000000000000000", good])),
    ] {
        let answer = boss.get(&format!("{LIST}?after={cursor}")).await;
        assert_eq!(answer.status, 422, "{cursor:.200}");
        assert_eq!(answer.json["errors"][0]["field"], "after");
    }
    let nul = made(json!(["username", "a\u{0}", good]));
    let answer = boss.get(&format!("{LIST}?sort=username&after={nul}")).await;
    answer.assert_fields(&[("after", "invalid_cursor")]);
}
