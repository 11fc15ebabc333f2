//! Passwords: checked for a login, proven by a user who is logged in, and changed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

use crate::account::Error;
use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::account::letters;
use crate::account::sessions::{self, Proof, TokenPair};
use crate::account::standing;
use crate::fields::{self, Password};
use crate::limits::{
    Attempt, LOGIN_ACCOUNT, LOGIN_ADDRESS, LOGIN_NETWORK, LOGIN_STRANGERS, PASSWORD, PASSWORD_USER,
    account_subject,
};
use crate::security::password::{Busy, Requester, Verdict};
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::challenges::{self, ChallengeKind};
use crate::store::logins::LoginLookup;
use crate::store::sessions::PASSWORD_CHANGED;
use crate::store::users::{self, User};

/// How long a refusal for a full queue is held back. A client that is refused comes back at once: at
/// 256 connections the refusals would leave the hashing threads, whose priority is low, a fifth of
/// the logins.
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// A user whose password was right, and the proof of it that opens a session.
pub struct Checked {
    pub user: User,
    pub proof: Proof,
}

/// Checks the password of a username or an e-mail address. `None` if the password is wrong or there
/// is no such user: after the same time, since a dummy hash is computed. `counted`: the attempt as
/// which an earlier check of the same login was counted.
pub async fn check(
    state: &AppState,
    login: &str,
    password: &Password,
    client: &ClientInfo,
    counted: Option<Counted>,
) -> Result<Option<Checked>, Error> {
    // PostgreSQL's text cannot hold U+0000, and no name does: the look-up of an empty name finds
    // no user, in the same time.
    let login = &if login.contains('\0') { String::new() } else { fields::login_key(login) };
    // Boxed: the many futures that may wait for a hash stay small.
    let prepared = Box::pin(prepare(state, login, client, counted)).await?;
    let Prepared { user, requester, counted } = prepared;
    let (user_id, hash) = (user.as_ref().map(|u| u.id), user.as_ref().map(|u| &u.password_hash));
    let (verdict, counted) = verify(state, requester, password, hash, counted).await?;
    let is_there = |user: &User| verdict.matches && !standing::is_gone(user, state.clock.now());
    let Some(user) = user.filter(is_there) else {
        counted.charge();
        // Never the name as it was typed: people type their password there.
        let refused = Event::new(EventKind::LoginRefused).from(client.ip);
        state.log(&user_id.into_iter().fold(refused, Event::on));
        return Ok(None);
    };
    let counted = counted.refunded_if_dropped();
    let rehashed = if verdict.outdated {
        state.hasher.hash(requester, password.clone()).await.ok()
    } else {
        None
    };
    let hash = user.password_hash.clone();
    let proof = Proof::Password { hash, rehashed, counted, is_known: requester.is_known };
    Ok(Some(Checked { user, proof }))
}

/// A login whose attempt is counted.
struct Prepared {
    user: Option<User>,
    requester: Requester,
    counted: Counted,
}

