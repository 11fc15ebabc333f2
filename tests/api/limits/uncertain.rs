//! The limits where something is uncertain: what time it is, and whether anybody still waits for
//! the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::TimeDelta;
use doorward::clock::Clock;
use doorward::fields::Password;
use doorward::security::password::Hasher;
use doorward::security::password::Requester;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::person::PASSWORD;
use crate::harness::wait::{eventually, lock_waits};
use crate::limits::{HOME, counted, guess};

const ON: [(&str, &str); 1] = [("RATE_LIMITS", "on")];

#[tokio::test]
async fn instances_whose_clocks_differ_give_nobody_more_guesses() {
    let database = new_database().await;
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    let right = TestApp::at(&database, &ON, Clock::fixed(now)).await.alone();
    let behind =
        TestApp::at(&database, &ON, Clock::fixed(now - TimeDelta::seconds(30))).await.alone();
    let (mut by_address, mut on_account) = (0, 0);
    for number in 0..40 {
        for app in [&right, &behind] {
            let name = format!("nobody{number}");
            by_address += usize::from(guess(app, HOME, &name, "wrong").await.status == 401);
            on_account +=
                usize::from(guess(app, "203.0.113.9", "ann", "wrong").await.status == 401);
        }
    }
    assert_eq!((by_address, on_account), (30, 5));
}

/// One hash at a time, each of which takes a while.
async fn slow() -> TestApp {
    let slow = argon2::Params::new(65_536, 3, 1, Some(32)).unwrap();
    let clock = Clock::fixed("2026-01-02T03:04:05.678Z".parse().unwrap());
    TestApp::hashing(&new_database().await, &ON, clock, Hasher::new(slow, 1)).await.alone()
}

/// Does `work` while the only thread has something else to do, for longer than a test takes.
async fn while_occupied(app: &TestApp, work: impl Future<Output = ()>) {
    let long = format!("$argon2id$v=19$m=65536,t=200,p=1${}${}", "A".repeat(22), "A".repeat(43));
    let (client, claimed) = (Requester { key: 0, is_known: true }, Password::claimed("x"));
    let begun = Arc::default();
    let occupy = async {
        let verdict =
            app.state.hasher.verify(client, claimed, Some(&long.as_str().into()), &begun).await;
        assert!(!verdict.expect("it had its turn").matches);
    };
    let work = async {
        eventually("the thread is occupied", async || begun.load(Ordering::SeqCst)).await;
        work.await;
    };
    tokio::join!(occupy, work);
}

#[tokio::test]
async fn a_right_password_that_nobody_looked_at_is_no_attempt_of_whoever_hung_up() {
    let app = slow().await;
    let ann = app.newcomer("ann").await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    let change = json!({ "old_password": PASSWORD, "new_password": "another good password" });
    let before = counted(&app).await;
    while_occupied(&app, async {
        for _ in 0..12 {
            let login = guess(&app, HOME, "ann", PASSWORD);
            assert!(timeout(Duration::from_millis(15), login).await.is_err(), "it waits");
            let change = ann.put("/api/v1/users/me/change_password", &change);
            assert!(timeout(Duration::from_millis(15), change).await.is_err(), "it waits");
        }
    })
    .await;
    eventually("what was counted is refunded", async || counted(&app).await == before).await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    ann.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
}

#[tokio::test]
async fn a_guess_that_was_looked_at_counts_whether_anybody_waits_for_the_answer_or_not() {
    let app = slow().await;
    app.newcomer("ann").await;
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
    let running = || app.state.hasher.load().running.get();
    for _ in 0..5 {
        let begun = async {
            while running() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The thread is there, and now it looks.
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        tokio::select! {
            _ = guess(&app, HOME, "ann", "wrong") => {}
            () = begun => {}
        }
        eventually("it is done", async || running() == 0).await;
    }
    guess(&app, HOME, "ann", PASSWORD).await.assert_error(429, "rate_limited");
}

#[tokio::test]
async fn strangers_who_hang_up_are_refused_in_the_end() {
    let app = slow().await;
    app.newcomer("ann").await;
    while_occupied(&app, async {
        for number in 1..=5 {
            let waits = async {
                while app.state.hasher.waiting().1 < number {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                answer = guess(&app, "203.0.113.9", "ann", PASSWORD) => {
                    panic!("the thread is occupied: {}", answer.text)
                }
                () = waits => {}
            }
        }
        guess(&app, "203.0.113.9", "ann", PASSWORD).await.assert_error(429, "rate_limited");
    })
    .await;
}

#[tokio::test]
async fn a_right_password_whose_session_fails_to_open_once_nobody_waits_counts_as_no_attempt() {
    let app = TestApp::on(&new_database().await, &ON).await;
    app.newcomer("ann").await;
    // Wrong guesses stay counted, so that it would show if more was given back than was taken.
    for _ in 0..2 {
        guess(&app, HOME, "ann", "wrong").await.assert_error(401, "invalid_credentials");
    }
    let counted = async || {
        // A row that nothing is counted in any more is as good as none.
        let sql = "select level from limits where level > 0 order by key";
        sqlx::query_scalar::<_, f64>(sql).fetch_all(&app.pool).await.unwrap()
    };
    let before = counted().await;
    let mut row = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *row).await.unwrap();
    tokio::select! {
        answer = guess(&app, HOME, "ann", PASSWORD) => panic!("it waits: {}", answer.text),
        () = lock_waits(&app.pool, 1) => {}
    }
    let during = counted().await;
    assert!(during.iter().sum::<f64>() > before.iter().sum(), "{during:?}");
    // The wait for the lock comes to its end by itself.
    eventually("it is refunded", async || counted().await == before).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(counted().await, before, "once");
    row.rollback().await.unwrap();
    guess(&app, HOME, "ann", PASSWORD).await.assert_ok(200);
}
