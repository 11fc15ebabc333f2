//! The pool of connections: sqlx's, and before it those that have just been used.
//!
//! sqlx's pool asks each connection that comes back whether it is still good: a round trip, and a task that waits for it,
//! after every statement. Here one whose last question was answered to the end stays at hand for whoever comes next, and
//! goes back into the pool once a second, to be asked there, and replaced when it is old.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connection::return_to_pool;

/// How long a request waits for a connection before it is told that there is none.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// For how long a connection is lent out again and again before it is asked once more.
const AT_HAND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: PgPool,
    /// As many as there may be connections, and one goes with each that is not at rest: lent, asked whether it is still
    /// good, or on its way back. So whoever has one and finds nothing at hand has a free place in the pool. Who waited
    /// for a place in there would not hear of what comes to hand meanwhile.
    permits: Arc<Semaphore>,
    at_hand: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    conn: PoolConnection<Postgres>,
    /// When it came out of the pool.
    since: Instant,
}

/// A connection that is not at rest.
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
    pub fn new(inner: PgPool) -> Self {
        let permits = inner.options().get_max_connections() as usize;
        let permits = Arc::new(Semaphore::new(permits));
        Self(Arc::new(Shared { inner, permits, at_hand: Mutex::default() }))
    }

    /// sqlx's own pool, for what needs more than a connection. What is taken from it directly is not counted here.
    pub fn inner(&self) -> &PgPool {
        &self.0.inner
    }

    pub async fn acquire(&self) -> sqlx::Result<Loan> {
        let lending = async {
            let permit = Arc::clone(&self.0.permits).acquire_owned().await;
            let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
            let kept = self.0.at_hand().pop();
            let Kept { conn, since } = match kept {
                Some(kept) => kept,
                None => Kept { conn: self.0.inner.acquire().await?, since: Instant::now() },
            };
            Ok(Loan { conn, since, permit })
        };
        timeout(ACQUIRE_TIMEOUT, lending).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Takes back a connection that has been answered to the end.
    pub fn keep(&self, loan: Loan) {
        let mut leaving = Vec::new();
        let mut at_hand = self.0.at_hand();
        // Looked at in here: whoever closes takes afterwards what is at hand.
        let (now, is_closed) = (Instant::now(), self.0.inner.is_closed());
        let is_old = |since: Instant| is_closed || now.duration_since(since) >= AT_HAND;
        // Where no permit is free, somebody is about to take it.
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

    /// The connections that there are, the idle ones among them, and how many there may be.
    pub fn connections(&self) -> (u32, usize, u32) {
        let inner = &self.0.inner;
        // sqlx counts one that comes to rest after it may be taken: for a moment there may be fewer than none.
        let idle = inner.num_idle().wrapping_add(self.0.at_hand().len()).cast_signed();
        (inner.size(), usize::try_from(idle).unwrap_or(0), self.most())
    }

    /// How many connections there may be.
    pub fn most(&self) -> u32 {
        self.0.inner.options().get_max_connections()
    }

    pub async fn close(&self) {
        // Before: what is on loan comes back to the pool from then on.
        let closing = self.0.inner.close();
        // Whoever waits hears of it at once.
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
        // Not into a pool that nobody asks any more, for which there may be no runtime either.
        for kept in std::mem::take(&mut *self.at_hand()) {
            drop(kept.conn.detach());
        }
    }
}
