//! Rate limits, as handlers use them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};

use crate::account::attempts::{RefundOnDrop, refund, reserve_to_completion};
use crate::fields::Password;
use crate::http::error::ApiError;
use crate::limits::{Attempt, Reservation};
use crate::security::password::Requester;
use crate::security::password::{Busy, Verdict};
use crate::state::AppState;

/// Counts the attempts before their work is done, or refuses them all.
pub async fn reserve(
    state: &AppState,
    attempts: &[Attempt],
    now: DateTime<Utc>,
) -> Result<Reservation, ApiError> {
    let reserved = state.limits.reserve(&state.db, attempts, now).await?;
    reserved.map_err(|refusal| ApiError::rate_limited(refusal, now))
}

/// As [`reserve`], for somebody who has proven before who they are: what was counted is refunded if they hang up
/// meanwhile. What strangers who hang up are counted as stays, or a flood of them would never be refused.
pub async fn reserve_for_known(
    state: &AppState,
    attempts: Vec<Attempt>,
    now: DateTime<Utc>,
) -> Result<Reservation, ApiError> {
    let reserved = reserve_to_completion(state, attempts, now).await?;
    reserved.map(RefundOnDrop::keep).map_err(|refusal| ApiError::rate_limited(refusal, now))
}

/// Checks a password that has been counted as an attempt. It is refunded if nobody looked at the password: the queue was
/// full, or a known client hung up before its turn came.
pub async fn check_password(
    state: &AppState,
    reservation: Reservation,
    requester: Requester,
    password: Password,
    hash: Option<&str>,
) -> Result<(Verdict, Reservation), ApiError> {
    let begun = Arc::new(AtomicBool::new(!requester.is_known));
    let mut counted = RefundOnDrop::new(state, reservation);
    counted.charge_once(Arc::clone(&begun));
    let checked = state.hasher.verify(requester, password, hash, &begun).await;
    refund_if_busy(state, counted.keep(), checked).await
}

/// The outcome of hashing. If the queue was full, the attempt is refunded: no password was checked.
pub async fn refund_if_busy<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, Busy>,
) -> Result<(T, Reservation), ApiError> {
    match outcome {
        Ok(value) => Ok((value, reservation)),
        Err(busy) => {
            refund(state, reservation).await?;
            Err(busy.into())
        }
    }
}

/// The outcome of what was done after a correct password. If it failed (the database was away, a name was taken), the
/// attempt is refunded all the same, by best effort: retrying during an outage must not lock anybody out.
pub fn refund_on_error<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    // In the background: the database may just have failed.
    let counted = RefundOnDrop::new(state, reservation);
    if outcome.is_ok() {
        counted.keep();
    }
    outcome
}

/// As [`refund_on_error`], but only for server errors.
pub fn refund_on_server_error<T>(
    state: &AppState,
    reservation: Reservation,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    match outcome {
        Err(error) if error.code.status().is_server_error() => {
            refund_on_error(state, reservation, Err(error))
        }
        outcome => outcome,
    }
}
