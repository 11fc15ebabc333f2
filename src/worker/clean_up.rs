//! Removes old rows.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;

use crate::account::deletion;
use crate::state::AppState;
use crate::store::{audit, challenges, db, invitations, limits, outbox, sessions};

/// How often old rows are removed, and how old they have to be.
const CLEANUP_INTERVAL: Duration = Duration::from_hours(1);
/// How soon it is tried again after an error: who has left waits to be removed.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// The pause between two batches of 1,000 rows, so that some 2,000 a second go: without it
/// refreshes take twice as long while there are old rows left.
const BATCH_PAUSE: Duration = Duration::from_millis(400);
const RETENTION: TimeDelta = TimeDelta::days(30);
/// How long a challenge is kept after its end.
const CHALLENGE_RETENTION: TimeDelta = TimeDelta::days(1);

/// Removes rows that no request will ask for again, and accounts that were deleted long enough ago, a
/// thousand rows at a time.
pub(super) async fn clean_up(state: AppState, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let pause = match remove(&state).await {
            Ok(0) => CLEANUP_INTERVAL,
            Ok(_) => BATCH_PAUSE,
            Err(error) => {
                let error = db::describe(&error);
                tracing::warn!(error, "clean-up: old rows could not be removed");
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

async fn remove(state: &AppState) -> sqlx::Result<u64> {
    let deleted = db::with_timeout(delete_old_rows(state)).await?;
    Ok(deleted + deletion::purge_some(state).await?)
}

async fn delete_old_rows(state: &AppState) -> sqlx::Result<u64> {
    let now = state.clock.now();
    let mut tx = state.db.begin().await?;
    let mut deleted = outbox::delete_settled(&mut tx, now - RETENTION).await?
        + sessions::delete_expired(&mut tx, now).await?
        + challenges::delete_expired(&mut tx, now - CHALLENGE_RETENTION).await?
        + invitations::delete_old(&mut tx, now - RETENTION).await?;
    deleted += audit::delete_older(&mut tx, now - state.config.audit_log_kept_for).await?;
    // Last: logins may wait for these rows.
    deleted += limits::delete_expired(&mut tx, now).await?;
    tx.commit().await?;
    Ok(deleted)
}
