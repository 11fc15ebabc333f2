//! Who waits for whom before a connection is taken.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

/// Users share a turn when their ids are alike in the last bits, which are random: seldom enough.
const TURNS: usize = 1024;

/// One transaction at a time for each user.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<[Arc<Semaphore>]>);

/// Somebody's turn, until it is dropped.
pub(super) type Turn = OwnedSemaphorePermit;

impl Default for Turns {
    fn default() -> Self {
        Self((0..TURNS).map(|_| Arc::new(Semaphore::new(1))).collect())
    }
}

impl Turns {
    /// Waits for so long at most.
    pub async fn take(&self, user_id: Uuid, patience: Duration) -> sqlx::Result<Turn> {
        let number =
            usize::from(u16::from_be_bytes([user_id.as_bytes()[14], user_id.as_bytes()[15]]));
        let turn = timeout(patience, Arc::clone(&self.0[number % TURNS]).acquire_owned()).await;
        let turn = turn.map_err(|_| sqlx::Error::AnyDriverError(Box::new(TurnTimedOut)))?;
        Ok(turn.expect("it is never closed"))
    }
}

/// Too many of the same user's calls came before.
#[derive(Debug)]
struct TurnTimedOut;

impl fmt::Display for TurnTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the user's other calls took too long")
    }
}

impl std::error::Error for TurnTimedOut {}

/// Whether one's turn did not come in time: the database has not even been asked.
pub fn is_out_of_turn(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(cause) if cause.is::<TurnTimedOut>())
}
