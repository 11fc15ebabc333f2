//! A connection on loan from the pool, and how it goes back.
//!
//! A connection whose last result was read to its end is kept at hand. Any other is pinged: its
//! caller may have left half way. sqlx's pool waits for that without a limit: forever on a dead
//! connection (a router that forgot it, a server that hangs), and its slot in the pool is lost.
//! After ten of these no request gets a connection until the process restarts. So here the wait is
//! bounded, and the connection is dropped afterwards.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::{Connection, PgConnection, Row};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::error::is_broken;
use super::keyed_semaphore::KeyedPermit;
use super::pool::{ACQUIRE_TIMEOUT, Loan, Pool, RETURN_TIMEOUT};
use super::pooler;

/// Longest wait for the server: longer than it works on a statement.
const SERVER_TIMEOUT: Duration = Duration::from_secs(12);

/// Bounds database work that nothing else bounds: a dead connection never reports itself.
pub fn with_timeout<T>(
    work: impl Future<Output = sqlx::Result<T>>,
) -> impl Future<Output = sqlx::Result<T>> {
    // Not an async function: that has room for its argument twice.
    timeout(SERVER_TIMEOUT, work).map(|done| done.unwrap_or_else(|_| Err(timed_out())))
}

/// The error for a server that does not answer in time.
pub fn timed_out() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer").into()
}

/// A connection to read with, to write a statement with, or in a transaction; back in the pool when
/// dropped.
#[derive(Debug)]
pub struct Conn {
    pool: Pool,
    /// `Some` until it is dropped.
    loan: Option<Loan>,
    unsettled: Option<Unsettled>,
    behind_pooler: bool,
    /// Held until the transaction is settled.
    permit: Option<KeyedPermit>,
}

/// Work that is not known to have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    /// Statements that write nothing.
    Reading,
    /// A single autocommit statement.
    Statement,
    Transaction,
}

impl Conn {
    async fn take(pool: &Pool, unsettled: Unsettled, behind_pooler: bool) -> sqlx::Result<Self> {
        let (loan, pool) = (Some(pool.acquire().await?), pool.clone());
        Ok(Self { pool, loan, unsettled: Some(unsettled), behind_pooler, permit: None })
    }

    pub(super) fn hold(&mut self, permit: KeyedPermit) {
        self.permit = Some(permit);
    }

    /// To read with, on a server that has just answered.
    pub(super) async fn pinged(pool: &Pool) -> sqlx::Result<Self> {
        let asked = async {
            for _ in 0..pool.max_connections() {
                let mut conn = Self::plain(pool).await?;
                if conn.ping().await.is_ok() {
                    return Ok(conn);
                }
            }
            Self::plain(pool).await
        };
        timeout(ACQUIRE_TIMEOUT, asked).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// To read with.
    pub(super) async fn plain(pool: &Pool) -> sqlx::Result<Self> {
        Self::take(pool, Unsettled::Reading, false).await
    }

    /// For one statement that writes and is committed by itself.
    pub(super) async fn for_statement(pool: &Pool) -> sqlx::Result<Self> {
        Self::take(pool, Unsettled::Statement, false).await
    }

    /// Gives the connection back, with the outcome of its last query: after `Ok` nothing is left to
    /// be read, and only a transaction has something to roll back.
    pub(super) fn done<T>(mut self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        if outcome.is_ok() {
            self.unsettled.take_if(|unsettled| *unsettled != Unsettled::Transaction);
        }
        outcome
    }

    /// In a transaction.
    pub(super) async fn begin(pool: &Pool, behind_pooler: bool) -> sqlx::Result<Self> {
        let begun = async {
            let mut left = pool.max_connections();
            loop {
                match Self::begin_once(pool, behind_pooler).await {
                    // It broke while it waited in the pool: nothing was done yet.
                    Err(error) if is_broken(&error) && left > 0 => left -= 1,
                    begun => return begun,
                }
            }
        };
        timeout(ACQUIRE_TIMEOUT, begun).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    async fn begin_once(pool: &Pool, behind_pooler: bool) -> sqlx::Result<Self> {
        // Set before, in case this is dropped while the statement is in flight.
        let mut conn = Self::take(pool, Unsettled::Transaction, behind_pooler).await?;
        if behind_pooler {
            sqlx::raw_sql(pooler::begin_statement()).execute(&mut *conn).await?;
        } else {
            sqlx::raw_sql("begin").execute(&mut *conn).await?;
        }
        Ok(conn)
    }

    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        with_timeout(sqlx::raw_sql("commit").execute(&mut *self)).await?;
        self.unsettled = None;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> sqlx::Result<()> {
        with_timeout(sqlx::raw_sql("rollback").execute(&mut *self)).await?;
        self.unsettled = None;
        Ok(())
    }
}

impl Deref for Conn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.loan.as_ref().expect("only drop takes it").conn
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.loan.as_mut().expect("only drop takes it").conn
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let Some(loan) = self.loan.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            // Its own drop would look for a runtime to return in, and panic for lack of one.
            drop(loan.conn.detach());
            return;
        };
        match self.unsettled {
            None => self.pool.keep(loan),
            Some(unsettled) => {
                let permit = self.permit.take();
                let pool = self.pool.clone();
                runtime.spawn(give_back(pool, loan, unsettled, self.behind_pooler, permit));
            }
        }
    }
}

async fn give_back(
    pool: Pool,
    mut loan: Loan,
    unsettled: Unsettled,
    behind_pooler: bool,
    _turn: Option<KeyedPermit>,
) {
    let settled = timeout(RETURN_TIMEOUT, settle(&mut loan.conn, unsettled, behind_pooler)).await;
    if matches!(settled, Ok(Ok(true))) {
        pool.give_back(loan).await;
    } else {
        // Closes it, and makes room for another one.
        drop(loan.conn.detach());
    }
}

/// Rolls back what was not committed; returns whether the connection can be reused. Mostly
/// something has failed, and a read-only connection is no use to the next caller either: one to a
/// server that became a standby, or that was read-only at connect time, stays read-only for as long
/// as it lasts.
async fn settle(
    inner: &mut PgConnection,
    unsettled: Unsettled,
    behind_pooler: bool,
) -> sqlx::Result<bool> {
    if unsettled == Unsettled::Transaction {
        sqlx::raw_sql("rollback").execute(&mut *inner).await?;
    }
    if unsettled == Unsettled::Reading || behind_pooler {
        return Ok(true);
    }
    let row = sqlx::raw_sql("show transaction_read_only").fetch_one(inner).await?;
    Ok(row.try_get_unchecked::<String, _>(0)? == "off")
}
