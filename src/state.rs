//! What every request shares.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::changes::MailQueued;
use crate::clock::Clock;
use crate::config::Config;
use crate::limits::Limits;
use crate::mail::Mailer;
use crate::mail::letters::Letters;
use crate::metrics::Metrics;
use crate::security::KeyedHash;
use crate::security::mailed_code::MailedCodes;
use crate::security::password::Hasher;
use crate::security::token::TokenKeys;
use crate::session_cache::SessionCache;
use crate::store::audit::{self, Event};
use crate::store::db::{Db, Tx};
use crate::store::logins::Logins;

/// A handle on the one state of the process; cloning it is cheap.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

pub struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub db: Db,
    pub logins: Logins,
    pub keys: TokenKeys,
    pub codes: MailedCodes,
    /// Of what programs call themselves.
    pub devices: KeyedHash,
    pub hasher: Hasher,
    pub limits: Limits,
    pub session_cache: SessionCache,
    pub mailer: Mailer,
    /// What they say.
    pub letters: Letters,
    pub readiness: Readiness,
    pub metrics: Metrics,
    /// Notified when a letter was queued, so that the worker does not have to wait for its next
    /// poll.
    pub mail_queued: MailQueued,
}

impl AppState {
    /// Puts the state together, the only place that does: for the commands with the system's
    /// clock, for the tests with one that stands still, mail in memory and a cheap hash. `secret`
    /// is what all keys are derived from.
    pub fn compose(
        config: Config,
        secret: &SecretString,
        clock: Clock,
        db: Db,
        mailer: Mailer,
        letters: Letters,
        hasher: Hasher,
    ) -> Self {
        let previous = config.secret_key_previous.as_ref();
        Self(Arc::new(Shared {
            clock,
            logins: Logins::new(db.clone()),
            db,
            keys: TokenKeys::new(secret, previous, config.token_algorithm, &config.public_url),
            codes: MailedCodes::new(secret, previous),
            devices: KeyedHash::new(secret, "doorward/devices/1"),
            hasher,
            limits: Limits::new(config.rate_limits, config.allowances.clone(), secret),
            session_cache: SessionCache::new(config.session_cache),
            mailer,
            letters,
            readiness: Readiness::default(),
            metrics: Metrics::default(),
            mail_queued: MailQueued::default(),
            config,
        }))
    }

    /// Records the event in the transaction; it is logged and counted once that is committed.
    pub async fn record(&self, tx: &mut Tx, event: Event, now: DateTime<Utc>) -> sqlx::Result<()> {
        if audit::insert(tx, &event, now).await? {
            let state = self.clone();
            tx.after_commit(move || state.log(&event));
        }
        Ok(())
    }

    /// Logs and counts an event that changes nothing, such as a refusal.
    pub fn log(&self, event: &Event) {
        event.log(&self.metrics.events);
    }

    /// Commits a change to a user or their sessions, and drops them from the cache before the
    /// answer.
    pub async fn commit(&self, tx: Tx, user_id: Uuid) -> sqlx::Result<()> {
        let state = self.clone();
        tx.commit_and(move || state.session_cache.forget(user_id)).await
    }
}

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Whether the service can be given work.
#[derive(Debug, Default)]
pub struct Readiness {
    stage: AtomicU8,
    /// When the database last said whether it is ready, and what.
    answered: Mutex<Option<(Instant, bool)>>,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// The database has been reached and migrated.
    pub fn set_ready(&self) {
        // A service that is draining stays so.
        let _ = self.stage.compare_exchange(STARTING, READY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The process is about to end: what it has been given it finishes.
    pub fn set_draining(&self) {
        self.stage.store(DRAINING, Ordering::SeqCst);
    }

    pub fn is_draining(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == DRAINING
    }

    pub fn is_ready(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == READY
    }

    /// Runs `question` for one caller at a time; its answer serves all who came before it was
    /// given, so that a crowd of them takes one connection.
    pub async fn ask(&self, question: impl Future<Output = bool>) -> bool {
        let came = Instant::now();
        let mut last = self.answered.lock().await;
        if let Some((_, answer)) = last.filter(|(at, _)| *at > came) {
            return answer;
        }
        let answer = question.await;
        *last = Some((Instant::now(), answer));
        answer
    }

    /// Whether the database has been reached and migrated, whatever came after.
    pub fn has_started(&self) -> bool {
        self.stage.load(Ordering::SeqCst) != STARTING
    }
}
