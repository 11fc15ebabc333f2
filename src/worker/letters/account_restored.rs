//! The letter that tells a user that the deletion of their account was taken back.

use super::{Composed, Draft};
use crate::mail::letters::Values;
use crate::store::users::User;

/// While the address is the account's, and verified.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    if !(draft.goes_to(&user.email) && user.is_email_verified()) {
        return Ok(None);
    }
    let values =
        Values::new().set("username", &user.username).set_if("not_me", draft.not_me_link());
    draft.letter(draft.recipient(), &values)
}
