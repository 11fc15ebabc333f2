//! A fresh proof of who calls (RFC 9470): what asks for one, and how it is given.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;

use crate::account::client::ClientInfo;
use crate::account::password::{self, attempts_to_prove};
use crate::account::sessions::{issue_access, lock_caller};
use crate::account::{Error, attempts};
use crate::fields::Password;
use crate::security::token::RefreshClaims;
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

/// Proves by the password who calls, for this session alone.
pub async fn by_password(
    state: &AppState,
    actor: Actor,
    user: &User,
    password: &Password,
    client: &ClientInfo,
) -> Result<SteppedUp, Error> {
    let now = state.clock.now();
    let [counted] = attempts::count(state, [attempts_to_prove(actor)], now).await?;
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
    state.record(&mut tx, Event::by(actor, EventKind::StepUp).on(user.id), now).await?;
    state.commit(tx, user.id).await?;
    let refresh = RefreshClaims { sub: user.id, sid: session.id, counter: session.counter };
    Ok(SteppedUp {
        token: issue_access(state, &user, &refresh, &session.authentication, now),
        expires_in: state.config.access_token_lifetime.num_seconds(),
        fresh_until: now + state.config.account.step_up_within,
    })
}
