//! The database: connections and transactions, directly or behind a transaction pooler.

mod batch;
mod connection;
mod detour;
mod error;
mod idle;
mod keyed_semaphore;
pub mod notifications;
mod pool;
mod pooler;
mod rights;
mod route;
mod schema;
mod server_facts;
mod standby;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};
use tokio::time::timeout;
use uuid::Uuid;

pub use batch::Batcher;
pub use connection::{Conn, timed_out, with_timeout};
use error::is_broken;
pub use error::{
    CertificateTrouble, cannot_hold, describe, is_hopeless, is_statement_pooling, is_unavailable,
    is_unwanted_server, refuses_settings, unique_violation,
};
pub use keyed_semaphore::{AcquireTimedOut, KeyedPermit, KeyedSemaphore};
use pool::{ACQUIRE_TIMEOUT, Pool};
pub use rights::{Rights, table_list};
use route::Route;
pub use schema::Schema;
pub use server_facts::ServerFacts;
pub use standby::StandbyFacts;
pub use transaction::Tx;

use crate::config::database_url::Hosts;
use crate::network::is_loopback;

/// Timeout of a statement that commits itself: longer than the server waits for a lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);

/// The database: a pool of connections, and how to use them.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    /// The way past the pooler, if configured.
    direct: Option<Arc<Route>>,
    behind_pooler: Arc<AtomicBool>,
    /// One permit for each user.
    users: KeyedSemaphore,
    standby: Option<Arc<standby::Standby>>,
}

impl Db {
    /// Connects when first used.
    pub fn new(hosts: impl Into<Hosts>, connections: u32) -> Self {
        Self {
            pool: Pool::new(hosts.into().map(start_up_options), connections),
            direct: None,
            behind_pooler: Arc::default(),
            users: KeyedSemaphore::new(1),
            standby: None,
        }
    }

    /// Sets the address past the pooler, for what does not work through one.
    #[must_use]
    pub fn with_direct(self, hosts: impl Into<Hosts>) -> Self {
        // This address, too, may be a pooler's: one in session mode.
        Self { direct: Some(Arc::new(Route::new(hosts.into().map(start_up_options)))), ..self }
    }

    /// How to reach the server itself; `None` where that is not known.
    pub fn direct_options(&self) -> Option<PgConnectOptions> {
        match &self.direct {
            Some(direct) => Some(direct.options()),
            None => (!self.is_behind_pooler()).then(|| self.pool.route().options()),
        }
    }

    /// Looks for another way to the server itself, where there are several.
    pub async fn find_direct_way(&self) {
        match &self.direct {
            Some(direct) => direct.find(Instant::now()).await,
            None => self.pool.find_way(Instant::now()).await,
        };
    }

    /// A connection for reads. Writes go through [`Db::begin`] or [`Db::write`].
    pub async fn acquire(&self) -> sqlx::Result<Conn> {
        if self.is_behind_pooler() {
            return Conn::begin(&self.pool, true).await;
        }
        Conn::pinged(&self.pool).await
    }

    /// Reads a few rows on a connection that is not pinged first, which saves a round trip. If that
    /// turns out to be broken or does not answer in time, `read` runs once more on one that was
    /// pinged.
    pub async fn read<T>(
        &self,
        read: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        if !self.is_behind_pooler() {
            let mut conn = Conn::plain(&self.pool).await?;
            match timeout(ACQUIRE_TIMEOUT, read(&mut conn)).await {
                Ok(Err(error)) if is_broken(&error) => {}
                Ok(outcome) => return conn.done(outcome),
                Err(_) => {}
            }
        }
        let mut conn = self.acquire().await?;
        let outcome = with_timeout(read(&mut conn)).await;
        conn.done(outcome)
    }

    /// Runs one statement and commits it, in one round trip, on a connection that is not pinged
    /// first. If that breaks, before the statement or during it, `write` runs once more, in a
    /// transaction: the first run may or may not have been committed. So `write` must be one
    /// statement, and idempotent, or at least harmless when repeated.
    pub async fn write<T>(
        &self,
        write: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        if !self.is_behind_pooler() {
            let mut conn = Conn::for_statement(&self.pool).await?;
            match timeout(STATEMENT_TIMEOUT, write(&mut conn)).await {
                Ok(Err(error)) if is_broken(&error) => {}
                Ok(outcome) => return conn.done(outcome),
                Err(_) => return Err(timed_out()),
            }
        }
        let mut tx = self.begin().await?;
        with_timeout(async {
            let written = write(&mut tx).await?;
            tx.commit().await?;
            Ok(written)
        })
        .await
    }

    /// A transaction, rolled back if dropped without `commit`.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        let inner = Conn::begin(&self.pool, self.is_behind_pooler()).await?;
        Ok(Tx::new(inner))
    }

    /// A transaction that will lock this user's row. Calls for one user within this process wait
    /// for each other before they take a connection: else many at once could hold the whole pool
    /// while they wait for one row.
    pub async fn begin_for(&self, user_id: Uuid) -> Result<Tx, BeginError> {
        let permit =
            self.users.acquire(&user_id, ACQUIRE_TIMEOUT).await.map_err(BeginError::Busy)?;
        let mut tx = self.begin().await.map_err(BeginError::Database)?;
        tx.inner.hold(permit);
        Ok(tx)
    }

    /// A transaction in which sqlx may begin another one, as its migrator does.
    async fn begin_nestable(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        if self.is_behind_pooler() {
            with_timeout(self.pool.inner().begin_with(pooler::begin_statement())).await
        } else {
            with_timeout(self.pool.inner().begin()).await
        }
    }

    pub async fn close(&self) {
        if let Some(standby) = &self.standby {
            standby.close().await;
        }
        self.pool.close().await;
    }

    /// Size of the pool: open connections, idle ones among them, and the maximum.
    pub fn connections(&self) -> (u32, usize, u32) {
        self.pool.connections()
    }

    /// Whether the server is reached over a network.
    pub fn is_remote(&self) -> bool {
        self.pool.route().hosts().iter().any(|options| {
            let host = options.get_host();
            !(options.get_socket().is_some() || host.starts_with('/') || is_loopback(host))
        })
    }
}

/// Why [`Db::begin_for`] could not begin.
#[derive(Debug)]
pub enum BeginError {
    Busy(AcquireTimedOut),
    Database(sqlx::Error),
}

/// PgBouncer rejects start-up parameters that it does not know; nothing here reads floats.
fn start_up_options(options: PgConnectOptions) -> PgConnectOptions {
    options.extra_float_digits(None).application_name("doorward")
}

/// The planner's row estimate for one of our own queries. It uses statistics and reads no row.
pub(super) async fn estimate(db: &mut PgConnection, query: &'static str) -> sqlx::Result<i64> {
    let explain = AssertSqlSafe(format!("explain (format json) {query}"));
    let plan: serde_json::Value = sqlx::query_scalar(explain).fetch_one(db).await?;
    let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_i64);
    rows.ok_or_else(|| sqlx::Error::Decode("a plan without its rows".into()))
}
