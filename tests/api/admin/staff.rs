//! Staff read of others, and change nobody.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::admin::users::{ME, managed, path};
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person};

const LIST: &str = "/api/v1/users";

/// Somebody whom the admin has made staff.
pub async fn staff(app: &TestApp, boss: &Person) -> Person {
    let mut sam = app.user("sam").await;
    boss.put(&path(&sam), &json!({ "role": "staff" })).await.assert_ok(200);
    sam.user["role"] = json!("staff");
    sam
}

/// As if the person had asked for their account to be deleted.
pub async fn delete_account(app: &TestApp, person: &Person) {
    let sql = "update users set deleted_at = '2026-01-02T03:00:00Z', purge_at = '2026-02-01'
               where id = $1::uuid";
    sqlx::query(sql).bind(person.id()).execute(&app.pool).await.unwrap();
}

fn usernames(answer: &Answer) -> Vec<&str> {
    let users = answer.assert_ok(200)["users"].as_array().unwrap();
    users.iter().map(|user| user["username"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn staff_see_what_admins_see() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let sam = staff(&app, &boss).await;
    let ada = app.newcomer("ada").await;
    let own = ada.get(ME).await;
    for person in [&boss, &sam] {
        let shown = person.get(&path(&ada)).await;
        assert_eq!(shown.assert_ok(200)["user"], managed(&own.json["user"]));
    }
    for query in ["", "?q=ada", "?role=staff&count=true", "?limit=1"] {
        let both = [&boss, &sam].map(async |person| person.get(&format!("{LIST}{query}")).await);
        let [one, other] = both;
        assert_eq!(one.await.assert_ok(200), other.await.assert_ok(200), "{query}");
    }
    sam.get(&format!("{LIST}/nobody")).await.assert_error(404, "user_not_found");
    sam.get(&format!("{LIST}?limit=0")).await.assert_fields(&[("limit", "out_of_range")]);
    // People see nothing of that in themselves, whoever they are.
    for person in [&ada, &sam, &boss] {
        let own = person.get(ME).await;
        for member in ["banned", "reset_required", "deleted_at"] {
            assert!(own.json["user"].get(member).is_none(), "{}", own.text);
        }
    }
}

#[tokio::test]
async fn every_call_of_admins_is_refused_to_others_before_anything_is_looked_at() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let sam = staff(&app, &boss).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let paths = app.document["paths"].as_object().unwrap();
    let mut met = 0;
    // A proof of who they are is asked of those alone who may call.
    app.clock.advance(TimeDelta::minutes(20));
    for (template, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            if operation["tags"] != json!(["admin"]) {
                continue;
            }
            met += 1;
            let target = template.replace("{public_id}", ada.id());
            let method: Method = method.to_uppercase().parse().unwrap();
            let call = async |person: &Person, body: &str| {
                let call = person.call(method.clone(), &target);
                let call = call.header("content-type", "application/json");
                call.body(body.to_owned()).send().await
            };
            for body in ["", "{", "{\"role\": \"admin\", \"reason\": \"x\", \"letter\": \"reset\"}"]
            {
                let stranger = app.anonymous();
                call(&stranger, body).await.assert_error(401, "token_missing");
                call(&bob, body).await.assert_error(403, "forbidden");
                let answer = call(&sam, body).await;
                if method == Method::GET {
                    answer.assert_ok(200);
                } else {
                    answer.assert_error(403, "forbidden");
                }
            }
        }
    }
    assert!(met >= 9, "{met}");
    let shown = boss.get(&path(&ada)).await;
    assert_eq!(shown.json["user"], managed(&ada.get(ME).await.json["user"]));
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn a_deleted_account_is_shown_to_staff_and_in_no_list() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let sam = staff(&app, &boss).await;
    let ada = app.user("ada").await;
    delete_account(&app, &ada).await;
    for person in [&boss, &sam] {
        let shown = person.get(&path(&ada)).await;
        assert_eq!(shown.assert_ok(200)["user"]["deleted_at"], "2026-01-02T03:00:00.000Z");
        for query in ["", "?q=ada", "?username=ada", "?banned=false"] {
            let listed = person.get(&format!("{LIST}{query}")).await;
            assert!(!usernames(&listed).contains(&"ada"), "{query}");
        }
    }
    // An admin's deletion of it is final.
    boss.delete(&path(&ada)).await.assert_ok(200);
    sam.get(&path(&ada)).await.assert_error(404, "user_not_found");
    app.newcomer("ada").await;
}

#[tokio::test]
async fn a_list_has_the_banned_or_the_others_or_both() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let sam = staff(&app, &boss).await;
    for name in ["ada", "bob", "cid"] {
        let person = app.newcomer(name).await;
        let ban = json!({ "reason": "spam", "until": "2999-01-01T00:00:00Z" });
        boss.put(&format!("{}/ban", path(&person)), &ban).await.assert_ok(200);
    }
    app.newcomer("dan").await;
    // Bob's has run out, and Cid is deleted.
    for sql in [
        "update users set banned_until = now() where username = 'bob'",
        "update users set deleted_at = now(), purge_at = now() where username = 'cid'",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    for (query, expected) in [
        ("banned=true", &["ada"][..]),
        ("banned=1&q=a", &["ada"]),
        ("banned=true&role=staff", &[]),
        ("banned=false", &["bob", "boss", "dan", "sam"]),
        ("banned=FALSE&email_verified=true", &["boss", "sam"]),
        ("banned=", &["ada", "bob", "boss", "dan", "sam"]),
    ] {
        for sort in ["username", "-email", "created_at", "-modified_at"] {
            let listed = sam.get(&format!("{LIST}?{query}&sort={sort}&count=true")).await;
            let mut found = usernames(&listed);
            found.sort_unstable();
            assert_eq!(found, expected, "{query}");
            assert_eq!(listed.json["count"], expected.len());
        }
    }
    sam.get(&format!("{LIST}?banned=maybe")).await.assert_fields(&[("banned", "invalid_choice")]);
    let listed = sam.get(&format!("{LIST}?banned=true")).await;
    let expected =
        json!({ "until": "2999-01-01T00:00:00.000Z", "reason": "spam", "by": boss.id() });
    assert_eq!(listed.json["users"][0]["banned"], expected);
    let shown = sam.get(&format!("{LIST}?username=bob")).await;
    assert_eq!(shown.json["users"][0]["banned"], Value::Null);
    app.log_in("bob", PASSWORD).await;
}

#[tokio::test]
async fn that_a_reset_is_required_is_shown() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (sam, ada) = (staff(&app, &boss).await, app.user("ada").await);
    let sql = "update users set reset_required_at = now() where username = 'ada'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    assert_eq!(sam.get(&path(&ada)).await.assert_ok(200)["user"]["reset_required"], true);
}
