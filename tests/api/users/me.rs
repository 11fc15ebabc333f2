//! `/users/me`: what a user sees of themselves, and what they change.

use axum::http::Method;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::answer::only_winner;
use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::ended_half_way;
use crate::harness::wait::lock_waits;

const ME: &str = "/api/v1/users/me";

/// The user as the API shows it now.
async fn shown(person: &Person) -> Value {
    person.get(ME).await.assert_ok(200)["user"].clone()
}

#[tokio::test]
async fn users_see_themselves_by_get_and_by_post() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let expected = json!({
        "success": true,
        "user": {
            "public_id": ada.id(), "first_name": "", "last_name": "", "username": "ada",
            "email": "ada@example.com", "email_verified": true, "pending_email": null,
            "role": "user", "is_staff": false, "is_admin": false,
            "created_at": "2026-01-02T03:04:05.678Z", "modified_at": "2026-01-02T03:04:05.678Z",
        },
    });
    for path in [ME, "/api/v1/users/me/"] {
        assert_eq!(ada.get(path).await.assert_ok(200), &expected);
        assert_eq!(ada.call(Method::POST, path).send().await.assert_ok(200), &expected);
        // Whatever clients that POST put into it: nobody reads it.
        let call = ada.call(Method::POST, path).header("content-type", "text/plain");
        assert_eq!(call.body("{").send().await.assert_ok(200), &expected);
        let head = ada.call(Method::HEAD, path).send().await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    }
}

#[tokio::test]
async fn what_is_shown_is_what_the_database_says_and_not_what_the_token_says() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let path = format!("/api/v1/users/{}?role=Staff", ada.id());
    boss.put(&path, &json!({})).await.assert_ok(200);
    ada.put(ME, &json!({ "username": "countess" })).await.assert_ok(200);
    let user = shown(&ada).await;
    assert_eq!(
        (&user["username"], &user["role"], &user["is_staff"], &user["is_admin"]),
        (&json!("countess"), &json!("staff"), &json!(true), &json!(false)),
    );
}

#[tokio::test]
async fn only_the_fields_that_are_given_change() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for method in [Method::PUT, Method::PATCH] {
        let update = async |body: Value| {
            app.clock.advance(TimeDelta::minutes(1));
            let before = shown(&ada).await;
            let answer = ada.call(method.clone(), ME).json(&body).send().await;
            let body = answer.assert_ok(200);
            assert_eq!(body["user"], shown(&ada).await);
            assert_eq!(body.as_object().unwrap().len(), 3);
            (before, body["user"].clone(), body["updated"].clone())
        };
        let (before, after, updated) = update(json!({ "first_name": method.as_str() })).await;
        assert_eq!(updated, json!(["first_name"]));
        let mut expected = before;
        expected["first_name"] = json!(method.as_str());
        expected["modified_at"] = after["modified_at"].clone();
        assert_eq!(after, expected);

        let body = json!({ "last_name": method.as_str(), "username": method.as_str() });
        let (before, after, updated) = update(body).await;
        assert_eq!(updated, json!(["last_name", "username"]));
        assert_ne!(before["modified_at"], after["modified_at"]);

        // An empty string is a value; null is none.
        let (_, after, updated) = update(json!({ "first_name": "", "last_name": null })).await;
        assert_eq!(updated, json!(["first_name"]));
        assert_eq!(
            (&after["first_name"], &after["last_name"]),
            (&json!(""), &json!(method.as_str()))
        );
    }
}

