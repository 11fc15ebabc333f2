//! Limits at the door of a handler.

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::http::error::ApiError;
use crate::limits::{Attempt, Outcome, Reservation};
use crate::security::password::Busy;
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

/// The outcome of hashing, unless there was no room for it: a password that nobody looked at is no attempt.
pub async fn unless_busy<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, Busy>,
) -> Result<(T, Reservation), ApiError> {
    match outcome {
        Ok(value) => Ok((value, reservation)),
        Err(busy) => {
            // In a box, for the sake of all the others.
            Box::pin(give_back(state, reservation)).await?;
            Err(busy.into())
        }
    }
}

/// Takes the count back before anybody goes on.
pub async fn give_back(state: &AppState, reservation: Reservation) -> sqlx::Result<()> {
    let mut tx = state.db.begin().await?;
    reservation.clone().give_back(&mut tx).await?;
    tx.commit().await?;
    state.limits.forget(&reservation, None);
    Ok(())
}

/// The outcome of what was done after the password had been right. Where that failed (the database was away, a name was
/// taken) the attempt is given back nevertheless, as well as may be: nobody is to be kept out after an outage because they
/// tried on.
pub fn giving_back<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    // Nobody waits for a database that has just failed.
    let counted = Tentative::new(state, reservation);
    if outcome.is_ok() {
        counted.keep();
    }
    outcome
}

/// What was counted and is given back when this is dropped, by whoever hangs up too, unless it is kept.
pub struct Tentative {
    state: AppState,
    reservation: Reservation,
}

impl Tentative {
    pub fn new(state: &AppState, reservation: Reservation) -> Self {
        Self { state: state.clone(), reservation }
    }

    pub fn keep(mut self) {
        self.reservation = Reservation::default();
    }
}

impl Drop for Tentative {
    fn drop(&mut self) {
        let (state, reservation) = (self.state.clone(), std::mem::take(&mut self.reservation));
        if let (false, Ok(runtime)) = (reservation.is_empty(), Handle::try_current()) {
            runtime.spawn(async move {
                let _ = give_back(&state, reservation).await;
            });
        }
    }
}

/// As [`giving_back`], but for what the caller is to answer for.
pub fn giving_back_our_fault<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    match outcome {
        Err(error) if error.code.status().is_server_error() => {
            giving_back(state, reservation, Err(error))
        }
        outcome => outcome,
    }
}
