//! The letter with which a password is reset: a link and a code.

use super::{Composed, Draft};
use crate::account::recovery::{CODE_LIFETIME, LINK_LIFETIME};
use crate::mail::letters::Values;
use crate::security::mailed_code::CodePurpose;
use crate::security::token::HandleKind;
use crate::store::users::User;

/// To the account's own spelling of its address, whatever was typed: some providers tell capitals
/// apart. `None` once its link has run out.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    let Some(challenge) = draft.claimed.challenge_id else { return Ok(None) };
    let (state, at) = (draft.state, draft.claimed.created_at);
    let Some(minutes) = draft.minutes_until(at + LINK_LIFETIME) else { return Ok(None) };
    let token = state.keys.issue_handle(HandleKind::Reset, challenge, at, at + LINK_LIFETIME);
    let page = state.config.password_reset_url.as_ref();
    let link = draft.link(page, "password/reset", &token);
    let code = state.codes.make(CodePurpose::Reset, challenge);
    let code_minutes = draft.minutes_until(at + CODE_LIFETIME);
    // A letter that was held up has a code that is good no longer.
    let values = Values::new()
        .set("link", link)
        .set("minutes", minutes)
        .set_if("digits", code_minutes.map(|_| &*code))
        .set_if("code_minutes", code_minutes);
    draft.letter(&user.email, &values)
}