#[tokio::test]
async fn a_replay_or_nothing_at_all_changes_nothing() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "first_name": "Ada", "username": "Ada" });
    let first = ada.put(ME, &body).await;
    assert_eq!(first.assert_ok(200)["updated"], json!(["first_name", "username"]));
    app.clock.advance(TimeDelta::minutes(1));
    let own_email = json!({ "email": "ada@example.com" });
    let unknown_beside = json!({ "first_name": null, "x": 1, "password": PASSWORD });
    let nothing = json!({ "first_name": null, "email": null });
    for body in [body, json!({}), own_email, nothing, unknown_beside] {
        let answer = ada.put(ME, &body).await;
        assert_eq!(answer.assert_ok(200)["updated"], json!([]));
        assert_eq!(answer.json["user"], first.json["user"]);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn one_bad_field_changes_nothing() {
    let app = TestApp::start().await;
    let (ada, _) = (app.user("ada").await, app.user("bob").await);
    let newcomer = app.newcomer("cyd").await;
    app.deliver_mail().await;
    for person in [&ada, &newcomer] {
        let before = shown(person).await;
        let update = async |fields: Value| {
            let mut body = json!({
                "first_name": "New", "last_name": "New", "email": "new@example.com", "password": PASSWORD,
            });
            let Value::Object(fields) = fields else { panic!("fields are an object") };
            body.as_object_mut().unwrap().extend(fields);
            let answer = person.patch(ME, &body).await;
            assert_eq!(shown(person).await, before);
            answer
        };
        update(json!({ "username": "x" })).await.assert_fields(&[("username", "too_short")]);
        update(json!({ "username": "root" })).await.assert_fields(&[("username", "reserved")]);
        let answer = update(json!({ "first_name": "\u{1b}" })).await;
        answer.assert_fields(&[("first_name", "invalid_characters")]);
        let answer = update(json!({ "last_name": "x".repeat(101) })).await;
        answer.assert_fields(&[("last_name", "too_long")]);
        let answer = update(json!({ "email": "new@" })).await;
        answer.assert_fields(&[("email", "invalid_email")]);
        let answer = update(json!({ "password": 1 })).await;
        answer.assert_fields(&[("password", "invalid_type")]);
        update(json!({ "username": "BOB" })).await.assert_error(409, "username_taken");
        update(json!({ "email": "BOB@example.com" })).await.assert_error(409, "email_taken");
        let all = json!({ "username": 1, "email": [], "first_name": true, "last_name": {} });
        update(all).await.assert_fields(&[
            ("first_name", "invalid_type"),
            ("last_name", "invalid_type"),
            ("username", "invalid_type"),
            ("email", "invalid_type"),
        ]);
        assert_eq!(update(json!({ "x": "\u{0}" })).await.status, 422);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
    // Nothing of it stuck to the names either.
    app.newcomer("new").await;
}

#[tokio::test]
async fn fields_of_which_none_can_change_are_refused_by_name() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let unknown = |field| (field, "unknown_parameter");
    for method in [Method::PUT, Method::PATCH] {
        let update = async |body: Value| ada.call(method.clone(), ME).json(&body).send().await;
        update(json!({ "firstName": "Ada" })).await.assert_fields(&[unknown("firstName")]);
        update(json!({ "x": null })).await.assert_fields(&[unknown("x")]);
        // The password is the proof of a change, and changed elsewhere.
        let alone = update(json!({ "password": "a different good one" })).await;
        alone.assert_fields(&[unknown("password")]);
        let several = update(json!({ "role": "admin", "is_admin": true })).await;
        several.assert_fields(&[unknown("is_admin"), unknown("role")]);
        // Beside one that can change they are passed over, as everywhere.
        let beside = update(json!({ "role": "admin", "first_name": method.as_str() })).await;
        assert_eq!(beside.assert_ok(200)["updated"], json!(["first_name"]));
        assert_eq!(beside.json["user"]["role"], "user");
    }
}

#[tokio::test]
async fn a_mistyped_field_is_told_the_nearest_one_that_there_is() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let told = async |field: &str| {
        let answer = ada.put(ME, &json!({ field: "Ada" })).await;
        answer.assert_fields(&[(field, "unknown_parameter")]);
        answer.json["errors"][0]["message"].as_str().unwrap().to_owned()
    };
    for (typed, meant) in [
        ("firstName", "first_name"),
        ("firstname", "first_name"),
        ("lastname", "last_name"),
        ("LAST_NAME", "last_name"),
        ("user_name", "username"),
        ("userName", "username"),
        ("e-mail", "email"),
        ("emial", "email"),
    ] {
        assert_eq!(told(typed).await, format!("This is not known here. Is {meant} meant?"));
    }
    let all = "This is not known here. There are first_name, last_name, username, email.";
    for typed in ["x", "role", "public_id", "is_admin"] {
        assert_eq!(told(typed).await, all);
    }
    // However many and long they are, the answer is short.
    let many: serde_json::Map<String, Value> =
        (0..100).map(|n| (format!("{}{n:03}", "x".repeat(100)), json!(1))).collect();
    let answer = ada.put(ME, &Value::Object(many)).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text.len() < 5_000, "{}", answer.text.len());
}

