//! The letter that tells a confirmed address that its account is about to get another one.

use super::{Composed, Draft};
use crate::mail::letters::{Values, masked};
use crate::store::users::User;

pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    let Some(new_address) = new_address(draft, user) else { return Ok(None) };
    let values = Values::new()
        .set("username", &user.username)
        .set("new_address", masked(new_address))
        .set_if("by_staff", (draft.claimed.data["by_staff"] == true).then_some(1))
        .set_if("not_me", draft.not_me_link());
    draft.letter(draft.recipient(), &values)
}

/// The address to tell of, also once it was confirmed; `None` if the change was taken back.
fn new_address<'a>(draft: &Draft<'_>, user: &'a User) -> Option<&'a str> {
    let confirmed = Some(user.email.as_str()).filter(|email| !draft.goes_to(email));
    user.pending_email.as_deref().or(confirmed)
}
