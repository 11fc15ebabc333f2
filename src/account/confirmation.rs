//! An address that is to be confirmed: asked for in a letter, by its link or its code.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::account::letters;
use crate::security::token::HandleKind;
use crate::state::AppState;
use crate::store::challenges::confirmation::{self, NewConfirmation};
use crate::store::outbox;
use crate::store::users::User;

/// How long the code in a letter is good, with the handle that the client got when it asked for the
/// letter.
pub const CODE_LIFETIME: TimeDelta = TimeDelta::minutes(60);

/// Asks the user to confirm their address, the pending one where there is one, in the transaction
/// of what made it necessary. The handle that is to be sent along with the code.
///
/// A letter that waits already is the one that is on its way for this call too: its code is good
/// with this handle. Without a letter, since a limit is reached, the handle looks and fails like
/// any other.
pub async fn ask(
    state: &AppState,
    db: &mut PgConnection,
    user: &User,
    has_letter: bool,
    now: DateTime<Utc>,
) -> sqlx::Result<String> {
    let recipient = user.address_to_confirm();
    // The client that asks now has to have the time to send it: a challenge that has waited for long with
    // its letter is replaced there.
    let until = now + CODE_LIFETIME / 2;
    let waiting = confirmation::find_waiting(db, user.id, recipient, until).await?;
    let (id, expires_at) = if let Some(waiting) = waiting {
        waiting
    } else {
        let (id, expires_at) = (Uuid::now_v7(), now + CODE_LIFETIME);
        let new = NewConfirmation { id, user_id: user.id, recipient, created_at: now, expires_at };
        confirmation::insert(db, &new).await?;
        (id, expires_at)
    };
    if has_letter {
        outbox::insert(db, &[letters::confirmation(user, id)], now).await?;
    }
    Ok(state.keys.issue_handle(HandleKind::Code, id, now, expires_at))
}