async fn prepare(
    state: &AppState,
    login: &str,
    client: &ClientInfo,
    counted: Option<Counted>,
) -> Result<Prepared, Error> {
    let by_address = Attempt::by_address(&LOGIN_ADDRESS, client.ip);
    let as_typed = Attempt::as_typed(&LOGIN_ACCOUNT, login, client.ip, client.device);
    let mut given = vec![by_address, as_typed.clone()];
    given.extend(Attempt::by_network(&LOGIN_NETWORK, client.ip));
    let now = state.clock.now();
    // A recent refusal is repeated without asking the database.
    if counted.is_none()
        && let Some(refusal) = state.limits.refused_before(&given, now)
    {
        return Err(Error::RateLimited { refusal, now });
    }
    if counted.is_none() {
        // Beyond a full queue the database is not asked: refusals would take time from logins.
        if let Err(busy) = state.hasher.check_room_for_either(client.requester(false).key) {
            return Err(hold_back(busy).await);
        }
    }
    let lookup = LoginLookup { login: login.to_owned(), address: client.ip, device: client.device };
    let (user, is_known) = state.logins.find(lookup).await?;
    let requester = client.requester(is_known);
    if let Some(counted) = counted {
        return Ok(Prepared { user, requester, counted });
    }
    // All but what was typed, in whose place the account itself is counted.
    let mut all = given;
    all.remove(1);
    all.extend(attempts_on_account(user.as_ref(), login, client, is_known));
    let permits = state.limits.acquire_permits(&all, is_known).await?;
    if let Err(busy) = state.hasher.check_room(requester) {
        drop(permits);
        return Err(hold_back(busy).await);
    }
    let group = if is_known {
        Attempts::refunded_if_dropped(all)
    } else {
        Attempts::charged_if_dropped(all)
    };
    match attempts::count(state, [group], state.clock.now()).await {
        Ok([counted]) => {
            // Of programs at the same address without a token as well.
            let without = Attempt::as_typed(&LOGIN_ACCOUNT, login, client.ip, None);
            let remembered = [&as_typed, &without].map(|attempt| state.limits.key(attempt));
            let counted = counted.with_permits(permits).with_remembered(remembered);
            Ok(Prepared { user, requester, counted })
        }
        Err(Error::RateLimited { refusal, now }) => {
            if ![LOGIN_ADDRESS.name, LOGIN_NETWORK.name].contains(&refusal.limit) {
                state.limits.remember(&as_typed, refusal, now);
            }
            Err(Error::RateLimited { refusal, now })
        }
        Err(error) => Err(error),
    }
}

/// The refusal for a full queue, after [`REFUSAL_PAUSE`].
async fn hold_back(busy: Busy) -> Error {
    tokio::time::sleep(REFUSAL_PAUSE).await;
    busy.into()
}

/// What a login counts as besides its address: an attempt on the account from this block of
/// addresses and, unless the address is known to the account, one of all strangers together.
fn attempts_on_account(
    user: Option<&User>,
    login: &str,
    client: &ClientInfo,
    is_known: bool,
) -> impl Iterator<Item = Attempt> {
    let subject = account_subject(user.map(|user| user.id), login);
    let own = Attempt::on_account_from(&LOGIN_ACCOUNT, &subject, client.ip);
    let shared = (!is_known).then(|| Attempt::on(&LOGIN_STRANGERS, &subject));
    std::iter::once(own).chain(shared)
}

/// What wrong passwords of an account were counted under, from this client and from strangers, by
/// either of its names.
pub(super) fn attempts_to_log_in(user: &User, client: &ClientInfo) -> Vec<Attempt> {
    let of = |login: &str| {
        let typed = Attempt::as_typed(&LOGIN_ACCOUNT, login, client.ip, client.device);
        attempts_on_account(Some(user), login, client, false).chain([typed]).collect::<Vec<_>>()
    };
    [of(&user.username), of(&user.email)].concat()
}

/// Checks a password that is counted as an attempt. The attempt is refunded if no thread looked at
/// the password: the queue was full, or a known client hung up before its turn came.
async fn verify(
    state: &AppState,
    requester: Requester,
    password: &Password,
    hash: Option<&SecretString>,
    counted: Counted,
) -> Result<(Verdict, Counted), Error> {
    let begun = Arc::<AtomicBool>::default();
    let counted = counted.refunded_unless(Arc::clone(&begun));
    match state.hasher.verify(requester, password.clone(), hash, &begun).await {
        Ok(verdict) => Ok((verdict, counted)),
        Err(busy) => {
            counted.refund().await?;
            Err(busy.into())
        }
    }
}

/// Hashes the password of a new account, which is counted as an attempt: refunded if the queue is
/// full.
pub async fn hash(
    state: &AppState,
    requester: Requester,
    password: Password,
    counted: Counted,
) -> Result<(SecretString, Counted), Error> {
    match state.hasher.hash(requester, password).await {
        Ok(hash) => Ok((hash, counted)),
        Err(busy) => {
            counted.refund().await?;
            Err(busy.into())
        }
    }
}

/// The attempts as which a proof of the present password is counted, wherever it could be guessed:
/// in its session, so that a thief in one session does not lock the owner out of the others, and
/// in all of the user's together.
pub fn attempts_to_prove(actor: Actor) -> Attempts {
    Attempts::refunded_if_dropped([
        Attempt::on(&PASSWORD, &actor.session_id.to_string()),
        Attempt::on(&PASSWORD_USER, &actor.user_id.to_string()),
    ])
}

