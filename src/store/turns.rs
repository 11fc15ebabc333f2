//! Who waits for whom before anything is asked of the database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Two share their turns when their keys are alike in the last bits, which are random: seldom enough.
const TURNS: usize = 1024;

/// So many at a time for each key.
#[derive(Clone, Debug)]
pub struct Turns(Arc<[Arc<Semaphore>]>);

/// Somebody's turn, until it is dropped.
pub type Turn = OwnedSemaphorePermit;

impl Turns {
    pub fn new(at_once: usize) -> Self {
        Self((0..TURNS).map(|_| Arc::new(Semaphore::new(at_once))).collect())
    }

    /// Waits for so long at most. The key's last two bytes have to be random.
    pub async fn take(&self, key: &[u8], patience: Duration) -> sqlx::Result<Turn> {
        let last = key.last_chunk().copied().unwrap_or_default();
        let number = usize::from(u16::from_be_bytes(last)) % TURNS;
        let turn = timeout(patience, Arc::clone(&self.0[number]).acquire_owned()).await;
        let turn = turn.map_err(|_| sqlx::Error::AnyDriverError(Box::new(TurnTimedOut)))?;
        Ok(turn.expect("it is never closed"))
    }
}

/// Too many of the same kind came before.
#[derive(Debug)]
struct TurnTimedOut;

impl fmt::Display for TurnTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the calls before this one took too long")
    }
}

impl std::error::Error for TurnTimedOut {}

/// Whether one's turn did not come in time: the database has not even been asked.
pub fn is_out_of_turn(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(cause) if cause.is::<TurnTimedOut>())
}
