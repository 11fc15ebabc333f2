//! A transaction, and what is done once it is committed.

use std::ops::{Deref, DerefMut};

use sqlx::PgConnection;

use super::connection::Conn;
use crate::context::run_to_completion;

/// A transaction, rolled back unless it is committed.
pub struct Tx {
    pub(super) inner: Conn,
    after_commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Tx {
    pub(super) fn new(inner: Conn) -> Self {
        Self { inner, after_commit: Vec::new() }
    }

    /// Calls `work` once the transaction is committed; never if it is rolled back or the commit
    /// fails.
    pub fn after_commit(&mut self, work: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(work));
    }

    pub async fn commit(self) -> sqlx::Result<()> {
        self.commit_and(|| {}).await
    }

    /// Commits, then runs `afterwards` in any case: a commit that failed may have taken effect all
    /// the same.
    ///
    /// Runs to completion, even if the client hangs up meanwhile.
    pub async fn commit_and(self, afterwards: impl FnOnce() + Send + 'static) -> sqlx::Result<()> {
        run_to_completion(async move {
            let outcome = self.inner.commit().await;
            if outcome.is_ok() {
                self.after_commit.into_iter().for_each(|work| work());
            }
            afterwards();
            outcome
        })
        .await
    }

    pub async fn rollback(self) -> sqlx::Result<()> {
        self.inner.rollback().await
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
