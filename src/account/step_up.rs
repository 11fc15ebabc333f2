//! A fresh proof of who calls (RFC 9470): what asks for one, and how it is given.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;

use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::password::{self, attempts_to_prove};
use crate::account::sessions::{issue_access, lock_caller};
use crate::account::{Error, standing};
use crate::fields::Password;
use crate::limits::{Attempt, LOGIN_SUCCESS_ACCOUNT};
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::sessions::{self, Session};
use crate::store::users::User;

/// A session whose user has just proven who they are.
pub struct SteppedUp {
    /// An access token that says so.
    pub token: String,
    /// Seconds.
    pub expires_in: i64,
    pub fresh_until: DateTime<Utc>,
}

/// Whether the session's last proof is fresh.
pub fn is_fresh(state: &AppState, session: &Session, now: DateTime<Utc>) -> bool {
    now < session.authentication.at + state.config.account.step_up_within
}

/// Proves by the password who calls, for this session alone. `generation`: of the pair that the
/// caller holds. The new token is of the same one: of a later pair, whose answer may have been
/// lost, it would show that the pair is in use.
pub async fn by_password(
    state: &AppState,
    actor: Actor,
    user: &User,
    generation: Option<i64>,
    password: &Password,
    client: &ClientInfo,
) -> Result<SteppedUp, Error> {
    let now = state.clock.now();
    standing::check_password_counts(user)?;
    // A right one counts as a login, or a client could go on hashing for ever.
    let right = Attempt::on(&LOGIN_SUCCESS_ACCOUNT, &user.id.to_string());
    let groups = [attempts_to_prove(actor), Attempts::refunded_if_dropped([right])];
    let [counted, login] = attempts::count(state, groups, now).await?;
    let hash = &user.password_hash;
    let right = password::prove(state, actor, password, hash, client, counted).await?;
    let now = state.clock.now();
    let mut tx = state.db.begin_for(user.id).await?;
    let locked = lock_caller(&mut tx, user.id, actor.session_id, now).await?;
    let locked = locked.ok_or(Error::SessionEnded)?;
    if locked.password_hash.expose_secret() != hash.expose_secret() {
        // Another one by now, or the same, hashed anew: the client tries again.
        return Err(Error::Busy);
    }
    let proven = sessions::set_authenticated(&mut tx, actor.session_id, user.id, now).await?;
    let (session, user) = proven.ok_or(Error::SessionEnded)?;
    attempts::refund_in(&mut tx, [right]).await?;
    login.charge_in(&mut tx);
    state.record(&mut tx, Event::by(actor, EventKind::StepUp).on(user.id), now).await?;
    state.commit(tx, user.id).await?;
    let pair = (session.id, generation);
    Ok(SteppedUp {
        token: issue_access(state, &user, pair, &session.authentication, now),
        expires_in: state.config.access_token_lifetime.num_seconds(),
        fresh_until: now + state.config.account.step_up_within,
    })
}
