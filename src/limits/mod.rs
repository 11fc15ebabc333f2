//! Rate limits.
//!
//! An attempt is counted before the work is done, and refunded if it turns out legitimate (a successful login): so
//! parallel guesses count. The counts are in the database, shared by all instances. Refusals are remembered here for a
//! while, so that a flood costs the database nothing. No account is ever locked: strangers use up a budget of their
//! own, not that of an address that has logged in to the account before.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::metrics::Tally;
use crate::security::KeyedHash;
use crate::store::audit::Event;
use crate::store::db::{AcquireTimedOut, Db, KeyedPermit, KeyedSemaphore, Tx, with_timeout};
use crate::store::limits::{self, Allowance, Decision};

/// One line of the table of limits.
#[derive(Debug)]
pub struct Limit {
    /// Stable: what a refused client is told.
    pub name: &'static str,
    allowance: Allowance,
}

const fn bucket(name: &'static str, burst: i32, seconds: i64) -> Limit {
    Limit { name, allowance: Allowance::Bucket { burst, every: TimeDelta::seconds(seconds) } }
}

const fn window(name: &'static str, count: i32, minutes: i64) -> Limit {
    Limit { name, allowance: Allowance::Window { count, length: TimeDelta::minutes(minutes) } }
}

/// Failed logins from one address, whomever they were aimed at.
pub static LOGIN_ADDRESS: Limit = bucket("login_address", 30, 4);
/// Failed logins to one account from one block of addresses.
pub static LOGIN_ACCOUNT: Limit = bucket("login_account", 10, 30);
/// Failed logins to one account from all addresses that never logged in to it.
pub static LOGIN_STRANGERS: Limit = window("login_strangers", 100, 60);
pub static REGISTER_HOUR: Limit = window("register_hour", 10, 60);
pub static REGISTER_DAY: Limit = window("register_day", 60, 24 * 60);
pub static MAIL_RECIPIENT_HOUR: Limit = window("mail_recipient_hour", 3, 60);
pub static MAIL_RECIPIENT_DAY: Limit = window("mail_recipient_day", 10, 24 * 60);
pub static MAIL_ADDRESS: Limit = window("mail_address", 20, 60);
/// Wrong present passwords of somebody who is logged in.
pub static PASSWORD: Limit = window("password", 5, 15);
pub static REFRESH: Limit = window("refresh", 30, 1);
/// Changes of one user's own data: each leaves its row in the audit table, and asks whether a name is taken.
pub static PROFILE: Limit = window("profile", 60, 60);

pub static ALL: [&Limit; 11] = [
    &LOGIN_ADDRESS,
    &LOGIN_ACCOUNT,
    &LOGIN_STRANGERS,
    &REGISTER_HOUR,
    &REGISTER_DAY,
    &MAIL_RECIPIENT_HOUR,
    &MAIL_RECIPIENT_DAY,
    &MAIL_ADDRESS,
    &PASSWORD,
    &REFRESH,
    &PROFILE,
];

/// Something tried: the limit that counts it, and whom it is about.
#[derive(Clone, Debug)]
pub struct Attempt {
    limit: &'static Limit,
    subject: String,
}

impl Attempt {
    /// By one client: an IPv4 address, or the /64 that an IPv6 client has all to itself.
    pub fn by_address(limit: &'static Limit, ip: Option<IpAddr>) -> Self {
        Self { limit, subject: network(ip, 32, 64) }
    }

    /// On an account (its id, or the name that was given for none) from a block of addresses: /24, /48.
    pub fn on_account_from(limit: &'static Limit, account: &str, ip: Option<IpAddr>) -> Self {
        Self { limit, subject: format!("{account} {}", network(ip, 24, 48)) }
    }

    /// On a username as typed, by one client: known without asking the database.
    pub fn as_typed(limit: &'static Limit, login: &str, ip: Option<IpAddr>) -> Self {
        let subject = format!("typed {} {}", login.to_ascii_lowercase(), network(ip, 32, 64));
        Self { limit, subject }
    }

