//! Sessions: how one is opened, renewed, rotated and found.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryFutureExt;
use serde_json::json;
use uuid::Uuid;

use crate::account::client::ClientInfo;
use crate::context::{self, run_to_completion};
use crate::limits::Reservation;
use crate::security::token::{AccessClaims, RefreshClaims};
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::db::{Conn, Tx, describe, with_timeout};
use crate::store::logins::{self, NewSession};
use crate::store::sessions::{self, Rotated, Session};
use crate::store::users::{self, User};

/// A refresh token expires after this long without use.
const IDLE_LIFETIME: TimeDelta = TimeDelta::days(30);
/// A session ends this long after its login, however busy it is.
const SESSION_LIFETIME: TimeDelta = TimeDelta::days(90);
/// Sessions kept per account, the most recently used: whoever logs in for each call makes thousands a day, and ending
/// all of them has to stay a matter of a second.
pub const MAX_SESSIONS: i64 = 50_000;
/// One login in this many checks for surplus sessions: for accounts with few, which is nearly all, the check should
/// cost nothing.
const LOGINS_PER_CHECK: u8 = 128;
/// Batches of surplus sessions removed per check, so that other accounts get their turn.
const BATCHES: u32 = 20;
/// The pause between two batches.
const BATCH_PAUSE: Duration = Duration::from_millis(400);
/// A smaller batch was the last one: of 1,000 rows some may have been locked.
const FULL_BATCH: u64 = 500;
/// For this long after a refresh, the old token yields the same successor again, used or not.
const ROTATION_GRACE: TimeDelta = TimeDelta::seconds(20);

