//! Who waits for whom before a connection is taken.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    pub async fn take(&self, user_id: Uuid) -> Turn {
        let number =
            usize::from(u16::from_be_bytes([user_id.as_bytes()[14], user_id.as_bytes()[15]]));
        let turns = Arc::clone(&self.0[number % TURNS]);
        turns.acquire_owned().await.expect("it is never closed")
    }
}
