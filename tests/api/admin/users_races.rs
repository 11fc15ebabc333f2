//! `/users/{public_id}` by several at once, and by admins who lose their role or their session half
//! way.

use futures_util::future::join_all;
use serde_json::json;

use crate::admin::users::path;
use crate::harness::answer::only_winner;
use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;
use crate::harness::races::ended_half_way;
use crate::harness::wait::lock_waits;

#[tokio::test]
async fn of_twenty_deletions_at_once_one_finds_the_user() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let target = path(&ada);
    let answers = join_all((0..20).map(|_| boss.delete(&target))).await;
    only_winner(&answers, 404, "user_not_found");
}

#[tokio::test]
async fn admins_who_turn_on_each_other_at_once_leave_one() {
    let app = TestApp::start().await;
    for round in 0..20 {
        let mut circle = Vec::new();
        for n in 0..4 {
            circle.push(app.admin_called(&format!("admin{round}x{n}")).await);
        }
        // Each turns on the next one.
        let calls = (0..4).map(async |n| {
            let next = path(&circle[(n + 1) % 4]);
            match n % 2 {
                0 => circle[n].delete(&next).await,
                _ => circle[n].put(&next, &json!({ "role": "user" })).await,
            }
        });
        for answer in join_all(calls).await {
            let known = ["", "forbidden", "last_admin", "session_ended"];
            assert!(known.contains(&answer.code()), "{}", answer.text);
        }
        let sql = "with gone as (delete from users returning role)
                   select count(*) from gone where role = 'admin'";
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
        assert!(left >= 1, "round {round}");
    }
}

#[tokio::test]
async fn an_admin_who_is_demoted_half_way_through_a_call_comes_too_late() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let (eve, ada) = (app.admin_called("eve").await, app.user("ada").await);
    for demotes in [true, false] {
        // Holds up the demotion, and behind it what Eve does meanwhile.
        let mut hold = app.pool.begin().await.unwrap();
        let sql = "select from users where username = 'eve' for update";
        sqlx::query(sql).execute(&mut *hold).await.unwrap();
        let (to_eve, to_boss, to_ada) = (path(&eve), path(&boss), path(&ada));
        let body = json!({ "role": "user" });
        let eves_call = async {
            lock_waits(&app.pool, 1).await;
            if demotes { eve.put(&to_boss, &body).await } else { eve.delete(&to_ada).await }
        };
        let release = async {
            lock_waits(&app.pool, 2).await;
            hold.rollback().await.unwrap();
        };
        let (demoted, refused, ()) = tokio::join!(boss.put(&to_eve, &body), eves_call, release);
        demoted.assert_ok(200);
        refused.assert_error(403, "forbidden");
        boss.get(&to_ada).await.assert_ok(200);
        boss.put(&to_eve, &json!({ "role": "admin" })).await.assert_ok(200);
    }
}

#[tokio::test]
async fn a_session_that_ends_half_way_through_makes_nobody_an_admin() {
    let app = TestApp::start().await;
    app.admin().await;
    let ada = app.user("ada").await;
    for deletes in [false, true] {
        let thief = app.log_in("boss", PASSWORD).await;
        let path = path(&ada);
        let call = async {
            if deletes {
                return thief.delete(&path).await;
            }
            thief.put(&path, &json!({ "role": "admin" })).await
        };
        let answer = ended_half_way(&app, call).await;
        answer.assert_error(401, "session_ended");
        assert_eq!(app.log_in("ada", PASSWORD).await.user["role"], "user");
    }
}
