//! The letter that invites its reader to make an account.

use super::{Composed, Draft};
use crate::account::invitations::LIFETIME;
use crate::mail::letters::Values;
use crate::security::token::HandleKind;

/// Nothing of what the admin typed is in it. `None` once its link has run out.
pub(super) fn compose(draft: &Draft<'_>) -> Composed {
    let Some(challenge) = draft.claimed.challenge_id else { return Ok(None) };
    let (state, at) = (draft.state, draft.claimed.created_at);
    let hours = (at + LIFETIME - draft.now).num_hours();
    if hours < 1 {
        return Ok(None);
    }
    let token = state.keys.issue_handle(HandleKind::Invite, challenge, at, at + LIFETIME);
    let link = draft.link(state.config.account.invite_url.as_ref(), "invitations", &token);
    draft.letter(draft.recipient(), &Values::new().set("link", link).set("hours", hours))
}
