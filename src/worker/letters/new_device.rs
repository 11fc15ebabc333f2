//! The letter that tells a user of a login from a device that was not seen before.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Composed, Draft};
use crate::mail::letters::Values;
use crate::store::users::User;

#[derive(Deserialize)]
struct Data<'a> {
    at: DateTime<Utc>,
    device: &'a str,
    ip: Option<&'a str>,
    /// New devices since the letter before, of which none told.
    more: i64,
}

/// While the address is the account's, and verified.
pub(super) fn compose(draft: &Draft<'_>, user: &User) -> Composed {
    if !(draft.goes_to(&user.email) && user.is_email_verified()) {
        return Ok(None);
    }
    let Data { at, device, ip, more } = draft.data()?;
    let values = Values::new()
        .set("username", &user.username)
        .set("at", at.format("%-d %B %Y, %H:%M UTC").to_string())
        .set("device", device)
        .set_if("ip", ip)
        .set_if("more", Some(more).filter(|more| *more > 0))
        .set_if("not_me", draft.not_me_link());
    draft.letter(draft.recipient(), &values)
}
