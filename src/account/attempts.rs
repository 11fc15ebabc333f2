//! Attempts of every limit, counted before their work is done: one guard is the count. What an
//! attempt is, and about whom: `limits/attempt.rs`.
//!
//! A handler has four verbs. [`count`] gives the guard, or refuses. [`Counted::charge_in`] and
//! [`refund_in`] leave it to a transaction: it was the kind of attempt that the limit is
//! for, or it was not. [`Counted::settle`] leaves it to an outcome. A guard that is dropped before
//! that, since its client hung up, its call failed or its transaction was rolled back, is charged
//! or refunded as it was made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::account::Error;
use crate::context::run_to_completion;
use crate::limits::{Attempt, Key};
use crate::state::AppState;
use crate::store::db::{KeyedPermit, Tx, with_timeout};
use crate::store::limits;

/// Attempts that get one guard.
pub struct Attempts {
    all: Vec<Attempt>,
    if_dropped: IfDropped,
}

/// What becomes of the count if the guard is dropped.
enum IfDropped {
    /// It stays. What strangers who hang up are counted as has to stay: a flood of them would never
    /// be refused.
    Charge,
    Refund,
    /// It is refunded until a hashing thread looks at the password: from then on that was a guess.
    RefundUnless(Arc<AtomicBool>),
}

impl Attempts {
    /// Of a stranger: charged even if the client hangs up.
    pub fn charged_if_dropped(all: impl Into<Vec<Attempt>>) -> Self {
        Self { all: all.into(), if_dropped: IfDropped::Charge }
    }

    /// Of a client that has proven before who it is, or of what a call causes by the way: refunded
    /// if the client hangs up or the call fails.
    pub fn refunded_if_dropped(all: impl Into<Vec<Attempt>>) -> Self {
        Self { all: all.into(), if_dropped: IfDropped::Refund }
    }
}

/// Counts the attempts of all groups in one statement, or refuses them all; a guard for each group.
pub async fn count<const N: usize>(
    state: &AppState,
    groups: [Attempts; N],
    now: DateTime<Utc>,
) -> Result<[Counted; N], Error> {
    let is_charged = groups.iter().all(|group| matches!(group.if_dropped, IfDropped::Charge));
    let counting = reserve(state.clone(), groups, now);
    if is_charged {
        return counting.await;
    }
    // Runs to completion: what was counted for a client that hung up meanwhile is refunded by the
    // guards.
    run_to_completion(counting).await
}

async fn reserve<const N: usize>(
    state: AppState,
    groups: [Attempts; N],
    now: DateTime<Utc>,
) -> Result<[Counted; N], Error> {
    let all: Vec<Attempt> = groups.iter().flat_map(|group| group.all.iter().cloned()).collect();
    match state.limits.reserve(&state.db, &all, now, |event| state.log(event)).await? {
        Ok(keys) => {
            let mut keys = keys.into_iter();
            Ok(groups.map(|group| Counted {
                keys: keys.by_ref().take(group.all.len()).collect(),
                remembered: Vec::new(),
                if_dropped: group.if_dropped,
                permits: Vec::new(),
                state: state.clone(),
            }))
        }
        Err(refusal) => Err(Error::RateLimited { refusal, now }),
    }
}

/// The guard of attempts that are counted: it is charged, refunded or settled, and dropped it does
/// as it was made.
#[must_use]
pub struct Counted {
    state: AppState,
    /// The rows that were counted; none where limits are off, or once it is settled.
    keys: Vec<Key>,
    /// Refusals to forget as well once it turns out that this was no attempt.
    remembered: Vec<Key>,
    if_dropped: IfDropped,
    permits: Vec<KeyedPermit>,
}

impl Counted {
    /// It was an attempt, once the transaction is committed.
    pub fn charge_in(self, tx: &mut Tx) {
        tx.after_commit(move || self.charge());
    }

    /// An error of the service's own is refunded, so that retrying during an outage locks no user
    /// out; everything else was an attempt. In the background: the database may just have failed.
    pub fn settle<T, E: Fault>(self, outcome: Result<T, E>) -> Result<T, E> {
        match &outcome {
            Err(error) if error.is_ours() => drop(self.refunded_if_dropped()),
            _ => self.charge(),
        }
        outcome
    }

    /// From now on refunded if dropped: the password was right.
    pub(super) fn refunded_if_dropped(self) -> Self {
        self.become_if_dropped(IfDropped::Refund)
    }

    /// From now on refunded if dropped, unless `begun` is set; what is charged if dropped stays so.
    pub(super) fn refunded_unless(self, begun: Arc<AtomicBool>) -> Self {
        if matches!(self.if_dropped, IfDropped::Charge) {
            return self;
        }
        self.become_if_dropped(IfDropped::RefundUnless(begun))
    }

    fn become_if_dropped(mut self, if_dropped: IfDropped) -> Self {
        self.if_dropped = if_dropped;
        self
    }

    /// Forgets these refusals, too, when it is refunded.
    pub(super) fn with_remembered(mut self, keys: impl Into<Vec<Key>>) -> Self {
        self.remembered = keys.into();
        self
    }

    /// Holds the permits until it is dropped.
    pub(super) fn with_permits(mut self, permits: Vec<KeyedPermit>) -> Self {
        self.permits = permits;
        self
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// It was an attempt.
    pub(super) fn charge(mut self) {
        self.keys.clear();
    }

    /// It was refunded by a statement that is committed.
    pub(super) fn set_refunded(self) {
        self.state.limits.forget(&self.keys);
        self.state.limits.forget(&self.remembered);
        self.charge();
    }

    /// It was none; returns when that is written, or the database has not answered in time.
    pub(super) async fn refund(mut self) -> sqlx::Result<()> {
        refund(self.state.clone(), std::mem::take(&mut self.keys)).await
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let is_charged = match &self.if_dropped {
            IfDropped::Charge => true,
            IfDropped::Refund => false,
            IfDropped::RefundUnless(begun) => begun.load(Ordering::SeqCst),
        };
        if is_charged || self.keys.is_empty() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(refund(self.state.clone(), std::mem::take(&mut self.keys)));
        }
    }
}

/// Runs to completion, or until the database has not answered in time.
fn refund(state: AppState, keys: Vec<Key>) -> impl Future<Output = sqlx::Result<()>> + Send {
    run_to_completion(with_timeout(async move {
        if !keys.is_empty() {
            let mut tx = state.db.begin().await?;
            limits::refund(&mut tx, &keys).await?;
            tx.commit().await?;
            state.limits.forget(&keys);
        }
        Ok(())
    }))
}

/// None of these was an attempt, once the transaction is committed, which writes that too: in one
/// statement, which locks their rows in the order that [`count`] does. If it fails they are
/// refunded all the same.
pub async fn refund_in(tx: &mut Tx, all: impl IntoIterator<Item = Counted>) -> sqlx::Result<()> {
    let all: Vec<Counted> = all.into_iter().map(Counted::refunded_if_dropped).collect();
    let keys: Vec<Key> = all.iter().flat_map(|counted| counted.keys.iter().cloned()).collect();
    if !keys.is_empty() {
        limits::refund(tx, &keys).await?;
        tx.after_commit(move || all.into_iter().for_each(Counted::set_refunded));
    }
    Ok(())
}

/// An error that may be the service's own.
pub trait Fault {
    /// The service failed, and the client has done nothing wrong.
    fn is_ours(&self) -> bool;
}

impl Fault for Error {
    fn is_ours(&self) -> bool {
        matches!(self, Self::Busy | Self::Database(_))
    }
}
