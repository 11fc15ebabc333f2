//! The letter that asks to confirm an address.

use super::{Composed, Draft};
use crate::account::letters::LINK_LIFETIME;
use crate::mail::letters::Values;
use crate::security::mailed_code::CodePurpose;
use crate::security::token::{LinkClaims, LinkPurpose};
use crate::store::users::User;

pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    if is_wanted(draft, user) { write(draft, user) } else { Ok(None) }
}

/// Whether the address still waits to be confirmed.
fn is_wanted(draft: &Draft<'_>, user: &User) -> bool {
    let is_pending = user.pending_email.as_deref().is_some_and(|email| draft.goes_to(email));
    is_pending || (!user.is_email_verified() && draft.goes_to(&user.email))
}

fn write(draft: &Draft<'_>, user: &User) -> Composed {
    let (state, now) = (draft.state, draft.now);
    let email = draft.recipient().to_owned();
    let claims = LinkClaims { sub: user.id, email, purpose: LinkPurpose::ConfirmEmail };
    let token = state.keys.issue_link(&claims, now, now + LINK_LIFETIME);
    let link = draft.link(state.config.confirm_url.as_ref(), "confirm", &token);
    let (digits, minutes) = code(draft).unzip();
    let values = Values::new()
        .set("link", link)
        .set("hours", LINK_LIFETIME.num_hours())
        .set_if("digits", digits)
        .set_if("code_minutes", minutes);
    draft.letter(draft.recipient(), &values)
}

/// The code, and for how many minutes it is good; none in a letter that was held up for longer, or
/// that a release without codes queued.
fn code(draft: &Draft<'_>) -> Option<(String, i64)> {
    let (challenge, until) = (draft.claimed.challenge_id?, draft.claimed.challenge_expires_at?);
    let minutes = draft.minutes_until(until)?;
    Some((draft.state.codes.make(CodePurpose::Confirm, challenge), minutes))
}
