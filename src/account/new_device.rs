//! The letter that tells of a login from a device that was not seen before.
//!
//! A client whose address or refresh token is known to the account is none, which the login knows
//! before it opens the session: so this costs nearly every login nothing.

use serde_json::json;
use sqlx::PgConnection;

use crate::account::letters;
use crate::fields::device::device;
use crate::state::AppState;
use crate::store::logins::NewSession;
use crate::store::new_devices;
use crate::store::outbox::{LetterKind, NewLetter};
use crate::store::users::User;

/// Whether a letter may tell a user of a login: an address that is not verified may be a stranger's.
pub(super) fn is_told_of(state: &AppState, user: &User) -> bool {
    state.config.account.new_device_letters && user.is_email_verified()
}

/// Queues the letter, if the device of this session is new, in the transaction that has opened it
/// and holds the user's row: of logins at once each sees those before it. Beyond so many a day it is
/// counted in the next one. Whether one is queued.
pub(super) async fn tell(
    db: &mut PgConnection,
    user: &User,
    session: &NewSession,
) -> sqlx::Result<bool> {
    let now = session.created_at;
    let is_anything_known = session.ip.is_some() || session.device_hash.is_some();
    if !user.is_email_verified()
        || !is_anything_known
        || !new_devices::is_new(db, session).await?
        || new_devices::put_off(db, user.id, now).await?
    {
        return Ok(false);
    }
    let data = json!({
        "at": now,
        "device": device(session.user_agent.as_deref()),
        "ip": session.ip,
        "more": new_devices::count_put_off(db, user.id).await?,
    });
    let letter = NewLetter {
        kind: LetterKind::NewDevice,
        user_id: Some(user.id),
        recipient: &user.email,
        data,
        challenge_id: None,
    };
    letters::queue_notice(db, letter, now, now).await?;
    Ok(true)
}
