//! All SQL: one file a table, and one for logins, which touch four; plain functions on a connection. Queries are
//! checked when they are compiled.

pub mod audit;
pub mod changes;
mod connection;
mod error;
pub mod limits;
pub mod logins;
pub mod outbox;
mod pool;
mod schema;
pub mod sessions;
mod standby;
mod to_the_end;
mod turns;
pub mod users;

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres, Transaction};
use tokio::time::timeout;
use uuid::Uuid;

use connection::no_answer;
pub use connection::{Conn, bounded};
use error::is_broken;
pub use error::{describe, is_unavailable, unique_violation};
use pool::{ACQUIRE_TIMEOUT, Pool};
pub use schema::Schema;
pub use standby::StandbyFacts;
pub use to_the_end::to_the_end;
pub use turns::{Turn, Turns, is_out_of_turn};

use crate::metrics::Tally;

/// How long the server works on a statement, waits for a lock, and waits for the next statement of a transaction before
/// it gives up: an abandoned request must not keep its connection, nor what it has locked.
const SERVER_LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "10s"),
];

/// How long to wait for a statement that is a transaction by itself: longer than the server waits for a lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);

/// The database: a pool of connections, and how to use them with a transaction pooler in between.
///
/// Behind a pooler in transaction mode (PgBouncer) every statement outside a transaction may reach another server
/// process, and prepared statements stay behind there under names that other clients use too. So behind one every
/// use is a transaction that starts by forgetting what others have prepared, and sqlx remembers none.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    options: PgConnectOptions,
    /// Past the pooler, where one stands before the database and this is known.
    direct_options: Option<PgConnectOptions>,
    behind_pooler: Arc<AtomicBool>,
    turns: Turns,
    /// The security events of this instance, counted.
    pub events: Arc<Tally>,
    standby: Option<Arc<standby::Standby>>,
}

impl Db {
    /// Connects when first used.
    pub fn new(options: PgConnectOptions, connections: u32) -> Self {
        // PgBouncer refuses a start-up parameter that it does not know; nothing here reads floats.
        let options = options.extra_float_digits(None).application_name("doorward");
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Whether one that waited in the pool still works is seen by its first statement: to ask costs a round trip.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        Self {
            pool: Pool::new(pool),
            options,
            direct_options: None,
            behind_pooler: Arc::default(),
            turns: Turns::new(1),
            events: Arc::default(),
            standby: None,
        }
    }

    /// Names the way past the pooler, for what does not work through one.
    #[must_use]
    pub fn with_direct(self, options: PgConnectOptions) -> Self {
        // As above: the way may lead through a pooler that keeps a connection for each client.
        let options = options.extra_float_digits(None).application_name("doorward");
        Self { direct_options: Some(options), ..self }
    }

    /// How to reach the server itself; `None` where that is not known.
    pub fn direct_options(&self) -> Option<PgConnectOptions> {
        let only_way = || (!self.is_behind_pooler()).then(|| self.options.clone());
        self.direct_options.clone().or_else(only_way)
    }

    /// From now on uses the database as one that is reached directly. To be called before the first statement.
    pub fn assume_direct(&self) {
        self.pool.inner().set_connect_options(self.options.clone().options(SERVER_LIMITS));
    }

    /// From now on uses the database as one that stands behind a transaction pooler. To be called before the first
    /// statement.
    pub fn assume_pooler(&self) {
        self.pool.inner().set_connect_options(self.options.clone().statement_cache_capacity(0));
        self.behind_pooler.store(true, Ordering::SeqCst);
    }

    pub fn is_behind_pooler(&self) -> bool {
        self.behind_pooler.load(Ordering::SeqCst)
    }

    /// Whether two connections, open at once, are served by one process of the server, or one of them by two: only a
    /// pooler does that.
    pub async fn detect_pooler(&self) -> sqlx::Result<bool> {
        bounded(self.look_for_pooler()).await
    }

