//! The letter that tells a user that their account is deleted, with the link that takes that back.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Composed, Draft};
use crate::mail::letters::Values;
use crate::security::token::HandleKind;
use crate::store::users::User;

#[derive(Deserialize)]
struct Data {
    restore_until: DateTime<Utc>,
}

/// While this deletion, and not a later one, can be taken back.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    let Data { restore_until } = draft.data()?;
    let is_this = user.standing.purge_at == Some(restore_until) && draft.now < restore_until;
    let Some(challenge) = draft.claimed.challenge_id.filter(|_| is_this) else { return Ok(None) };
    let (keys, at) = (&draft.state.keys, draft.claimed.created_at);
    let token = keys.issue_handle(HandleKind::Restore, challenge, at, restore_until);
    let values = Values::new()
        .set("username", &user.username)
        .set("until", restore_until.format("%-d %B %Y, %H:%M UTC").to_string())
        .set("link", draft.link(None, "restore", &token));
    draft.letter(draft.recipient(), &values)
}
