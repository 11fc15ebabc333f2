//! A cache of sessions and their users, for answers that only read.
//!
//! The idea: every user has a stamp, a number that advances when anything about them or a session of theirs changes. An
//! entry carries the stamp from before it was read, and is valid only while the stamp is still the same. So a read that
//! a change overtook is never served, whichever of the two arrived first.
//!
//! Who advances the stamp:
//! - the instance that makes a change, before it answers ([`SessionCache::forget`]): its next request sees the change;
//! - each instance's listener ([`follow_changes`]), for changes made elsewhere, even with psql: triggers notify of each. A
//!   refresh advances none, as it only makes a session last longer.
//!
//! How stale an answer can be. Notifications come through one queue, in the order of their commits, and so does a
//! heartbeat that is sent through the pool, where changes are made, to the listener: once one that was sent at T is
//! back, all changes before T have been heard of. Nothing is served unless a heartbeat sent within the last [`PROOF`]
//! is back, so no answer is staler than that, whatever becomes of the connection (cut, black-holed, a server that
//! hangs, a failover). While it works, an answer is as stale as a notification takes, which is milliseconds. And
//! nothing is served that was read more than [`MAX_AGE`] ago, so that even a change made with triggers turned off takes
//! effect in the end. All this by the clock of the process: one that was frozen together with it (a paused virtual
//! machine) resumes where it stopped.
//!
//! An entry is found by the token itself, which is kept with it and compared as a whole ([`TokenText`]).
//!
//! Only answers that show callers to themselves come from here: whoever changes something, or looks at others, is read
//! from the database.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::metrics::Counter;
use crate::security::token::TokenText;
use crate::store::db::Db;
use crate::store::db::notifications::{Notification, Notifications};
use crate::store::db::timed_out;
use crate::store::sessions::Session;
use crate::store::users::User;

/// Greatest staleness of what is served.
pub const PROOF: Duration = Duration::from_secs(3);
/// Greatest age of what is served.
pub const MAX_AGE: Duration = Duration::from_secs(5);
/// How often the heartbeat is sent.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Invalid entries are removed once in so many heartbeats.
const HEARTBEATS_PER_SWEEP: u64 = 10;
/// Longest wait before a lost connection is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Bytes that may be kept: some 18,000 tokens, unless their users' names are long.
const CAPACITY: u64 = 32 << 20;
/// How many stamps all users share: sharing one only costs an unnecessary read.
const STAMPS: usize = 4096;

pub struct SessionCache {
    is_on: bool,
    kept: Cache<TokenText<Box<str>>, Arc<CachedSession>, Size>,
    stamps: Box<[AtomicU64]>,
    started: Instant,
    /// In milliseconds after `started`: until then entries may be served.
    good_until: AtomicU64,
    pub hits: Counter,
    pub misses: Counter,
}

/// The active session of a valid token and its user, as read.
#[derive(Debug)]
pub struct CachedSession {
    /// Without the hash of the password: whoever checks one reads the database.
    pub user: User,
    pub session: Session,
    /// The serialised answer, so that it is written once.
    pub answer: OnceLock<Bytes>,
    /// When the token runs out.
    expires_at: DateTime<Utc>,
    stamp: u64,
    read_at: Instant,
}

/// The memory of an entry: the token, the [`CachedSession`] with its strings, and the answer, which repeats them.
#[derive(Clone)]
struct Size;

impl Weighter<TokenText<Box<str>>, Arc<CachedSession>> for Size {
    fn weight(&self, token: &TokenText<Box<str>>, seen: &Arc<CachedSession>) -> u64 {
        let User { username, email, pending_email, first_name, last_name, .. } = &seen.user;
        let pending_email = pending_email.as_ref().map_or(0, String::len);
        let texts =
            username.len() + email.len() + pending_email + first_name.len() + last_name.len();
        (800 + token.0.len() + 2 * texts) as u64
    }
}

/// A user's stamp from before they were read.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(u64);

impl SessionCache {
    pub fn new(is_on: bool) -> Self {
        Self {
            is_on,
            kept: Cache::with_weighter(0, CAPACITY, Size),
            stamps: (0..STAMPS).map(|_| AtomicU64::new(0)).collect(),
            started: Instant::now(),
            good_until: AtomicU64::new(0),
            hits: Counter::default(),
            misses: Counter::default(),
        }
    }

    /// Whether changes made elsewhere are heard of, so that what is kept may be served.
    pub fn is_live(&self) -> bool {
        self.milliseconds(Instant::now()) < self.good_until.load(Ordering::SeqCst)
    }

    /// The entry of a token, if it is still valid.
    pub fn find(&self, token: &str, now: DateTime<Utc>) -> Option<Arc<CachedSession>> {
        let found = self.look_up(token, now);
        if found.is_some() { &self.hits } else { &self.misses }.add(1);
        found
    }