    pub fn on(limit: &'static Limit, subject: &str) -> Self {
        Self { limit, subject: subject.to_owned() }
    }

    /// The event of its refusal, with nothing of the subject but an id that it begins with.
    fn refused(&self, refusal: Refusal) -> Event {
        let id = self.subject.split(' ').next().and_then(|first| Uuid::try_parse(first).ok());
        let is_session = self.limit.name == REFRESH.name;
        Event {
            name: "rate_limited",
            user_id: id.filter(|_| !is_session),
            session_id: id.filter(|_| is_session),
            details: json!({ "limit": refusal.limit, "until": refusal.until }),
            ..Event::default()
        }
    }
}

/// The subject of a login: the same for all spellings, and for username and address.
pub fn account_subject(user: Option<Uuid>, login: &str) -> String {
    user.map_or_else(|| format!("nobody {}", login.to_ascii_lowercase()), |id| id.to_string())
}

fn network(ip: Option<IpAddr>, v4_bits: u8, v6_bits: u8) -> String {
    match ip.map(|ip| ip.to_canonical()) {
        None => "nowhere".to_owned(),
        Some(IpAddr::V4(ip)) => format!("{:x}", u32::from(ip) >> (32 - v4_bits)),
        Some(IpAddr::V6(ip)) => format!("{:x}", u128::from(ip) >> (128 - u32::from(v6_bits))),
    }
}

/// Refused: by which limit, and when it may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub limit: &'static str,
    pub until: DateTime<Utc>,
}

/// Attempts that have been counted.
#[derive(Clone, Debug, Default)]
pub struct Reservation(Vec<Vec<u8>>);

impl Reservation {
    /// The keys of the rows that were counted.
    pub fn into_keys(self) -> Vec<Vec<u8>> {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refunds the count, in the transaction of what succeeded.
    pub async fn refund(&self, db: &mut PgConnection) -> sqlx::Result<()> {
        if self.0.is_empty() { Ok(()) } else { limits::refund(db, &self.0).await }
    }
}

/// How many logins of one account or address are in progress at once in a process: of strangers, and of known clients.
/// The others wait, so that concurrent correct logins do not use up the budget for failures. Both together are a third
/// of a limit's burst, so that three processes stay within it. The account comes first: while its logins wait for each
/// other, they take no place of their address.
static IN_PROGRESS: [(&Limit, [usize; 2]); 2] =
    [(&LOGIN_ACCOUNT, [1, 2]), (&LOGIN_ADDRESS, [5, 5])];
/// How long a login waits for its permits in all.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// A refusal that is remembered, and until when: not for long, as another instance may refund its cause.
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
    is_on: bool,
    hash: KeyedHash,
    refused: Mutex<HashMap<Vec<u8>, Remembered>>,
    /// For each of [`IN_PROGRESS`].
    in_progress: Vec<[KeyedSemaphore; 2]>,
    /// How often each limit has refused, remembered refusals included.
    pub refusals: Tally,
}

impl Limits {
    pub fn new(is_on: bool, secret: &SecretString) -> Self {
        Self {
            is_on,
            hash: KeyedHash::new(secret, "doorward/limits/1"),
            refused: Mutex::default(),
            in_progress: IN_PROGRESS
                .iter()
                .map(|(_, at_once)| at_once.map(KeyedSemaphore::new))
                .collect(),
            refusals: Tally::default(),
        }
    }

