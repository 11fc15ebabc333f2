//! A cache of sessions and their users, for answers that only read.
//!
//! The idea: every user has a stamp, a number that advances when anything about them or a session
//! of theirs changes. An entry carries the stamp from before it was read, and is valid only while
//! the stamp is still the same. So a read that a change overtook is never served, whichever of the
//! two arrived first.
//!
//! Who advances the stamp:
//! - the instance that makes a change, before it answers ([`SessionCache::forget`]): its next
//!   request sees the change;
//! - each instance's follower (`changes.rs`), for changes made elsewhere, even with psql: triggers
//!   notify of each. A refresh advances none, as it only makes a session last longer.
//!
//! How stale an answer can be. Notifications come through one queue, in the order of their commits,
//! and so does a heartbeat that is sent through the pool, where changes are made, to the follower:
//! once one that was sent at T is back, all changes before T have been heard of. Nothing is served
//! unless a heartbeat sent within the last [`MAX_STALENESS`] is back, so no answer is staler than that,
//! whatever becomes of the connection (cut, black-holed, a server that hangs, a failover). While it
//! works, an answer is as stale as a notification takes, which is milliseconds. And nothing is
//! served that was read more than [`MAX_AGE`] ago, so that even a change made with triggers turned
//! off takes effect in the end. All this by the clock of the process: one that was frozen together
//! with it (a paused virtual machine) resumes where it stopped.
//!
//!
//! An entry is found by the token itself, which is kept with it and compared as a whole: it does
//! not matter whether two tokens have the same hash.
//!
//! Only answers that show callers to themselves come from here: a request that changes something,
//! or looks at others, reads the database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::metrics::Counter;
use crate::security::token::TokenText;
use crate::store::sessions::Session;
use crate::store::users::User;

/// Greatest staleness of what is served.
pub const MAX_STALENESS: Duration = Duration::from_secs(3);
/// Greatest age of what is served.
pub const MAX_AGE: Duration = Duration::from_secs(5);
/// For how long after a look-up the heartbeat goes on. Longer than [`MAX_AGE`]: no entry is good
/// then.
pub const IN_USE_FOR: Duration = Duration::from_secs(10);
/// How exactly the last look-up is known: written at each one, it would be a line of memory that
/// all cores fight for.
const USE_STEP: Duration = Duration::from_secs(1);
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
    /// Likewise: until then the connection counts as alive without a heartbeat.
    paused_until: AtomicU64,
    /// Likewise: when an entry was last asked for.
    asked_at: AtomicU64,
    asked: Notify,
    pub hits: Counter,
    pub misses: Counter,
}

/// The active session of a valid token and its user, as read.
#[derive(Debug)]
pub struct CachedSession {
    /// Without the hash of the password: a check of one reads the database.
    pub user: User,
    pub session: Session,
    /// The user as an answer shows them, in bytes: room for `http`, which writes them once.
    pub rendered: OnceLock<Bytes>,
    /// When the token runs out.
    expires_at: DateTime<Utc>,
    stamp: u64,
    read_at: Instant,
}

/// The memory of an entry: the token, the [`CachedSession`] with its strings, and the rendered
/// user, which repeats them.
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
            paused_until: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            asked: Notify::new(),
            hits: Counter::default(),
            misses: Counter::default(),
        }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether changes made elsewhere are heard of, so that what is kept may be served, or may be
    /// soon: while the heartbeat pauses, the last one stands for the connection.
    pub fn is_live(&self) -> bool {
        let now = self.milliseconds(Instant::now());
        self.is_proven(now) || now < self.paused_until.load(Ordering::SeqCst)
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
        let now_ms = self.milliseconds(at);
        self.note_use(now_ms);
        // Before the stamp: a change proven heard has advanced it.
        if !self.is_proven(now_ms) {
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
        let user = User { password_hash: SecretString::default(), ..user };
        let (rendered, read_at) = (OnceLock::new(), Instant::now());
        let seen = Arc::new(CachedSession {
            user,
            session,
            rendered,
            expires_at,
            stamp: stamp.0,
            read_at,
        });
        if self.is_live() {
            self.kept.insert(TokenText(token.into()), Arc::clone(&seen));
        }
        seen
    }

    /// Forgets a user and their sessions: they have changed.
    pub fn forget(&self, user_id: Uuid) {
        self.stamp_of(user_id).fetch_add(1, Ordering::SeqCst);
    }

    pub fn forget_all(&self) {
        for stamp in &self.stamps {
            stamp.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// All changes from before `instant` have been heard.
    pub fn prove(&self, instant: Instant) {
        self.good_until.fetch_max(self.milliseconds(instant + MAX_STALENESS), Ordering::SeqCst);
    }

    /// The heartbeat pauses until then. What is kept is too old already.
    pub fn pause_until(&self, instant: Instant) {
        self.paused_until.store(self.milliseconds(instant + MAX_STALENESS), Ordering::SeqCst);
        self.sweep();
    }

    /// Changes are no longer heard of.
    pub fn lose(&self) {
        self.paused_until.store(0, Ordering::SeqCst);
        self.kept.clear();
    }

    /// Removes invalid entries.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.kept.retain(|_, seen| self.is_fresh(seen, now));
    }

    /// Whether it was asked not long ago, or has just been made.
    pub fn is_in_use(&self) -> bool {
        let asked_at = Duration::from_millis(self.asked_at.load(Ordering::SeqCst));
        self.started.elapsed() < asked_at + IN_USE_FOR
    }

    /// Waits until it is in use.
    pub async fn asked(&self) {
        while !self.is_in_use() {
            self.asked.notified().await;
        }
    }

    fn note_use(&self, now_ms: u64) {
        let before = Duration::from_millis(self.asked_at.load(Ordering::Relaxed));
        if Duration::from_millis(now_ms) >= before + USE_STEP {
            self.asked_at.store(now_ms, Ordering::SeqCst);
            self.asked.notify_one();
        }
    }

    fn is_proven(&self, now_ms: u64) -> bool {
        now_ms < self.good_until.load(Ordering::SeqCst)
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
