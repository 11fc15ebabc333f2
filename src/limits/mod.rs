//! Rate limits.
//!
//! An attempt is counted before the work is done, and refunded if it turns out legitimate (a
//! successful login): so parallel guesses count. The counts are in the database, shared by all
//! instances. Refusals are remembered here for a while, so that a flood costs the database nothing.
//! No account is ever locked: strangers use up a budget of their own, not that of an address that
//! has logged in to the account before.

mod attempt;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;

pub use crate::config::limits::*;
use crate::context;
use crate::metrics::Tally;
use crate::security::KeyedHash;
use crate::store::audit::Event;
use crate::store::db::{AcquireTimedOut, Db, KeyedPermit, KeyedSemaphore, with_timeout};
use crate::store::limits::{self, Decision};
pub use attempt::{Attempt, account_subject};

/// Refused: by which limit, and when it may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub limit: &'static str,
    pub until: DateTime<Utc>,
}

/// The key under which an attempt is counted.
pub type Key = Vec<u8>;

/// How many logins of one account or address are in progress at once in a process: of strangers,
/// and of known clients. The others wait, so that concurrent correct logins do not use up the
/// budget for failures. Both together are about a third of a limit's burst, so that three processes
/// stay within it. The account comes first: while its logins wait for each other, they take no
/// place of their address.
static IN_PROGRESS: [(&Limit, [usize; 2]); 2] =
    [(&LOGIN_ACCOUNT, [1, 1]), (&LOGIN_ADDRESS, [5, 5])];
/// How long a login waits for its permits in all.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// A refusal that is remembered, and until when: not for long, as another instance may refund its
/// cause.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    refusal: Refusal,
    good_until: DateTime<Utc>,
}

const REFUSAL_TTL: TimeDelta = TimeDelta::seconds(30);

impl Remembered {
    /// Not if it would last much longer than any can: then the clock was wrong.
    fn is_good(&self, now: DateTime<Utc>) -> bool {
        now < self.good_until && self.good_until <= now + REFUSAL_TTL * 2
    }
}

/// Refusals remembered at most: about 5 MB.
const MAX_REMEMBERED: usize = 50_000;

/// The limiter.
pub struct Limits {
    binding: RateLimits,
    allowances: Allowances,
    hash: KeyedHash,
    refused: Mutex<HashMap<Vec<u8>, Remembered>>,
    /// For each of [`IN_PROGRESS`].
    in_progress: Vec<[KeyedSemaphore; 2]>,
    /// How often each limit has refused, remembered refusals included.
    pub refusals: Tally,
}

impl Limits {
    pub fn new(binding: RateLimits, allowances: Allowances, secret: &SecretString) -> Self {
        Self {
            binding,
            allowances,
            hash: KeyedHash::new(secret, "doorward/limits/1"),
            refused: Mutex::default(),
            in_progress: IN_PROGRESS
                .iter()
                .map(|(_, at_once)| at_once.map(KeyedSemaphore::new))
                .collect(),
            refusals: Tally::default(),
        }
    }

    /// Whether the limits bind the request that is being answered.
    fn is_on(&self) -> bool {
        let is_local = || {
            let ip = context::current().ip;
            ip.is_some_and(|ip| ip.to_canonical().is_loopback())
        };
        match self.binding {
            RateLimits::Everybody => true,
            RateLimits::OtherMachines => !is_local(),
            RateLimits::Nobody => false,
        }
    }

    /// How many a limit allows; `None` where it does not bind the request.
    pub fn most(&self, limit: &Limit) -> Option<i32> {
        let (Allowance::Bucket { burst: most, .. } | Allowance::Window { count: most, .. }) =
            self.allowances[limit];
        self.is_on().then_some(most)
    }