#[tokio::test]
async fn nobody_changes_what_is_not_theirs_to_change() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.newcomer("ada").await, app.newcomer("bob").await);
    let (before, bobs) = (shown(&ada).await, shown(&bob).await);
    let mut body = json!({
        "role": "admin", "is_admin": true, "is_staff": true, "email_verified": true,
        "email_verified_at": "2020-01-01T00:00:00Z", "pending_email": "x@example.com",
        "password_hash": "x", "new_password": "quite another one", "id": bob.id(),
        "public_id": bob.id(), "user_id": bob.id(), "created_at": "2020-01-01T00:00:00Z",
        "modified_at": "2020-01-01T00:00:00Z", "updated": ["role"], "password": "not it at all",
    });
    let answer = ada.put(ME, &body).await;
    let fields = body.as_object().unwrap().keys();
    let refused: Vec<_> = fields.map(|field| (field.as_str(), "unknown_parameter")).collect();
    answer.assert_fields(&refused);
    // Nor beside something that is.
    body["first_name"] = json!("");
    let answer = ada.put(ME, &body).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!([]));
    assert_eq!((shown(&ada).await, shown(&bob).await), (before, bobs));
    app.log_in("ada", PASSWORD).await;
    ada.get("/api/v1/users").await.assert_error(403, "forbidden");
    // Another user's id is a path for admins, whatever one does there.
    let path = format!("/api/v1/users/{}", bob.id());
    ada.put(&path, &json!({ "first_name": "Eve" })).await.assert_error(403, "forbidden");
    ada.get(&path).await.assert_error(403, "forbidden");
}

#[tokio::test]
async fn names_are_kept_as_they_are_at_the_registration() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "username": "\u{200b}Countess\n", "first_name": " Zoe\u{308} " });
    let user = ada.put(ME, &body).await.assert_ok(200)["user"].clone();
    assert_eq!((&user["username"], &user["first_name"]), (&json!("Countess"), &json!("Zo\u{eb}")));
    // The same spelled otherwise is no change.
    let again = json!({ "username": " Countess", "first_name": "Zo\u{eb}" });
    assert_eq!(ada.put(ME, &again).await.assert_ok(200)["updated"], json!([]));
    let unseen = ada.put(ME, &json!({ "last_name": "\u{3164}" })).await;
    unseen.assert_fields(&[("last_name", "invalid_characters")]);
}

#[tokio::test]
async fn a_username_may_change_its_case_and_frees_the_old_name() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = ada.put(ME, &json!({ "username": "ADA" })).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["username"]));
    app.log_in("ada", PASSWORD).await;
    ada.put(ME, &json!({ "username": "countess" })).await.assert_ok(200);
    app.log_in("Countess", PASSWORD).await;
    ada.log_in("ada", PASSWORD).await.assert_error(401, "invalid_credentials");
    let form = json!({ "username": "ada", "email": "a@example.com", "password": PASSWORD });
    app.anonymous().post("/api/v1/users", &form).await.assert_ok(201);
    ada.put(ME, &json!({ "username": "Ada" })).await.assert_error(409, "username_taken");
}

