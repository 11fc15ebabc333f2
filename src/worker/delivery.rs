//! Sends the letters that wait in the outbox.
//!
//! At least once, never lost: a letter is claimed for longer than sending it may take, so a worker
//! that dies while it sends one leaves it to the next.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::letters;
use crate::changes::QueuedBy;
use crate::mail::{self, Deadlines, Letter, Mailer, SendError};
use crate::metrics::{DELAYED, FAILED, SENT};
use crate::security;
use crate::state::AppState;
use crate::store::db;
use crate::store::outbox::{self, ClaimedLetter, LEASE, LetterKind};
use crate::store::users;

/// How long after its claim a letter may be begun: the database can be slow before that.
const BEGIN_WITHIN: Duration = Duration::from_secs(12);
/// For how long what became of a letter is written down again if that fails: a fail-over takes some
/// seconds, and a letter that nobody knows to be sent is sent again.
const SETTLE_WITHIN: Duration = Duration::from_secs(12);
const SETTLE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// With 12 s for the last attempt to write it down, which the database may take.
const _: () = assert!(
    BEGIN_WITHIN.as_secs()
        + Deadlines::USUAL.letter.as_secs()
        + SETTLE_WITHIN.as_secs()
        + SETTLE_AGAIN_AFTER.as_secs()
        + 12
        < LEASE.num_seconds().unsigned_abs()
);
/// How long to wait after the first, second ... attempt that failed; the last one counts for all
/// that follow.
const BACKOFF: [TimeDelta; 5] = [
    TimeDelta::minutes(1),
    TimeDelta::minutes(5),
    TimeDelta::minutes(15),
    TimeDelta::hours(1),
    TimeDelta::hours(3),
];
/// A letter that could not be sent for this long is given up: its link would come as a surprise.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::hours(24);
/// But not before this many attempts: without a mail server it may have waited long for its first.
const MIN_ATTEMPTS: i32 = 5;
/// Letters on their way at once.
const SENDERS: usize = 4;
/// How long to wait for a letter if none is announced: for one whose announcement was lost.
const POLL: Duration = Duration::from_secs(30);
/// The same where letters of other processes are not heard of: behind a pooler, with no way past
/// it.
const POLL_UNHEARD: Duration = Duration::from_secs(5);
/// The least of these waits.
const MIN_POLL: Duration = Duration::from_secs(1);
/// For how long that one holds after a letter was announced: others that were queued in that moment
/// are not announced themselves (migration 0011). As long as a transaction may take.
const ANNOUNCED_FOR: Duration = Duration::from_secs(10);
/// How long a letter that is announced by the database is left to the worker of the process that
/// queued it. All that come meanwhile are looked for once: else all workers would ask for each
/// letter.
const HEAD_START: Duration = Duration::from_millis(200);

/// Hands what is due to up to [`SENDERS`] tasks until `stop` says so, and waits for what is on its
/// way.
pub(super) async fn send_letters(state: AppState, mut stop: watch::Receiver<bool>) {
    let mut sending = JoinSet::new();
    let mut announced_at = Instant::now();
    while !*stop.borrow() {
        let pause = match reported(claim(&state)).await {
            Some(Some(claimed)) => {
                let state = state.clone();
                sending.spawn(async move { Box::pin(reported(deliver(&state, claimed))).await });
                None
            }
            Some(None) if announced_at.elapsed() > ANNOUNCED_FOR => {
                reported(until_due(&state)).await.or(Some(MIN_POLL))
            }
            _ => Some(MIN_POLL),
        };
        let go_on = async {
            if let Some(pause) = pause
                && until_announced(&state, pause).await
            {
                announced_at = Instant::now();
            }
            while sending.len() == SENDERS {
                sending.join_next().await;
            }
        };
        tokio::select! {
            () = go_on => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        while sending.try_join_next().is_some() {}
    }
    sending.join_all().await;
}

/// Waits for a letter to be announced, for `pause` at the most; whether one was.
async fn until_announced(state: &AppState, pause: Duration) -> bool {
    let Ok(queued_by) = timeout(pause, state.mail_queued.notified()).await else { return false };
    if queued_by == QueuedBy::AnyProcess {
        let _ = timeout(HEAD_START, state.mail_queued.notified_here()).await;
    }
    true
}

/// What the work gives; `None` if it failed. A letter that panics is one that failed: it is claimed
/// again when its lease ends.
async fn reported<T>(work: impl Future<Output = sqlx::Result<T>>) -> Option<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(error)) => {
            let error = db::describe(&error);
            tracing::warn!(error, "worker: the outbox cannot be used at the moment");
        }
        Err(_) => tracing::error!("worker: sending a letter panicked: this is a bug"),
    }
    None
}

