//! `/users/{public_id}`: one user, seen by staff, promoted, demoted and deleted by an admin.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person};

pub const ME: &str = "/api/v1/users/me";
const NOBODY: &str = "01a20590-0000-7000-8000-000000000000";

pub fn path(person: &Person) -> String {
    format!("/api/v1/users/{}", person.id())
}

/// A user as staff and admins see one who is neither banned nor deleted, by what that user sees.
pub fn managed(own: &Value) -> Value {
    let mut user = own.clone();
    user["banned"] = Value::Null;
    user["reset_required"] = json!(false);
    user["deleted_at"] = Value::Null;
    user
}

pub async fn role_of(person: &Person) -> Value {
    person.get(ME).await.assert_ok(200)["user"]["role"].clone()
}

#[tokio::test]
async fn an_admin_sees_anybody_as_they_see_themselves_and_how_their_account_stands() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    for person in [&ada, &boss] {
        let own = person.get(ME).await;
        let expected = json!({ "success": true, "user": managed(&own.json["user"]) });
        assert_eq!(boss.get(&path(person)).await.assert_ok(200), &expected);
        assert_eq!(boss.get(&format!("{}/", path(person))).await.json, expected);
        assert_eq!(
            boss.get(&path(person).to_uppercase().replace("/API/V1/USERS", "/api/v1/users"))
                .await
                .json,
            expected
        );
    }
}

#[tokio::test]
async fn what_is_nobodys_id_is_not_found() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for id in [NOBODY, "nobody", "boss", "1", "%00", "%ff", "..%2fme", "me%20", "' or 1=1", "null"]
    {
        let id = id.replace(' ', "%20");
        let path = format!("/api/v1/users/{id}");
        boss.get(&path).await.assert_error(404, "user_not_found");
        boss.put(&format!("{path}?role=Staff"), &json!({}))
            .await
            .assert_error(404, "user_not_found");
        boss.delete(&path).await.assert_error(404, "user_not_found");
    }
    boss.get("/api/v1/users/a/b").await.assert_error(404, "not_found");
}

#[tokio::test]
async fn whoever_is_no_admin_is_refused_before_anything_is_looked_up() {
    let app = TestApp::start().await;
    let (boss, ada, sam) = (app.admin().await, app.user("ada").await, app.user("sam").await);
    boss.put(&format!("{}?role=staff", path(&sam)), &json!({})).await.assert_ok(200);
    for person in [&ada, &sam] {
        for target in
            [path(&boss), path(person), format!("/api/v1/users/{NOBODY}"), "/api/v1/users/x".into()]
        {
            person.delete(&target).await.assert_error(403, "forbidden");
            for query in ["", "?role=Admin", "?role=king", "?role=user&role=admin", "?role=%00"] {
                let call = person.call(Method::PUT, &format!("{target}{query}"));
                call.send().await.assert_error(403, "forbidden");
                let call = person.call(Method::PUT, &format!("{target}{query}"));
                call.body("{".repeat(70_000)).send().await.assert_error(403, "forbidden");
            }
        }
    }
    ada.get(&path(&boss)).await.assert_error(403, "forbidden");
    ada.get("/api/v1/users/x").await.assert_error(403, "forbidden");
    assert_eq!((role_of(&boss).await, role_of(&ada).await), (json!("admin"), json!("user")));
}

#[tokio::test]
async fn a_role_is_given_by_the_query_or_the_body_in_any_case() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let steps = [
        ("?role=Staff", json!(null), "staff"),
        ("?role=ADMIN", json!({}), "admin"),
        ("", json!({ "role": "User" }), "user"),
        ("", json!({ "role": "sTAFF" }), "staff"),
        ("?role=admin", json!({ "role": "Admin" }), "admin"),
        ("?role=uSER", json!({ "role": null, "x": 1 }), "user"),
    ];
    for (query, body, role) in steps {
        app.clock.advance(TimeDelta::minutes(1));
        let before = boss.get(&path(&ada)).await.json["user"].clone();
        let call = boss.call(Method::PUT, &format!("{}{query}", path(&ada)));
        let call = if body.is_null() { call } else { call.json(&body) };
        let answer = call.send().await;
        let mut user = before.clone();
        user["role"] = json!(role);
        user["is_staff"] = json!(role != "user");
        user["is_admin"] = json!(role == "admin");
        user["modified_at"] = answer.json["user"]["modified_at"].clone();
        let message = format!("ada is {role} now.");
        let expected = json!({ "success": true, "message": message, "user": user });
        assert_eq!(answer.assert_ok(200), &expected);
        assert_ne!(user["modified_at"], before["modified_at"]);
        assert_eq!(boss.get(&path(&ada)).await.json["user"], user);
        // A replay is the same success and changes nothing.
        app.clock.advance(TimeDelta::minutes(1));
        let again = boss.put(&format!("{}?role={role}", path(&ada)), &json!({})).await;
        assert_eq!(again.assert_ok(200), &expected);
    }
}

