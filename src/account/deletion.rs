//! An account that its owner deletes: asked for, taken back in time, or removed.
//!
//! From the moment it is asked for nothing of the account works, and its name and its address stay
//! taken. The removal takes a batch of rows at a time, each in a transaction of its own: an account
//! with very many sessions holds no other call up, and a removal that was cut off goes on.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::account::attempts::{self, Counted};
use crate::account::client::ClientInfo;
use crate::account::password::{self, attempts_to_prove};
use crate::account::sessions::lock_caller;
use crate::account::standing::{Barred, check_password_counts, is_gone};
use crate::account::{Error, letters};
use crate::context::{self, RequestContext, run_to_completion};
use crate::fields::Password;
use crate::security::token::{HandleKind, Opened, TokenError};
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::challenges::{self, ChallengeKind, Open};
use crate::store::db::{Tx, describe, with_timeout};
use crate::store::sessions::{self, ACCOUNT_DELETED};
use crate::store::users::{self, User};
use crate::store::{admins, outbox, purges, standing};

/// Rows that go at once: refreshes and logins take their turn after them.
const BATCH: i64 = 1_000;
/// What an account weighs beside its rows.
const ACCOUNT_COST: u64 = 20;

/// Deletes the caller's account, for good where `DELETION_DAYS` is 0. Returns until when it can be
/// restored.
pub async fn ask(
    state: &AppState,
    actor: Actor,
    user: &User,
    password: Option<&Password>,
    client: &ClientInfo,
) -> Result<Option<DateTime<Utc>>, Error> {
    let proven = match password {
        Some(password) => Some(prove(state, actor, user, password, client).await?),
        None => None,
    };
    let now = state.clock.now();
    let mut tx = state.db.begin_for(user.id).await?;
    // Before the row, in the order in which an admin's calls lock them.
    let is_admin = user.role.is_admin();
    let admins = if is_admin { admins::list_for_update(&mut tx).await? } else { Vec::new() };
    let locked = lock_caller(&mut tx, user.id, actor.session_id, now).await?;
    let locked = locked.ok_or(Error::SessionEnded)?;
    if admins == [user.id] {
        return Err(Error::LastAdmin);
    }
    let is_same = locked.password_hash.expose_secret() == user.password_hash.expose_secret();
    // Another password, the same one hashed anew, or an admin by now: the client tries again.
    if (proven.is_some() && !is_same) || locked.role.is_admin() != is_admin {
        return Err(Error::Busy);
    }
    let restore_until = mark(state, &mut tx, &locked, now).await?;
    state.record(&mut tx, Event::by(actor, EventKind::DeletionAsked).on(user.id), now).await?;
    attempts::refund_in(&mut tx, proven).await?;
    state.commit(tx, user.id).await?;
    state.mail_queued.notify_one();
    if restore_until.is_none() {
        purge(state, user.id).await;
    }
    Ok(restore_until)
}

async fn prove(
    state: &AppState,
    actor: Actor,
    user: &User,
    password: &Password,
    client: &ClientInfo,
) -> Result<Counted, Error> {
    check_password_counts(user)?;
    let [counted] = attempts::count(state, [attempts_to_prove(actor)], state.clock.now()).await?;
    password::prove(state, actor, password, &user.password_hash, client, counted).await
}

/// Ends what the account could be entered or changed by, and leaves what it can be restored by.
async fn mark(
    state: &AppState,
    tx: &mut Tx,
    user: &User,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    let until = now + state.config.account.deletion_after;
    standing::set_deleted(tx, user.id, until, now).await?;
    sessions::revoke_all(tx, user.id, None, ACCOUNT_DELETED, now).await?;
    challenges::void_every(tx, user.id, now).await?;
    if until <= now {
        return Ok(None);
    }
    let id = Uuid::now_v7();
    challenges::insert(tx, id, ChallengeKind::Restore, user, [now, until]).await?;
    if user.is_email_verified() {
        outbox::insert(tx, &[letters::account_deleted(user, id, until)], now).await?;
    }
    Ok(Some(until))
}

/// Why a deletion is not taken back.
#[derive(Debug)]
pub enum Refused {
    /// The handle is good for nothing, or no longer.
    Handle(TokenError),
    Account(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Account(error.into())
    }
}

