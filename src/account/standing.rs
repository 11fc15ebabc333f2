//! Whether an account may get in at all: the order in which every way in asks.

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;

use crate::account::Error;
use crate::security::token::HandleKind;
use crate::state::AppState;
use crate::store::challenges::{self, ChallengeKind};
use crate::store::users::User;

/// How long the token is good by which a login can take a deletion back.
pub const RESTORE_TOKEN_LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// Why a right credential lets nobody in. It is told only to who has shown one.
#[derive(Clone, Debug)]
pub enum Barred {
    /// Its owner has asked for its deletion, which the token takes back.
    Deleted { restore_token: SecretString, restore_until: DateTime<Utc> },
    /// `None`: for good.
    Banned { until: Option<DateTime<Utc>> },
    /// The password is taken for known to somebody else: only a new one lets in.
    ResetRequired,
}

impl Barred {
    /// For the log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deleted { .. } => "deleted",
            Self::Banned { .. } => "banned",
            Self::ResetRequired => "reset_required",
        }
    }
}

/// What was found to keep an account from getting in.
pub(super) enum Bar {
    None,
    Told(Barred),
    /// The account has been restored or removed since it was read.
    OutOfDate,
}

/// What keeps the account from getting in, by its password or another way, as it was read.
pub(super) async fn find_bar(
    state: &AppState,
    user: &User,
    by_password: bool,
    now: DateTime<Utc>,
) -> Result<Bar, Error> {
    let standing = &user.standing;
    if let Some(restore_until) = standing.purge_at.filter(|_| user.is_deleted()) {
        let (id, kind) = (user.id, ChallengeKind::Restore);
        let restore = state.db.read(|db| Box::pin(challenges::find_of_user(db, id, kind, now)));
        let Some(row) = restore.await? else { return Ok(Bar::OutOfDate) };
        let until = restore_until.min(now + RESTORE_TOKEN_LIFETIME);
        let restore_token = state.keys.issue_handle(HandleKind::Restore, row, now, until).into();
        return Ok(Bar::Told(Barred::Deleted { restore_token, restore_until }));
    }
    if standing.is_banned {
        return Ok(Bar::Told(Barred::Banned { until: standing.banned_until }));
    }
    if by_password && standing.reset_required_at.is_some() {
        return Ok(Bar::Told(Barred::ResetRequired));
    }
    Ok(Bar::None)
}

/// Refuses the password of a user who has a session, where it is taken for known to somebody else.
pub(super) fn check_password_counts(user: &User) -> Result<(), Error> {
    match user.standing.reset_required_at {
        Some(_) => Err(Error::Barred(Barred::ResetRequired)),
        None => Ok(()),
    }
}

/// Whether the account is as good as gone: it was deleted, and that can be taken back no longer.
pub(super) fn is_gone(user: &User, now: DateTime<Utc>) -> bool {
    user.is_deleted() && user.standing.purge_at.is_none_or(|at| at <= now)
}
