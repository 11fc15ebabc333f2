//! The letter that tells a user that their password was changed.

use super::Draft;
use crate::mail::{Letter, message};
use crate::store::users::User;

/// While the address is the account's, and verified.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Option<Letter> {
    let is_wanted = draft.goes_to(&user.email) && user.is_email_verified();
    is_wanted.then(|| {
        let (id, to) = (&draft.message_id, draft.recipient());
        message::password_changed(id, to, draft.service(), &user.username)
    })
}
