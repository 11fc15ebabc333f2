//! Letters to users: what each counts as, how it is queued, and how long its link is good.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::account::Error;
use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::limits::{
    Attempt, MAIL_ADDRESS, MAIL_FIRST, MAIL_NETWORK, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR,
};
use crate::state::AppState;
use crate::store::invitations::Invitation;
use crate::store::not_me::{self, NewNotice};
use crate::store::outbox::{self, LetterKind, NewLetter};
use crate::store::users::User;

/// How long the link in a letter is good.
pub const LINK_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// How long the link of "this was not me" is.
pub const NOT_ME_LIFETIME: TimeDelta = TimeDelta::days(7);

/// Queues a letter to the verified address of a user, with the link by which its reader takes back
/// what it tells of and what came after it: that began at `since`.
pub async fn queue_notice(
    db: &mut PgConnection,
    letter: NewLetter<'_>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let notice = NewNotice {
        id: Uuid::now_v7(),
        user_id: letter.user_id,
        recipient: letter.recipient,
        told: letter.kind.as_str(),
        since,
        created_at: now,
        expires_at: now + NOT_ME_LIFETIME,
    };
    not_me::insert(db, &notice).await?;
    outbox::insert(db, &[NewLetter { challenge_id: Some(notice.id), ..letter }], now).await
}

/// Whether such a letter waits to be sent, for the first time or once more.
pub async fn is_confirmation_waiting(db: &mut PgConnection, user: &User) -> sqlx::Result<bool> {
    outbox::is_waiting(db, user.id, LetterKind::Confirmation, user.address_to_confirm()).await
}

/// The letter that asks to confirm the user's address: the pending one where there is one.
pub fn confirmation(user: &User, challenge_id: Uuid) -> NewLetter<'_> {
    let letter = to_user(LetterKind::Confirmation, user, user.address_to_confirm());
    NewLetter { challenge_id: Some(challenge_id), ..letter }
}

/// The letter that tells the user's old address of a new one, which the user has set or an admin.
pub fn email_change_notice<'a>(user: &User, old_address: &'a str, by_staff: bool) -> NewLetter<'a> {
    let letter = to_user(LetterKind::EmailChangeNotice, user, old_address);
    if by_staff { NewLetter { data: json!({ "by_staff": true }), ..letter } } else { letter }
}

/// The letter that tells a user that their password was changed.
pub fn password_changed(user: &User) -> NewLetter<'_> {
    to_user(LetterKind::PasswordChanged, user, &user.email)
}

/// The letter that tells a user that they are banned no longer.
pub fn ban_lifted(user: &User) -> NewLetter<'_> {
    to_user(LetterKind::BanLifted, user, &user.email)
}

/// The letter that tells a user that their account is deleted, with the link that takes that back.
pub fn account_deleted(user: &User, challenge: Uuid, until: DateTime<Utc>) -> NewLetter<'_> {
    NewLetter {
        data: json!({ "restore_until": until }),
        challenge_id: Some(challenge),
        ..to_user(LetterKind::AccountDeleted, user, &user.email)
    }
}

/// The letter that tells a user that the deletion of their account was taken back.
pub fn account_restored(user: &User) -> NewLetter<'_> {
    to_user(LetterKind::AccountRestored, user, &user.email)
}

/// The letter that invites its reader to make an account.
pub fn invitation(invitation: &Invitation) -> NewLetter<'_> {
    NewLetter {
        kind: LetterKind::Invitation,
        user_id: None,
        recipient: &invitation.email,
        data: json!({}),
        challenge_id: Some(invitation.challenge_id),
    }
}

