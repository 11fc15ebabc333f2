//! Follows what the database notifies of: changes of users and sessions, which the session cache
//! forgets, and letters that other processes queued, which the worker sends.
//!
//! One connection of the process listens. A connection that is dead never reports itself, so a
//! heartbeat goes around: sent through the pool, it comes back where this process listens, after
//! all that was notified before it. The session cache proves by it how old its answers may be, see
//! there. While no request asks the cache, the heartbeat pauses: once in `IDLE_HEARTBEAT` it
//! shows that the connection is alive. So an idle process lets the database sleep.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::session_cache::{MAX_STALENESS, SessionCache};
use crate::store::db::notifications::{Notification, Notifications, Topic};
use crate::store::db::{Db, describe, timed_out};

/// How often the heartbeat is sent while the cache is in use.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long it pauses otherwise, at the most.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(30);
/// Invalid entries are removed once in so many heartbeats.
const HEARTBEATS_PER_SWEEP: u64 = 10;
/// Longest wait before a lost connection is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(30);

const NO_CACHE: &str = "every session is read from the database";
const MORE_POLLS: &str = "the worker asks the database for letters every few seconds";
const REMEDY: &str = "set DATABASE_DIRECT_URL to its own address, past the pooler";

/// Wakes the worker when a letter was queued.
#[derive(Debug, Default)]
pub struct MailQueued {
    here: Notify,
    anywhere: Notify,
    is_heard: AtomicBool,
}

/// Which process has queued a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedBy {
    ThisProcess,
    AnyProcess,
}

impl MailQueued {
    /// This process has queued one, or may have.
    pub fn notify_one(&self) {
        self.here.notify_one();
    }

    /// Waits until a letter may be due that was not when the outbox was last asked.
    pub async fn notified(&self) -> QueuedBy {
        tokio::select! {
            () = self.here.notified() => QueuedBy::ThisProcess,
            () = self.anywhere.notified() => QueuedBy::AnyProcess,
        }
    }

    /// The same, of letters that this process queues.
    pub async fn notified_here(&self) {
        self.here.notified().await;
    }

    /// Whether letters that other processes queue are heard of.
    pub fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::SeqCst)
    }

    fn set_heard(&self, is_heard: bool) {
        let was_heard = self.is_heard.swap(is_heard, Ordering::SeqCst);
        if was_heard && !is_heard {
            // The worker has to ask more often now.
            self.anywhere.notify_one();
        }
    }
}

/// Follows for `cache` and for the worker behind `letters`, until dropped.
pub async fn follow(db: &Db, cache: Option<&SessionCache>, letters: Option<&MailQueued>) {
    let follower = Follower { db, cache: cache.filter(|cache| cache.is_on()), letters };
    let (has_cache, has_letters) = (follower.cache.is_some(), letters.is_some());
    if db.direct_options().is_some() && (has_cache || has_letters) {
        follower.follow().await;
    } else if has_cache {
        tracing::info!("{NO_CACHE}: {REMEDY}");
    } else if has_letters {
        tracing::info!("{MORE_POLLS}: {REMEDY}");
    }
}

struct Follower<'a> {
    db: &'a Db,
    cache: Option<&'a SessionCache>,
    letters: Option<&'a MailQueued>,
}

impl Follower<'_> {
    /// Connects again and again. While it cannot, every session is read from the database, and the
    /// worker asks for letters more often.
    async fn follow(&self) {
        let mut pause = HEARTBEAT;
        loop {
            let (since, Err(error)) = (Instant::now(), self.listen().await);
            self.lose();
            let error = describe(&error);
            if since.elapsed() > MAX_PAUSE {
                pause = HEARTBEAT;
            }
            // One warning per loss, not one per attempt to reconnect.
            if pause > HEARTBEAT {
                tracing::debug!(error, "session cache: the listening connection is still lost");
            } else if self.cache.is_some() {
                tracing::warn!(
                    error,
                    "session cache: the listening connection is lost: {NO_CACHE}"
                );
            } else {
                tracing::warn!(error, "worker: the listening connection is lost: {MORE_POLLS}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            self.db.find_direct_way().await;
        }
    }

    async fn listen(&self) -> sqlx::Result<Infallible> {
        let options = self.db.direct_options().ok_or(sqlx::Error::PoolClosed)?;
        let mut changes = Notifications::listen(options, &self.topics()).await?;
        // What changed since the previous connection was lost was not heard.
        self.hear(Notification::Anybody);
        let mut proven_at = Instant::now();
        for number in 0.. {
            let sent_at = Instant::now();
            timeout(MAX_STALENESS, changes.heartbeat(self.db, number))
                .await
                .map_err(|_| timed_out())??;
            // From now, not from `sent_at`: one that had to wait for a connection needs time to
            // come back, too.
            let until = Instant::now() + HEARTBEAT;
            while let Ok(change) = timeout_at(until, changes.next()).await {
                match change? {
                    Notification::Heartbeat(back) if back == number => {
                        self.prove(sent_at);
                        proven_at = sent_at;
                    }
                    change => self.hear(change),
                }
            }
            // A dead connection never reports itself; the next one may work.
            if proven_at.elapsed() > MAX_STALENESS {
                return Err(timed_out());
            }
            if proven_at == sent_at && !self.cache.is_some_and(SessionCache::is_in_use) {
                self.pause(&mut changes).await?;
                // The next heartbeat has as long to come back as the first one.
                proven_at = Instant::now();
            } else if number % HEARTBEATS_PER_SWEEP == 0 {
                self.cache.inspect(|cache| cache.sweep());
            }
        }
        unreachable!("a number that is counted up each second does not come to its end")
    }

    /// Hears on without a heartbeat, until the cache is asked or [`IDLE_HEARTBEAT`] is over.
    async fn pause(&self, changes: &mut Notifications) -> sqlx::Result<()> {
        let until = Instant::now() + IDLE_HEARTBEAT;
        self.cache.inspect(|cache| cache.pause_until(until));
        let asked = async {
            match self.cache {
                Some(cache) => cache.asked().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(asked);
        loop {
            tokio::select! {
                change = timeout_at(until, changes.next()) => match change {
                    Ok(change) => self.hear(change?),
                    Err(_) => break,
                },
                () = &mut asked => break,
            }
        }
        self.cache.inspect(|cache| cache.pause_until(Instant::now()));
        Ok(())
    }

    fn topics(&self) -> Vec<Topic> {
        let changes = self.cache.map(|_| Topic::Changes);
        changes.into_iter().chain(self.letters.map(|_| Topic::Letters)).collect()
    }

    fn hear(&self, change: Notification) {
        match (change, self.cache, self.letters) {
            (Notification::User(id), Some(cache), _) => cache.forget(id),
            (Notification::Anybody, Some(cache), _) => cache.forget_all(),
            (Notification::Letter, _, Some(letters)) => letters.anywhere.notify_one(),
            _ => {}
        }
    }

    /// All that was committed before `instant` has been heard of.
    fn prove(&self, instant: Instant) {
        self.cache.inspect(|cache| cache.prove(instant));
        self.letters.inspect(|letters| letters.set_heard(true));
    }

    fn lose(&self) {
        self.cache.inspect(|cache| cache.lose());
        self.letters.inspect(|letters| letters.set_heard(false));
    }
}