    /// How many are kept.
    pub fn entries(&self) -> usize {
        self.kept.len()
    }

    fn look_up(&self, token: &str, now: DateTime<Utc>) -> Option<Arc<CachedSession>> {
        let at = Instant::now();
        // Before the stamp: a change proven heard has advanced it.
        if self.milliseconds(at) >= self.good_until.load(Ordering::SeqCst) {
            return None;
        }
        let seen = self.kept.get(&TokenText(token))?;
        (self.is_fresh(&seen, at) && now < seen.expires_at && now < seen.session.expires_at)
            .then_some(seen)
    }

    fn is_fresh(&self, seen: &CachedSession, at: Instant) -> bool {
        seen.stamp == self.stamp(seen.user.id).0 && at.duration_since(seen.read_at) < MAX_AGE
    }

    /// To be called before the database is read.
    pub fn stamp(&self, user_id: Uuid) -> Stamp {
        Stamp(self.stamp_of(user_id).load(Ordering::SeqCst))
    }

    /// Keeps what was read after `stamp` was taken.
    pub fn keep(
        &self,
        token: &str,
        expires_at: DateTime<Utc>,
        stamp: Stamp,
        session: Session,
        user: User,
    ) -> Arc<CachedSession> {
        let user = User { password_hash: String::new(), ..user };
        let (answer, read_at) = (OnceLock::new(), Instant::now());
        let seen =
            Arc::new(CachedSession { user, session, answer, expires_at, stamp: stamp.0, read_at });
        if self.is_live() {
            self.kept.insert(TokenText(token.into()), Arc::clone(&seen));
        }
        seen
    }

    /// Forgets a user and their sessions: they have changed.
    pub fn forget(&self, user_id: Uuid) {
        self.stamp_of(user_id).fetch_add(1, Ordering::SeqCst);
    }

    fn forget_all(&self) {
        for stamp in &self.stamps {
            stamp.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// All changes from before `instant` have been heard.
    fn prove(&self, instant: Instant) {
        self.good_until.fetch_max(self.milliseconds(instant + PROOF), Ordering::SeqCst);
    }

    fn milliseconds(&self, instant: Instant) -> u64 {
        let elapsed = instant.duration_since(self.started).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }

    fn stamp_of(&self, user_id: Uuid) -> &AtomicU64 {
        // The last bits of a UUID v7 are random.
        let [.., high, low] = *user_id.as_bytes();
        &self.stamps[usize::from(u16::from_be_bytes([high, low])) % STAMPS]
    }
}

/// Listens for changes made elsewhere, until dropped. While it cannot, everything is read from the database.
pub async fn follow_changes(cache: &SessionCache, db: &Db) {
    if !cache.is_on {
        return;
    }
    let Some(options) = db.direct_options() else {
        tracing::info!(
            "every session is read from the database: set DATABASE_DIRECT_URL to its own address, past the pooler"
        );
        return;
    };
    let mut pause = HEARTBEAT;
    loop {
        let (since, Err(error)) = (Instant::now(), listen(cache, db, options.clone()).await);
        cache.kept.clear();
        if since.elapsed() > MAX_PAUSE {
            pause = HEARTBEAT;
        }
        // One warning per loss, not one per attempt to reconnect.
        if pause == HEARTBEAT {
            tracing::warn!(%error, "changes made elsewhere are not heard of: every session is read from the database");
        } else {
            tracing::debug!(%error, "changes made elsewhere are still not heard of");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn listen(
    cache: &SessionCache,
    db: &Db,
    options: PgConnectOptions,
) -> sqlx::Result<Infallible> {
    let mut changes = Notifications::listen(options).await?;
    // Nobody has told us what changed since the previous connection was lost.
    cache.forget_all();
    let mut proven_at = Instant::now();
    for number in 0.. {
        let sent_at = Instant::now();
        timeout(PROOF, changes.heartbeat(db, number)).await.map_err(|_| timed_out())??;
        // From now, not from `sent_at`: one that had to wait for a connection needs time to come back, too.
        let until = Instant::now() + HEARTBEAT;
        while let Ok(change) = timeout_at(until, changes.next()).await {
            match change? {
                Notification::User(id) => cache.forget(id),
                Notification::Anybody => cache.forget_all(),
                Notification::Heartbeat(back) if back == number => {
                    cache.prove(sent_at);
                    proven_at = sent_at;
                }
                Notification::Heartbeat(_) => {}
            }
        }
        // A dead connection never reports itself; the next one may work.
        if proven_at.elapsed() > PROOF {
            return Err(timed_out());
        }
        if number % HEARTBEATS_PER_SWEEP == 0 {
            cache.kept.retain(|_, seen| cache.is_fresh(seen, sent_at));
        }
    }
    unreachable!("a number that is counted up each second does not come to its end")
}
