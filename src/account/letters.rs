//! Letters to users: what each counts as, and how it is queued.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::account::attempts::{RefundOnDrop, reserve_to_completion};
use crate::account::client::ClientInfo;
use crate::limits::{self, Attempt, MAIL_ADDRESS, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR};
use crate::state::AppState;
use crate::store::outbox::{self, LetterKind, NewLetter};
use crate::store::users::User;

/// How long the link in a letter is good.
pub const LINK_LIFETIME: TimeDelta = TimeDelta::hours(24);

/// Queues the letter that asks to confirm the user's address: the pending one where there is one.
pub async fn queue_confirmation(
    db: &mut PgConnection,
    user: &User,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    queue(db, LetterKind::Confirmation, user, user.address_to_confirm(), now).await
}

/// Queues the letter that tells the user's old address of a new one.
pub async fn queue_email_change_notice(
    db: &mut PgConnection,
    user: &User,
    old_address: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    queue(db, LetterKind::EmailChangeNotice, user, old_address, now).await
}

/// Queues a letter whose kind needs to know of nothing but its user.
async fn queue(
    db: &mut PgConnection,
    kind: LetterKind,
    user: &User,
    recipient: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let letter = NewLetter { kind, user_id: Some(user.id), recipient, data: json!({}) };
    outbox::insert(db, &letter, now).await
}

/// The attempts that a notice to the old address counts as. Its owner is calling, so a refusal is shown.
pub fn notice_attempts(recipient: &str) -> [Attempt; 2] {
    let subject = format!("notice {}", recipient.to_ascii_lowercase());
    [&limits::MAIL_RECIPIENT_HOUR, &limits::MAIL_RECIPIENT_DAY]
        .map(|limit| Attempt::on(limit, &subject))
}

/// Counts a letter to `recipient` caused by a call from `client`; `None` if the limit is reached. The caller is not
/// told: it would reveal to a stranger what the address was sent before. To be kept only if a letter is queued: else
/// strangers would use up the budget of whoever owns the address.
pub async fn reserve_letter(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RefundOnDrop>> {
    let [hour, day] = letters_to(recipient);
    let attempts = vec![hour, day, Attempt::by_address(&MAIL_ADDRESS, client.ip)];
    Ok(reserve_to_completion(state, attempts, now).await?.ok())
}

/// Counts the first letter of a new account, by itself: whoever was sent other letters is sent it all the same, but an
/// account that moves on from one address to the next frees each for another registration.
pub async fn reserve_first_letter(
    state: &AppState,
    recipient: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RefundOnDrop>> {
    let attempts = letters_to(&format!("registration {recipient}")).to_vec();
    Ok(reserve_to_completion(state, attempts, now).await?.ok())
}

fn letters_to(recipient: &str) -> [Attempt; 2] {
    let recipient = recipient.to_ascii_lowercase();
    [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &recipient))
}