    /// The refusal of one of these that is remembered and still holds, without asking the database.
    pub fn refused_before(&self, attempts: &[Attempt], now: DateTime<Utc>) -> Option<Refusal> {
        if !self.is_on {
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

    /// Waits until few enough of the same kind are in progress. To be called before `reserve`.
    pub async fn acquire_permits(
        &self,
        attempts: &[Attempt],
        is_known: bool,
    ) -> Result<Vec<KeyedPermit>, AcquireTimedOut> {
        let mut held = Vec::new();
        let started = Instant::now();
        if self.is_on {
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

    /// Counts all of these, or none of them: what was counted beside one that was refused is given back at once.
    pub async fn reserve(
        &self,
        db: &Db,
        attempts: &[Attempt],
        now: DateTime<Utc>,
    ) -> sqlx::Result<Result<Reservation, Refusal>> {
        if !self.is_on {
            return Ok(Ok(Reservation::default()));
        }
        if let Some(refusal) = self.refused_before(attempts, now) {
            return Ok(Err(refusal));
        }
        let mut keyed: Vec<(Vec<u8>, &Attempt)> =
            attempts.iter().map(|attempt| (self.key(attempt), attempt)).collect();
        // Always in one order, so that no two callers wait for each other.
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (keys, attempts): (Vec<Vec<u8>>, Vec<&Attempt>) = keyed.into_iter().unzip();
        let allowances: Vec<_> = attempts.iter().map(|attempt| attempt.limit.allowance).collect();
        let (asked, allowances) = (&keys, &allowances);
        let count = |mut tx: Tx| async move {
            let decisions = limits::reserve(&mut tx, asked, allowances, now).await?;
            tx.commit().await?;
            Ok(decisions)
        };
        // A repeated one counts twice; the excess drains in time.
        let decisions = db.write(count).await?;
        let mut counted = Vec::with_capacity(keys.len());
        let mut refused = None;
        for ((key, attempt), decision) in keys.into_iter().zip(attempts).zip(decisions) {
            match decision {
                Decision::Allowed => counted.push(key),
                Decision::Refused(until) if refused.is_none() => {
                    refused = Some((attempt, Refusal { limit: attempt.limit.name, until }));
                }
                Decision::Refused(_) => {}
            }
        }
        let reservation = Reservation(counted);
        let Some((attempt, refusal)) = refused else { return Ok(Ok(reservation)) };
        self.remember(attempt, refusal, now);
        self.refusals.add(refusal.limit);
        // Only the first one is logged: a flood must not fill the log.
        attempt.refused(refusal).log(&db.events);
        if !reservation.0.is_empty() {
            // In a transaction, which is not repeated: nothing is given back twice.
            with_timeout(async {
                let mut tx = db.begin().await?;
                reservation.refund(&mut tx).await?;
                tx.commit().await
            })
            .await?;
        }
        Ok(Err(refusal))
    }

    /// Forgets the refusals that refunded attempts have caused, and the one remembered for `beside`.
    pub fn forget(&self, given_back: &Reservation, beside: Option<&Attempt>) {
        if !self.is_on {
            return;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &given_back.0 {
            refused.remove(key);
        }
        if let Some(attempt) = beside {
            refused.remove(&self.key(attempt));
        }
    }

    fn key(&self, attempt: &Attempt) -> Vec<u8> {
        self.hash.of(&format!("{} {}", attempt.limit.name, attempt.subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_by_what_one_client_has() {
        let subject = |ip: &str| Attempt::by_address(&LOGIN_ADDRESS, ip.parse().ok()).subject;
        let block =
            |ip: &str| Attempt::on_account_from(&LOGIN_ACCOUNT, "a", ip.parse().ok()).subject;
        assert_eq!(subject("203.0.113.7"), subject("::ffff:203.0.113.7"));
        assert_ne!(subject("203.0.113.7"), subject("203.0.113.8"));
        assert_eq!(block("203.0.113.7"), block("203.0.113.8"));
        assert_ne!(block("203.0.113.7"), block("203.0.114.7"));
        assert_eq!(subject("2001:db8:1:2:3::1"), subject("2001:db8:1:2:ffff::2"));
        assert_ne!(subject("2001:db8:1:2::1"), subject("2001:db8:1:3::1"));
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_ne!(block("2001:db8:1::1"), block("2001:db8:2::1"));
    }

    #[test]
    fn all_spellings_of_a_name_are_one_account() {
        assert_eq!(account_subject(None, "ADA"), account_subject(None, "ada"));
        let id = Uuid::now_v7();
        assert_eq!(account_subject(Some(id), "ada"), account_subject(Some(id), "ada@example.com"));
    }
}
