//! What the database's triggers tell of users and their sessions, whoever changed them (migration 0003).

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use super::Db;
pub use super::connection::no_answer;

const CHANNEL: &str = "doorward_changes";

/// How long the server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This user, or a session of theirs.
    User(Uuid),
    /// Perhaps everybody.
    Anybody,
    /// Nothing: what [`Changes::beat`] sent has come back.
    Beat(u64),
}

/// A connection that does nothing but listen. It must reach the server directly: a transaction pooler does not pass on
/// what is told between two transactions.
pub struct Changes {
    listener: PgListener,
    /// The channel on which nobody but this connection speaks and listens.
    own_channel: String,
}

impl Changes {
    /// From here on hears of every change that is committed.
    pub async fn listen(options: PgConnectOptions) -> sqlx::Result<Self> {
        timeout(CONNECT_TIMEOUT, Self::connect(options)).await.map_err(|_| no_answer())?
    }

    async fn connect(options: PgConnectOptions) -> sqlx::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        // A connection that was lost is to be seen: what was told in the meantime is lost, too.
        listener.eager_reconnect(false);
        let own_channel = format!("doorward_{}", Uuid::now_v7().simple());
        listener.listen_all([CHANNEL, &own_channel]).await?;
        Ok(Self { listener, own_channel })
    }

    /// Sends a sign of life from where changes are made to where they are heard of. All that is told comes in the order
    /// of its commits, so when it is back, every change from before it was sent has been heard of. A listener that was
    /// led to another server, or stands behind a pooler, never gets it.
    pub async fn beat(&self, db: &Db, number: u64) -> sqlx::Result<()> {
        let mut tx = db.begin().await?;
        sqlx::query("select pg_notify($1, $2)")
            .bind(&self.own_channel)
            .bind(number.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// Whether what is told through `db` is heard of here.
    pub async fn hears(&mut self, db: &Db) -> sqlx::Result<bool> {
        self.beat(db, 0).await?;
        let heard = async {
            while self.next().await? != Change::Beat(0) {}
            Ok(true)
        };
        timeout(CONNECT_TIMEOUT, heard).await.unwrap_or(Ok(false))
    }

    /// Waits for what is told next; an error once the connection is lost.
    pub async fn next(&mut self) -> sqlx::Result<Change> {
        let lost = || io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was lost");
        let told = self.listener.try_recv().await?.ok_or_else(lost)?;
        Ok(if told.channel() == self.own_channel {
            told.payload().parse().map_or(Change::Anybody, Change::Beat)
        } else {
            told.payload().parse().map_or(Change::Anybody, Change::User)
        })
    }
}