    /// The refusal of one of these that is remembered and still holds, without asking the database.
    pub fn refused_before(&self, attempts: &[Attempt], now: DateTime<Utc>) -> Option<Refusal> {
        if !self.is_on() {
            return None;
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let found = attempts
            .iter()
            .find_map(|attempt| refused.get(&self.key(attempt)).filter(|r| r.is_good(now)))
            .map(|remembered| remembered.refusal);
        if let Some(refusal) = found {
            self.refusals.add(refusal.limit);
        }
        found
    }

    /// The refusal of an attempt that is counted after the work and not before it, if one still
    /// holds.
    pub async fn find_refusal(
        &self,
        db: &Db,
        attempt: &Attempt,
        now: DateTime<Utc>,
    ) -> sqlx::Result<Option<Refusal>> {
        let remembered = self.refused_before(std::slice::from_ref(attempt), now);
        if remembered.is_some() || !self.is_on() {
            return Ok(remembered);
        }
        let (key, allowance) = (self.key(attempt), self.allowances[attempt.limit]);
        let find = db.read(|db| {
            let key = key.clone();
            Box::pin(async move { limits::find_refusal(db, &key, allowance, now).await })
        });
        let Some(until) = find.await? else { return Ok(None) };
        let refusal = Refusal { limit: attempt.limit.name, until };
        self.remember(attempt, refusal, now);
        self.refusals.add(refusal.limit);
        Ok(Some(refusal))
    }

    /// Waits until few enough of the same kind are in progress. To be called before `reserve`.
    pub async fn acquire_permits(
        &self,
        attempts: &[Attempt],
        is_known: bool,
    ) -> Result<Vec<KeyedPermit>, AcquireTimedOut> {
        let mut held = Vec::new();
        let started = Instant::now();
        if self.is_on() {
            for ((limit, _), semaphores) in IN_PROGRESS.iter().zip(&self.in_progress) {
                let semaphore = &semaphores[usize::from(is_known)];
                for attempt in attempts.iter().filter(|attempt| attempt.limit.name == limit.name) {
                    let left = PERMIT_TIMEOUT.saturating_sub(started.elapsed());
                    held.push(semaphore.acquire(&self.key(attempt), left).await?);
                }
            }
        }
        Ok(held)
    }

    /// Remembers `refusal` for `attempt`.
    pub fn remember(&self, attempt: &Attempt, refusal: Refusal, now: DateTime<Utc>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_REMEMBERED {
            refused.retain(|_, remembered| remembered.is_good(now));
        }
        // Full of valid ones: in so wide a flood it is cheaper to ask again than to remember.
        if refused.len() >= MAX_REMEMBERED {
            refused.clear();
        }
        let good_until = refusal.until.min(now + REFUSAL_TTL);
        refused.insert(self.key(attempt), Remembered { refusal, good_until });
    }

    /// Counts all of these, or none of them: what was counted along with a refused one is refunded
    /// at once. Returns the keys under which they are counted, in the same order; none where limits
    /// are off.
    pub async fn reserve(
        &self,
        db: &Db,
        attempts: &[Attempt],
        now: DateTime<Utc>,
        log: impl Fn(&Event) + Send,
    ) -> sqlx::Result<Result<Vec<Key>, Refusal>> {
        if !self.is_on() {
            return Ok(Ok(Vec::new()));
        }
        if let Some(refusal) = self.refused_before(attempts, now) {
            return Ok(Err(refusal));
        }
        // A row that is not there yet would let one through.
        if let Some(refused) = attempts.iter().find(|attempt| self.most(attempt.limit) == Some(0)) {
            let (Allowance::Bucket { every: length, .. } | Allowance::Window { length, .. }) =
                self.allowances[refused.limit];
            let refusal = Refusal { limit: refused.limit.name, until: now + length };
            self.refuse(refused, refusal, now, log);
            return Ok(Err(refusal));
        }
        let keys: Vec<Key> = attempts.iter().map(|attempt| self.key(attempt)).collect();
        let decisions = self.decide(db, &keys, attempts, now).await?;
        let refused =
            attempts.iter().zip(&decisions).find_map(|(attempt, decision)| match decision {
                Decision::Refused(until) => {
                    Some((attempt, Refusal { limit: attempt.limit.name, until: *until }))
                }
                Decision::Allowed => None,
            });
        let Some((attempt, refusal)) = refused else { return Ok(Ok(keys)) };
        // Before the refund, during which the client may hang up.
        self.refuse(attempt, refusal, now, log);
        let counted: Vec<Key> = keys
            .into_iter()
            .zip(decisions)
            .filter_map(|(key, decision)| (decision == Decision::Allowed).then_some(key))
            .collect();
        if !counted.is_empty() {
            // In a transaction, which is not repeated: nothing is refunded twice.
            with_timeout(async {
                let mut tx = db.begin().await?;
                limits::refund(&mut tx, &counted).await?;
                tx.commit().await
            })
            .await?;
        }
        Ok(Err(refusal))
    }

    /// Remembers a refusal, counts it and logs it: only the first one, as a flood must not fill the
    /// log.
    pub fn refuse(
        &self,
        attempt: &Attempt,
        refusal: Refusal,
        now: DateTime<Utc>,
        log: impl Fn(&Event),
    ) {
        self.remember(attempt, refusal, now);
        self.refusals.add(refusal.limit);
        log(&attempt.refused(refusal));
    }

    /// Forgets the refusals that are remembered under these keys.
    pub fn forget(&self, keys: &[Key]) {
        if !keys.is_empty() {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                refused.remove(key);
            }
        }
    }

    /// The key of an attempt: a hash, so that no row of the table tells a name or an address.
    pub fn key(&self, attempt: &Attempt) -> Vec<u8> {
        self.hash.of(&format!("{} {}", attempt.limit.name, attempt.subject))
    }

    /// Counts each attempt where its limit allows it. A statement that had to be repeated counts
    /// twice; the excess drains in time.
    async fn decide(
        &self,
        db: &Db,
        keys: &[Key],
        attempts: &[Attempt],
        now: DateTime<Utc>,
    ) -> sqlx::Result<Vec<Decision>> {
        // Rows are locked always in one order, so that no two callers wait for each other.
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|&index| &keys[index]);
        let sorted: Vec<Key> = order.iter().map(|&index| keys[index].clone()).collect();
        let allowance = |&index: &usize| self.allowances[attempts[index].limit];
        let allowances: Vec<Allowance> = order.iter().map(allowance).collect();
        let count = db.write(|db| {
            let (sorted, allowances) = (sorted.clone(), allowances.clone());
            Box::pin(async move { limits::reserve(db, &sorted, &allowances, now).await })
        });
        let decisions = count.await?;
        let mut in_order = vec![Decision::Allowed; keys.len()];
        order.into_iter().zip(decisions).for_each(|(index, decision)| in_order[index] = decision);
        Ok(in_order)
    }
}
