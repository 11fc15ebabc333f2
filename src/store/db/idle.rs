//! Whether a connection that was idle still works.
//!
//! A router on the way forgets idle connections without a word (AWS after 350 s, Azure after 240
//! s), and whatever is sent on one then is lost. So one that was idle is pinged before it is lent.
//! Where the ping stays without an answer, all that were idle are dropped unasked: else the first
//! callers of the morning would wait for each in turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, Postgres};
use tokio::time::timeout;

/// How long a connection is lent unasked after its last use.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// How long one that was idle for longer may take to answer. A server that is slower than this
/// loses connections that it could have kept, and gets new ones.
const PING_TIMEOUT: Duration = Duration::from_millis(400);

#[derive(Clone, Debug, Default)]
pub(super) struct IdleCheck {
    /// When an idle connection gave no answer: all that were idle then are dropped.
    condemned_at: Arc<Mutex<Option<Instant>>>,
}

impl IdleCheck {
    /// Whether a connection can be lent that has been idle for so long.
    pub async fn passes(&self, conn: &mut PgConnection, idle_for: Duration) -> bool {
        if idle_for < TRUSTED_FOR {
            return true;
        }
        let used_at = Instant::now().checked_sub(idle_for);
        let is_condemned = |at: Instant| used_at.is_none_or(|used_at| used_at < at);
        if self.condemned_at().is_some_and(is_condemned) {
            return false;
        }
        if let Ok(answer) = timeout(PING_TIMEOUT, conn.ping()).await {
            return answer.is_ok();
        }
        *self.condemned_at() = Some(Instant::now());
        false
    }

    fn condemned_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.condemned_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is dropped without a word, and not given back, unless it is proven to work.
pub(super) struct Unproven(Option<PoolConnection<Postgres>>);

impl Unproven {
    pub fn new(conn: PoolConnection<Postgres>) -> Self {
        Self(Some(conn))
    }

    pub fn get(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("only `proven` takes it")
    }

    pub fn proven(mut self) -> PoolConnection<Postgres> {
        self.0.take().expect("only this takes it")
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}
