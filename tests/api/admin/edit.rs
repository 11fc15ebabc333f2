//! `PATCH /users/{public_id}`: what an admin changes of a user's profile, and what not.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::admin::staff::{delete_account, staff};
use crate::admin::users::{ME, managed, path};
use crate::harness::answer::only_winner;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;
use crate::limits::{assert_limited, limited};

#[tokio::test]
async fn names_change_at_once_and_the_person_sees_it() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    ada.get(ME).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    let change = json!({ "first_name": " Ada ", "last_name": "King", "username": "Countess" });
    let answer = boss.patch(&path(&ada), &change).await;
    let user = answer.assert_ok(200)["user"].clone();
    assert_eq!(answer.json["updated"], json!(["first_name", "last_name", "username"]));
    assert!(answer.json.get("challenge").is_none(), "{}", answer.text);
    assert_eq!(
        (&user["first_name"], &user["last_name"], &user["username"], &user["modified_at"]),
        (&json!("Ada"), &json!("King"), &json!("Countess"), &json!("2026-01-02T03:05:05.678Z"))
    );
    assert_eq!(managed(&ada.get(ME).await.json["user"]), user);
    assert_eq!(boss.get(&path(&ada)).await.json["user"], user);
    app.log_in("countess", PASSWORD).await;
    // Once more it changes nothing, and is on record once.
    app.clock.advance(TimeDelta::minutes(1));
    let again = boss.patch(&path(&ada), &change).await;
    assert_eq!(again.assert_ok(200), &json!({ "success": true, "user": user, "updated": [] }));
    let sql = "select user_id::text, actor_id::text, details from audit_log where event = 'profile_edited'";
    let record: Vec<(String, String, Value)> =
        sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
    let fields = json!({ "fields": ["first_name", "last_name", "username"] });
    assert_eq!(record, [(ada.id().to_owned(), boss.id().to_owned(), fields)]);
}

#[tokio::test]
async fn an_unverified_address_is_replaced_at_once_and_its_reader_confirms_it() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    let old = link_in(&app.letter_to(&email_of("ada")).await);
    let answer = boss.patch(&path(&ada), &json!({ "email": "countess@example.com" })).await;
    let user = &answer.assert_ok(200)["user"];
    assert_eq!(
        (&user["email"], &user["email_verified"], &user["pending_email"]),
        (&json!("countess@example.com"), &json!(false), &Value::Null)
    );
    assert_eq!(answer.json["updated"], json!(["email"]));
    // The one that nobody has confirmed is not told.
    let link = link_in(&app.letter_to("countess@example.com").await);
    app.anonymous().get(&old).await.assert_error(410, "link_expired");
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(boss.get(&path(&ada)).await.json["user"]["email_verified"], true);
}

#[tokio::test]
async fn a_verified_address_stays_until_the_new_one_is_confirmed_and_is_told() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let answer = boss.patch(&path(&ada), &json!({ "email": "countess@example.com" })).await;
    let user = &answer.assert_ok(200)["user"];
    assert_eq!(
        (&user["email"], &user["email_verified"], &user["pending_email"]),
        (&json!(email_of("ada")), &json!(true), &json!("countess@example.com"))
    );
    assert_eq!(answer.json["updated"], json!(["pending_email"]));
    let letters = app.deliver_mail().await;
    let mut to: Vec<&str> = letters.iter().map(|letter| letter.to.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["ada@example.com", "countess@example.com"]);
    let link = letters.iter().find(|letter| letter.to == "countess@example.com").map(link_in);
    app.anonymous().get(&link.unwrap()).await.assert_ok(200);
    let user = &boss.get(&path(&ada)).await.json["user"];
    assert_eq!(
        (&user["email"], &user["pending_email"]),
        (&json!("countess@example.com"), &Value::Null)
    );
    // Its own address again takes a pending one back, and causes no letter.
    boss.patch(&path(&ada), &json!({ "email": "third@example.com" })).await.assert_ok(200);
    let back = boss.patch(&path(&ada), &json!({ "email": "COUNTESS@example.com" })).await;
    assert_eq!(back.assert_ok(200)["user"]["pending_email"], Value::Null);
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn what_an_admin_may_not_set_is_no_field() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    let before = boss.get(&path(&ada)).await.json["user"].clone();
    for field in ["password", "new_password", "email_verified", "role", "public_id", "banned"] {
        let answer = boss.patch(&path(&ada), &json!({ field: "x" })).await;
        answer.assert_fields(&[(field, "unknown_parameter")]);
        let beside = json!({ field: true, "first_name": "" });
        let answer = boss.patch(&path(&ada), &beside).await;
        assert_eq!(answer.assert_ok(200)["user"], before, "{field}");
    }
    app.log_in("ada", PASSWORD).await;
    for (body, fields) in [
        (json!({ "username": "x" }), &[("username", "too_short")][..]),
        (
            json!({ "username": "root", "email": "no" }),
            &[("username", "reserved"), ("email", "invalid_email")],
        ),
        (json!({ "first_name": 1 }), &[("first_name", "invalid_type")]),
        (json!({ "last_name": "a\u{7}" }), &[("last_name", "invalid_characters")]),
    ] {
        boss.patch(&path(&ada), &body).await.assert_fields(fields);
    }
    boss.patch(&path(&ada), &json!([])).await.assert_error(400, "malformed_request");
    assert_eq!(boss.get(&path(&ada)).await.json["user"], before);
}