    async fn look_for_pooler(&self) -> sqlx::Result<bool> {
        let mut connections = [self.options.connect().await?, self.options.connect().await?];
        let mut seen = [None, None];
        let mut found = false;
        // Not strictly by turns: a pooler that hands out its connections by turns would keep one for each.
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

    /// A connection to read with. What has to last goes through [`Db::begin`].
    pub async fn acquire(&self) -> sqlx::Result<Conn> {
        if self.is_behind_pooler() {
            return Ok(self.begin().await?.inner);
        }
        let asked = async {
            for _ in 0..self.pool.most() {
                let mut conn = Conn::plain(&self.pool).await?;
                if conn.ping().await.is_ok() {
                    return Ok(conn);
                }
            }
            Conn::plain(&self.pool).await
        };
        timeout(ACQUIRE_TIMEOUT, asked).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Reads a row or two, on a connection that is not asked first whether it still works: a round trip less. Where it
    /// broke while it waited for us, or says nothing, they are read once more on one that was asked. `read` ends with
    /// [`Conn::done`].
    pub async fn read<T, F: Future<Output = sqlx::Result<T>>>(
        &self,
        read: impl Fn(Conn) -> F,
    ) -> sqlx::Result<T> {
        if !self.is_behind_pooler() {
            let conn = Conn::plain(&self.pool).await?;
            match timeout(ACQUIRE_TIMEOUT, read(conn)).await {
                Ok(Err(error)) if is_broken(&error) => {}
                Ok(outcome) => return outcome,
                Err(_) => {}
            }
        }
        read(self.acquire().await?).await
    }

    /// Writes by one statement, in one round trip: a transaction by itself, on a connection that is not asked first
    /// whether it still works. Where that broke, while it waited for us or later, the statement is done once more,
    /// in a transaction: nobody can tell whether the first one was committed. So `write` is one statement and a commit,
    /// and comes to the same, or to no harm, when it is done twice.
    pub async fn write<T, F: Future<Output = sqlx::Result<T>>>(
        &self,
        write: impl Fn(Tx) -> F,
    ) -> sqlx::Result<T> {
        if !self.is_behind_pooler() {
            let conn = Conn::for_statement(&self.pool).await?;
            match timeout(STATEMENT_TIMEOUT, write(self.transaction(conn))).await {
                Ok(Err(error)) if is_broken(&error) => {}
                Ok(outcome) => return outcome,
                Err(_) => return Err(no_answer()),
            }
        }
        bounded(write(self.begin().await?)).await
    }

    /// A transaction; dropped without `commit`, it never was.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        let begun = async {
            let mut left = self.pool.most();
            loop {
                match self.begin_once().await {
                    // It broke while it waited in the pool: nothing was done yet.
                    Err(error) if is_broken(&error) && left > 0 => left -= 1,
                    begun => return begun,
                }
            }
        };
        timeout(ACQUIRE_TIMEOUT, begun).await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// A transaction that locks this user's row. They take turns in this process before they take a connection: else whoever
    /// calls for themselves often enough at once would hold all of them, waiting for one row.
    pub async fn begin_for(&self, user_id: Uuid) -> sqlx::Result<Tx> {
        let turn = self.turns.take(user_id.as_bytes(), ACQUIRE_TIMEOUT).await?;
        let mut tx = self.begin().await?;
        tx.inner.hold(turn);
        Ok(tx)
    }

    async fn begin_once(&self) -> sqlx::Result<Tx> {
        let inner = if self.is_behind_pooler() {
            Conn::begin(&self.pool, AssertSqlSafe(begin_behind_pooler()), true).await?
        } else {
            Conn::begin(&self.pool, "begin", false).await?
        };
        Ok(self.transaction(inner))
    }

    fn transaction(&self, inner: Conn) -> Tx {
        Tx { inner, events: Vec::new(), counts: Arc::clone(&self.events) }
    }

    /// A transaction in which sqlx may begin another one, as its migrator does.
    async fn begin_nestable(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        if self.is_behind_pooler() {
            bounded(self.pool.inner().begin_with(AssertSqlSafe(begin_behind_pooler()))).await
        } else {
            bounded(self.pool.inner().begin()).await
        }
    }

    pub async fn close(&self) {
        if let Some(standby) = &self.standby {
            standby.close().await;
        }
        self.pool.close().await;
    }

    /// The pool's connections: those it has, the idle ones among them, and how many it may have.
    pub fn connections(&self) -> (u32, usize, u32) {
        self.pool.connections()
    }

    /// What `doctor` asks the server.
    pub async fn describe_server(&self) -> sqlx::Result<ServerFacts> {
        let mut conn = self.acquire().await?;
        // What an ordinary user may see: of other users' connections their number alone. Our own are free to us.
        sqlx::query_as(
            "with ours as (
                 select count(*) as all,
                     count(*) filter (where application_name = 'doorward') as doorward,
                     count(*) filter (where application_name = 'doorward' and datname = current_database()) as here
                 from pg_stat_activity where usename = current_user
             )
             select current_setting('server_version') as version,
                 current_setting('server_version_num')::integer as version_number,
                 clock_timestamp() as now,
                 least(
                     current_setting('max_connections')::bigint
                         - current_setting('superuser_reserved_connections')::bigint
                         - (select sum(numbackends)::bigint from pg_stat_database) + ours.doorward,
                     (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user)
                         - ours.all + ours.doorward,
                     (select nullif(datconnlimit, -1) from pg_database where datname = current_database())
                         - (select numbackends from pg_stat_database where datname = current_database()) + ours.here
                 ) as connections_left,
                 pg_is_in_recovery() as is_standby,
                 coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create_tables,
                 coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as is_encrypted
             from ours",
        )
        .fetch_one(&mut *conn)
        .await
    }

