//! Reads that a streaming standby can do, so that the primary does not have to.
//!
//! The primary is asked for its WAL position, which costs next to nothing, and the standby reads
//! once it has replayed that far. So no read is older than its call, however far the standby lags:
//! a client finds its change at every instance. It pays only for reads of many rows: to read one
//! row by key costs the primary no more than to tell its position.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::time::{sleep, timeout};

use super::connection::{Conn, timed_out, with_timeout};
use super::error::describe;
use super::pool::Pool;
use super::{Db, pooler, start_up_options};
use crate::config::database_url::Hosts;

/// How long a server may take to accept `doctor`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the standby may take to connect and catch up with the primary.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(10);
/// How long it may take to read, so that the primary can still answer within a request's time.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a standby that failed is left alone.
const COOLDOWN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Standby {
    pool: Pool,
    cooldown: Mutex<Option<Cooldown>>,
}

/// The pause after a failure.
#[derive(Debug)]
struct Cooldown {
    since: Instant,
    next_try_at: Instant,
}

/// A standby as it presents itself.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StandbyFacts {
    pub is_standby: bool,
    pub is_up_to_date: bool,
    /// How long ago the newest change that it has was made, in seconds.
    pub age: Option<f64>,
    /// Of another cluster than the primary, as far as we may know.
    #[sqlx(default)]
    pub is_other_cluster: bool,
}

impl Standby {
    pub(super) fn new(hosts: Hosts, connections: u32) -> Self {
        // As behind a pooler: that works without one, too.
        let hosts = hosts.map(|options| pooler::options(start_up_options(options)));
        Self { pool: Pool::new(hosts, connections), cooldown: Mutex::default() }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    fn cooldown(&self) -> MutexGuard<'_, Option<Cooldown>> {
        self.cooldown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to try it now. After a failure only one call per [`COOLDOWN`] does.
    fn should_try(&self, now: Instant) -> bool {
        let mut cooldown = self.cooldown();
        let Some(cooldown) = &mut *cooldown else { return true };
        let is_due = cooldown.next_try_at <= now;
        if is_due {
            cooldown.next_try_at = now + COOLDOWN;
        }
        is_due
    }

    fn record_failure(&self, error: &sqlx::Error) {
        let since = Instant::now();
        let cooldown = Cooldown { since, next_try_at: since + COOLDOWN };
        // Said once, not by every call that fails.
        if self.cooldown().replace(cooldown).is_none() {
            let error = describe(error);
            tracing::warn!(error, "the standby cannot be used: the primary reads");
        }
    }

    fn record_success(&self, asked_at: Instant) {
        // A read that began before the failure proves nothing.
        if self.cooldown().take_if(|cooldown| cooldown.since < asked_at).is_some() {
            tracing::info!("the standby can be used again");
        }
    }

    /// A connection to the standby once it has replayed up to `position`.
    async fn caught_up(&self, position: &str) -> sqlx::Result<Conn> {
        let mut conn = Conn::begin(&self.pool, true).await?;
        if !catch_up(&mut conn, position).await?.is_standby {
            return Err(sqlx::Error::Protocol("it is not a standby".into()));
        }
        Ok(conn)
    }
}

impl Db {
    /// Names a standby to read from.
    #[must_use]
    pub fn with_standby(self, hosts: impl Into<Hosts>, connections: u32) -> Self {
        Self { standby: Some(Standby::new(hosts.into(), connections).into()), ..self }
    }

    /// Reads many rows: from the standby where there is one that can be used, else from the
    /// primary.
    pub async fn read_many<T>(
        &self,
        read: impl for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let now = Instant::now();
        if let Some(standby) = self.standby.as_deref().filter(|standby| standby.should_try(now))
            && let Ok(position) = self.position().await
        {
            let reading = async {
                let caught_up = timeout(CATCH_UP_TIMEOUT, standby.caught_up(&position)).await;
                let mut conn = caught_up.map_err(|_| timed_out())??;
                timeout(READ_TIMEOUT, read(&mut conn)).await.map_err(|_| timed_out())?
            };
            match reading.await {
                // A query too slow for the standby would be so for the primary.
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("57014") => {
                    return Err(sqlx::Error::Database(error));
                }
                // Other failures (gone, lagging, a conflict with recovery) are the standby's alone.
                Err(error) => standby.record_failure(&error),
                Ok(found) => {
                    standby.record_success(now);
                    return Ok(found);
                }
            }
        }
        with_timeout(async {
            let mut conn = self.acquire().await?;
            let outcome = read(&mut conn).await;
            conn.done(outcome)
        })
        .await
    }

    /// The primary's WAL insert position: every acknowledged change lies before it.
    async fn position(&self) -> sqlx::Result<String> {
        let mut conn = self.acquire().await?;
        sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(&mut *conn).await
    }

    /// What `doctor` asks the standby, if there is one.
    pub async fn describe_standby(&self) -> sqlx::Result<Option<StandbyFacts>> {
        let Some(standby) = &self.standby else { return Ok(None) };
        let position = self.position().await?;
        // Not from the pool, which retries a refused connection and hides the cause.
        standby.pool.find_way(Instant::now()).await;
        let options = standby.pool.route().options();
        let connecting = timeout(CONNECT_TIMEOUT, options.connect());
        let mut conn = connecting.await.map_err(|_| timed_out())??;
        let facts = match timeout(CATCH_UP_TIMEOUT, catch_up(&mut conn, &position)).await {
            Ok(facts) => facts?,
            Err(_) => facts(&mut conn, &position).await?,
        };
        let clusters = (cluster(&mut *self.acquire().await?).await, cluster(&mut conn).await);
        let is_other_cluster = matches!(clusters, (Ok(own), Ok(its)) if own != its);
        Ok(Some(StandbyFacts { is_other_cluster, ..facts }))
    }
}

/// The system identifier of a cluster, which its standbys share.
async fn cluster(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select system_identifier from pg_control_system()").fetch_one(conn).await
}

/// Waits until the standby has replayed up to `position`.
async fn catch_up(conn: &mut PgConnection, position: &str) -> sqlx::Result<StandbyFacts> {
    loop {
        let facts = facts(conn, position).await?;
        if facts.is_up_to_date || !facts.is_standby {
            return Ok(facts);
        }
        sleep(CATCH_UP_INTERVAL).await;
    }
}

async fn facts(conn: &mut PgConnection, position: &str) -> sqlx::Result<StandbyFacts> {
    sqlx::query_as(
        "select pg_is_in_recovery() as is_standby,
             coalesce(
                 pg_last_wal_replay_lsn() >= $1::text::pg_lsn
                     -- Nothing is between them but the head of a page that has no record yet: 40 bytes at most.
                     or pg_last_wal_replay_lsn() - '0/0' = floor((pg_last_wal_replay_lsn() - '0/0') / page) * page
                         and $1::text::pg_lsn - pg_last_wal_replay_lsn() <= 40,
                 false
             ) as is_up_to_date,
             extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 as age
         from (select current_setting('wal_block_size')::numeric as page) as settings",
    )
    .bind(position)
    .fetch_one(conn)
    .await
}
