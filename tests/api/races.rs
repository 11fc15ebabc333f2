//! Calls at once, and calls that meet in a chosen order.

use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::support::{Answer, TestApp};

/// Makes `count` calls at once; their answers in the order of their numbers.
pub async fn at_once<T, F>(count: usize, call: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut calls = JoinSet::new();
    for number in 0..count {
        let call = call(number);
        calls.spawn(async move { (number, call.await) });
    }
    let mut answers = calls.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Returns once `count` statements in this database wait for a lock. Whoever comes first is served first.
pub async fn lock_waits(pool: &PgPool, count: i64) {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    for _ in 0..1000 {
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        if waiting >= count {
            return;
        }
        // The other side is a process of its own: nothing here can tell when it gets there.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody waits for a lock");
}

/// The answer to a call that waits for its user's row while every session is ended.
pub async fn ended_half_way(app: &TestApp, call: impl Future<Output = Answer>) -> Answer {
    // Somebody logs everybody out everywhere, and has not finished yet when the call comes.
    let mut logout = app.pool.begin().await.unwrap();
    for sql in ["select from users for update", "update sessions set ended_at = created_at"] {
        sqlx::query(sql).execute(&mut *logout).await.unwrap();
    }
    let commit_once_the_call_waits = async {
        app.until_calls_are_held_up(1).await;
        logout.commit().await.unwrap();
    };
    tokio::join!(call, commit_once_the_call_waits).0
}
