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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::error::UnwantedServer;
use super::idle::{IdleCheck, Unproven};
use super::route::Route;
use crate::config::database_url::Hosts;

/// How long a request waits for a connection before it is told that there is none.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a returned connection may take to prove that it still works.
pub(super) const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is reused before it goes back to sqlx's pool.
const REUSE_FOR: Duration = Duration::from_secs(1);

/// How long a new connection may take before another server or address is looked for.
const OPENING_PATIENCE: Duration = Duration::from_secs(1);

/// How often room is looked for to ask why there is no further connection.
const EXPLAIN_TRIES: u32 = 5;

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
    /// Told of each connection that comes to hand, or goes back to sqlx's pool.
    came_back: Notify,
    route: Route,
    /// What is done to the route's options before sqlx has them.
    adapt: Mutex<fn(PgConnectOptions) -> PgConnectOptions>,
    idle: IdleCheck,
}

#[derive(Debug)]
struct Kept {
    conn: PoolConnection<Postgres>,
    /// When it came out of the pool.
    since: Instant,
    used_at: Instant,
}

/// A connection in use, and its permit.
#[derive(Debug)]
pub(super) struct Loan {
    pub conn: PoolConnection<Postgres>,
    since: Instant,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Connects when first used.
    pub fn new(hosts: Hosts, connections: u32) -> Self {
        let route = Route::new(hosts);
        let idle = IdleCheck::default();
        let check = idle.clone();
        let inner = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A broken connection shows at its first statement: to ping each one first would cost a
            // round trip.
            .test_before_acquire(false)
            .before_acquire(move |conn, facts| {
                let check = check.clone();
                Box::pin(async move { Ok(check.passes(conn, facts.idle_for).await) })
            })
            .connect_lazy_with(route.options());
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self(Arc::new(Shared {
            inner,
            permits,
            at_hand: Mutex::default(),
            came_back: Notify::new(),
            route,
            adapt: Mutex::new(|options| options),
            idle,
        }))
    }

    /// sqlx's own pool, for what needs more than a connection. What is taken from it directly is
    /// not counted here.
    pub fn inner(&self) -> &PgPool {
        &self.0.inner
    }

    pub fn route(&self) -> &Route {
        &self.0.route
    }

    /// Adapts how to connect, from now on.
    pub fn adapt(&self, adapt: fn(PgConnectOptions) -> PgConnectOptions) {
        *locked(&self.0.adapt) = adapt;
        self.follow_route();
    }

    fn follow_route(&self) {
        let adapt = *locked(&self.0.adapt);
        self.0.inner.set_connect_options(adapt(self.0.route.options()));
    }

    /// Looks for a way to the server where there are several; returns whether it is another than
    /// at `since`.
    pub async fn find_way(&self, since: Instant) -> bool {
        let pool = self.clone();
        // Not given up with the caller that began it: others wait for it as well.
        let looking = tokio::spawn(async move {
            let found = pool.0.route.find(since).await;
            if found {
                pool.follow_route();
            }
            found
        });
        looking.await.unwrap_or(false)
    }

    pub async fn acquire(&self) -> sqlx::Result<Loan> {
        let lending = async {
            let permit = Arc::clone(&self.0.permits).acquire_owned().await;
            let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
            if let Some((conn, since)) = self.take_at_hand().await {
                return Ok(Loan { conn, since, permit });
            }
            let conn = tokio::select! {
                biased;
                // Boxed: else all that may have to connect would be as large as connecting needs,
                // some 15 KB.
                conn = Box::pin(self.open()) => conn?,
                // The server may let in fewer than there may be here.
                (conn, since) = Box::pin(self.next_back()) => {
                    self.explain_later();
                    return Ok(Loan { conn, since, permit });
                }
            };
            Ok(Loan { conn, since: Instant::now(), permit })
        };
        timeout(ACQUIRE_TIMEOUT, lending).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    async fn take_at_hand(&self) -> Option<(PoolConnection<Postgres>, Instant)> {
        loop {
            let Kept { conn, since, used_at } = self.0.at_hand().pop()?;
            let mut conn = Unproven::new(conn);
            if self.0.idle.passes(conn.get(), used_at.elapsed()).await {
                return Some((conn.proven(), since));
            }
        }
    }

    /// The next connection that somebody else is done with.
    async fn next_back(&self) -> (PoolConnection<Postgres>, Instant) {
        loop {
            self.0.came_back.notified().await;
            if let Some(lent) = self.take_at_hand().await {
                return lent;
            }
            if let Some(conn) = self.0.inner.try_acquire() {
                return (conn, Instant::now());
            }
        }
    }

    /// A connection of sqlx's pool, by another way where the present one leads nowhere.
    async fn open(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        let since = Instant::now();
        let mut opening = Box::pin(self.open_once());
        let opened = timeout(OPENING_PATIENCE, &mut opening).await;
        if let Ok(Ok(conn)) = opened {
            return Ok(conn);
        }
        if self.find_way(since).await {
            // First: what it waits for takes a place in sqlx's pool.
            drop(opening);
            return self.open_once().await;
        }
        self.explain_later();
        match opened {
            Ok(failed) => failed,
            Err(_) => opening.await,
        }
    }

    async fn open_once(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        let mut conn = Unproven::new(self.0.inner.acquire().await?);
        self.0.route.connected();
        if self.0.route.suits(conn.get()).await? {
            return Ok(conn.proven());
        }
        Err(sqlx::Error::AnyDriverError(Box::new(UnwantedServer)))
    }

    /// Asks why the server lets no further connection in: in the place of one of ours, so that
    /// there are never more than there may be.
    fn explain_later(&self) {
        if !self.0.route.may_explain() {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            for _ in 0..EXPLAIN_TRIES {
                // Those that are being opened now count as open.
                sleep(OPENING_PATIENCE).await;
                let _place = pool.0.permits.acquire().await;
                if pool.0.inner.size() < pool.max_connections() {
                    return pool.0.route.explain(&pool.0.inner.connect_options()).await;
                }
            }
        });
    }

    /// Gives a connection back to sqlx's pool, which pings it.
    pub async fn give_back(&self, loan: Loan) {
        let Loan { conn, since: _, permit } = loan;
        return_to_pool(conn).await;
        drop(permit);
        self.0.came_back.notify_one();
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
            let Kept { conn, since, used_at: _ } = at_hand.remove(place);
            leaving.push(Loan { conn, since, permit });
        }
        let Loan { conn, since, permit } = loan;
        if is_old(since) {
            leaving.push(Loan { conn, since, permit });
            drop(at_hand);
        } else {
            at_hand.push(Kept { conn, since, used_at: now });
            drop(at_hand);
            drop(permit);
            self.0.came_back.notify_one();
        }
        for loan in leaving {
            let pool = self.clone();
            tokio::spawn(async move { pool.give_back(loan).await });
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
        locked(&self.at_hand)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
