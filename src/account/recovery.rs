//! A forgotten password: any client asks for a letter, and the reader of the letter sets a new one.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use uuid::Uuid;

use crate::account::attempts::Counted;
use crate::account::client::ClientInfo;
use crate::account::mailed_codes::{self, RightCode};
use crate::account::{Error, letters, password};
use crate::context::run_to_completion;
use crate::fields::{Email, Password};
use crate::security::mailed_code::CodePurpose;
use crate::security::token::{HandleKind, Opened, TokenError};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::challenges::{self, ChallengeKind, NewChallenge, Open};
use crate::store::db::Tx;
use crate::store::sessions::{self, PASSWORD_RESET};
use crate::store::users::User;
use crate::store::{limits, users};

/// How long the link in a letter is good.
pub const LINK_LIFETIME: TimeDelta = TimeDelta::minutes(30);
/// How long its code is, with the handle that the client got when it asked for the letter.
pub const CODE_LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// What the client that asked for a reset holds.
pub struct Asked {
    /// To be sent along with the code.
    pub handle: String,
    /// No letter goes out for this one: too many went before.
    pub is_limited: bool,
}

/// Why a password is not reset.
#[derive(Debug)]
pub enum Refused {
    Link(TokenError),
    /// Whatever it is.
    Code,
    Account(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Account(error.into())
    }
}

/// A reset whose link or code was right.
pub struct Proven {
    pub challenge: Open,
    /// Where it was no link.
    code: Option<RightCode>,
}

/// Queues the letter, whether or not an account has the address: what is written, and how long it
/// takes, does not tell. The worker looks for the account when it sends the letter.
pub async fn ask(
    state: &AppState,
    email: &Email,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Asked, Error> {
    let id = Uuid::now_v7();
    let handle = state.keys.issue_handle(HandleKind::Code, id, now, now + CODE_LIFETIME);
    let counted = letters::count_reset(state, email.as_str(), client, now).await?;
    let Some(counted) = counted else { return Ok(Asked { handle, is_limited: true }) };
    let challenge = new_challenge(id, email.as_str(), client.ip, now);
    let writing = state.db.write(|db| {
        let challenge = challenge.clone();
        Box::pin(async move { challenges::insert_with_letter(db, &challenge).await })
    });
    writing.await?;
    counted.into_iter().for_each(Counted::charge);
    state.mail_queued.notify_one();
    Ok(Asked { handle, is_limited: false })
}

/// Queues the letter for a user, in the transaction of the admin who sends it.
pub async fn send(tx: &mut Tx, user: &User, now: DateTime<Utc>) -> sqlx::Result<()> {
    // Without an address: nobody asked from one.
    let challenge = new_challenge(Uuid::now_v7(), &user.email, None, now);
    challenges::insert_with_letter(tx, &challenge).await
}

fn new_challenge(
    id: Uuid,
    recipient: &str,
    ip: Option<IpAddr>,
    now: DateTime<Utc>,
) -> NewChallenge {
    NewChallenge {
        id,
        kind: ChallengeKind::Reset,
        letter_id: Uuid::now_v7(),
        recipient: recipient.to_owned(),
        ip,
        created_at: now,
        expires_at: now + LINK_LIFETIME,
    }
}

/// The reset that a letter's link is for.
pub async fn by_link(state: &AppState, token: &str, now: DateTime<Utc>) -> Result<Proven, Refused> {
    let opened = state.keys.open_handle(HandleKind::Reset, token, now);
    let id = opened.and_then(Opened::unexpired).map_err(Refused::Link)?;
    let challenge = find(state, id, now).await?.ok_or(Refused::Link(TokenError::Expired))?;
    Ok(Proven { challenge, code: None })
}

/// The reset that a code is for.
pub async fn by_code(
    state: &AppState,
    handle: &str,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Proven, Refused> {
    let trying = mailed_codes::try_code(state, CodePurpose::Reset, handle, code, now);
    let right = trying.await?.ok_or(Refused::Code)?;
    let challenge = find(state, right.challenge_id, now).await?.ok_or(Refused::Code)?;
    Ok(Proven { challenge, code: Some(right) })
}

async fn find(state: &AppState, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<Option<Open>> {
    let kind = ChallengeKind::Reset;
    state.db.read(|db| Box::pin(challenges::find_open(db, id, kind, now))).await
}

impl Proven {
    /// Nothing is set, since the password will not do or we have trouble. The code goes on being good.
    pub async fn give_back(self, state: &AppState) -> Result<(), Error> {
        match self.code {
            Some(code) => code.give_back(state).await,
            None => Ok(()),
        }
    }

    fn refused(&self) -> Refused {
        if self.code.is_some() { Refused::Code } else { Refused::Link(TokenError::Expired) }
    }
}

/// Sets the password, ends every session, and counts the address as verified: the reader of its
/// letters owns the account, though a stranger may have made it.
pub async fn reset(
    state: &AppState,
    proven: Proven,
    new: Password,
    client: &ClientInfo,
) -> Result<(), Refused> {
    let (state, client) = (state.clone(), client.clone());
    // To completion: a client that hangs up would leave a right code counted as a wrong one.
    run_to_completion(async move {
        let outcome = match state.hasher.hash(client.requester(true), new).await {
            Ok(hash) => set(&state, &proven, &hash, &client).await,
            Err(busy) => Err(busy.into()),
        };
        if matches!(outcome, Err(Refused::Account(_))) {
            // Trouble of ours: the code goes on being good.
            proven.give_back(&state).await?;
        }
        outcome
    })
    .await
}

async fn set(
    state: &AppState,
    proven: &Proven,
    hash: &SecretString,
    client: &ClientInfo,
) -> Result<(), Refused> {
    let (user_id, id) = (proven.challenge.user.id, proven.challenge.id);
    let now = state.clock.now();
    let mut tx = state.db.begin_for(user_id).await?;
    // First: resets of one account wait for each other, and see what the one before has set.
    let user = users::find_for_update(&mut tx, user_id).await?;
    // It may have been banned or deleted since the link was opened.
    let Some(user) = user.filter(User::may_get_in) else {
        return Err(proven.refused());
    };
    if !challenges::use_up(&mut tx, id, now).await? {
        return Err(proven.refused());
    }
    challenges::void_all(&mut tx, user_id, ChallengeKind::Reset, now).await?;
    users::reset_password(&mut tx, user_id, hash, now).await?;
    sessions::revoke_all(&mut tx, user_id, None, PASSWORD_RESET, now).await?;
    // Guesses at the old password keep the owner of the new one out no longer.
    let tried = password::attempts_to_log_in(&user, client);
    let tried: Vec<_> = tried.iter().map(|attempt| state.limits.key(attempt)).collect();
    limits::clear(&mut tx, &tried).await?;
    let event = Event::new(EventKind::PasswordReset).by_oneself(user_id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    letters::queue_notice(&mut tx, letters::password_changed(&user), now, now).await?;
    state.commit(tx, user_id).await?;
    state.limits.forget(&tried);
    state.mail_queued.notify_one();
    Ok(())
}
