//! The letter that tells a user that their account is deleted, with the link that takes that back.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::Draft;
use crate::mail::{Letter, message};
use crate::security::token::HandleKind;
use crate::store::users::User;

#[derive(Deserialize)]
struct Data {
    restore_until: DateTime<Utc>,
}

/// While this deletion, and not a later one, can be taken back.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> serde_json::Result<Option<Letter>> {
    let Data { restore_until } = Data::deserialize(&draft.claimed.data)?;
    let is_this = user.standing.purge_at == Some(restore_until) && draft.now < restore_until;
    let Some(challenge) = draft.claimed.challenge_id.filter(|_| is_this) else { return Ok(None) };
    let (keys, at) = (&draft.state.keys, draft.claimed.created_at);
    let token = keys.issue_handle(HandleKind::Restore, challenge, at, restore_until);
    Ok(Some(message::account_deleted(&message::AccountDeleted {
        message_id: &draft.message_id,
        to: draft.recipient(),
        service: draft.service(),
        username: &user.username,
        link: &draft.link(None, "restore", &token),
        until: &restore_until.format("%-d %B %Y, %H:%M UTC").to_string(),
    })))
}
