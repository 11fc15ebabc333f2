//! Sessions: how one is opened and found. How one goes on: `refreshes.rs`.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::account::Error;
use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::account::new_device;
use crate::account::standing::{self, Bar};
use crate::context::{self, run_to_completion};
use crate::limits::{Attempt, Key, LOGIN_SUCCESS_ACCOUNT, LOGIN_SUCCESS_ADDRESS};
use crate::security::token::{AccessClaims, RefreshClaims};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db::{Tx, describe, with_timeout};
use crate::store::logins::{self, NewSession};
use crate::store::sessions::{self, Authentication, Session};
use crate::store::users::{self, User};

/// A refresh token expires after this long without use.
pub(super) const IDLE_LIFETIME: TimeDelta = TimeDelta::days(30);
/// A session ends this long after its login, however busy it is.
const SESSION_LIFETIME: TimeDelta = TimeDelta::days(90);
/// Sessions kept per account, the most recently used: a client that logs in for each call makes
/// thousands a day, and ending all of them has to stay a matter of a second.
pub const MAX_SESSIONS: i64 = 50_000;
/// One login in this many checks for surplus sessions: for accounts with few, which is nearly all,
/// the check should cost nothing.
const LOGINS_PER_CHECK: u8 = 128;
/// Batches of surplus sessions removed per check, so that other accounts get their turn.
const BATCHES: u32 = 20;
/// The pause between two batches.
const BATCH_PAUSE: Duration = Duration::from_millis(400);
/// A smaller batch was the last one: of 1,000 rows some may have been locked.
const FULL_BATCH: u64 = 500;

