//! Who calls, as it was read a moment ago: for answers that only show.
//!
//! One idea: every user has a stamp, a number that moves on when anything about them or a session of theirs changes.
//! What is kept carries the stamp from before it was read, and is good only for as long as the stamp is still the same.
//! So a reading that a change overtook is never served, whichever of the two got here first.
//!
//! Who moves the stamp:
//! - the instance that makes a change, before it answers ([`SessionCache::forget`]): its next request sees the change;
//! - each instance's listener ([`follow`]), for changes that are made elsewhere, be it with psql: triggers tell of each.
//!   A refresh moves none, for all that it changes is that a session lasts longer.
//!
//! What can be stale, and for how long. Changes come through one queue, in the order of their commits, and so does a sign
//! of life that is sent through the pool, where changes are made, to the listener, which hears of them: one that was
//! sent at T and has come back proves that all changes before T have been heard of. Nothing is served unless one that
//! was sent within the last [`PROOF`] has come back, so no answer is older than that, whatever becomes of the connection
//! (cut, black-holed, a server that hangs, the way to another one). As long as it works, an answer is as old as a
//! notification takes, which is milliseconds. And nothing is served that was read more than [`MAX_AGE`] ago, so that a row
//! that was changed with its triggers turned off bites in the end as well. All this by the clock of the process: one
//! that was frozen together with its clock (a virtual machine that was paused) wakes up where it stopped.
//!
//! Only answers that show the caller to themselves come from here: whoever changes something, or looks at others, is
//! looked up in the database.

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
use crate::security::token::TokenDigest;
use crate::store::Db;
use crate::store::changes::{Change, Changes, no_answer};
use crate::store::sessions::Session;
use crate::store::users::User;

/// What is served was true at most this long ago.
pub const PROOF: Duration = Duration::from_secs(3);
/// What is served was read at most this long ago.
pub const MAX_AGE: Duration = Duration::from_secs(5);
/// How often the sign of life is sent.
const BEAT: Duration = Duration::from_secs(1);
/// What can no longer be served is thrown away once in so many beats.
const BEATS_A_SWEEP: u64 = 10;
/// How long to wait at most before a lost connection is tried anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Bytes that may be kept: tokens of some 20,000 users, unless their names are long.
const CAPACITY: u64 = 16 << 20;
/// Users share so many stamps; one who shares another's is read once more than they had to be.
const STAMPS: usize = 4096;

pub struct SessionCache {
    is_on: bool,
    kept: Cache<TokenDigest, Arc<Seen>, Size>,
    stamps: Box<[AtomicU64]>,
    started: Instant,
    /// In milliseconds after `started`: until then what is kept may be served.
    good_until: AtomicU64,
    pub hits: Counter,
    pub misses: Counter,
}

/// The living session of a genuine token and its user, as they were read.
#[derive(Debug)]
pub struct Seen {
    /// Without the hash of the password: whoever checks one reads the database.
    pub user: User,
    pub session: Session,
    /// The answer that is made of it, so that it is written once.
    pub answer: OnceLock<Bytes>,
    /// When the token runs out.
    expires_at: DateTime<Utc>,
    stamp: u64,
    read_at: Instant,
}

/// What a [`Seen`] takes: itself, the texts in it, and the answer, which holds them once more.
#[derive(Clone)]
struct Size;