    /// Whether the server is asked over a network.
    pub fn is_remote(&self) -> bool {
        let host = self.options.get_host();
        let is_loopback =
            || host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        !(self.options.get_socket().is_some() || host.starts_with('/') || is_loopback())
    }
}

fn begin_behind_pooler() -> String {
    let limits = SERVER_LIMITS.map(|(name, limit)| format!("set local {name} = '{limit}'"));
    format!("begin; deallocate all; {}", limits.join("; "))
}

/// A PostgreSQL server as it presents itself.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ServerFacts {
    pub version: String,
    /// 150004 for 15.4.
    pub version_number: i32,
    pub now: DateTime<Utc>,
    /// Those that Doorward holds count as left.
    pub connections_left: i64,
    pub is_standby: bool,
    pub may_create_tables: bool,
    pub is_encrypted: bool,
}

/// A transaction, and the events that were recorded in it: what is rolled back has not happened, and is not logged.
pub struct Tx {
    inner: Conn,
    events: Vec<audit::Event>,
    counts: Arc<Tally>,
}

impl Tx {
    pub async fn commit(self) -> sqlx::Result<()> {
        self.commit_and(|| {}).await
    }

    /// Commits, and does something afterwards in any case, for a commit that failed may have happened nevertheless.
    ///
    /// To the end: a client who hangs up in this moment stops nothing half way.
    pub async fn commit_and(self, afterwards: impl FnOnce() + Send + 'static) -> sqlx::Result<()> {
        let commits_itself = self.inner.commits_itself();
        let committing = async move {
            let outcome = self.inner.commit().await;
            if outcome.is_ok() {
                self.events.iter().for_each(|event| event.log(&self.counts));
            }
            afterwards();
            outcome
        };
        if commits_itself {
            return committing.await;
        }
        to_the_end(committing).await
    }

    pub async fn rollback(self) -> sqlx::Result<()> {
        self.inner.rollback().await
    }

    fn log_once_committed(&mut self, event: audit::Event) {
        self.events.push(event);
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

/// How many rows the planner thinks that a query of our own gives. It asks the statistics and reads no row.
async fn estimate(db: &mut PgConnection, query: &'static str) -> sqlx::Result<i64> {
    let explain = AssertSqlSafe(format!("explain (format json) {query}"));
    let plan: serde_json::Value = sqlx::query_scalar(explain).fetch_one(db).await?;
    let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_i64);
    rows.ok_or_else(|| sqlx::Error::Decode("a plan without its rows".into()))
}
