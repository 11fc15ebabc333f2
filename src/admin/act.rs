//! What an admin does to another's account: who does it, and the locks under which it is done.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::account::client::ClientInfo;
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db::Tx;
use crate::store::users::{self, User};
use crate::store::{admins, sessions};

/// An admin who acts, from where, and when.
pub(super) struct Act<'a> {
    pub state: &'a AppState,
    pub caller: &'a CurrentUser,
    pub client: &'a ClientInfo,
    pub now: DateTime<Utc>,
}

/// The transaction of an act.
pub(super) struct Begun {
    pub tx: Tx,
    /// All who can get in, whom no other transaction can demote, ban or delete before this one ends.
    pub admins: Vec<Uuid>,
    /// Whom it is about, locked.
    pub user: User,
}

impl<'a> Act<'a> {
    pub fn new(state: &'a AppState, caller: &'a CurrentUser, client: &'a ClientInfo) -> Self {
        Self { state, caller, client, now: state.clock.now() }
    }

    /// An event of this act.
    pub fn event(&self, kind: EventKind, on: Uuid) -> Event {
        Event::by(self.caller.actor(self.client), kind).on(on)
    }

    /// Begins the act. The caller must still be an admin, in an active session: of two admins who
    /// demote each other, the second one comes too late.
    pub async fn begin(&self, id: Uuid) -> Result<Begun, ApiError> {
        let mut tx = self.state.db.begin().await?;
        let admins = admins::list_for_update(&mut tx).await?;
        let CurrentUser { user: caller, session, .. } = self.caller;
        if !admins.contains(&caller.id) {
            return Err(Code::Forbidden.into());
        }
        let user = users::find_for_update(&mut tx, id).await?.ok_or(Code::UserNotFound)?;
        // Last: the locks may have taken their time.
        if !sessions::is_active(&mut tx, session.id, caller.id, self.now).await? {
            return Err(Code::SessionEnded.into());
        }
        Ok(Begun { tx, admins, user })
    }

    /// As [`Act::begin`], on an account that is not deleted.
    pub async fn begin_on_present(&self, id: Uuid) -> Result<(Tx, User), ApiError> {
        let Begun { tx, user, .. } = self.begin(id).await?;
        if user.is_deleted() {
            return Err(Code::UserNotFound.into());
        }
        Ok((tx, user))
    }
}
