//! Calls at once, and calls that meet in a chosen order.

use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;

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
