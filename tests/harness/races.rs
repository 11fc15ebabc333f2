//! Calls at once, and calls that meet in a chosen order.

use tokio::task::JoinSet;

use super::answer::Answer;
use super::app::TestApp;
use super::wait::lock_waits;

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

/// The answer to a call that waits for its user's row while every session is ended.
pub async fn ended_half_way(app: &TestApp, call: impl Future<Output = Answer>) -> Answer {
    // Somebody logs everybody out everywhere, and has not finished yet when the call comes.
    let mut logout = app.pool.begin().await.unwrap();
    for sql in ["select from users for update", "update sessions set ended_at = created_at"] {
        sqlx::query(sql).execute(&mut *logout).await.unwrap();
    }
    let commit_once_the_call_waits = async {
        lock_waits(&app.pool, 1).await;
        logout.commit().await.unwrap();
    };
    tokio::join!(call, commit_once_the_call_waits).0
}
