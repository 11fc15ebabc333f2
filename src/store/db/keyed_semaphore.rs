//! A semaphore for each key, taken before the database is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Keys that agree in their last bits share a semaphore: rarely, as those bits are random.
const SEMAPHORES: usize = 1024;

/// A fixed number at a time per key.
#[derive(Clone, Debug)]
pub struct KeyedSemaphore(Arc<[Arc<Semaphore>]>);

/// Somebody's turn, until it is dropped.
pub type KeyedPermit = OwnedSemaphorePermit;

impl KeyedSemaphore {
    pub fn new(at_once: usize) -> Self {
        Self((0..SEMAPHORES).map(|_| Arc::new(Semaphore::new(at_once))).collect())
    }

    /// Waits for `patience` at most. The key's last two bytes have to be random.
    pub async fn take(&self, key: &[u8], patience: Duration) -> sqlx::Result<KeyedPermit> {
        let last = key.last_chunk().copied().unwrap_or_default();
        let number = usize::from(u16::from_be_bytes(last)) % SEMAPHORES;
        let turn = timeout(patience, Arc::clone(&self.0[number]).acquire_owned()).await;
        let turn = turn.map_err(|_| sqlx::Error::AnyDriverError(Box::new(TurnTimedOut)))?;
        Ok(turn.expect("it is never closed"))
    }
}

/// The turn did not come in time.
#[derive(Debug)]
struct TurnTimedOut;

impl fmt::Display for TurnTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the calls before this one took too long")
    }
}

impl std::error::Error for TurnTimedOut {}

/// Whether a turn did not come in time: the database was not even asked.
pub fn is_turn_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(cause) if cause.is::<TurnTimedOut>())
}
