//! The connection pool: sqlx's, and in front of it the connections just used.
//!
//! sqlx's pool pings every connection that is returned: a round trip, and a task that waits for it,
//! after each statement. Here a connection whose last result was read to its end stays at hand for
//! the next caller, and goes back to sqlx's pool once a second, to be pinged there, and replaced
//! when it is old.
//!
//! sqlx waits for its ping without a limit, which is its issue 4349, with a fix proposed in pull
//! request 4363. Look again when that is merged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a request waits for a connection before it is told that there is none.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a returned connection may take to prove that it still works.
pub(super) const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is reused before it goes back to sqlx's pool.
const REUSE_FOR: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: PgPool,
    /// One permit per possible connection, held by each that is in use, being pinged, or on its way
    /// back. So a caller that has a permit and finds nothing at hand is sure of a free slot in
    /// sqlx's pool. A caller that waited for a slot in there would miss the connections that come
    /// to hand meanwhile.
    permits: Arc<Semaphore>,
    at_hand: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    conn: PoolConnection<Postgres>,
    /// When it came out of the pool.
    since: Instant,
}

/// A connection in use, and its permit.
#[derive(Debug)]
pub(super) struct Loan {
    pub conn: PoolConnection<Postgres>,
    since: Instant,
    permit: OwnedSemaphorePermit,
}

impl Loan {
    pub async fn return_to_pool(self) {
        let Self { conn, since: _, permit } = self;
        return_to_pool(conn).await;
        drop(permit);
    }
}

impl Pool {
    /// Connects when first used.
    pub fn new(options: PgConnectOptions, connections: u32) -> Self {
        let inner = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A broken connection shows at its first statement: to ping each one first would cost a
            // round trip.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self(Arc::new(Shared { inner, permits, at_hand: Mutex::default() }))
    }

    /// sqlx's own pool, for what needs more than a connection. What is taken from it directly is
    /// not counted here.
    pub fn inner(&self) -> &PgPool {
        &self.0.inner
    }

    pub async fn acquire(&self) -> sqlx::Result<Loan> {
        let lending = async {
            let permit = Arc::clone(&self.0.permits).acquire_owned().await;
            let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
            let kept = self.0.at_hand().pop();
            let Kept { conn, since } = if let Some(kept) = kept {
                kept
            } else {
                // Boxed: else all that may have to connect would be as large as connecting needs,
                // some 15 KB.
                let conn = Box::pin(self.0.inner.acquire()).await?;
                Kept { conn, since: Instant::now() }
            };
            Ok(Loan { conn, since, permit })
        };
        timeout(ACQUIRE_TIMEOUT, lending).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Takes back a connection whose last result was read to its end.
    pub fn keep(&self, loan: Loan) {
        let mut leaving = Vec::new();
        let mut at_hand = self.0.at_hand();
        // Under the lock: `close` empties `at_hand` only afterwards.
        let (now, is_closed) = (Instant::now(), self.0.inner.is_closed());
        let is_old = |since: Instant| is_closed || now.duration_since(since) >= REUSE_FOR;
        // If no permit is free, a caller is about to take it.
        while let Some(place) = at_hand.iter().position(|kept| is_old(kept.since))
            && let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned()
        {
            let Kept { conn, since } = at_hand.remove(place);
            leaving.push(Loan { conn, since, permit });
        }
        let Loan { conn, since, permit } = loan;
        if is_old(since) {
            leaving.push(Loan { conn, since, permit });
            drop(at_hand);
        } else {
            at_hand.push(Kept { conn, since });
            drop(at_hand);
            drop(permit);
        }
        for loan in leaving {
            tokio::spawn(loan.return_to_pool());
        }
    }

    /// Open connections, idle ones among them, and the maximum.
    pub fn connections(&self) -> (u32, usize, u32) {
        let inner = &self.0.inner;
        // sqlx counts a connection as idle only after it can be taken: briefly the number may be
        // negative.
        let idle = inner.num_idle().wrapping_add(self.0.at_hand().len()).cast_signed();
        (inner.size(), usize::try_from(idle).unwrap_or(0), self.max_connections())
    }

    /// How many connections there may be.
    pub fn max_connections(&self) -> u32 {
        self.0.inner.options().get_max_connections()
    }

    pub async fn close(&self) {
        // First: from now on connections in use go back to sqlx's pool.
        let closing = self.0.inner.close();
        // Callers that wait are refused at once.
        self.0.permits.close();
        for kept in std::mem::take(&mut *self.0.at_hand()) {
            tokio::spawn(return_to_pool(kept.conn));
        }
        closing.await;
    }
}

impl Shared {
    fn at_hand(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Not into a pool that is gone, for which there may be no runtime either.
        for kept in std::mem::take(&mut *self.at_hand()) {
            drop(kept.conn.detach());
        }
    }
}

async fn return_to_pool(mut conn: PoolConnection<Postgres>) {
    // On a timeout the connection is dropped, and its slot becomes free.
    let _ = timeout(RETURN_TIMEOUT, conn.return_to_pool()).await;
}
