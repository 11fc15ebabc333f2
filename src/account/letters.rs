//! Letters to users: what each counts as, and how it is queued.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::account::Error;
use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::limits::{Attempt, MAIL_ADDRESS, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR};
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
    outbox::insert(db, &[confirmation(user)], now).await
}

/// The letter that asks to confirm the user's address.
pub fn confirmation(user: &User) -> NewLetter<'_> {
    to_user(LetterKind::Confirmation, user, user.address_to_confirm())
}

/// The letter that tells the user's old address of a new one.
pub fn email_change_notice<'a>(user: &User, old_address: &'a str) -> NewLetter<'a> {
    to_user(LetterKind::EmailChangeNotice, user, old_address)
}

/// A letter whose kind needs to know of nothing but its user.
fn to_user<'a>(kind: LetterKind, user: &User, recipient: &'a str) -> NewLetter<'a> {
    NewLetter { kind, user_id: Some(user.id), recipient, data: json!({}) }
}

/// A notice to the old address counts as this. Its owner is calling, so a refusal is told.
pub fn notice_attempts(recipient: &str) -> Attempts {
    let subject = format!("notice {}", recipient.to_ascii_lowercase());
    Attempts::refunded_if_dropped(
        [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &subject)),
    )
}

/// Counts a letter to `recipient` caused by `client`; `None` if a limit is reached. The client is
/// not told: that would tell a stranger what the address was sent before. To be charged only if a
/// letter is queued: else strangers would use up the budget of the address's owner.
pub async fn count(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Counted>> {
    let [hour, day] = letters_to(recipient);
    count_silently(state, vec![hour, day, Attempt::by_address(&MAIL_ADDRESS, client.ip)], now).await
}

/// Counts the first letter of a new account, limited by itself: letters that others have caused do
/// not keep it back, and an account that moves on from one address to the next frees none for
/// another registration. It counts among all letters to the address too, and is sent however many
/// those were.
pub async fn count_first(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Vec<Counted>>> {
    let own = letters_to(&format!("registration {recipient}")).to_vec();
    let Some(first) = count_silently(state, own, now).await? else { return Ok(None) };
    let among_all = count(state, recipient, client, now).await?;
    Ok(Some([first].into_iter().chain(among_all).collect()))
}

async fn count_silently(
    state: &AppState,
    all: Vec<Attempt>,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Counted>> {
    match attempts::count(state, [Attempts::refunded_if_dropped(all)], now).await {
        Ok([counted]) => Ok(Some(counted)),
        Err(Error::Database(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn letters_to(recipient: &str) -> [Attempt; 2] {
    let recipient = recipient.to_ascii_lowercase();
    [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &recipient))
}
