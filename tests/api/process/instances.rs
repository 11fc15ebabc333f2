//! Two instances on one database: what one of them has decided, the other one has to know.

use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::forge;
use crate::harness::person::{PASSWORD, Person};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

async fn two_instances() -> [TestApp; 2] {
    let database = new_database().await;
    [TestApp::on(&database, &[]).await, TestApp::on(&database, &[]).await]
}

/// The same person, calling another instance.
pub fn at(app: &TestApp, person: &Person) -> Person {
    Person { app: app.clone(), ..person.clone() }
}

async fn admins(app: &TestApp) -> i64 {
    let sql = "select count(*) from users where role = 'admin'";
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

pub fn path_of(person: &Person) -> String {
    format!("/api/v1/users/{}", person.id())
}

pub async fn set_role(caller: &Person, person: &Person, role: &str) -> Answer {
    caller.put(&format!("{}?role={role}", path_of(person)), &json!({})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_20_who_register_one_name_at_once_one_has_it() {
    let apps = two_instances().await;
    let answers = at_once(20, |number| {
        let person = apps[number % 2].anonymous();
        // Every other one in another spelling.
        let username = if number % 3 == 0 { "Wanted" } else { "wanted" };
        let email = format!("user{number}@example.com");
        let body = json!({ "username": username, "email": email, "password": PASSWORD });
        async move { person.post("/api/v1/users/", &body).await }
    })
    .await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(made.len(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.assert_error(409, "username_taken");
    }
    let user = &made[0].json["user"];
    for app in &apps {
        assert_eq!(app.log_in("wanted", PASSWORD).await.user, *user);
    }
    // Nobody who was refused gets a letter, and the one letter is sent once.
    let letters: Vec<_> = [apps[0].deliver_mail().await, apps[1].deliver_mail().await].concat();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].to, user["email"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_refreshes_at_once_over_both_are_one_lineage() {
    let apps = two_instances().await;
    let ada = apps[0].newcomer("ada").await;
    let mut token = ada.refresh.clone().unwrap();
    for round in 1..=5 {
        let answers = at_once(20, |number| {
            let (person, token) = (apps[number % 2].anonymous(), token.clone());
            async move { person.refresh_with(&token).await }
        })
        .await;
        token = answers[0].assert_ok(200)["refresh_token"].as_str().unwrap().to_owned();
        assert_eq!(forge::read(&token).1["counter"], round);
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.assert_ok(200)["refresh_token"], token);
            let mut holder = apps[(number + 1) % 2].anonymous();
            holder.access = answer.json["token"].as_str().map(str::to_owned);
            holder.get("/api/v1/users/me").await.assert_ok(200);
        }
    }
}

#[tokio::test]
async fn what_ends_at_one_instance_has_ended_at_the_other() {
    let [one, other] = two_instances().await;
    let boss = one.admin().await;
    let ada = one.newcomer("ada").await;
    at(&other, &ada).get("/api/v1/users/me").await.assert_ok(200);
    ada.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    at(&other, &ada).get("/api/v1/users/me").await.assert_error(401, "session_ended");
    let bob = one.user("bob").await;
    set_role(&boss, &bob, "admin").await.assert_ok(200);
    at(&other, &bob).get("/api/v1/users/").await.assert_ok(200);
    set_role(&at(&other, &boss), &bob, "user").await.assert_ok(200);
    bob.get("/api/v1/users/").await.assert_error(403, "forbidden");
    at(&other, &boss).delete(&path_of(&bob)).await.assert_ok(200);
    bob.get("/api/v1/users/me").await.assert_error(401, "session_ended");
}

/// Both calls have been let in as an admin's and wait for the admins' rows.
async fn meet_at_the_rows<T: Send + 'static>(
    app: &TestApp,
    one: impl Future<Output = T> + Send + 'static,
    other: impl Future<Output = T> + Send + 'static,
) -> (T, T) {
    let mut rows = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *rows).await.unwrap();
    let one = tokio::spawn(one);
    lock_waits(&app.pool, 1).await;
    let other = tokio::spawn(other);
    lock_waits(&app.pool, 2).await;
    rows.rollback().await.unwrap();
    (one.await.unwrap(), other.await.unwrap())
}

#[tokio::test]
async fn of_two_admins_who_demote_each_other_the_second_comes_too_late() {
    let [one, other] = two_instances().await;
    let (ann, bob) = (one.admin_called("ann").await, at(&other, &one.admin_called("bob").await));
    let demote = |caller: &Person, person: &Person| {
        let (caller, person) = (caller.clone(), person.clone());
        async move { set_role(&caller, &person, "user").await }
    };
    let (first, second) = meet_at_the_rows(&one, demote(&ann, &bob), demote(&bob, &ann)).await;
    first.assert_ok(200);
    second.assert_error(403, "forbidden");
    set_role(&ann, &bob, "admin").await.assert_ok(200);
    // Each themselves.
    let (first, second) = meet_at_the_rows(&one, demote(&bob, &bob), demote(&ann, &ann)).await;
    first.assert_ok(200);
    second.assert_error(409, "last_admin");
    assert_eq!(admins(&one).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_admins_who_demote_each_other_200_times_leave_one() {
    let apps = two_instances().await;
    let people = [apps[0].admin_called("ann").await, apps[0].admin_called("bob").await];
    for round in 0..200 {
        let answers = at_once(2, |number| {
            let caller = at(&apps[(number + round) % 2], &people[number]);
            // Every fourth time both want to step down themselves.
            let person = people[if round % 4 == 3 { number } else { 1 - number }].clone();
            async move { set_role(&caller, &person, "user").await }
        })
        .await;
        assert_eq!(admins(&apps[0]).await, 1, "round {round}");
        let won = answers.iter().position(|answer| answer.status == 200).unwrap();
        match answers[1 - won].code() {
            "last_admin" => assert_eq!((round % 4, answers[1 - won].status.as_u16()), (3, 409)),
            code => assert_eq!((code, answers[1 - won].status.as_u16()), ("forbidden", 403)),
        }
        let (demoted, left) = if round % 4 == 3 { (won, 1 - won) } else { (1 - won, won) };
        set_role(&people[left], &people[demoted], "admin").await.assert_ok(200);
    }
    assert_eq!(admins(&apps[0]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_admin_is_not_deleted_by_two_calls_at_once() {
    let apps = two_instances().await;
    for round in 0..20 {
        let names = [format!("ann{round}"), format!("bob{round}")];
        let people = [apps[0].admin_called(&names[0]).await, apps[1].admin_called(&names[1]).await];
        // Each other, or each themselves.
        let answers = at_once(2, |number| {
            let caller = at(&apps[number], &people[number]);
            let path = path_of(&people[if round % 2 == 0 { 1 - number } else { number }]);
            async move { caller.delete(&path).await }
        })
        .await;
        let won = answers.iter().position(|answer| answer.status == 200).unwrap();
        let late = &answers[1 - won];
        match late.code() {
            // Deleted, together with the session.
            "session_ended" => assert_eq!((round % 2, late.status.as_u16()), (0, 401)),
            "forbidden" => assert_eq!((round % 2, late.status.as_u16()), (0, 403)),
            code => assert_eq!((code, round % 2), ("last_admin", 1)),
        }
        assert_eq!(admins(&apps[0]).await, 1, "round {round}");

        let left = &people[if round % 2 == 0 { won } else { 1 - won }];
        let answers = at_once(2, |number| {
            let caller = at(&apps[number], left);
            async move { caller.delete(&path_of(&caller)).await }
        })
        .await;
        for answer in &answers {
            answer.assert_error(409, "last_admin");
        }
        // Makes room for the next two: no call could.
        let sql = "delete from users where role = 'admin'";
        sqlx::query(sql).execute(&apps[0].pool).await.unwrap();
    }
}

/// One of the calls that write about a user, and a session of theirs.
async fn some_call(number: usize, ada: Person, boss: Person) -> Answer {
    let new = json!({ "old_password": PASSWORD, "new_password": PASSWORD });
    let email = json!({ "email": format!("ada{number}@example.com"), "password": PASSWORD });
    match number % 11 {
        0 => ada.log_in("ada", PASSWORD).await,
        1 => ada.clone().refresh().await,
        2 => ada.post("/api/v1/logout?everywhere=true", &json!({})).await,
        3 => ada.post("/api/v1/logout", &json!({})).await,
        4 => ada.put("/api/v1/users/me/change_password", &new).await,
        5 => ada.put("/api/v1/users/me", &email).await,
        6 => ada.put("/api/v1/users/me", &json!({ "first_name": number.to_string() })).await,
        7 => ada.post("/api/v1/users/me/verify_email", &json!({})).await,
        8 => set_role(&boss, &ada, if number.is_multiple_of(2) { "staff" } else { "user" }).await,
        9 => ada.get("/api/v1/users/me").await,
        _ if number.is_multiple_of(5) => boss.delete(&path_of(&ada)).await,
        _ => boss.get("/api/v1/users/?q=ada").await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_about_one_user_never_wait_for_each_other_in_a_ring() {
    let apps = two_instances().await;
    let boss = apps[0].admin().await;
    for round in 0..10 {
        let first = apps[0].user("ada").await;
        let mut sessions = vec![first];
        for _ in 0..5 {
            sessions.push(apps[1].log_in("ada", PASSWORD).await);
        }
        let answers = at_once(44, |number| {
            let app = &apps[number % 2];
            let ada = at(app, &sessions[(number / 11 + number) % sessions.len()]);
            // Shuffled, so that each call meets each other one.
            some_call(number * (1 + 2 * round) + round, ada, at(app, &boss))
        })
        .await;
        // PostgreSQL ends a deadlock by failing somebody.
        for answer in answers {
            assert!(answer.status.as_u16() < 500, "{}", answer.text);
        }
        boss.delete(&path_of(&sessions[0])).await;
        for app in &apps {
            app.deliver_mail().await;
        }
    }
}

#[tokio::test]
async fn whoever_is_deleted_during_a_call_is_told_that_the_session_has_ended() {
    let [one, other] = two_instances().await;
    let change = json!({ "old_password": PASSWORD, "new_password": "battery staple correct" });
    let calls = [
        ("PUT", "/api/v1/users/me", json!({ "first_name": "Ada" }), "session_ended"),
        ("PUT", "/api/v1/users/me/change_password", change, "session_ended"),
        ("POST", "/api/v1/users/me/verify_email", json!({}), "session_ended"),
        ("POST", "/api/v1/logout", json!({}), "session_ended"),
        ("POST", "/api/v1/logout?everywhere=true", json!({}), "session_ended"),
        ("POST", "/api/v1/refresh", json!({}), "session_ended"),
        ("POST", "/api/v1/login", json!({}), "invalid_credentials"),
        ("POST", "link", json!({}), "link_expired"),
    ];
    for (method, path, body, code) in calls {
        let ada = one.newcomer("ada").await;
        let link = link_in(&one.letter_to("ada@example.com").await);
        // As far as a deletion at the other instance may have come.
        let mut deletion = other.pool.begin().await.unwrap();
        let sql = "delete from users where username = 'ada'";
        sqlx::query(sql).execute(&mut *deletion).await.unwrap();
        let call = tokio::spawn(async move {
            match path {
                "/api/v1/login" => ada.log_in("ada", PASSWORD).await,
                "/api/v1/refresh" => ada.clone().refresh().await,
                "link" => ada.post(&link, &body).await,
                _ => ada.call(method.parse().unwrap(), path).json(&body).send().await,
            }
        });
        lock_waits(&one.pool, 1).await;
        deletion.commit().await.unwrap();
        assert_eq!(call.await.unwrap().code(), code, "{method} {path}");
    }
}