/// The deletion that a handle takes back, while it can.
pub async fn find(state: &AppState, handle: &str, now: DateTime<Utc>) -> Result<Open, Refused> {
    let opened = state.keys.open_handle(HandleKind::Restore, handle, now);
    let id = opened.and_then(Opened::unexpired).map_err(Refused::Handle)?;
    let kind = ChallengeKind::Restore;
    let finding = state.db.read(|db| Box::pin(challenges::find_open(db, id, kind, now)));
    let open = finding.await?.filter(|open| !is_gone(&open.user, now));
    open.ok_or(Refused::Handle(TokenError::Expired))
}

/// Takes a deletion back: all is there again but the sessions. Not while the account is kept out for
/// another reason; then the handle goes on being good.
pub async fn restore(state: &AppState, handle: &str, client: &ClientInfo) -> Result<(), Refused> {
    let now = state.clock.now();
    let open = find(state, handle, now).await?;
    let user_id = open.user.id;
    let mut tx = state.db.begin_for(user_id).await?;
    let user = users::find_for_update(&mut tx, user_id).await?;
    let user = user.filter(|user| user.is_deleted() && !is_gone(user, now));
    let user = user.ok_or(Refused::Handle(TokenError::Expired))?;
    if !challenges::use_up(&mut tx, open.id, now).await? {
        return Err(Refused::Handle(TokenError::Expired));
    }
    if user.standing.is_banned {
        return Err(Error::Barred(Barred::Banned { until: user.standing.banned_until }).into());
    }
    if user.standing.reset_required_at.is_some() {
        return Err(Error::Barred(Barred::ResetRequired).into());
    }
    standing::set_restored(&mut tx, user_id, now).await?;
    if user.is_email_verified() {
        let since = user.standing.deleted_at.unwrap_or(now);
        letters::queue_notice(&mut tx, letters::account_restored(&user), since, now).await?;
    }
    let event = Event::new(EventKind::Restored).by_oneself(user_id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, user_id).await?;
    state.mail_queued.notify_one();
    Ok(())
}

/// Removes a deleted account at once, whether or not the client waits for it. What an error leaves is
/// for the worker.
pub async fn purge(state: &AppState, user_id: Uuid) {
    let state = state.clone();
    let removing = async move {
        loop {
            match with_timeout(purge_batch(&state, Some(user_id))).await {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(error) => {
                    let error = describe(&error);
                    tracing::warn!(error, %user_id, "deletion: left to the worker");
                    return;
                }
            }
        }
    };
    // Of no request: what a request says of its client is what is removed.
    run_to_completion(context::scope(RequestContext::default(), removing)).await;
}

/// Removes some of what is left of accounts that can be restored no longer; about how many rows.
pub async fn purge_some(state: &AppState) -> sqlx::Result<u64> {
    let mut rows = 0;
    while rows < BATCH.unsigned_abs() {
        let Some(removed) = with_timeout(purge_batch(state, None)).await? else { break };
        rows += removed + ACCOUNT_COST;
    }
    Ok(rows)
}

/// One batch of one account, of the longest due one unless another is named; `None` if none is due.
/// The user's own row goes last: it keeps name and address taken until nothing else is left.
async fn purge_batch(state: &AppState, user_id: Option<Uuid>) -> sqlx::Result<Option<u64>> {
    let now = state.clock.now();
    let mut tx = state.db.begin().await?;
    let claimed = match user_id {
        Some(id) => purges::claim(&mut tx, id, now).await?,
        None => purges::claim_next(&mut tx, now).await?,
    };
    let Some(id) = claimed else { return Ok(None) };
    let mut rows = purges::delete_sessions(&mut tx, id, BATCH).await?;
    if rows < BATCH.unsigned_abs() {
        rows += purges::blank_audit_log(&mut tx, id, left(rows)).await?;
    }
    if rows < BATCH.unsigned_abs() {
        rows += purges::blank_acts(&mut tx, id, left(rows)).await?;
    }
    if rows < BATCH.unsigned_abs() {
        purges::delete_to_addresses(&mut tx, id).await?;
        users::delete(&mut tx, id).await?;
        state.record(&mut tx, Event::new(EventKind::Purged).on(id), now).await?;
    }
    state.commit(tx, id).await?;
    Ok(Some(rows))
}

/// Of a batch, after so many rows.
fn left(rows: u64) -> i64 {
    BATCH - i64::try_from(rows).unwrap_or(BATCH)
}
