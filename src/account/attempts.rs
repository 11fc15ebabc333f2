//! Attempts that are counted before their work is done, and refunded where it was legitimate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::context::run_to_completion;
use crate::limits::{Attempt, Refusal, Reservation};
use crate::state::AppState;
use crate::store::db::with_timeout;

/// Counts the attempts. Runs to completion: what was counted for a client who hangs up meanwhile is refunded.
pub fn reserve_to_completion(
    state: &AppState,
    attempts: Vec<Attempt>,
    now: DateTime<Utc>,
) -> impl Future<Output = sqlx::Result<Result<RefundOnDrop, Refusal>>> + Send + use<> {
    let state = state.clone();
    run_to_completion(async move {
        let reserved = state.limits.reserve(&state.db, &attempts, now).await?;
        Ok(reserved.map(|reservation| RefundOnDrop::new(&state, reservation)))
    })
}

/// Refunds the attempts. Runs to completion, or until the database has not answered in time.
pub fn refund(
    state: &AppState,
    reservation: Reservation,
) -> impl Future<Output = sqlx::Result<()>> + Send + use<> {
    let state = state.clone();
    run_to_completion(with_timeout(async move {
        let mut tx = state.db.begin().await?;
        reservation.refund(&mut tx).await?;
        tx.commit().await?;
        state.limits.forget(&reservation, None);
        Ok(())
    }))
}

/// A reservation that is refunded on drop, even if the client hangs up, unless `keep` is called.
pub struct RefundOnDrop {
    state: AppState,
    reservation: Reservation,
    /// Kept all the same once this is set.
    unless: Option<Arc<AtomicBool>>,
}

impl RefundOnDrop {
    pub fn new(state: &AppState, reservation: Reservation) -> Self {
        Self { state: state.clone(), reservation, unless: None }
    }

    /// Charges the attempts after all once `begun` is set, even if this is dropped.
    pub fn charge_once(&mut self, begun: Arc<AtomicBool>) {
        self.unless = Some(begun);
    }

    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    pub fn keep(mut self) -> Reservation {
        std::mem::take(&mut self.reservation)
    }
}

impl Drop for RefundOnDrop {
    fn drop(&mut self) {
        if self.unless.as_ref().is_some_and(|flag| flag.load(Ordering::SeqCst)) {
            return;
        }
        let (state, reservation) = (self.state.clone(), std::mem::take(&mut self.reservation));
        if let (false, Ok(runtime)) = (reservation.is_empty(), Handle::try_current()) {
            runtime.spawn(refund(&state, reservation));
        }
    }
}