/// Counts a letter that resets a password; `None` if a limit is reached, which no client is told. It is
/// limited by itself for each block of addresses that asks: what others have caused does not keep
/// the owner's back, until all of them together have filled the box.
pub async fn count_reset(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<Vec<Counted>>, Error> {
    let mut all = resets_to(recipient, client).to_vec();
    all.push(Attempt::by_address(&MAIL_ADDRESS, client.ip));
    all.extend(Attempt::by_network(&MAIL_NETWORK, client.ip));
    let counting = attempts::count(state, [Attempts::refunded_if_dropped(all)], now);
    Ok(silently(counting.await)?.map(Vec::from))
}

/// As [`count_reset`], of a letter that an admin sends: it counts with its recipient alone, as one
/// admin sends letters to many.
pub async fn count_reset_by_admin(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<Counted>, Error> {
    count_by_admin(state, resets_to(recipient, client), now).await
}

/// As [`count_silently`], likewise.
pub async fn count_confirmation_by_admin(
    state: &AppState,
    recipient: &str,
    now: DateTime<Utc>,
) -> Result<Option<Counted>, Error> {
    count_by_admin(state, letters_to(recipient), now).await
}

async fn count_by_admin(
    state: &AppState,
    all: impl Into<Vec<Attempt>>,
    now: DateTime<Utc>,
) -> Result<Option<Counted>, Error> {
    let counting = attempts::count(state, [Attempts::refunded_if_dropped(all)], now);
    Ok(silently(counting.await)?.map(|[counted]| counted))
}

/// What a letter counts as with its recipient.
fn letters_to(recipient: &str) -> [Attempt; 2] {
    let recipient = recipient.to_ascii_lowercase();
    [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &recipient))
}

/// What a letter that resets a password does.
fn resets_to(recipient: &str, client: &ClientInfo) -> [Attempt; 3] {
    let subject = format!("reset {}", recipient.to_ascii_lowercase());
    let by_block = |limit| Attempt::on_account_from(limit, &subject, client.ip);
    [
        by_block(&MAIL_RECIPIENT_HOUR),
        by_block(&MAIL_RECIPIENT_DAY),
        Attempt::on(&MAIL_FIRST, &subject),
    ]
}

/// A letter whose kind needs to know of nothing but its user.
fn to_user<'a>(kind: LetterKind, user: &User, recipient: &'a str) -> NewLetter<'a> {
    NewLetter { kind, user_id: Some(user.id), recipient, data: json!({}), challenge_id: None }
}

/// A notice to the old address counts as this. Its owner is calling, so a refusal is told.
pub fn notice_attempts(recipient: &str) -> Attempts {
    to_recipient("notice", recipient)
}

/// An invitation counts as this. An admin is calling, and without a letter the new link would reach
/// no reader, so a refusal is told.
pub fn invitation_attempts(recipient: &str) -> Attempts {
    to_recipient("invitation", recipient)
}

fn to_recipient(what: &str, recipient: &str) -> Attempts {
    let subject = format!("{what} {}", recipient.to_ascii_lowercase());
    Attempts::refunded_if_dropped(
        [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &subject)),
    )
}

/// Counts a letter to `recipient` caused by `client`. To be charged only if a letter is queued: else
/// strangers would use up the budget of the address's owner.
pub async fn count(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Counted, Error> {
    let mut all = letters_to(recipient).to_vec();
    all.push(Attempt::by_address(&MAIL_ADDRESS, client.ip));
    let [counted] = attempts::count(state, [Attempts::refunded_if_dropped(all)], now).await?;
    Ok(counted)
}

/// As [`count`]; `None` if a limit is reached. The client is not told: that would tell a stranger
/// what the address was sent before.
pub async fn count_silently(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<Counted>, Error> {
    silently(count(state, recipient, client, now).await)
}

/// Counts the first letter of a new account, limited by itself for each block of addresses that
/// registers: neither letters that others have caused nor registrations from elsewhere keep the
/// owner's back, and an account that moves on from one address to the next frees none for another
/// registration. It counts among all letters to the address too, and is sent however many those
/// were.
pub async fn count_first(
    state: &AppState,
    recipient: &str,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<Vec<Counted>>, Error> {
    let subject = format!("registration {}", recipient.to_ascii_lowercase());
    let by_block = |limit| Attempt::on_account_from(limit, &subject, client.ip);
    let own = [
        by_block(&MAIL_RECIPIENT_HOUR),
        by_block(&MAIL_RECIPIENT_DAY),
        Attempt::on(&MAIL_FIRST, &subject),
    ];
    let counting = attempts::count(state, [Attempts::refunded_if_dropped(own)], now);
    let Some([first]) = silently(counting.await)? else { return Ok(None) };
    let among_all = count_silently(state, recipient, client, now).await?;
    Ok(Some([first].into_iter().chain(among_all).collect()))
}

/// No guard where a limit is reached.
fn silently<T>(counted: Result<T, Error>) -> Result<Option<T>, Error> {
    match counted {
        Err(Error::RateLimited { .. }) => Ok(None),
        counted => counted.map(Some),
    }
}
