//! What each letter is given when it is sent: a file a kind. Its words are in `mail/letters/`.
//!
//! A kind's file decides whether its letter is still wanted, for much may have happened since it
//! was queued, and makes the link: no secret rests in the outbox.

mod account_deleted;
mod account_restored;
mod ban_lifted;
mod confirmation;
mod email_change_notice;
mod invitation;
mod new_device;
mod password_changed;
mod reset;
mod test;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use crate::account::letters::NOT_ME_LIFETIME;
use crate::mail::letters::Values;
use crate::mail::{Letter, SendError};
use crate::security::token::HandleKind;
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::outbox::{ClaimedLetter, LetterKind};
use crate::store::users::{self, User};
use crate::store::{challenges, db, invitations, outbox};

/// The letter; `None` if it is no longer wanted. The error is for the log: another release, or
/// another template, may write it.
type Composed = Result<Option<Letter>, SendError>;

/// What a letter is made of.
struct Draft<'a> {
    state: &'a AppState,
    claimed: &'a ClaimedLetter,
    /// The same at each attempt, so that a mail program shows a letter once.
    message_id: String,
    now: DateTime<Utc>,
}

impl<'a> Draft<'a> {
    fn recipient(&self) -> &str {
        &self.claimed.recipient
    }

    /// How many minutes are left until then, to the nearest one; `None` where it is less than one.
    fn minutes_until(&self, end: DateTime<Utc>) -> Option<i64> {
        let left = (end - self.now).num_seconds();
        (left >= 60).then_some((left + 30) / 60)
    }

    fn goes_to(&self, address: &str) -> bool {
        address.eq_ignore_ascii_case(self.recipient())
    }

    /// A link with a token: to our own page at `path`, or to the frontend's, where one is set, with the
    /// token in the fragment, which reaches no server, no log of one and no referrer.
    fn link(&self, frontend: Option<&Url>, path: &str, token: &str) -> String {
        let Some(mut page) = frontend.cloned() else {
            return format!("{}/api/v1/{path}?token={token}", self.state.config.public_url);
        };
        page.set_fragment(Some(&format!("token={token}")));
        page.into()
    }

    /// The link "this was not me", of a letter that was queued with one.
    fn not_me_link(&self) -> Option<String> {
        let (state, at) = (self.state, self.claimed.created_at);
        let until = at + NOT_ME_LIFETIME;
        let notice = self.claimed.challenge_id.filter(|_| self.now < until)?;
        let token = state.keys.issue_handle(HandleKind::NotMe, notice, at, until);
        Some(self.link(state.config.account.not_me_url.as_ref(), "not_me", &token))
    }

    /// What the outbox has for its kind.
    fn data<T: Deserialize<'a>>(&self) -> Result<T, SendError> {
        // The error's own words could hold what stands there.
        let unreadable = |_| SendError::Transient("its data cannot be read".to_owned());
        T::deserialize(&self.claimed.data).map_err(unreadable)
    }

    /// The letter to `to`.
    fn letter(&self, to: &str, values: &Values) -> Composed {
        let word = self.claimed.kind.as_str();
        let letter = self.state.letters.render(word, &self.message_id, to, values);
        letter.map(Some).map_err(|flaw| {
            SendError::Transient(format!("it cannot be written: {}", flaw.without_values()))
        })
    }
}

/// Whom the letter is to or about: the user that it names, or, of a reset, whoever has its address
/// now. For them its challenge is from then on.
pub(super) async fn addressee(
    state: &AppState,
    claimed: &ClaimedLetter,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<User>> {
    match (claimed.kind, claimed.challenge_id, claimed.user_id) {
        (LetterKind::Reset, Some(challenge), _) => {
            db::with_timeout(bound(state, claimed, challenge, now)).await
        }
        (_, _, Some(id)) => state.db.read(|db| Box::pin(users::find(db, id))).await,
        _ => Ok(None),
    }
}

/// Whether the letter's link is void by now: of an invitation that was taken back, or made anew.
pub(super) async fn is_void(
    state: &AppState,
    claimed: &ClaimedLetter,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let (LetterKind::Invitation, Some(id)) = (claimed.kind, claimed.challenge_id) else {
        return Ok(false);
    };
    let open = state.db.read(|db| Box::pin(invitations::find_open(db, id, now))).await?;
    Ok(open.is_none())
}

async fn bound(
    state: &AppState,
    claimed: &ClaimedLetter,
    challenge: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<User>> {
    let mut tx = state.db.begin().await?;
    let Some(user) = users::find_by_email(&mut tx, &claimed.recipient).await? else {
        challenges::bind_to_nobody(&mut tx, challenge).await?;
        tx.commit().await?;
        return Ok(None);
    };
    let Some(bound) = challenges::bind(&mut tx, challenge, user.id, now).await? else {
        return Ok(None);
    };
    outbox::set_user(&mut tx, claimed.id, user.id).await?;
    tx.commit().await?;
    // In a transaction of its own: the one before holds the row that a try of the code waits for.
    if bound.is_first {
        let mut tx = state.db.begin().await?;
        let event = Event::new(EventKind::ResetAsked).on(user.id).from(bound.ip);
        state.record(&mut tx, event, now).await?;
        tx.commit().await?;
    }
    Ok(Some(user))
}

/// The letter as it is sent now to or about `user`; `None` if it is no longer wanted, which one
/// whose user is gone never is.
pub(super) fn compose(
    state: &AppState,
    claimed: &ClaimedLetter,
    user: Option<&User>,
    now: DateTime<Utc>,
) -> Composed {
    let message_id = format!("<{}@{}>", claimed.id, state.config.site());
    let draft = Draft { state, claimed, message_id, now };
    if claimed.user_id.is_some() && user.is_none() {
        return Ok(None);
    }
    if user.is_some_and(User::is_deleted) && claimed.kind != LetterKind::AccountDeleted {
        return Ok(None);
    }
    let to_user = |compose: fn(&Draft<'_>, &User) -> Composed| {
        user.map_or(Ok(None), |user| compose(&draft, user))
    };
    match claimed.kind {
        LetterKind::AccountDeleted => to_user(account_deleted::compose),
        LetterKind::AccountRestored => to_user(account_restored::compose),
        LetterKind::BanLifted => to_user(ban_lifted::compose),
        LetterKind::Confirmation => to_user(confirmation::compose),
        LetterKind::EmailChangeNotice => to_user(email_change_notice::compose),
        LetterKind::Invitation => invitation::compose(&draft),
        LetterKind::NewDevice => to_user(new_device::compose),
        LetterKind::PasswordChanged => to_user(password_changed::compose),
        LetterKind::Reset => to_user(reset::compose),
        LetterKind::Test => test::compose(&draft),
    }
}

#[cfg(test)]
mod tests {
    use crate::mail::letters::Kind;
    use crate::store::outbox::LetterKind;

    #[test]
    fn each_kind_has_its_words() {
        for kind in LetterKind::ALL {
            assert!(
                Kind::called(kind.as_str()).is_some(),
                "{kind:?} is not in mail/letters/kinds.rs"
            );
        }
    }
}
