//! A semaphore for each key, acquired before the database is asked.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time;

/// Keys with the same hash modulo this share a semaphore: rarely, and then they only wait a little
/// more.
const SEMAPHORES: u64 = 1024;

/// A fixed number of permits for each key.
#[derive(Clone, Debug)]
pub struct KeyedSemaphore {
    semaphores: Arc<[Arc<Semaphore>]>,
    hasher: RandomState,
}

/// Released when it is dropped.
pub type KeyedPermit = OwnedSemaphorePermit;

impl KeyedSemaphore {
    pub fn new(permits: usize) -> Self {
        let semaphores = (0..SEMAPHORES).map(|_| Arc::new(Semaphore::new(permits))).collect();
        Self { semaphores, hasher: RandomState::new() }
    }

    /// Waits for a permit, for `timeout` at most.
    pub async fn acquire(
        &self,
        key: &(impl Hash + ?Sized),
        timeout: Duration,
    ) -> Result<KeyedPermit, AcquireTimedOut> {
        let index =
            usize::try_from(self.hasher.hash_one(key) % SEMAPHORES).expect("a small number");
        let permit = time::timeout(timeout, Arc::clone(&self.semaphores[index]).acquire_owned());
        let permit = permit.await.map_err(|_| AcquireTimedOut)?;
        Ok(permit.expect("the semaphore is never closed"))
    }
}

/// No permit came in time: the database was not even asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcquireTimedOut;

impl fmt::Display for AcquireTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the calls before this one took too long")
    }
}

impl std::error::Error for AcquireTimedOut {}
