//! Notifications from the database's triggers: about changed users and sessions (migration 0003),
//! and about letters that are due (migration 0011).

use std::io;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Db, timed_out};

/// What can be heard of, each on a channel of its own: a release that does not know a channel does
/// not listen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Changes,
    Letters,
}

impl Topic {
    fn channel(self) -> &'static str {
        match self {
            Self::Changes => "doorward_changes",
            Self::Letters => "doorward_outbox",
        }
    }
}

/// How long the server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// This user, or a session of theirs.
    User(Uuid),
    /// Perhaps every user.
    Anybody,
    /// A letter is due.
    Letter,
    /// No change: a heartbeat of [`Notifications::heartbeat`] is back.
    Heartbeat(u64),
}

/// A connection that only listens. It must reach the server directly: a transaction pooler drops
/// notifications that arrive between two transactions.
pub struct Notifications {
    listener: PgListener,
    /// The channel that only this connection's own heartbeat uses.
    own_channel: String,
}

impl Notifications {
    /// Hears of all of these topics that is committed from now on.
    pub async fn listen(options: PgConnectOptions, topics: &[Topic]) -> sqlx::Result<Self> {
        timeout(CONNECT_TIMEOUT, Self::connect(options, topics)).await.map_err(|_| timed_out())?
    }

    async fn connect(options: PgConnectOptions, topics: &[Topic]) -> sqlx::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        // A lost connection has to show: what was notified in the meantime is lost, too.
        listener.eager_reconnect(false);
        let own_channel = format!("doorward_{}", Uuid::now_v7().simple());
        let channels = topics.iter().map(|topic| topic.channel());
        listener.listen_all(channels.chain([&*own_channel])).await?;
        Ok(Self { listener, own_channel })
    }

    /// Sends a heartbeat to this listener through `db`, where changes are made. Notifications
    /// arrive in the order of their commits, so once it is back, every change committed before it
    /// was sent has been heard. A listener that was led to another server, or that stands behind a
    /// pooler, never gets it.
    pub async fn heartbeat(&self, db: &Db, number: u64) -> sqlx::Result<()> {
        let (channel, payload) = (self.own_channel.clone(), number.to_string());
        // One that is sent twice comes back twice, which is as good.
        db.write(|db| Box::pin(notify(db, channel.clone(), payload.clone()))).await
    }

    /// Whether notifications sent through `db` arrive here.
    pub async fn hears(&mut self, db: &Db) -> sqlx::Result<bool> {
        self.heartbeat(db, 0).await?;
        let heard = async {
            while self.next().await? != Notification::Heartbeat(0) {}
            Ok(true)
        };
        timeout(CONNECT_TIMEOUT, heard).await.unwrap_or(Ok(false))
    }

    /// Waits for the next notification; an error once the connection is lost.
    pub async fn next(&mut self) -> sqlx::Result<Notification> {
        let lost = || io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was lost");
        let told = self.listener.try_recv().await?.ok_or_else(lost)?;
        Ok(if told.channel() == self.own_channel {
            told.payload().parse().map_or(Notification::Anybody, Notification::Heartbeat)
        } else if told.channel() == Topic::Letters.channel() {
            Notification::Letter
        } else {
            told.payload().parse().map_or(Notification::Anybody, Notification::User)
        })
    }
}

async fn notify(db: &mut PgConnection, channel: String, payload: String) -> sqlx::Result<()> {
    let notify = sqlx::query("select pg_notify($1, $2)").bind(channel).bind(payload);
    notify.execute(db).await?;
    Ok(())
}