#[tokio::test]
async fn whom_the_operator_gave_a_reserved_name_keeps_it_in_any_spelling() {
    let app = TestApp::start().await;
    let root = app.user("ruth").await;
    sqlx::query("update users set username = 'root'").execute(&app.pool).await.unwrap();
    let answer = root.put(ME, &json!({ "username": "Root", "first_name": "Ruth" })).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["first_name", "username"]));
    let answer = root.put(ME, &json!({ "username": "admin" })).await;
    answer.assert_fields(&[("username", "reserved")]);
}

#[tokio::test]
async fn updates_at_once_do_not_undo_each_other() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let bodies: Vec<Value> = (0..20)
        .map(
            |n| json!({ if n % 2 == 0 { "first_name" } else { "last_name" }: format!("Name {n}") }),
        )
        .collect();
    let answers = join_all(bodies.iter().map(|body| ada.put(ME, body))).await;
    for answer in &answers {
        assert_eq!(answer.assert_ok(200)["updated"].as_array().unwrap().len(), 1);
    }
    let user = shown(&ada).await;
    assert!(bodies.contains(&json!({ "first_name": user["first_name"] })), "{user}");
    assert!(bodies.contains(&json!({ "last_name": user["last_name"] })), "{user}");
}

#[tokio::test]
async fn of_twenty_users_who_want_one_name_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let mut people = Vec::new();
    for n in 0..20 {
        people.push(app.newcomer(&format!("user{n}")).await);
    }
    let body = json!({ "username": "ada", "first_name": "Ada" });
    let answers = join_all(people.iter().map(|person| person.put(ME, &body))).await;
    let won = only_winner(&answers, 409, "username_taken");
    let mut named = 0;
    for person in &people {
        let user = shown(person).await;
        assert_eq!(user["username"] == "ada", user["first_name"] == "Ada");
        named += u32::from(user["username"] == "ada");
    }
    assert_eq!(named, 1);
    let winner = app.log_in("ada", PASSWORD).await;
    assert_eq!(winner.user["email"], won.json["user"]["email"]);
}

#[tokio::test]
async fn a_session_that_ends_half_way_through_changes_nothing() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let names = json!({ "first_name": "Mallory" });
    let answer = ended_half_way(&app, ada.put(ME, &names)).await;
    answer.assert_error(401, "session_ended");
    assert_eq!(app.log_in("ada", PASSWORD).await.user["first_name"], ada.user["first_name"]);
}

/// All that wait for one row would hold all connections.
#[tokio::test]
async fn one_user_who_calls_again_and_again_leaves_connections_for_the_others() {
    // Each process sees to its own.
    let app = TestApp::start().await.alone();
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let mut hold = app.pool.begin().await.unwrap();
    let sql = "select from users where username = 'ada' for update";
    sqlx::query(sql).execute(&mut *hold).await.unwrap();
    let names = json!({ "last_name": "Lovelace" });
    let calls = join_all((0..40).map(|_| ada.put(ME, &names)));
    let others = async {
        lock_waits(&app.pool, 1).await;
        let asked = std::time::Instant::now();
        bob.put(ME, &names).await.assert_ok(200);
        let took = asked.elapsed();
        hold.commit().await.unwrap();
        took
    };
    let (answers, took) = tokio::join!(calls, others);
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    assert!(answers.iter().all(|answer| answer.status == 200));
}

#[tokio::test]
async fn a_call_whose_turn_does_not_come_in_time_is_told_that_there_is_too_much_to_do() {
    let app = TestApp::start().await.alone();
    let ada = app.user("ada").await;
    let names = json!({ "last_name": "Lovelace" });
    let turn = app.state.db.begin_for(ada.id().parse().unwrap()).await.unwrap();
    ada.put(ME, &names).await.assert_error(503, "busy");
    drop(turn);
    ada.put(ME, &names).await.assert_ok(200);
}
