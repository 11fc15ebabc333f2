//! Limits at the door of a handler.

use chrono::{DateTime, Utc};

use crate::http::error::ApiError;
use crate::limits::{Attempt, Outcome, Reservation};
use crate::state::AppState;

/// Counts the attempts before their work is done, or refuses them all.
pub async fn reserve(
    state: &AppState,
    attempts: &[Attempt],
    now: DateTime<Utc>,
) -> Result<Reservation, ApiError> {
    match state.limits.reserve(&state.db, attempts, now).await? {
        Outcome::Reserved(reservation) => Ok(reservation),
        Outcome::Refused(refusal) => Err(ApiError::rate_limited(refusal, now)),
    }
}
