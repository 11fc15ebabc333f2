//! Names and addresses that another account has: what a call that asks for one is told.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::account::attempts::{self, Counted};
use crate::http::error::{ApiError, Code};
use crate::state::AppState;
use crate::store::audit::Event;
use crate::store::users;

/// A name and an address that a client asked for, and whose own they may be.
pub struct Wanted<'a> {
    pub username: &'a str,
    pub email: &'a str,
    pub but: Option<Uuid>,
}

/// The error of a call whose name or address is taken, which names both where both are; any other
/// one as it is. Records it, so that probing for addresses can be seen; and the answer takes as long
/// as for a free one, for which something is committed as well. `refunded`: what the call does not
/// count as.
pub async fn explain_if_taken(
    state: &AppState,
    error: ApiError,
    wanted: Wanted<'_>,
    event: Event,
    refunded: Option<Counted>,
    now: DateTime<Utc>,
) -> Result<ApiError, ApiError> {
    if !is_taken(&error) {
        return Ok(error);
    }
    let mut tx = state.db.begin().await?;
    let Wanted { username, email, but } = wanted;
    let (is_name_taken, is_email_taken) = users::find_taken(&mut tx, username, email, but).await?;
    let event = event.with(serde_json::json!({ "code": error.code.as_str() }));
    state.record(&mut tx, event, now).await?;
    attempts::refund_in(&mut tx, refunded).await?;
    tx.commit().await?;
    let name = is_name_taken.then_some(("username", Code::UsernameTaken));
    let email = is_email_taken.then_some(("email", Code::EmailTaken));
    let taken: Vec<_> = name.into_iter().chain(email).collect();
    // Free again by now: the answer is what the call met.
    Ok(if taken.is_empty() { error } else { ApiError::conflict(&taken) })
}

pub fn is_taken(error: &ApiError) -> bool {
    matches!(error.code, Code::UsernameTaken | Code::EmailTaken)
}
