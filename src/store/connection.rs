//! A connection on loan from the pool, and how it goes back.
//!
//! One that was answered to the end is kept at hand. Any other one is asked: somebody may have stopped waiting for it half
//! way. sqlx's pool waits for the answer for as long as that takes: on a connection that leads nowhere any more (a router
//! that forgot it, a server that hangs) forever, and with it goes its place in the pool. Ten such, and nobody is let in
//! until the process is started again. So whoever holds one waits for a bounded time, and then drops it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Row, SqlSafeStr};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::pool::{Loan, Pool};
use super::turns::Turn;

/// How long a connection that comes back may take to show that it is still good.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the server at most: longer than it works on a statement.
const SERVER_TIMEOUT: Duration = Duration::from_secs(12);

/// Bounds work on the database that nobody else bounds: a server that leads nowhere never says so.
pub async fn bounded<T>(work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(SERVER_TIMEOUT, work).await.map_err(|_| no_answer())?
}

/// The server keeps us waiting for longer than it may.
pub fn no_answer() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer").into()
}

/// A connection to read with, to write a statement with, or in a transaction; back in the pool when dropped.
#[derive(Debug)]
pub struct Conn {
    pool: Pool,
    /// There until it is dropped.
    loan: Option<Loan>,
    unsettled: Option<Unsettled>,
    behind_pooler: bool,
    /// Somebody's, until what the connection does for them is settled.
    turn: Option<Turn>,
}

/// What is not known to have ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    /// Statements that write nothing.
    Reading,
    /// A statement that is a transaction by itself.
    Statement,
    Transaction,
}

impl Conn {
    async fn take(pool: &Pool, unsettled: Unsettled, behind_pooler: bool) -> sqlx::Result<Self> {
        let (loan, pool) = (Some(pool.acquire().await?), pool.clone());
        Ok(Self { pool, loan, unsettled: Some(unsettled), behind_pooler, turn: None })
    }

    pub(super) fn hold(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }

    /// To read with.
    pub(super) async fn plain(pool: &Pool) -> sqlx::Result<Self> {
        Self::take(pool, Unsettled::Reading, false).await
    }

    /// For one statement that writes and is committed by itself.
    pub(super) async fn for_statement(pool: &Pool) -> sqlx::Result<Self> {
        Self::take(pool, Unsettled::Statement, false).await
    }

    /// Goes back with the outcome of what it was last asked: after one that is good nothing is on its way any more.
    pub fn done<T>(mut self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        if outcome.is_ok() {
            self.unsettled.take_if(|unsettled| *unsettled == Unsettled::Reading);
        }
        outcome
    }

    /// Whether there is nothing to commit, because each statement is.
    pub(super) fn commits_itself(&self) -> bool {
        self.unsettled == Some(Unsettled::Statement)
    }

    pub(super) async fn begin(
        pool: &Pool,
        statement: impl SqlSafeStr,
        behind_pooler: bool,
    ) -> sqlx::Result<Self> {
        // From here on, for whoever is dropped while the statement is on its way.
        let mut conn = Self::take(pool, Unsettled::Transaction, behind_pooler).await?;
        sqlx::raw_sql(statement).execute(&mut *conn).await?;
        Ok(conn)
    }

    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        if !self.commits_itself() {
            bounded(sqlx::raw_sql("commit").execute(&mut *self)).await?;
        }
        self.unsettled = None;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> sqlx::Result<()> {
        bounded(sqlx::raw_sql("rollback").execute(&mut *self)).await?;
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
            // By itself it would look for a runtime to return in, and panic where there is none.
            drop(loan.conn.detach());
            return;
        };
        match self.unsettled {
            None => self.pool.keep(loan),
            Some(unsettled) => {
                let turn = self.turn.take();
                runtime.spawn(give_back(loan, unsettled, self.behind_pooler, turn));
            }
        }
    }
}

async fn give_back(mut loan: Loan, unsettled: Unsettled, behind_pooler: bool, _turn: Option<Turn>) {
    let settled = timeout(RETURN_TIMEOUT, settle(&mut loan.conn, unsettled, behind_pooler)).await;
    if matches!(settled, Ok(Ok(true))) {
        loan.return_to_pool().await;
    } else {
        // Closes it, and makes room for another one.
        drop(loan.conn.detach());
    }
}

pub(super) async fn return_to_pool(mut conn: PoolConnection<Postgres>) {
    // When the time is over, what is dropped is the connection, and its place becomes free.
    let _ = timeout(RETURN_TIMEOUT, conn.return_to_pool()).await;
}

/// Takes back what was not committed; whether the connection may be used again. Mostly something failed, and one that
/// takes no writes is of no use to the next one either: a server that became a standby, or that was read-only when the
/// connection was made, stays so for as long as the connection lasts.
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
