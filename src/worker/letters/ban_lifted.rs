//! The letter that tells a user that they are banned no longer.

use super::{Composed, Draft};
use crate::mail::letters::Values;
use crate::store::users::User;

/// While that is so, and the address is the account's, and verified.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    if !(user.may_get_in() && draft.goes_to(&user.email) && user.is_email_verified()) {
        return Ok(None);
    }
    draft.letter(draft.recipient(), &Values::new().set("username", &user.username))
}
