//! What became of the address that a link is bound to, and what the link does about it.

use axum::http::Uri;

use crate::account::client::ClientInfo;
use crate::auth::link;
use crate::http::error::{ApiError, Code};
use crate::security::token::{LinkClaims, LinkPurpose, Opened, TokenError};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db::Tx;
use crate::store::users::{self, User};

/// What a link finds, or has done.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// The address of an account that never confirmed one.
    New,
    /// The address that an account with a confirmed one is to get.
    Pending,
    /// The account has the address, confirmed.
    Confirmed,
    /// The account asks for it still, and another one has it by now.
    Taken,
    /// The account has another address, and asks for none, or for a third one.
    MovedOn,
    /// There is no such account.
    Gone,
    /// There is something to confirm, but no longer by this link.
    Expired,
    /// Disowned: the account is deleted.
    Deleted,
    /// Disowned: the account keeps the address that it has.
    Dropped,
    /// Disowned, though the account is gone or has another address by now.
    NothingLeft,
    /// Not disowned: what is confirmed stays.
    NotDisowned,
    Trouble(ApiError),
}

/// A finding, and whose it is: for the page, which only the holder of the link sees.
pub(super) struct Seen {
    pub(super) finding: Finding,
    pub(super) email: String,
    pub(super) username: Option<String>,
}

impl From<ApiError> for Seen {
    fn from(error: ApiError) -> Self {
        Self { finding: Finding::Trouble(error), email: String::new(), username: None }
    }
}

impl Seen {
    fn new(finding: Finding, link: &Link, user: Option<&User>) -> Self {
        let username = user.map(|user| user.username.clone());
        Self { finding, email: link.claims.email.clone(), username }
    }
}

/// A genuine link; its time may be over.
type Link = Opened<LinkClaims>;

/// What there is to confirm. Changes nothing.
pub(super) async fn look(state: &AppState, uri: &Uri) -> Seen {
    let looking = async {
        let link = open(state, uri)?;
        let user = read(state, &link).await?;
        let mut finding = find(&link, user.as_ref());
        if matches!(finding, Finding::Pending) && is_taken(state, &link).await? {
            finding = Finding::Taken;
        }
        Ok(Seen::new(finding, &link, user.as_ref()))
    };
    looking.await.unwrap_or_else(|error: ApiError| error.into())
}

/// Marks the address that the link is bound to as confirmed, if it still is the user's.
pub(super) async fn confirm(state: &AppState, uri: &Uri, client: &ClientInfo) -> Seen {
    let confirming = async {
        let link = open(state, uri)?;
        // First without a lock: a link that is followed again once it has done its work makes no
        // other call wait.
        let user = read(state, &link).await?;
        let finding = find(&link, user.as_ref());
        if !matches!(finding, Finding::New | Finding::Pending) {
            return Ok(Seen::new(finding, &link, user.as_ref()));
        }
        match follow(state, &link, client).await {
            Err(error) if error.code == Code::EmailTaken => {
                Ok(Seen::new(Finding::Taken, &link, user.as_ref()))
            }
            outcome => outcome,
        }
    };
    confirming.await.unwrap_or_else(|error: ApiError| error.into())
}

/// Does what the owner of the address asks for who did not sign up. What is confirmed stays: by
/// then the account is that of a person who has shown that the address is theirs.
pub(super) async fn disown(state: &AppState, uri: &Uri, client: &ClientInfo) -> Seen {
    let disowning = async {
        let link = open(state, uri)?;
        let mut tx = state.db.begin_for(link.claims.sub).await?;
        let user = lock(&mut tx, &link).await?;
        let finding = match (find(&link, user.as_ref()), &user) {
            (Finding::New, Some(user)) => delete(state, tx, user, client).await?,
            (Finding::Pending, Some(user)) => drop_pending(state, tx, user, client).await?,
            (Finding::Confirmed, _) => Finding::NotDisowned,
            (Finding::MovedOn | Finding::Gone, _) => Finding::NothingLeft,
            (finding, _) => finding,
        };
        Ok(Seen::new(finding, &link, user.as_ref()))
    };
    disowning.await.unwrap_or_else(|error: ApiError| error.into())
}

