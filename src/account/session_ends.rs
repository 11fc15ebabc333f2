//! Sessions that their owner, or an admin, ends from another one.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::account::Error;
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::db::Tx;
use crate::store::{sessions, users};

/// Which sessions of a user end.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    One(Uuid),
    /// The actor's own goes on.
    All,
}

/// How many active sessions ended; `None` if there is no such user.
pub async fn end(
    state: &AppState,
    actor: Actor,
    user_id: Uuid,
    which: Which,
    now: DateTime<Utc>,
) -> Result<Option<u64>, Error> {
    let mut tx = state.db.begin_for(user_id).await?;
    // A login, or a logout everywhere, comes before this or after it.
    if users::find_for_update(&mut tx, user_id).await?.is_none() {
        return Ok(None);
    }
    if !sessions::is_active(&mut tx, actor.session_id, actor.user_id, now).await? {
        return Err(Error::SessionEnded);
    }
    let kind = EventKind::SessionsEnded;
    let (count, details) = match which {
        Which::One(id) => {
            let ended = sessions::revoke(&mut tx, id, user_id, kind.as_str(), now).await?;
            (u64::from(ended), json!({ "count": 1, "session_id": id }))
        }
        Which::All => {
            let kept = Some(actor.session_id);
            let count = sessions::revoke_all(&mut tx, user_id, kept, kind.as_str(), now).await?;
            (count, json!({ "count": count }))
        }
    };
    if count > 0 {
        state.record(&mut tx, Event::by(actor, kind).on(user_id).with(details), now).await?;
    }
    state.commit(tx, user_id).await?;
    Ok(Some(count))
}

/// Ends every session of a user but the actor's own, in the transaction of the admin who does.
pub async fn end_all(
    state: &AppState,
    tx: &mut Tx,
    actor: Actor,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let kind = EventKind::SessionsEnded;
    let count =
        sessions::revoke_all(tx, user_id, Some(actor.session_id), kind.as_str(), now).await?;
    if count > 0 {
        let event = Event::by(actor, kind).on(user_id);
        state.record(tx, event.with(json!({ "count": count })), now).await?;
    }
    Ok(count)
}
