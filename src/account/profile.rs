//! A changed profile: what is written, and the letters that it causes.

use chrono::{DateTime, Utc};

use crate::account::attempts::Counted;
use crate::account::{confirmation, letters};
use crate::state::AppState;
use crate::store::db::Tx;
use crate::store::users::{self, User};

/// Writes the user; `false`, with nothing written, if the new pending address is another user's:
/// whether it is free when it is confirmed, the database decides then.
pub async fn update(tx: &mut Tx, before: &User, after: &User) -> sqlx::Result<bool> {
    let pending = after.pending_email.as_deref();
    let new_pending = pending.filter(|_| after.pending_email != before.pending_email);
    users::update_profile(tx, after, new_pending).await
}

/// Queues the confirmation of a new address, and a notice to a verified one that it replaces; the
/// handle for the code of the former.
pub async fn queue_letters(
    state: &AppState,
    tx: &mut Tx,
    before: &User,
    after: &User,
    letter: Option<Counted>,
    by_staff: bool,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<String>> {
    let is_pending = after.pending_email.is_some() && after.pending_email != before.pending_email;
    let is_replaced = !after.email.eq_ignore_ascii_case(&before.email);
    if !is_pending && !is_replaced {
        return Ok(None);
    }
    let challenge = confirmation::ask(state, tx, after, letter.is_some(), now).await?;
    if let Some(letter) = letter {
        letter.charge_in(tx);
    }
    if is_pending {
        let notice = letters::email_change_notice(after, &before.email, by_staff);
        letters::queue_notice(tx, notice, now, now).await?;
    }
    Ok(Some(challenge))
}
