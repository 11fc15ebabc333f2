//! Sends the letters that wait in the outbox.
//!
//! At least once, never lost: a letter is claimed for longer than sending it may take, so whoever dies while sending
//! it leaves it to the next. The link is made at that moment: no secret rests in the outbox.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::account::letters::LINK_LIFETIME;
use crate::mail::{Letter, Mailer, SendError, message};
use crate::metrics::{DELAYED, FAILED, SENT};
use crate::security;
use crate::security::token::{LinkClaims, LinkPurpose};
use crate::state::AppState;
use crate::store::outbox::{self, ClaimedLetter, LetterKind};
use crate::store::{db, users};

/// Longer than the mailer takes at most.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// How long to wait after the first, second ... attempt that failed; the last one counts for all that follow.
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
/// How long to wait for a letter if none is announced.
const POLL: Duration = Duration::from_secs(1);

pub(super) async fn send_letters(state: AppState, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        // A letter that panics is one that failed: it is claimed again when its lease ends.
        match AssertUnwindSafe(deliver_next(&state)).catch_unwind().await {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let error = db::describe(&error);
                tracing::warn!(error, "the outbox cannot be used at the moment");
            }
            Err(_) => tracing::error!("a letter could not be dealt with: this is a bug"),
        }
        tokio::select! {
            () = state.mail_queued.notified() => {}
            () = tokio::time::sleep(POLL) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Claims one letter, sends it and settles it; whether there was one.
pub async fn deliver_next(state: &AppState) -> sqlx::Result<bool> {
    let now = state.clock.now();
    let claimed = db::with_timeout(async {
        let mut tx = state.db.begin().await?;
        let claimed = outbox::claim_next(&mut tx, now, LEASE).await?;
        tx.commit().await?;
        Ok(claimed)
    });
    let Some(claimed) = claimed.await? else { return Ok(false) };

    let Some(letter) = letter(state, &claimed, now) else {
        db::with_timeout(withdraw(state, claimed)).await?;
        return Ok(true);
    };
    // No transaction is open while the mail server takes its time.
    let outcome = state.mailer.send(&letter).await;
    if let (Ok(()), Mailer::Folder(_)) = (&outcome, &state.mailer) {
        let mut words = letter.text.split_whitespace();
        let link = words.find(|word| word.starts_with(&state.config.public_url));
        tracing::info!(link, "a letter is in /dev/mailbox");
    }
    db::with_timeout(settle(state, &claimed, outcome)).await?;
    Ok(true)
}

/// Gives up a letter that nobody needs any more. But whoever was changing the user when it was claimed took it for one
/// that still waits, and queued no other: so the user is read again, once they are done.
async fn withdraw(state: &AppState, claimed: ClaimedLetter) -> sqlx::Result<()> {
    let (id, now) = (claimed.id, state.clock.now());
    let mut tx = state.db.begin().await?;
    let Some(user) = users::find_for_share(&mut tx, claimed.user_id).await? else { return Ok(()) };
    let claimed = ClaimedLetter {
        is_email_verified: user.is_email_verified(),
        username: user.username,
        email: user.email,
        pending_email: user.pending_email,
        ..claimed
    };
    if letter(state, &claimed, now).is_some() {
        outbox::set_next_attempt(&mut tx, id, "the account was being changed", now).await?;
        return tx.commit().await;
    }
    outbox::set_failed(&mut tx, id, "no longer wanted: the account has moved on", now).await?;
    tx.commit().await?;
    tracing::info!(letter = %id, "a letter is no longer wanted: the account has moved on");
    state.metrics.letters.add(FAILED);
    Ok(())
}

async fn settle(
    state: &AppState,
    claimed: &ClaimedLetter,
    outcome: Result<(), SendError>,
) -> sqlx::Result<()> {
    let now = state.clock.now();
    let (id, attempts) = (claimed.id, claimed.attempts);
    let mut tx = state.db.begin().await?;
    let came_to = match outcome {
        Ok(()) => {
            outbox::set_sent(&mut tx, id, now).await?;
            tracing::info!(letter = %id, attempts, "a letter was sent");
            SENT
        }
        Err(SendError::Transient(reason))
            if now - claimed.created_at < GIVE_UP_AFTER || attempts < MIN_ATTEMPTS =>
        {
            let next_attempt_at = now + backoff(attempts);
            tracing::warn!(letter = %id, attempts, reason, %next_attempt_at, "a letter could not be sent yet");
            outbox::set_next_attempt(&mut tx, id, &reason, next_attempt_at).await?;
            DELAYED
        }
        Err(SendError::Transient(reason) | SendError::Permanent(reason)) => {
            tracing::error!(letter = %id, attempts, reason, "a letter was given up");
            outbox::set_failed(&mut tx, id, &reason, now).await?;
            FAILED
        }
    };
    tx.commit().await?;
    state.metrics.letters.add(came_to);
    Ok(())
}

/// The wait after attempt number `attempts`, from 80 to 120 percent of the table's, so that letters that failed
/// together do not come back together.
fn backoff(attempts: i32) -> TimeDelta {
    let index = usize::try_from(attempts - 1).unwrap_or(0).min(BACKOFF.len() - 1);
    let percent = 80 + i32::from(security::random_bytes::<1>()[0]) % 41;
    BACKOFF[index] * percent / 100
}

/// The letter as it is sent now; `None` if nobody needs it any more.
fn letter(state: &AppState, claimed: &ClaimedLetter, now: DateTime<Utc>) -> Option<Letter> {
    let public_url = &state.config.public_url;
    let site = state.config.site();
    let message_id = format!("<{}@{site}>", claimed.id);
    let is_recipient = |address: &str| address.eq_ignore_ascii_case(&claimed.recipient);
    match claimed.kind {
        LetterKind::Confirmation => {
            let pending = claimed.pending_email.as_deref().is_some_and(is_recipient);
            let unverified = !claimed.is_email_verified && is_recipient(&claimed.email);
            if !pending && !unverified {
                return None;
            }
            let email = claimed.recipient.clone();
            let claims =
                LinkClaims { sub: claimed.user_id, email, purpose: LinkPurpose::ConfirmEmail };
            let token = state.keys.issue_link(&claims, now, now + LINK_LIFETIME);
            let link = format!("{public_url}/api/v1/confirm?token={token}");
            Some(message::confirmation(
                &message_id,
                &claimed.recipient,
                site,
                &link,
                LINK_LIFETIME.num_hours(),
            ))
        }
        LetterKind::EmailChangeNotice => {
            // Also when the new address was confirmed before this letter left; not when the change was taken back.
            let confirmed = Some(claimed.email.as_str()).filter(|email| !is_recipient(email));
            let new_address = claimed.pending_email.as_deref().or(confirmed)?;
            Some(message::address_change_notice(
                &message_id,
                &claimed.recipient,
                site,
                &claimed.username,
                new_address,
            ))
        }
    }
}
