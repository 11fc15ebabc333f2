//! The letter that tells a user that they are banned no longer.

use super::Draft;
use crate::mail::{Letter, message};
use crate::store::users::User;

/// While that is so, and the address is the account's, and verified.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Option<Letter> {
    let is_wanted = user.may_get_in() && draft.goes_to(&user.email) && user.is_email_verified();
    is_wanted.then(|| {
        let (id, to) = (&draft.message_id, draft.recipient());
        message::ban_lifted(id, to, draft.service(), &user.username)
    })
}
