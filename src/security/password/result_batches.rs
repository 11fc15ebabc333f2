//! Hash results that are delivered in batches while many callers wait.
//!
//! A hash fills the processor's caches, so whatever runs next to it finds them cold: what a login does after its hash,
//! in PostgreSQL too, takes twice as long one at a time as several in a row. A result is held back only while more callers
//! wait for a hash themselves than results are held back, so hardly ever under low load, and only where many hashes are
//! done in the time that one may be held back for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// The size of a batch: so many results for each thread, up to the maximum.
const RESULTS_PER_THREAD: usize = 12;
const MAX_RESULTS: usize = 24;
/// A result whose hash was begun this long ago is not held back for others; looked at whenever a hash is done.
const MAX_DELAY: Duration = Duration::from_millis(120);

/// Tells a result to whoever waits for it.
pub type Told = Box<dyn FnOnce() + Send>;

pub struct Results {
    together: usize,
    /// Each with when its hash was begun, in the order in which they were ready.
    ready: Mutex<Vec<(Instant, Told)>>,
    /// Where the callers wait, if known.
    runtime: Option<Handle>,
}

impl Results {
    /// Those of so many hashing threads.
    pub fn new(threads: usize) -> Self {
        Self {
            together: (threads * RESULTS_PER_THREAD).min(MAX_RESULTS),
            ready: Mutex::default(),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Adds the result of a hash that was begun then.
    pub fn add(&self, begun: Instant, result: Option<Told>) {
        self.lock().extend(result.map(|tell| (begun, tell)));
    }

    /// Delivers all results that are ready if they are enough, if one of them is late, or if no more callers wait than
    /// results are ready. Called after every job, so none is left undelivered.
    pub fn tell(&self, waiting: usize) {
        let mut ready = self.lock();
        let is_late = ready.iter().any(|(begun, _)| begun.elapsed() > MAX_DELAY);
        if ready.len() < self.together && ready.len() < waiting && !is_late {
            return;
        }
        let told = std::mem::take(&mut *ready);
        drop(ready);
        if told.is_empty() {
            return;
        }
        let tell_all = move || told.into_iter().for_each(|(_, tell)| tell());
        match &self.runtime {
            // From here each caller that wakes would take the processor before the next one is told.
            Some(runtime) => drop(runtime.spawn(async move { tell_all() })),
            None => tell_all(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Told)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_many_wait_results_are_told_together() {
        told_together();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn callers_on_a_runtime_are_told_in_the_same_order() {
        tokio::task::block_in_place(told_together);
    }

    fn told_together() {
        let (told, seen) = std::sync::mpsc::channel();
        let results = Results::new(1);
        let add_begun = |begun: Instant, number: u32| {
            let told = told.clone();
            results.add(begun, Some(Box::new(move || told.send(number).expect("seen"))));
        };
        // However long this test is kept waiting.
        let add = |number: u32| add_begun(Instant::now() + Duration::from_mins(1), number);
        // They are told by a task, where there is a runtime.
        let seen = || {
            std::thread::sleep(Duration::from_millis(100));
            seen.try_iter().collect::<Vec<_>>()
        };
        add(1);
        results.tell(2);
        add(2);
        results.tell(30);
        add(3);
        results.tell(4);
        assert_eq!(seen(), [0; 0], "more wait");
        add(4);
        results.tell(4);
        assert_eq!(seen(), [1, 2, 3, 4], "as many wait");
        for number in 5..=15 {
            add(number);
            results.tell(30);
        }
        assert_eq!(seen(), [0; 0], "many wait");
        add(16);
        results.tell(30);
        assert_eq!(seen(), (5..=16).collect::<Vec<_>>(), "they are twelve");
        add(17);
        results.tell(2);
        results.add(Instant::now(), None);
        results.tell(1);
        assert_eq!(seen(), [17], "few wait");
        let long_ago = Instant::now().checked_sub(MAX_DELAY * 2);
        add_begun(long_ago.expect("the machine runs longer"), 18);
        results.tell(30);
        assert_eq!(seen(), [18], "it took long");
    }
}