/// How long to wait, if none is announced, before the outbox is asked again: until its next letter
/// is due, if that is sooner than the next poll.
async fn until_due(state: &AppState) -> sqlx::Result<Duration> {
    let due = state.db.read(|db| Box::pin(outbox::first_due(db))).await?;
    let poll = if state.mail_queued.is_heard() { POLL } else { POLL_UNHEARD };
    let left = due.map_or(poll, |due| (due - state.clock.now()).to_std().unwrap_or_default());
    // Another worker may be about to claim what is due.
    Ok(left.clamp(MIN_POLL, poll))
}

/// Claims one letter, sends it and settles it; whether there was one.
pub async fn deliver_next(state: &AppState) -> sqlx::Result<bool> {
    let Some(claimed) = claim(state).await? else { return Ok(false) };
    deliver(state, claimed).await?;
    Ok(true)
}

/// A letter, and since when at the latest it is ours.
type Claim = (ClaimedLetter, Instant);

async fn claim(state: &AppState) -> sqlx::Result<Option<Claim>> {
    let (now, since) = (state.clock.now(), Instant::now());
    let claimed = state.db.write(|db| Box::pin(outbox::claim_next(db, now, LEASE))).await?;
    Ok(claimed.map(|claimed| (claimed, since)))
}

async fn deliver(state: &AppState, (claimed, since): Claim) -> sqlx::Result<()> {
    if letters::is_void(state, &claimed, state.clock.now()).await? {
        return db::with_timeout(withdraw(state, &claimed)).await;
    }
    let user = letters::addressee(state, &claimed, state.clock.now()).await?;
    let sent = match letters::compose(state, &claimed, user.as_ref(), state.clock.now()) {
        Ok(Some(_)) if since.elapsed() > BEGIN_WITHIN => {
            Err(SendError::Transient("the database was too slow to begin in time".to_owned()))
        }
        Ok(Some(letter)) => send(state, &letter).await,
        Ok(None) => return db::with_timeout(withdraw(state, &claimed)).await,
        Err(error) => Err(error),
    };
    let outcome = Outcome::of(&claimed, sent, state.clock.now());
    let until = Instant::now() + SETTLE_WITHIN;
    while let Err(error) = db::with_timeout(settle(state, claimed.id, &outcome)).await {
        if Instant::now() > until {
            return Err(error);
        }
        tokio::time::sleep(SETTLE_AGAIN_AFTER).await;
    }
    outcome.tell(state, &claimed);
    Ok(())
}

/// To be called with no transaction open: the mail server takes its time.
async fn send(state: &AppState, letter: &Letter) -> Result<(), SendError> {
    let outcome = state.mailer.send(letter).await;
    if let (Ok(()), Mailer::Folder(_)) = (&outcome, &state.mailer) {
        let mut words = letter.text.split_whitespace();
        let link = words.find(|word| word.contains("token="));
        tracing::info!(link, "worker: a letter is in /dev/mailbox");
    }
    outcome
}