/// An access token and the refresh token beside it.
#[derive(Clone, Debug)]
pub struct TokenPair {
    pub access: String,
    pub refresh: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// Opens a session after a correct password and refunds the login's attempts, in one statement that may be repeated and
/// that several logins may share. `None` if the hash that the password was checked against is no longer the user's: then
/// the check is out of date.
///
/// `rehashed` takes the place of an outdated hash. `failed` is called if it came to an error, whether somebody waits still
/// or not; the session may be open all the same.
pub async fn start_session(
    state: &AppState,
    checked: &User,
    rehashed: Option<String>,
    reservation: Reservation,
    client: &ClientInfo,
    now: DateTime<Utc>,
    failed: impl FnOnce() + Send + 'static,
) -> sqlx::Result<Option<(User, TokenPair)>> {
    let id = Uuid::now_v7();
    let expires_at = now + IDLE_LIFETIME;
    let session = NewSession {
        id,
        user_id: checked.id,
        password_hash: rehashed.as_ref().unwrap_or(&checked.password_hash).clone(),
        created_at: now,
        expires_at,
        ends_at: now + SESSION_LIFETIME,
        ip: client.ip,
        user_agent: client.user_agent.clone(),
        counted: reservation.into_keys(),
    };
    let event = Event {
        name: "login",
        user_id: Some(checked.id),
        actor_id: Some(checked.id),
        session_id: Some(id),
        ip: client.ip,
        ..Event::default()
    };
    let (shared, user_id, hash) = (state.clone(), checked.id, checked.password_hash.clone());
    let opening = async move {
        let opened = if let Some(new) = &rehashed {
            let mut tx = shared.db.begin().await?;
            users::set_rehashed_password(&mut tx, user_id, &hash, new).await?;
            let opened = logins::open_all(&mut tx, &[session]).await?.remove(0);
            tx.commit().await?;
            opened
        } else {
            shared.logins.open(session).await?
        };
        if opened.is_some() {
            event.log(&shared.db.events);
            // The last byte of an id is random.
            if id.as_bytes()[15].is_multiple_of(LOGINS_PER_CHECK) {
                let removing = remove_surplus_sessions(shared.clone(), user_id, event.ip);
                tokio::spawn(context::scope(context::current(), removing));
            }
        }
        Ok(opened)
    };
    let opening = with_timeout(opening).inspect_err(|_| failed());
    // Runs to completion: an opened session is logged even if the client has hung up.
    let user = run_to_completion(opening).await?;
    let refresh = RefreshClaims { sub: checked.id, sid: id, counter: 0 };
    Ok(user.map(|user| {
        let pair = issue_pair(state, &user, &refresh, now, expires_at, now);
        (user, pair)
    }))
}

/// Removes the account's sessions beyond [`MAX_SESSIONS`], a batch at a time. If a removal is already under way in
/// this process, it is left to a later login.
async fn remove_surplus_sessions(state: AppState, user_id: Uuid, ip: Option<IpAddr>) {
    let Ok(_alone) = state.surplus_removal.try_lock() else { return };
    for _ in 0..BATCHES {
        match with_timeout(remove_some_surplus_sessions(&state, user_id, ip)).await {
            // What is left is for a later check.
            Ok(removed) if removed < FULL_BATCH => return,
            Ok(_) => tokio::time::sleep(BATCH_PAUSE).await,
            Err(error) => {
                let error = describe(&error);
                tracing::warn!(error, %user_id, "surplus sessions could not be removed");
                return;
            }
        }
    }
}

async fn remove_some_surplus_sessions(
    state: &AppState,
    user_id: Uuid,
    ip: Option<IpAddr>,
) -> sqlx::Result<u64> {
    let mut tx = state.db.begin().await?;
    let count = sessions::delete_surplus(&mut tx, user_id, MAX_SESSIONS).await?;
    if count > 0 {
        let event = Event {
            name: "sessions_removed",
            user_id: Some(user_id),
            ip,
            details: json!({ "count": count }),
            ..Event::default()
        };
        audit::record(&mut tx, &event, state.clock.now()).await?;
    }
    state.commit(tx, user_id).await?;
    Ok(count)
}

/// What became of a refresh token.
#[derive(Debug)]
pub enum Rotation {
    Renewed(TokenPair),
    /// Replaced long ago: somebody else has a copy. The session has ended.
    Reused,
    /// The session or the user is gone.
    Ended,
}

/// Exchanges the current refresh token for the next pair of its session; `None` for any other one, which
/// [`rotate_session`] decides about. In one statement; after a repeated one [`rotate_session`] yields the same pair.
/// Cached sessions stay valid: only their lifetime grows.
pub async fn renew_session(
    state: &AppState,
    claims: &RefreshClaims,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<TokenPair>> {
    let (id, user_id, counter) = (claims.sid, claims.sub, claims.counter);
    let renew = |mut tx: Tx| async move {
        let renewed = sessions::renew(&mut tx, id, user_id, counter, now, IDLE_LIFETIME).await?;
        tx.commit().await?;
        Ok(renewed)
    };
    let renewed = state.db.write(renew).await?;
    Ok(renewed.map(|renewed| rotated_pair(state, id, &renewed, now)))
}

/// Exchanges a refresh token, current or not, for the next pair of its session.
pub async fn rotate_session(
    state: &AppState,
    tx: &mut Tx,
    claims: &RefreshClaims,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<Rotation> {
    let (id, user_id) = (claims.sid, claims.sub);
    let rotated =
        sessions::rotate(tx, id, user_id, claims.counter, now, IDLE_LIFETIME, ROTATION_GRACE)
            .await?;
    let Some(rotated) = rotated else { return Ok(Rotation::Ended) };
    if rotated.reused {
        let event = Event {
            name: "refresh_token_reused",
            user_id: Some(user_id),
            session_id: Some(id),
            ip: client.ip,
            ..Event::default()
        };
        audit::record(tx, &event, now).await?;
        return Ok(Rotation::Reused);
    }
    Ok(Rotation::Renewed(rotated_pair(state, id, &rotated, now)))
}

fn rotated_pair(state: &AppState, id: Uuid, rotated: &Rotated, now: DateTime<Utc>) -> TokenPair {
    let refresh = RefreshClaims { sub: rotated.user.id, sid: id, counter: rotated.counter };
    issue_pair(state, &rotated.user, &refresh, rotated.rotated_at, rotated.expires_at, now)
}

/// Signs the pair. The refresh token depends on the session's state alone, so that whoever asks again for the same
/// successor gets the same token.
fn issue_pair(
    state: &AppState,
    user: &User,
    refresh: &RefreshClaims,
    refreshed_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> TokenPair {
    let lifetime = state.config.access_token_lifetime;
    let claims = AccessClaims {
        sub: user.id,
        public_id: user.id,
        sid: refresh.sid,
        jti: Uuid::now_v7().to_string(),
        generation: Some(refresh.counter),
        username: user.username.clone(),
        email: user.email.clone(),
        email_verified: user.is_email_verified(),
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        role: user.role,
        is_staff: user.role.is_staff(),
        is_admin: user.role.is_admin(),
    };
    TokenPair {
        access: state.keys.issue_access(&claims, now, now + lifetime),
        refresh: state.keys.issue_refresh(refresh, refreshed_at, expires_at),
        expires_in: lifetime.num_seconds(),
    }
}

/// Whether a refresh token was replaced so long ago that somebody else has a copy.
pub async fn is_reused(
    state: &AppState,
    claims: &RefreshClaims,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let ask = |mut db: Conn| async move {
        let (id, counter) = (claims.sid, claims.counter);
        let is_reused = sessions::is_reused(&mut db, id, counter, now, ROTATION_GRACE).await;
        db.done(is_reused)
    };
    state.db.read(ask).await
}

/// An active session and its user, read without a lock.
pub async fn active_session(
    state: &AppState,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Session, User)>> {
    let find = |mut db: Conn| async move {
        let found = sessions::find_with_user(&mut db, id, user_id, now).await;
        db.done(found)
    };
    state.db.read(find).await
}

/// The caller's row, locked until the transaction ends; `None` if their session has ended meanwhile.
pub async fn lock_caller(
    tx: &mut Tx,
    user_id: Uuid,
    session_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<User>> {
    let Some(user) = users::find_for_update(tx, user_id).await? else { return Ok(None) };
    let active = sessions::find_with_user(tx, session_id, user_id, now).await?;
    Ok(active.map(|_| user))
}
