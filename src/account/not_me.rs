//! "This was not me": the reader of a letter takes back what it tells of and all that came after it.
//!
//! The account goes back to the address that the letter went to, which was verified then: whoever
//! has changed it since may be a thief. So the link is good for whoever reads that address, for as
//! long as it is good, and a thief's own letters lose by it.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::account::Error;
use crate::account::client::ClientInfo;
use crate::account::recovery::{LINK_LIFETIME, Refused};
use crate::security::token::{HandleKind, Opened, TokenError};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::challenges::{self, ChallengeKind, NewChallenge};
use crate::store::db::{Tx, unique_violation};
use crate::store::not_me::{self, Notice};
use crate::store::sessions::{self, NOT_ME};
use crate::store::standing;
use crate::store::users::{self, User};

/// How often it is tried while others register the address in that moment.
const TRIES: usize = 5;

const EXPIRED: Refused = Refused::Link(TokenError::Expired);

/// The notice that a letter's link is for, used or not.
pub async fn find(state: &AppState, token: &str, now: DateTime<Utc>) -> Result<Notice, Refused> {
    let opened = state.keys.open_handle(HandleKind::NotMe, token, now);
    let id = opened.and_then(Opened::unexpired).map_err(Refused::Link)?;
    let found = state.db.read(|db| Box::pin(not_me::find(db, id, now))).await?;
    found.ok_or(EXPIRED)
}

/// Ends every session, gives the account the letter's address back, asks for a new password, and
/// sends the letter to set one. Done once: again it changes nothing, and is no error.
pub async fn take_back(state: &AppState, token: &str, client: &ClientInfo) -> Result<(), Refused> {
    let notice = find(state, token, state.clock.now()).await?;
    if notice.is_used {
        return Ok(());
    }
    for _ in 1..TRIES {
        match take_back_once(state, &notice, client).await {
            Err(Refused::Account(Error::Database(error)))
                if unique_violation(&error) == Some("users_email_key") => {}
            outcome => return outcome,
        }
    }
    take_back_once(state, &notice, client).await
}

async fn take_back_once(
    state: &AppState,
    notice: &Notice,
    client: &ClientInfo,
) -> Result<(), Refused> {
    let (id, now) = (notice.user_id, state.clock.now());
    let mut tx = state.db.begin_for(id).await?;
    // First: of several links of one account each sees what the one before has done.
    let user = users::find_for_update(&mut tx, id).await?.ok_or(EXPIRED)?;
    if !not_me::use_up(&mut tx, notice.id, now).await? {
        // By another call in this moment, or void since.
        let found = not_me::find(&mut tx, notice.id, now).await?;
        return found.map(|_| ()).ok_or(EXPIRED);
    }
    if user.is_deleted() {
        standing::set_restored(&mut tx, id, now).await?;
        challenges::void_all(&mut tx, id, ChallengeKind::Restore, now).await?;
        let event = Event::new(EventKind::Restored).on(id).from(client.ip);
        state.record(&mut tx, event, now).await?;
    }
    let address = give_back_address(state, &mut tx, &user, notice, client, now).await?;
    standing::require_reset(&mut tx, id, now).await?;
    sessions::revoke_all(&mut tx, id, None, NOT_ME, now).await?;
    not_me::delete_later(&mut tx, notice).await?;
    let reset = NewChallenge {
        id: Uuid::now_v7(),
        kind: ChallengeKind::Reset,
        letter_id: Uuid::now_v7(),
        recipient: address.clone(),
        ip: client.ip,
        created_at: now,
        expires_at: now + LINK_LIFETIME,
    };
    challenges::insert_with_letter(&mut tx, &reset).await?;
    let details = json!({ "told": notice.told, "address_given_back": address != user.email });
    let event = Event::new(EventKind::NotMe).on(id).from(client.ip).with(details);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, id).await?;
    state.mail_queued.notify_one();
    Ok(())
}

/// Gives the account the address back that the letter went to; the address that it has now. Where
/// another account has that by now, one that never confirmed it gives way, and a confirmed one
/// keeps it.
async fn give_back_address(
    state: &AppState,
    tx: &mut Tx,
    user: &User,
    notice: &Notice,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<String> {
    let address = &notice.recipient;
    if address.eq_ignore_ascii_case(&user.email) {
        return Ok(user.email.clone());
    }
    if let Some(other) = not_me::delete_unverified(tx, address, user.id).await? {
        let event = Event::new(EventKind::AccountDisowned).on(other).from(client.ip);
        state.record(tx, event, now).await?;
        let state = state.clone();
        tx.after_commit(move || state.session_cache.forget(other));
    }
    let is_free = not_me::give_back_address(tx, user.id, address, now).await?;
    Ok(if is_free { address.clone() } else { user.email.clone() })
}
