//! The letter that tells a confirmed address that its account is about to get another one.

use super::Draft;
use crate::mail::{Letter, message};
use crate::store::users::User;

pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Option<Letter> {
    new_address(draft, user).map(|new_address| render(draft, user, new_address))
}

/// The address to tell of, also once it was confirmed; `None` if the change was taken back.
fn new_address<'a>(draft: &Draft<'_>, user: &'a User) -> Option<&'a str> {
    let confirmed = Some(user.email.as_str()).filter(|email| !draft.goes_to(email));
    user.pending_email.as_deref().or(confirmed)
}

fn render(draft: &Draft<'_>, user: &User, new_address: &str) -> Letter {
    message::email_change_notice(
        &draft.message_id,
        draft.recipient(),
        draft.service(),
        &user.username,
        new_address,
    )
}
