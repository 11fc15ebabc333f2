//! Bans that come while the banned are on their way in.

use futures_util::future::{join, join_all};
use serde_json::json;

use crate::admin::ban::{active_sessions, ban, ban_path};
use crate::admin::users::path;
use crate::auth::recovery::{NEW, asked, by_code, by_link};
use crate::harness::answer::Answer;
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::races::at_once;
use crate::harness::wait::lock_waits;

#[tokio::test]
async fn of_twenty_ways_in_at_the_moment_of_a_ban_none_leaves_a_session() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for round in 0..5 {
        let name = format!("ada{round}");
        let ada = app.user(&name).await;
        let pending = asked(&app, &name).await;
        let calls = at_once(21, |number| {
            let (app, name, boss, ada) = (app.clone(), name.clone(), boss.clone(), ada.clone());
            let token = pending.token.clone();
            async move {
                match number {
                    10 => ban(&boss, &ada).await,
                    3 | 13 => by_link(&app, &token, NEW).await,
                    _ if number % 2 == 0 => ada.refresh_with(ada.refresh_token()).await,
                    _ => app.anonymous().log_in(&name, PASSWORD).await,
                }
            }
        });
        let answers = calls.await;
        answers[10].assert_ok(200);
        let known = ["", "banned", "session_ended", "link_expired", "invalid_credentials", "busy"];
        for answer in &answers {
            assert!(known.contains(&answer.code()), "{}", answer.text);
        }
        assert_eq!(active_sessions(&app, &ada).await, 0, "round {round}");
        for answer in answers.iter().filter(|answer| answer.json.get("refresh_token").is_some()) {
            let token = answer.json["refresh_token"].as_str().unwrap();
            app.anonymous().refresh_with(token).await.assert_error(401, "session_ended");
        }
    }
}

/// The answer to a call that has found everything in order, and waits for the row of its user, who
/// is banned meanwhile.
async fn banned_half_way(app: &TestApp, call: impl Future<Output = Answer>) -> Answer {
    let mut ban = app.pool.begin().await.unwrap();
    let sql = "update users set banned_at = now() where username = 'ada'";
    sqlx::query(sql).execute(&mut *ban).await.unwrap();
    let commit = async {
        lock_waits(&app.pool, 1).await;
        ban.commit().await.unwrap();
    };
    join(call, commit).await.0
}

#[tokio::test]
async fn a_reset_that_is_overtaken_by_a_ban_sets_nothing() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let ada = app.user("ada").await;
    for by_its_code in [false, true] {
        let letter = asked(&app, "ada").await;
        let reset = async {
            if by_its_code {
                return by_code(&app, &letter.handle, &letter.code, NEW).await;
            }
            by_link(&app, &letter.token, NEW).await
        };
        let answer = banned_half_way(&app, reset).await;
        if by_its_code {
            answer.assert_error(400, "code_invalid");
        } else {
            answer.assert_error(410, "link_expired");
        }
        app.anonymous().log_in("ada", PASSWORD).await.assert_error(403, "banned");
        boss.delete(&ban_path(&ada)).await.assert_ok(200);
        app.deliver_mail().await;
        app.log_in("ada", PASSWORD).await;
    }
}

#[tokio::test]
async fn a_reset_of_an_account_that_was_deleted_meanwhile_sets_nothing() {
    let app = TestApp::start().await;
    app.user("ada").await;
    let letter = asked(&app, "ada").await;
    let sql = "update users set deleted_at = now(), purge_at = now() + interval '1 day'";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    by_link(&app, &letter.token, NEW).await.assert_error(410, "link_expired");
    by_code(&app, &letter.handle, &letter.code, NEW).await.assert_error(400, "code_invalid");
    sqlx::query("update users set deleted_at = null").execute(&app.pool).await.unwrap();
    app.log_in("ada", PASSWORD).await;
}

#[tokio::test]
async fn an_address_that_is_confirmed_at_the_moment_of_a_ban_lets_nobody_in() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let ada = app.newcomer("ada").await;
    let link = link_in(&app.letter_to(&email_of("ada")).await);
    let calls = at_once(20, |number| {
        let (app, boss, ada, link) = (app.clone(), boss.clone(), ada.clone(), link.clone());
        async move {
            match number {
                7 => ban(&boss, &ada).await,
                _ => app.anonymous().post(&link, &json!({})).await,
            }
        }
    });
    for (number, answer) in calls.await.iter().enumerate() {
        // Those that come after the ban find an account whose link does nothing.
        if number == 7 || answer.status == 200 {
            answer.assert_ok(200);
        } else {
            answer.assert_error(410, "link_expired");
        }
    }
    assert_eq!(active_sessions(&app, &ada).await, 0);
    app.anonymous().log_in("ada", PASSWORD).await.assert_error(403, "banned");
}

#[tokio::test]
async fn twenty_bans_and_ends_of_bans_at_once_leave_one_or_the_other() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let calls = (0..20).map(|number| {
        let (boss, ada) = (&boss, &ada);
        async move {
            if number % 2 == 0 { ban(boss, ada).await } else { boss.delete(&ban_path(ada)).await }
        }
    });
    for answer in join_all(calls).await {
        answer.assert_ok(200);
    }
    let shown = boss.get(&path(&ada)).await;
    let is_banned = !shown.assert_ok(200)["user"]["banned"].is_null();
    let login = app.anonymous().log_in("ada", PASSWORD).await;
    assert_eq!(login.code() == "banned", is_banned, "{}", login.text);
}

#[tokio::test]
async fn of_admins_who_ban_each_other_at_once_one_remains() {
    let app = TestApp::start().await;
    for round in 0..10 {
        let mut circle = Vec::new();
        for n in 0..4 {
            circle.push(app.admin_called(&format!("admin{round}x{n}")).await);
        }
        // Each turns on the next one.
        let calls = (0..4).map(async |n| ban(&circle[n], &circle[(n + 1) % 4]).await);
        for answer in join_all(calls).await {
            let known = ["", "forbidden", "session_ended"];
            assert!(known.contains(&answer.code()), "{}", answer.text);
        }
        let sql = "with gone as (delete from users returning role, banned_at)
                   select count(*) from gone where role = 'admin' and banned_at is null";
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
        assert!(left >= 1, "round {round}");
    }
}
