//! A connection on loan from the pool, and how it goes back.
//!
//! The pool itself asks a connection that comes back whether it is still good, and waits for the answer for as long as
//! that takes: on one that leads nowhere any more (a router that forgot it, a server that hangs) forever, and with it
//! goes its place in the pool. Ten such, and nobody is let in until the process is started again. So whoever holds one
//! waits for a bounded time, and then drops it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Row, SqlSafeStr};
use tokio::runtime::Handle;
use tokio::time::timeout;

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
    /// There until it is dropped.
    inner: Option<PoolConnection<Postgres>>,
    unsettled: Option<Unsettled>,
    behind_pooler: bool,
}

/// What is not known to have ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    /// A statement that is a transaction by itself.
    Statement,
    Transaction,
}

impl Conn {
    pub(super) fn plain(inner: PoolConnection<Postgres>) -> Self {
        Self { inner: Some(inner), unsettled: None, behind_pooler: false }
    }

    /// For one statement that writes and is committed by itself.
    pub(super) fn for_statement(inner: PoolConnection<Postgres>) -> Self {
        let unsettled = Some(Unsettled::Statement);
        Self { inner: Some(inner), unsettled, behind_pooler: false }
    }

    /// Whether there is nothing to commit, because each statement is.
    pub(super) fn commits_itself(&self) -> bool {
        self.unsettled == Some(Unsettled::Statement)
    }

    pub(super) async fn begin(
        inner: PoolConnection<Postgres>,
        statement: impl SqlSafeStr,
        behind_pooler: bool,
    ) -> sqlx::Result<Self> {
        // From here on, for whoever is dropped while the statement is on its way.
        let unsettled = Some(Unsettled::Transaction);
        let mut conn = Self { inner: Some(inner), unsettled, behind_pooler };
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
        self.inner.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.inner.as_mut().expect("only drop takes it")
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            runtime.spawn(give_back(inner, self.unsettled, self.behind_pooler));
        }
    }
}

async fn give_back(
    mut inner: PoolConnection<Postgres>,
    unsettled: Option<Unsettled>,
    behind_pooler: bool,
) {
    if let Some(unsettled) = unsettled {
        let settled = timeout(RETURN_TIMEOUT, settle(&mut inner, unsettled, behind_pooler)).await;
        if !matches!(settled, Ok(Ok(true))) {
            // Closes it, and makes room for another one.
            drop(inner.detach());
            return;
        }
    }
    // When the time is over, what is dropped is the connection, and its place becomes free.
    let _ = timeout(RETURN_TIMEOUT, inner.return_to_pool()).await;
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
    if behind_pooler {
        return Ok(true);
    }
    let row = sqlx::raw_sql("show transaction_read_only").fetch_one(inner).await?;
    Ok(row.try_get_unchecked::<String, _>(0)? == "off")
}
