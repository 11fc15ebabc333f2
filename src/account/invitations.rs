//! Invitations: the reader of a letter makes an account, with the role that an admin chose.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::account::Error;
use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::fields::{Email, Name, Password, Role, Username};
use crate::limits::{Attempt, REGISTER_TAKEN};
use crate::security::token::{HandleKind, Opened, TokenError};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db;
use crate::store::invitations::{self, Invitation};
use crate::store::users::{self, NewUser, User};

/// How long an invitation is good.
pub const LIFETIME: TimeDelta = TimeDelta::hours(72);

/// Why an invitation is not shown or not accepted.
#[derive(Debug)]
pub enum Refused {
    Link(TokenError),
    /// A taken name or address among it.
    Account(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Account(error.into())
    }
}

/// It is used, void or out of time.
const OVER: Refused = Refused::Link(TokenError::Expired);

/// What an invited person chooses; the address and the role are the invitation's.
pub struct NewAccount {
    pub username: Username,
    pub password: Password,
    pub first_name: Name,
    pub last_name: Name,
}

/// The invitation that a letter's link is for.
pub async fn by_link(
    state: &AppState,
    token: &str,
    now: DateTime<Utc>,
) -> Result<Invitation, Refused> {
    let opened = state.keys.open_handle(HandleKind::Invite, token, now);
    let id = opened.and_then(Opened::unexpired).map_err(Refused::Link)?;
    let found = state.db.read(|db| Box::pin(invitations::find_open(db, id, now))).await?;
    let invitation = found.ok_or(OVER)?;
    let inviter = invitation.invited_by;
    let inviter = state.db.read(|db| Box::pin(users::find(db, inviter))).await?;
    if may_give(inviter.as_ref(), invitation.role) { Ok(invitation) } else { Err(OVER) }
}

/// Whether the inviter may still give this role: what they decided as an admin counts for no more
/// than they do.
fn may_give(inviter: Option<&User>, role: Role) -> bool {
    role == Role::User || inviter.is_some_and(|user| user.role.is_admin() && user.may_get_in())
}

/// Makes the account: its address is verified, since its letter was read. No session is opened.
pub async fn accept(
    state: &AppState,
    invitation: &Invitation,
    new: NewAccount,
    client: &ClientInfo,
) -> Result<User, Refused> {
    // A look for names that are taken has the same budget as at sign-up.
    let taken = Attempts::refunded_if_dropped([Attempt::by_address(&REGISTER_TAKEN, client.ip)]);
    let [counted] = attempts::count(state, [taken], state.clock.now()).await?;
    let hash = state.hasher.hash(client.requester(true), new.password.clone()).await?;
    let now = state.clock.now();
    let email = Email::parse(&invitation.email).map_err(|_| OVER)?;
    let user = NewUser {
        id: uuid::Uuid::now_v7(),
        username: &new.username,
        email: &email,
        email_verified_at: Some(now),
        first_name: &new.first_name,
        last_name: &new.last_name,
        role: invitation.role,
        password_hash: &hash,
    };
    match insert(state, invitation, &user, client, now).await {
        Err(Refused::Account(Error::Database(error))) if taken_name(&error).is_some() => {
            counted.charge();
            let event = Event::new(EventKind::AlreadyTaken).from(client.ip);
            let event = event.with(json!({ "code": taken_name(&error) }));
            let mut tx = state.db.begin().await?;
            state.record(&mut tx, event, now).await?;
            tx.commit().await?;
            Err(error.into())
        }
        done => done,
    }
}

/// What another account has by now, as its error is called.
fn taken_name(error: &sqlx::Error) -> Option<&'static str> {
    match db::unique_violation(error)? {
        "users_username_key" => Some("username_taken"),
        "users_email_key" => Some("email_taken"),
        _ => None,
    }
}

/// The inviter's row first, so that a demotion comes before this or after it; the link is used up
/// by one of all who try at once.
async fn insert(
    state: &AppState,
    invitation: &Invitation,
    new: &NewUser<'_>,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<User, Refused> {
    let mut tx = state.db.begin().await?;
    let inviter = users::find_for_share(&mut tx, invitation.invited_by).await?;
    if !may_give(inviter.as_ref(), invitation.role) {
        return Err(OVER);
    }
    let gone = users::delete_unverified(&mut tx, new.email).await?;
    if !invitations::set_accepted(&mut tx, invitation.challenge_id, now).await? {
        return Err(OVER);
    }
    let user = users::insert(&mut tx, new, now).await?;
    if let Some(id) = gone {
        let event = Event::new(EventKind::UserDeleted).on(id).from(client.ip);
        state.record(&mut tx, event.with(json!({ "role": Role::User })), now).await?;
    }
    let event = Event::new(EventKind::InvitationAccepted).by_oneself(user.id).from(client.ip);
    let details = json!({ "invitation": invitation.id, "role": user.role });
    state.record(&mut tx, event.with(details), now).await?;
    state.commit(tx, gone.unwrap_or(user.id)).await?;
    Ok(user)
}

/// Whether an account has the address for good: one that never proved it gives way.
pub async fn is_taken(db: &mut PgConnection, email: &Email) -> sqlx::Result<bool> {
    let user = users::find_by_email(db, email.as_str()).await?;
    Ok(user.is_some_and(|user| user.is_email_verified() || user.role > Role::User))
}