fn open(state: &AppState, uri: &Uri) -> Result<Link, ApiError> {
    let token = link::token(uri)?;
    let link = state.keys.open_link(&token, state.clock.now()).map_err(|error| match error {
        TokenError::Expired => Code::LinkExpired,
        TokenError::Invalid => Code::LinkInvalid,
    })?;
    match link.claims.purpose {
        LinkPurpose::ConfirmEmail => Ok(link),
    }
}

async fn read(state: &AppState, link: &Link) -> sqlx::Result<Option<User>> {
    let id = link.claims.sub;
    let user = state.db.read(|db| Box::pin(users::find(db, id))).await?;
    Ok(user.filter(User::may_get_in))
}

/// The account, locked. A deleted or banned one counts as gone: its link would take a ban away.
async fn lock(tx: &mut Tx, link: &Link) -> sqlx::Result<Option<User>> {
    let user = users::find_for_update(tx, link.claims.sub).await?;
    Ok(user.filter(User::may_get_in))
}

/// Whether another account has the address by now.
async fn is_taken(state: &AppState, link: &Link) -> sqlx::Result<bool> {
    let LinkClaims { sub, email, .. } = &link.claims;
    let reading = state.db.read(|db| {
        let (id, email) = (*sub, email.clone());
        Box::pin(async move { users::is_email_taken(db, &email, id).await })
    });
    reading.await
}

fn find(link: &Link, user: Option<&User>) -> Finding {
    match find_address(&link.claims.email, user) {
        Finding::New | Finding::Pending if link.expired => Finding::Expired,
        finding => finding,
    }
}

/// What the address is to the account by now.
pub(super) fn find_address(email: &str, user: Option<&User>) -> Finding {
    let is = |address: &str| address.eq_ignore_ascii_case(email);
    match user {
        None => Finding::Gone,
        Some(User { pending_email: Some(pending), .. }) if is(pending) => Finding::Pending,
        Some(user) if !is(&user.email) => Finding::MovedOn,
        Some(user) if user.is_email_verified() => Finding::Confirmed,
        Some(_) => Finding::New,
    }
}

/// Confirms what the link is bound to.
async fn follow(state: &AppState, link: &Link, client: &ClientInfo) -> Result<Seen, ApiError> {
    let mut tx = state.db.begin_for(link.claims.sub).await?;
    let user = lock(&mut tx, link).await?;
    match (find(link, user.as_ref()), user) {
        (Finding::New | Finding::Pending, Some(user)) => {
            let user = set_verified(state, tx, user, &link.claims.email, client).await?;
            Ok(Seen::new(Finding::Confirmed, link, Some(&user)))
        }
        (finding, user) => Ok(Seen::new(finding, link, user.as_ref())),
    }
}

/// Marks an address as confirmed that is new to a user, who is locked: the pending one takes the
/// place of theirs.
pub(super) async fn set_verified(
    state: &AppState,
    mut tx: Tx,
    mut user: User,
    email: &str,
    client: &ClientInfo,
) -> Result<User, ApiError> {
    let now = state.clock.now();
    let pending = user.pending_email.take_if(|pending| pending.eq_ignore_ascii_case(email));
    let kind = match pending {
        None => EventKind::EmailVerified,
        Some(pending) => {
            user.email = pending;
            EventKind::EmailChanged
        }
    };
    user.email_verified_at = Some(now);
    user.modified_at = now;
    users::update_profile(&mut tx, &user, None).await?;
    let event = Event::new(kind).by_oneself(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, user.id).await?;
    Ok(user)
}

/// Deletes an account that never confirmed an address, and its sessions with it.
async fn delete(
    state: &AppState,
    mut tx: Tx,
    user: &User,
    client: &ClientInfo,
) -> Result<Finding, ApiError> {
    let now = state.clock.now();
    users::delete(&mut tx, user.id).await?;
    let event = Event::new(EventKind::AccountDisowned).on(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, user.id).await?;
    Ok(Finding::Deleted)
}

/// Takes away the address that the account was to get. It keeps the one that it has.
async fn drop_pending(
    state: &AppState,
    mut tx: Tx,
    user: &User,
    client: &ClientInfo,
) -> Result<Finding, ApiError> {
    let now = state.clock.now();
    let user = User { pending_email: None, modified_at: now, ..user.clone() };
    users::update_profile(&mut tx, &user, None).await?;
    let event = Event::new(EventKind::EmailDisowned).on(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, user.id).await?;
    Ok(Finding::Dropped)
}