impl Weighter<TokenDigest, Arc<Seen>> for Size {
    fn weight(&self, _: &TokenDigest, seen: &Arc<Seen>) -> u64 {
        let User { username, email, pending_email, first_name, last_name, .. } = &seen.user;
        let pending_email = pending_email.as_ref().map_or(0, String::len);
        let texts =
            username.len() + email.len() + pending_email + first_name.len() + last_name.len();
        (800 + 2 * texts) as u64
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

    /// What the token showed when it was last looked up, if that is good still.
    pub fn find(&self, token: &TokenDigest, now: DateTime<Utc>) -> Option<Arc<Seen>> {
        let found = self.look_up(token, now);
        if found.is_some() { &self.hits } else { &self.misses }.add(1);
        found
    }

    /// How many are kept.
    pub fn entries(&self) -> usize {
        self.kept.len()
    }

    fn look_up(&self, token: &TokenDigest, now: DateTime<Utc>) -> Option<Arc<Seen>> {
        let at = Instant::now();
        // Before the stamp: what is proven now was moved before.
        if self.milliseconds(at) >= self.good_until.load(Ordering::SeqCst) {
            return None;
        }
        let seen = self.kept.get(token)?;
        (self.is_fresh(&seen, at) && now < seen.expires_at && now < seen.session.expires_at)
            .then_some(seen)
    }

    fn is_fresh(&self, seen: &Seen, at: Instant) -> bool {
        seen.stamp == self.stamp(seen.user.id).0 && at.duration_since(seen.read_at) < MAX_AGE
    }

    /// To be asked for before the database is.
    pub fn stamp(&self, user_id: Uuid) -> Stamp {
        Stamp(self.stamp_of(user_id).load(Ordering::SeqCst))
    }

    /// Keeps what the database said after `stamp` was asked for.
    pub fn keep(
        &self,
        token: TokenDigest,
        expires_at: DateTime<Utc>,
        stamp: Stamp,
        session: Session,
        user: User,
    ) -> Arc<Seen> {
        let user = User { password_hash: String::new(), ..user };
        let (answer, read_at) = (OnceLock::new(), Instant::now());
        let seen = Arc::new(Seen { user, session, answer, expires_at, stamp: stamp.0, read_at });
        if self.is_live() {
            self.kept.insert(token, Arc::clone(&seen));
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

    /// All changes from before `instant` have been heard of.
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

/// Listens to what changes elsewhere for as long as it is let. Until it can, everything is read from the database.
pub async fn follow(cache: &SessionCache, db: &Db) {
    if !cache.is_on {
        return;
    }
    let Some(options) = db.direct_options() else {
        tracing::info!(
            "every session is read from the database: set DATABASE_DIRECT_URL to its own address, past the pooler"
        );
        return;
    };
    let mut pause = BEAT;
    loop {
        let (since, Err(error)) = (Instant::now(), listen(cache, db, options.clone()).await);
        cache.kept.clear();
        if since.elapsed() > LONGEST_PAUSE {
            pause = BEAT;
        }
        // Once for each time that it is lost, not for each time that it is tried.
        if pause == BEAT {
            tracing::warn!(%error, "changes made elsewhere are not heard of: every session is read from the database");
        } else {
            tracing::debug!(%error, "changes made elsewhere are still not heard of");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn listen(
    cache: &SessionCache,
    db: &Db,
    options: PgConnectOptions,
) -> sqlx::Result<Infallible> {
    let mut changes = Changes::listen(options).await?;
    // Whatever has happened since the connection before this one was lost, nobody has told us.
    cache.forget_all();
    let mut proven_at = Instant::now();
    for number in 0.. {
        let sent_at = Instant::now();
        timeout(PROOF, changes.beat(db, number)).await.map_err(|_| no_answer())??;
        // From now, not from when it was sent: one that had to wait for a connection needs time to come back, too.
        let until = Instant::now() + BEAT;
        while let Ok(change) = timeout_at(until, changes.next()).await {
            match change? {
                Change::User(id) => cache.forget(id),
                Change::Anybody => cache.forget_all(),
                Change::Beat(back) if back == number => {
                    cache.prove(sent_at);
                    proven_at = sent_at;
                }
                Change::Beat(_) => {}
            }
        }
        // A connection that leads nowhere never says so; the next one may lead somewhere.
        if proven_at.elapsed() > PROOF {
            return Err(no_answer());
        }
        if number % BEATS_A_SWEEP == 0 {
            cache.kept.retain(|_, seen| cache.is_fresh(seen, sent_at));
        }
    }
    unreachable!("a number that is counted up each second does not come to its end")
}
