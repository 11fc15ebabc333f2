//! A transaction, and what is logged once it is committed.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::PgConnection;

use super::connection::Conn;
use crate::context::run_to_completion;
use crate::metrics::Tally;
use crate::store::audit;

/// A transaction and the events recorded in it, which are logged only once it is committed.
pub struct Tx {
    pub(super) inner: Conn,
    events: Vec<audit::Event>,
    counts: Arc<Tally>,
}

impl Tx {
    pub(super) fn new(inner: Conn, counts: Arc<Tally>) -> Self {
        Self { inner, events: Vec::new(), counts }
    }

    pub async fn commit(self) -> sqlx::Result<()> {
        self.commit_and(|| {}).await
    }

    /// Commits, then runs `afterwards` in any case: a commit that failed may have taken effect all the same.
    ///
    /// Runs to completion, even if the client hangs up meanwhile.
    pub async fn commit_and(self, afterwards: impl FnOnce() + Send + 'static) -> sqlx::Result<()> {
        let commits_itself = self.inner.commits_itself();
        let committing = async move {
            let outcome = self.inner.commit().await;
            if outcome.is_ok() {
                self.events.iter().for_each(|event| event.log(&self.counts));
            }
            afterwards();
            outcome
        };
        if commits_itself {
            return committing.await;
        }
        run_to_completion(committing).await
    }

    pub async fn rollback(self) -> sqlx::Result<()> {
        self.inner.rollback().await
    }

    pub(in crate::store) fn log_once_committed(&mut self, event: audit::Event) {
        self.events.push(event);
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