/// An access token and the refresh token issued with it.
#[derive(Clone)]
pub struct TokenPair {
    pub access: String,
    pub refresh: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

/// Shows no token: whoever reads one is logged in.
impl fmt::Debug for TokenPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPair").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// What shows that a session may be opened.
pub enum Proof {
    /// The password was checked against `hash`; `rehashed` takes the place of an outdated one. The
    /// attempt is refunded by the statement that opens the session.
    /// `is_known`: the client has logged in to the account before.
    Password {
        hash: SecretString,
        rehashed: Option<SecretString>,
        counted: Counted,
        is_known: bool,
    },
    /// Something that does not depend on the password: for ways in that are yet to come.
    Other,
}

/// What became of opening a session.
pub enum Started {
    Opened(Box<(User, TokenPair)>),
    /// The user is gone or may no longer get in, or the hash that the password was checked against
    /// was replaced: the check is out of date.
    Stale(Option<Counted>),
}

/// Opens a session: in one statement that may be repeated and that several logins may share. Every
/// way in ends here, and only so many an hour do. An account that may not get in is an error:
/// [`Error::Barred`].
///
/// Runs to completion: a session that was opened is logged even if the client has hung up. After an
/// error it may be open all the same, and a password's attempt is refunded.
pub fn start(
    state: &AppState,
    user: &User,
    proof: Proof,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Pin<Box<dyn Future<Output = Result<Started, Error>> + Send>> {
    let (hash, rehashed, counted, is_known) = match proof {
        Proof::Password { hash, rehashed, counted, is_known } => {
            (Some(hash), rehashed, Some(counted), is_known)
        }
        Proof::Other => (None, None, None, false),
    };
    let keys = counted.as_ref().map(|counted| counted.keys().to_vec()).unwrap_or_default();
    let password_hash = rehashed.clone().or_else(|| hash.clone());
    let session = new_session(user, password_hash, keys, client, now);
    let right = Attempts::refunded_if_dropped([
        Attempt::on(&LOGIN_SUCCESS_ACCOUNT, &user.id.to_string()),
        Attempt::by_address(&LOGIN_SUCCESS_ADDRESS, client.ip),
    ]);
    let (id, state, user) = (session.id, state.clone(), user.clone());
    let is_told_of = !is_known && new_device::is_told_of(&state, &user);
    // Boxed: the many futures that may wait for a hash stay small.
    Box::pin(async move {
        let [right] = attempts::count(&state, [right], now).await?;
        match standing::find_bar(&state, &user, hash.is_some(), now).await? {
            Bar::None => {}
            // Counted as a login that went well, or the account's owner could go on for ever.
            Bar::Told(barred) => {
                right.charge();
                let event = Event::new(EventKind::LoginRefused).on(user.id).from(session.ip);
                state.log(&event.with(json!({ "because": barred.word() })));
                return Err(Error::Barred(barred));
            }
            Bar::OutOfDate => return Ok(Started::Stale(counted)),
        }
        let opening = {
            let state = state.clone();
            let rehashed = hash.zip(rehashed);
            let opening = Opening { session, rehashed, is_told_of };
            with_timeout(async move { open(&state, opening, counted, right).await })
        };
        let (user, counted) = run_to_completion(opening).await?;
        let Some(user) = user else { return Ok(Started::Stale(counted)) };
        let pair = first_pair(&state, &user, id, now);
        Ok(Started::Opened(Box::new((user, pair))))
    })
}

/// Opens a session in the transaction that ends the one before, of which it takes the place: so it
/// is not counted as a login.
pub(super) async fn start_in(
    state: &AppState,
    tx: &mut Tx,
    user: &User,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<TokenPair>> {
    let session = new_session(user, None, Vec::new(), client, now);
    let id = session.id;
    let opened = logins::open_all(tx, &[session]).await?.remove(0);
    let event = Event::new(EventKind::Login).by_oneself(user.id).in_session(id).from(client.ip);
    let logged = state.clone();
    tx.after_commit(move || logged.log(&event));
    Ok(opened.map(|user| first_pair(state, &user, id, now)))
}

fn new_session(
    user: &User,
    password_hash: Option<SecretString>,
    counted: Vec<Key>,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> NewSession {
    NewSession {
        id: Uuid::now_v7(),
        user_id: user.id,
        password_hash,
        created_at: now,
        expires_at: now + IDLE_LIFETIME,
        ends_at: now + SESSION_LIFETIME,
        ip: client.ip,
        user_agent: client.user_agent.clone(),
        device_hash: client.device_hash.clone(),
        request_id: context::current().request_id,
        counted,
    }
}

fn first_pair(state: &AppState, user: &User, sid: Uuid, now: DateTime<Utc>) -> TokenPair {
    let refresh = RefreshClaims { sub: user.id, sid, counter: 0 };
    let authentication = Authentication { amr: vec!["pwd".to_owned()], at: now };
    issue_pair(state, user, &refresh, &authentication, [now, now + IDLE_LIFETIME], now)
}

/// A session to open, and what else its transaction does.
struct Opening {
    session: NewSession,
    /// A hash to be replaced, and the one that takes its place.
    rehashed: Option<(SecretString, SecretString)>,
    /// A letter tells of the session, if its device is new.
    is_told_of: bool,
}

/// Opens the session. The attempt comes back if it is to be counted on.
async fn open(
    state: &AppState,
    opening: Opening,
    counted: Option<Counted>,
    right: Counted,
) -> sqlx::Result<(Option<User>, Option<Counted>)> {
    let NewSession { id, user_id, ip, .. } = opening.session;
    let opened = if opening.rehashed.is_some() || opening.is_told_of {
        open_alone(state, opening).await?
    } else {
        state.logins.open(opening.session).await?
    };
    let Some(user) = opened else { return Ok((None, counted)) };
    right.charge();
    if let Some(counted) = counted {
        counted.set_refunded();
    }
    state.log(&Event::new(EventKind::Login).by_oneself(user_id).in_session(id).from(ip));
    // The last byte of an id is random.
    if id.as_bytes()[15].is_multiple_of(LOGINS_PER_CHECK) {
        let removing = remove_surplus_sessions(state.clone(), user_id, ip);
        tokio::spawn(context::scope(context::current(), removing));
    }
    Ok((Some(user), None))
}

/// Opens the session in a transaction of its own.
async fn open_alone(state: &AppState, opening: Opening) -> sqlx::Result<Option<User>> {
    let Opening { session, rehashed, is_told_of } = opening;
    let mut tx = state.db.begin().await?;
    if let Some((old, new)) = rehashed {
        users::set_rehashed_password(&mut tx, session.user_id, &old, &new).await?;
    }
    let opened = logins::open_all(&mut tx, std::slice::from_ref(&session)).await?.remove(0);
    let told = match &opened {
        Some(user) if is_told_of => new_device::tell(&mut tx, user, &session).await?,
        _ => false,
    };
    tx.commit().await?;
    if told {
        state.mail_queued.notify_one();
    }
    Ok(opened)
}

/// Held while surplus sessions are removed: one removal at a time in the process.
pub static SURPLUS_REMOVAL: Mutex<()> = Mutex::const_new(());

/// Removes the account's sessions beyond [`MAX_SESSIONS`], a batch at a time. If a removal is
/// already running in this process, it is left to a later login.
async fn remove_surplus_sessions(state: AppState, user_id: Uuid, ip: Option<IpAddr>) {
    let Ok(_alone) = SURPLUS_REMOVAL.try_lock() else { return };
    for _ in 0..BATCHES {
        match with_timeout(remove_some_surplus_sessions(&state, user_id, ip)).await {
            // What is left is for a later check.
            Ok(removed) if removed < FULL_BATCH => return,
            Ok(_) => tokio::time::sleep(BATCH_PAUSE).await,
            Err(error) => {
                let error = describe(&error);
                tracing::warn!(error, %user_id, "sessions: surplus ones could not be removed");
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
        let details = json!({ "count": count });
        let event = Event::new(EventKind::SessionsRemoved).on(user_id).from(ip).with(details);
        state.record(&mut tx, event, state.clock.now()).await?;
    }
    state.commit(tx, user_id).await?;
    Ok(count)
}

/// Signs the pair; the refresh token's times are from when to when it is good. It depends on the session's state alone, so that a client that
/// asks again for the same successor gets the same token.
pub(super) fn issue_pair(
    state: &AppState,
    user: &User,
    refresh: &RefreshClaims,
    authentication: &Authentication,
    [refreshed_at, expires_at]: [DateTime<Utc>; 2],
    now: DateTime<Utc>,
) -> TokenPair {
    TokenPair {
        access: issue_access(
            state,
            user,
            (refresh.sid, Some(refresh.counter)),
            authentication,
            now,
        ),
        refresh: state.keys.issue_refresh(refresh, refreshed_at, expires_at),
        expires_in: state.config.access_token_lifetime.num_seconds(),
    }
}

/// Signs an access token of a session and of one of its pairs.
pub(super) fn issue_access(
    state: &AppState,
    user: &User,
    (sid, generation): (Uuid, Option<i64>),
    authentication: &Authentication,
    now: DateTime<Utc>,
) -> String {
    let claims = AccessClaims {
        sub: user.id,
        public_id: user.id,
        sid,
        jti: Uuid::now_v7().to_string(),
        generation,
        amr: authentication.amr.clone(),
        auth_time: Some(authentication.at.timestamp()),
        username: user.username.clone(),
        email: user.email.clone(),
        email_verified: user.is_email_verified(),
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        role: user.role,
        is_staff: user.role.is_staff(),
        is_admin: user.role.is_admin(),
    };
    state.keys.issue_access(&claims, now, now + state.config.access_token_lifetime)
}

/// An active session and its user, read without a lock.
pub async fn find_active(
    state: &AppState,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Session, User)>> {
    state.db.read(|db| Box::pin(sessions::find_with_user(db, id, user_id, now))).await
}

/// The caller's row, locked until the transaction ends; `None` if their session has ended
/// meanwhile.
pub async fn lock_caller(
    tx: &mut Tx,
    user_id: Uuid,
    session_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<User>> {
    let Some(user) = users::find_for_update(tx, user_id).await? else { return Ok(None) };
    let is_active = sessions::is_active(tx, session_id, user_id, now).await?;
    Ok(is_active.then_some(user))
}