#[tokio::test]
async fn a_role_has_to_be_one_that_there_is_and_only_one() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let put =
        async |query: &str, body: Value| boss.put(&format!("{}{query}", path(&ada)), &body).await;
    for (query, body, code) in [
        ("", json!({}), "required"),
        ("", json!({ "role": null }), "required"),
        ("", json!({ "is_admin": true, "Role": "admin" }), "required"),
        ("", json!({ "role": "king" }), "invalid_choice"),
        ("", json!({ "role": "" }), "invalid_choice"),
        ("", json!({ "role": " admin" }), "invalid_choice"),
        ("", json!({ "role": ["admin"] }), "invalid_type"),
        ("", json!({ "role": 2 }), "invalid_type"),
        ("", json!({ "role": true }), "invalid_type"),
        ("", json!({ "role": "admin\u{0}" }), "invalid_characters"),
        ("?role=", json!({}), "invalid_choice"),
        ("?role=king", json!({ "role": "admin" }), "invalid_choice"),
        ("?role=admin", json!({ "role": "king" }), "invalid_choice"),
        ("?role=admin%00", json!({}), "invalid_characters"),
        ("?role=admin", json!({ "role": "staff" }), "ambiguous"),
        ("?role=staff", json!({ "role": "ADMIN" }), "ambiguous"),
    ] {
        put(query, body).await.assert_fields(&[("role", code)]);
    }
    put("?role=staff&role=admin", json!({})).await.assert_error(400, "malformed_request");
    put("?role=staff&%72ole=staff", json!({})).await.assert_error(400, "malformed_request");
    put("", json!(["admin"])).await.assert_error(400, "malformed_request");
    let call = boss.call(Method::PUT, &format!("{}?role=staff", path(&ada)));
    call.body("role=admin").send().await.assert_error(415, "unsupported_media_type");
    let call = boss.call(Method::PUT, &format!("{}?role=staff", path(&ada)));
    call.body(" ".repeat(64 * 1024 + 1)).send().await.assert_error(413, "payload_too_large");
    assert_eq!(role_of(&ada).await, "user");
}

#[tokio::test]
async fn nothing_but_the_role_is_changed() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let body = json!({
        "role": "user", "username": "eve", "email": "eve@example.com", "email_verified": false,
        "password": "quite another one", "public_id": NOBODY, "first_name": "Eve",
    });
    let before = boss.get(&path(&ada)).await.json["user"].clone();
    assert_eq!(boss.put(&path(&ada), &body).await.assert_ok(200)["user"], before);
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn nobody_is_promoted_before_their_address_is_verified() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.newcomer("ada").await);
    for role in ["staff", "admin"] {
        let answer = boss.put(&path(&ada), &json!({ "role": role })).await;
        answer.assert_error(409, "email_not_verified");
    }
    assert_eq!(role_of(&ada).await, "user");
    // Down and nowhere are no promotion. Who has a role and no verified address is made so by the
    // operator.
    boss.put(&path(&ada), &json!({ "role": "user" })).await.assert_ok(200);
    let sql = "update users set role = 'admin' where username = 'ada'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    for role in ["admin", "staff", "staff", "user"] {
        boss.put(&path(&ada), &json!({ "role": role })).await.assert_ok(200);
        assert_eq!(role_of(&ada).await, role);
    }
    boss.put(&path(&ada), &json!({ "role": "staff" }))
        .await
        .assert_error(409, "email_not_verified");
}

