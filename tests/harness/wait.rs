//! Waiting for what somebody else does.

use std::time::{Duration, Instant};

use sqlx::PgPool;

/// How long anything may take that is waited for: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns once `count` statements in this database wait for a lock: the moment at which their
/// calls are held up half way. The statement that came first is served first.
pub async fn lock_waits(pool: &PgPool, count: i64) {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    eventually("as many statements wait for a lock", async || {
        sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.unwrap() >= count
    })
    .await;
}