#[tokio::test]
async fn a_name_and_an_address_that_are_taken_are_named_both() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    app.user("bob").await;
    let both = json!({ "username": "BOB", "email": "Bob@example.com", "first_name": "Ada" });
    let answer = boss.patch(&path(&ada), &both).await;
    answer.assert_error(409, "username_taken");
    let errors = answer.json["errors"].as_array().unwrap();
    let fields: Vec<&str> = errors.iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["username", "email"]);
    // An address that is to wait beside a verified one, too.
    let cid = app.user("cid").await;
    let answer = boss.patch(&path(&cid), &json!({ "email": email_of("bob") })).await;
    answer.assert_error(409, "email_taken");
    let user = &boss.get(&path(&ada)).await.json["user"];
    assert_eq!((&user["username"], &user["first_name"]), (&json!("ada"), &json!("")));
    let sql =
        "select actor_id::text, details from audit_log where event = 'already_taken' order by id";
    let record: Vec<(String, Value)> = sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap();
    let by_boss = |code: &str| (boss.id().to_owned(), json!({ "code": code }));
    assert_eq!(record, [by_boss("username_taken"), by_boss("email_taken")]);
}

#[tokio::test]
async fn of_twenty_who_are_to_have_one_name_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut people: Vec<Person> = Vec::new();
    for number in 0..20 {
        people.push(app.newcomer(&format!("user{number}")).await);
    }
    let answers = at_once(20, |number| {
        let (boss, target) = (boss.clone(), path(&people[number]));
        async move { boss.patch(&target, &json!({ "username": "only" })).await }
    });
    only_winner(&answers.await, 409, "username_taken");
}

#[tokio::test]
async fn an_edit_is_an_admins_alone_with_a_fresh_proof_and_of_an_account_that_is_there() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (sam, ada) = (staff(&app, &boss).await, app.user("ada").await);
    let (target, change) = (path(&ada), json!({ "first_name": "Eve" }));
    app.clock.advance(TimeDelta::minutes(15));
    app.anonymous().patch(&target, &change).await.assert_error(401, "token_missing");
    for person in [&ada, &sam] {
        person.patch(&target, &change).await.assert_error(403, "forbidden");
        person.patch(&path(person), &change).await.assert_error(403, "forbidden");
    }
    boss.patch(&target, &change).await.assert_error(401, "step_up_required");
    let boss = app.log_in("boss", PASSWORD).await;
    for nobody in ["nobody", "01a20590-0000-7000-8000-000000000000"] {
        let answer = boss.patch(&format!("/api/v1/users/{nobody}"), &json!({ "x": 1 })).await;
        answer.assert_error(404, "user_not_found");
    }
    // Their own, and that of somebody who is banned.
    boss.patch(&path(&boss), &json!({ "first_name": "Boss" })).await.assert_ok(200);
    boss.put(&format!("{target}/ban"), &json!({ "reason": "spam" })).await.assert_ok(200);
    let answer = boss.patch(&target, &json!({ "first_name": "Ada" })).await;
    assert_eq!(answer.assert_ok(200)["user"]["banned"]["reason"], "spam");
    delete_account(&app, &ada).await;
    boss.patch(&target, &change).await.assert_error(404, "user_not_found");
}

#[tokio::test]
async fn an_address_is_told_of_each_change_or_the_change_is_refused() {
    let app = limited().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    app.deliver_mail().await;
    let change = async |number: usize| {
        let email = format!("ada{number}@example.com");
        boss.patch(&path(&ada), &json!({ "email": email })).await
    };
    for number in 0..3 {
        change(number).await.assert_ok(200);
        assert_eq!(app.deliver_mail().await.len(), 2);
    }
    assert_limited(&change(3).await, "mail_recipient_hour", 3600);
    assert_eq!(app.deliver_mail().await.len(), 0);
    let pending = boss.get(&path(&ada)).await.json["user"]["pending_email"].clone();
    assert_eq!(pending, "ada2@example.com");
    // Another name takes no letter.
    boss.patch(&path(&ada), &json!({ "first_name": "Ada" })).await.assert_ok(200);
}

#[tokio::test]
async fn an_admin_who_is_banned_half_way_through_an_edit_comes_too_late() {
    let app = TestApp::start().await;
    let (eve, ada) = (app.admin_called("eve").await, app.user("ada").await);
    app.admin().await;
    let mut ban = app.pool.begin().await.unwrap();
    // The lock that every act of an admin takes first, and the ban.
    let sql = "with held as (select pg_advisory_xact_lock(x'61646d696e73'::bigint))
               update users set banned_at = now() from held where username = 'eve'";
    sqlx::query(sql).execute(&mut *ban).await.unwrap();
    let commit = async {
        crate::harness::wait::lock_waits(&app.pool, 1).await;
        ban.commit().await.unwrap();
    };
    let (target, change) = (path(&ada), json!({ "first_name": "Eve" }));
    let (answer, ()) = tokio::join!(eve.patch(&target, &change), commit);
    answer.assert_error(403, "forbidden");
    assert_eq!(ada.get(ME).await.json["user"]["first_name"], "");
}

/// A stolen session, fresh as every one is after its login, must not move the account away.
#[tokio::test]
async fn an_admins_own_verified_address_is_changed_with_the_password_alone() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let change = json!({ "email": "thief@example.com" });
    boss.patch(&path(&boss), &change).await.assert_error(409, "not_yourself");
    boss.patch(&path(&boss), &json!({ "first_name": "Bo" })).await.assert_ok(200);
    assert_eq!(boss.get(ME).await.json["user"]["pending_email"], Value::Null);
    // Of another's change the letter says who has made it.
    let ada = app.user("ada").await;
    boss.patch(&path(&ada), &json!({ "email": "new@example.com" })).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let told = letters.iter().find(|letter| letter.to == email_of("ada")).unwrap();
    assert!(told.text.contains("An administrator of"), "{}", told.text);
    assert!(!told.text.contains("knows your password"), "{}", told.text);
}