#[tokio::test]
async fn a_role_counts_from_the_next_request_on() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    ada.get("/api/v1/users").await.assert_error(403, "forbidden");
    boss.put(&path(&ada), &json!({ "role": "admin" })).await.assert_ok(200);
    // With the same token as before, in both directions.
    ada.get("/api/v1/users").await.assert_ok(200);
    ada.put(&path(&boss), &json!({ "role": "staff" })).await.assert_ok(200);
    boss.get("/api/v1/users").await.assert_ok(200);
    ada.put(&path(&boss), &json!({ "role": "user" })).await.assert_ok(200);
    boss.get("/api/v1/users").await.assert_error(403, "forbidden");
    boss.put(&path(&boss), &json!({ "role": "admin" })).await.assert_error(403, "forbidden");
    boss.get(ME).await.assert_ok(200);
}

#[tokio::test]
async fn the_last_admin_is_neither_demoted_nor_deleted() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    for role in ["staff", "user"] {
        boss.put(&path(&boss), &json!({ "role": role })).await.assert_error(409, "last_admin");
    }
    boss.delete(&path(&boss)).await.assert_error(409, "last_admin");
    boss.put(&path(&boss), &json!({ "role": "admin" })).await.assert_ok(200);
    boss.get("/api/v1/users").await.assert_ok(200);
    // With a second one either may go, but not both.
    boss.put(&path(&ada), &json!({ "role": "admin" })).await.assert_ok(200);
    boss.delete(&path(&boss)).await.assert_ok(200);
    ada.delete(&path(&ada)).await.assert_error(409, "last_admin");
    ada.put(&path(&ada), &json!({ "role": "user" })).await.assert_error(409, "last_admin");
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_their_name_and_address_are_free() {
    let app = TestApp::start().await;
    let (boss, mut ada) = (app.admin().await, app.newcomer("ada").await);
    let link = link_in(&app.letter_to("ada@example.com").await);
    // One more letter waits.
    ada.call(Method::POST, "/api/v1/users/me/verify_email").send().await.assert_ok(202);
    let answer = boss.delete(&path(&ada)).await;
    let expected = json!({ "success": true, "message": "The user is deleted." });
    assert_eq!(answer.assert_ok(200), &expected);

    ada.get(ME).await.assert_error(401, "session_ended");
    ada.refresh().await.assert_error(401, "session_ended");
    ada.log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    assert_eq!(app.deliver_mail().await.len(), 0);
    boss.get(&path(&ada)).await.assert_error(404, "user_not_found");
    boss.delete(&path(&ada)).await.assert_error(404, "user_not_found");
    boss.put(&path(&ada), &json!({ "role": "user" })).await.assert_error(404, "user_not_found");
    let sql = "select count(*) from sessions where user_id::text = $1";
    let sessions: i64 = sqlx::query_scalar(sql).bind(ada.id()).fetch_one(&app.pool).await.unwrap();
    assert_eq!(sessions, 0);

    let again = app.newcomer("ada").await;
    assert_ne!(again.id(), ada.id());
    ada.get(ME).await.assert_error(401, "session_ended");
}

#[tokio::test]
async fn what_admins_do_is_on_record() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let record = async || -> Vec<(String, String, String, Value)> {
        let sql = "select event, user_id::text, actor_id::text, details from audit_log
                   where event in ('role_changed', 'user_deleted') order by id";
        sqlx::query_as(sql).fetch_all(&app.pool).await.unwrap()
    };
    boss.put(&path(&ada), &json!({ "role": "user" })).await.assert_ok(200);
    boss.put(&path(&ada), &json!({ "role": "king" }))
        .await
        .assert_fields(&[("role", "invalid_choice")]);
    boss.delete(&path(&boss)).await.assert_error(409, "last_admin");
    assert_eq!(record().await, []);
    boss.put(&path(&ada), &json!({ "role": "staff" })).await.assert_ok(200);
    boss.delete(&path(&ada)).await.assert_ok(200);
    let entry = |event: &str, details| {
        (event.to_owned(), ada.id().to_owned(), boss.id().to_owned(), details)
    };
    let expected = [
        entry("role_changed", json!({ "from": "user", "to": "staff" })),
        entry("user_deleted", json!({ "role": "staff" })),
    ];
    assert_eq!(record().await, expected);
}