/// Gives up a letter that is no longer wanted. But a change of the user that was under way when it
/// was claimed took it for one that still waits, and queued no other: so the user is read again,
/// once that change is done.
async fn withdraw(state: &AppState, claimed: &ClaimedLetter) -> sqlx::Result<()> {
    let (id, now) = (claimed.id, state.clock.now());
    let mut tx = state.db.begin().await?;
    if let LetterKind::Reset | LetterKind::Invitation = claimed.kind {
        let user = users::find_by_email(&mut tx, &claimed.recipient).await?;
        if claimed.kind == LetterKind::Reset && user.is_none_or(|user| user.is_deleted()) {
            // There is nothing to keep of what a stranger typed.
            outbox::delete(&mut tx, id).await?;
            return tx.commit().await;
        }
        outbox::set_failed(&mut tx, id, "its link has run out, or is void", now).await?;
        tx.commit().await?;
        tracing::warn!(letter = %id, "worker: a letter was given up: its link has run out, or is void");
        state.metrics.letters.add(FAILED);
        return Ok(());
    }
    let user = match claimed.user_id {
        Some(id) => users::find_for_share(&mut tx, id).await?,
        None => None,
    };
    if claimed.user_id.is_some() && user.is_none() {
        // The letter went with its user.
        return Ok(());
    }
    if !matches!(letters::compose(state, claimed, user.as_ref(), now), Ok(None)) {
        outbox::set_next_attempt(&mut tx, id, "the account was being changed", now).await?;
        return tx.commit().await;
    }
    outbox::set_failed(&mut tx, id, "no longer wanted: the account has moved on", now).await?;
    tx.commit().await?;
    tracing::info!(letter = %id, "worker: a letter is no longer wanted: the account has moved on");
    state.metrics.letters.add(FAILED);
    Ok(())
}

/// What became of an attempt.
enum Outcome {
    Sent,
    Delayed { error: SendError, until: DateTime<Utc> },
    GivenUp { error: SendError },
}

impl Outcome {
    fn of(claimed: &ClaimedLetter, sent: Result<(), SendError>, now: DateTime<Utc>) -> Self {
        match sent {
            Ok(()) => Self::Sent,
            Err(error @ SendError::Transient(_))
                if now - claimed.created_at < GIVE_UP_AFTER || claimed.attempts < MIN_ATTEMPTS =>
            {
                let pause = match claimed.kind {
                    // Its link runs out soon.
                    LetterKind::Reset => backoff(1).min(backoff(claimed.attempts)),
                    _ => backoff(claimed.attempts),
                };
                Self::Delayed { error, until: now + pause }
            }
            Err(error) => Self::GivenUp { error },
        }
    }

    /// To the log and the metrics.
    fn tell(&self, state: &AppState, claimed: &ClaimedLetter) {
        let (letter, attempts) = (claimed.id, claimed.attempts);
        let advice = |error| match error {
            &SendError::Transient(_) => mail::advice(error),
            SendError::Permanent(_) => None,
        };
        state.metrics.letters.add(match self {
            Self::Sent => {
                // One that stays here has had its line.
                if !state.mailer.keeps_letters() {
                    tracing::info!(%letter, attempts, "worker: a letter was sent");
                }
                SENT
            }
            Self::Delayed { error, until } => {
                let (reason, advice, next_attempt_at) = (error.to_string(), advice(error), until);
                tracing::warn!(
                    %letter, attempts, reason, advice, %next_attempt_at,
                    "worker: a letter could not be sent yet"
                );
                DELAYED
            }
            Self::GivenUp { error } => {
                let advice = advice(error);
                tracing::error!(%letter, attempts, reason = %error, advice, "worker: a letter was given up");
                FAILED
            }
        });
    }
}

/// May be repeated.
async fn settle(state: &AppState, id: Uuid, outcome: &Outcome) -> sqlx::Result<()> {
    let now = state.clock.now();
    let mut tx = state.db.begin().await?;
    match outcome {
        Outcome::Sent => outbox::set_sent(&mut tx, id, now).await?,
        Outcome::Delayed { error, until } => {
            outbox::set_next_attempt(&mut tx, id, &error.to_string(), *until).await?;
        }
        Outcome::GivenUp { error } => {
            outbox::set_failed(&mut tx, id, &error.to_string(), now).await?;
        }
    }
    tx.commit().await
}

/// The wait after attempt number `attempts`, from 80 to 120 percent of the table's, so that letters
/// that failed together do not come back together.
fn backoff(attempts: i32) -> TimeDelta {
    let index = usize::try_from(attempts - 1).unwrap_or(0).min(BACKOFF.len() - 1);
    let percent = 80 + i32::from(security::random_bytes::<1>()[0]) % 41;
    BACKOFF[index] * percent / 100
}