/// Checks the present password of a user who is logged in, against `hash`.
pub async fn prove(
    state: &AppState,
    actor: Actor,
    password: &Password,
    hash: &SecretString,
    client: &ClientInfo,
    counted: Counted,
) -> Result<Counted, Error> {
    let (verdict, counted) =
        verify(state, client.requester(true), password, Some(hash), counted).await?;
    if verdict.matches {
        return Ok(counted.refunded_if_dropped());
    }
    counted.charge();
    Err(wrong_password(state, actor))
}

fn wrong_password(state: &AppState, actor: Actor) -> Error {
    let event = Event::new(EventKind::WrongPassword);
    state.log(&event.on(actor.user_id).in_session(actor.session_id));
    Error::WrongPassword
}

/// Replaces the password of a user who proves the present one, and ends every other session of
/// theirs. `renew`: this one is replaced as well; then the new session's first pair.
pub async fn change(
    state: &AppState,
    actor: Actor,
    user: &User,
    [old, new]: [&Password; 2],
    renew: bool,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<TokenPair>, Error> {
    standing::check_password_counts(user)?;
    let [mut counted] = attempts::count(state, [attempts_to_prove(actor)], now).await?;
    let mut present = user.password_hash.clone();
    // A second round only if the hash was replaced between the check and the change: by another
    // change, after which the password is wrong, or by a login that renewed the hash, after which
    // it is still right.
    for _ in 0..2 {
        let right = prove(state, actor, old, &present, client, counted).await?;
        let new_hash = state.hasher.hash(client.requester(true), new.clone()).await?;
        let change = Change { actor, present: &present, new: &new_hash, renew, client, now };
        match set(state, &change, right).await? {
            Set::Done(pair) => return Ok(pair),
            Set::Stale(hash, right) => (present, counted) = (hash, right),
        }
    }
    counted.charge();
    Err(wrong_password(state, actor))
}

/// A hash that is to take the place of the present one.
struct Change<'a> {
    actor: Actor,
    present: &'a SecretString,
    new: &'a SecretString,
    renew: bool,
    client: &'a ClientInfo,
    now: DateTime<Utc>,
}

/// What became of it.
enum Set {
    Done(Option<TokenPair>),
    /// Another hash is stored by now. The attempt is still counted.
    Stale(SecretString, Counted),
}

/// Replaces the hash, and ends every other session, or every one.
async fn set(state: &AppState, change: &Change<'_>, counted: Counted) -> Result<Set, Error> {
    let Change { actor, present, new, renew, client, now } = *change;
    let (user_id, session_id) = (actor.user_id, actor.session_id);
    let mut tx = state.db.begin_for(user_id).await?;
    // Locked, so that a login, or a logout everywhere, comes before this or after it.
    let locked = sessions::lock_caller(&mut tx, user_id, session_id, now).await?;
    let locked = locked.ok_or(Error::SessionEnded)?;
    if locked.password_hash.expose_secret() != present.expose_secret() {
        return Ok(Set::Stale(locked.password_hash, counted));
    }
    users::set_password_hash(&mut tx, user_id, new, now).await?;
    challenges::void_all(&mut tx, user_id, ChallengeKind::Reset, now).await?;
    if locked.is_email_verified() {
        let letter = letters::password_changed(&locked);
        letters::queue_notice(&mut tx, letter, now, now).await?;
    }
    attempts::refund_in(&mut tx, [counted]).await?;
    let kept = Some(session_id).filter(|_| !renew);
    crate::store::sessions::revoke_all(&mut tx, user_id, kept, PASSWORD_CHANGED, now).await?;
    let event = Event::by(actor, EventKind::PasswordChanged).on(user_id);
    state.record(&mut tx, event, now).await?;
    let pair =
        if renew { sessions::start_in(state, &mut tx, &locked, client, now).await? } else { None };
    state.commit(tx, user_id).await?;
    state.mail_queued.notify_one();
    Ok(Set::Done(pair))
}
