//! Transaction poolers: whether one stands before the database, and how it is used then.
//!
//! Behind a pooler in transaction mode (PgBouncer), each statement outside a transaction may reach
//! a different server process, where other clients have prepared statements under the same names.
//! So there every use is a transaction that begins with `deallocate all`, and sqlx caches no
//! statements.

use std::sync::atomic::Ordering;
use std::time::Instant;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::Db;
use super::connection::with_timeout;
use super::error::refuses_settings;

/// How long the server may run a statement, wait for a lock, and keep a transaction idle: an
/// abandoned request must not hold on to its connection or its locks.
const SERVER_LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "10s"),
];

/// The isolation that every statement is written for. A database or a role may have a stricter one
/// by default, under which calls that meet at one row would fail.
const ISOLATION: &str = "read committed";

/// Begins a transaction behind a pooler.
pub(super) fn begin_statement() -> AssertSqlSafe<String> {
    let limits = SERVER_LIMITS.map(|(name, limit)| format!("set local {name} = '{limit}'"));
    let limits = limits.join("; ");
    AssertSqlSafe(format!("begin isolation level {ISOLATION}; deallocate all; {limits}"))
}

/// Options to connect with where a pooler may stand in between.
pub(super) fn options(options: PgConnectOptions) -> PgConnectOptions {
    options.statement_cache_capacity(0)
}

/// Options to connect with where the server is reached itself.
fn direct_options(options: PgConnectOptions) -> PgConnectOptions {
    options.options(SERVER_LIMITS).options([("default_transaction_isolation", ISOLATION)])
}

impl Db {
    /// Assumes that the database is reached directly. To be called before the first statement.
    pub fn assume_direct(&self) {
        self.pool.adapt(direct_options);
    }

    /// Assumes that a transaction pooler stands before the database. To be called before the first
    /// statement.
    pub fn assume_pooler(&self) {
        self.pool.adapt(options);
        self.behind_pooler.store(true, Ordering::SeqCst);
    }

    pub fn is_behind_pooler(&self) -> bool {
        self.behind_pooler.load(Ordering::SeqCst)
    }

    /// Whether two open connections share one server process, or one connection is served by two,
    /// or the limits of a session are refused: only a pooler does that.
    pub async fn detect_pooler(&self) -> sqlx::Result<bool> {
        // What leads nowhere would take all the time there is.
        self.pool.find_way(Instant::now()).await;
        with_timeout(self.look_for_pooler()).await
    }

    async fn look_for_pooler(&self) -> sqlx::Result<bool> {
        let options = self.pool.route().options();
        let first = match direct_options(options.clone()).connect().await {
            Err(error) if refuses_settings(&error) => return Ok(true),
            connected => connected?,
        };
        let mut connections = [first, options.connect().await?];
        let mut seen = [None, None];
        let mut found = false;
        // Not strictly alternating: a round-robin pooler would then give each its own process.
        for number in [0, 1, 1, 0, 0, 1, 1, 0] {
            // The simple protocol: it leaves no prepared statement behind.
            let query = "select pg_backend_pid()";
            let row = sqlx::Executor::fetch_one(&mut connections[number], query).await?;
            let pid: i32 = sqlx::Row::try_get_unchecked(&row, 0)?;
            found |= seen[1 - number] == Some(pid) || seen[number].is_some_and(|own| own != pid);
            seen[number] = Some(pid);
        }
        for connection in connections {
            connection.close().await?;
        }
        Ok(found)
    }
}
