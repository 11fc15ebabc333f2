//! Argon2id on a fixed set of threads.
//!
//! Hashing is the one expensive thing that a stranger can ask for, so its cost is bounded four
//! times: each thread owns one block of memory and reuses it, a queue of fixed length stands before
//! the threads, a job that finds no room in it is refused at once, and a job that waited too long
//! is refused instead of done. The threads run at a lower priority: a flood of logins leaves the
//! processor to the calls that only read.

mod argon2;
mod fair_queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::argon2::Params;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::oneshot;

use crate::fields::Password;
use crate::metrics::{Counter, Gauge, Histogram};
use crate::security::random_bytes;
pub use argon2::production_params;
use argon2::{Engine, OUTPUT_BYTES};
pub use fair_queue::{FairQueue, Full, Idle, Requester};

/// How many may wait for each thread: at 15 ms a hash the last of them waits for 1 s, and a
/// stranger behind a crowd of known clients four times that.
const QUEUE_PER_THREAD: usize = 64;
/// A job that waited for this long is refused: on a slow processor the queue's length alone would
/// be no bound.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A pause after each job while more wait; with Linux's usual timer slack it takes some 55 us. A
/// thread that never sleeps keeps what is scheduled in other groups (autogroup) waiting, PostgreSQL
/// on the same machine too: on Linux 6.18 for 50 ms and more, whatever this thread's priority. The
/// pause took the p99 of a login from 470 to 384 ms (ba12e6f).
const PAUSE: Duration = Duration::from_micros(1);

/// A thread that finds no job for this long gives its memory back: how long what was derived from
/// the last password stays there (`argon2.rs` says what that is).
const IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// The queue is full, or was not done in time: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub matches: bool,
    /// The hash was made with other parameters than today's: make it anew while the password is at
    /// hand.
    pub outdated: bool,
}

#[derive(Clone)]
pub struct Hasher {
    queue: Arc<Jobs>,
    load: Arc<Load>,
    threads: usize,
    params: Params,
    dummy: Arc<str>,
}

/// The load of the hashing threads.
#[derive(Debug, Default)]
pub struct Load {
    pub running: Gauge,
    /// How long jobs waited for a thread.
    pub wait: Histogram,
    /// Jobs that were refused, displaced or waited too long.
    pub turned_away: Counter,
}

/// The sending side of the queue; once the last one is gone, the threads end.
struct Jobs(Arc<FairQueue<Waiting>>);

struct Waiting {
    since: Instant,
    job: Job,
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Job {
    Hash(Password, oneshot::Sender<SecretString>),
    Verify(Password, Arc<str>, Arc<AtomicBool>, oneshot::Sender<bool>),
}

impl Hasher {
    /// Starts `threads` threads that live as long as the hasher or one of its clones.
    ///
    /// # Panics
    ///
    /// If this processor does not compute Argon2 correctly: the users whose hashes it stored would
    /// be locked out on every other machine.
    pub fn new(params: Params, threads: usize) -> Self {
        argon2::check_this_processor();
        let queue = Arc::new(FairQueue::new(threads * QUEUE_PER_THREAD));
        let load = Arc::<Load>::default();
        for number in 0..threads {
            let (jobs, load, params) = (Arc::clone(&queue), Arc::clone(&load), params.clone());
            std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&jobs, &load, &params))
                .expect("the operating system gives a thread at start");
        }
        let dummy = argon2::phc_string(&params, &[0; 16], &[0; OUTPUT_BYTES]);
        Self { queue: Arc::new(Jobs(queue)), load, threads, params, dummy: dummy.into() }
    }

    /// Hashes with a new salt; the result is a PHC string.
    pub async fn hash(
        &self,
        requester: Requester,
        password: Password,
    ) -> Result<SecretString, Busy> {
        let (answer, result) = oneshot::channel();
        self.enqueue(requester, Job::Hash(password, answer))?;
        result.await.map_err(|_| self.turn_away())
    }

    /// Checks a password against a PHC string, in the same time whether it matches or not.
    ///
    /// Without a hash (no user of that name) the same work is done on a dummy, and the answer is
    /// no. `begun` is set once a thread looks at the password: from then on it was a guess, whether
    /// the caller waits for the answer or not.
    pub async fn verify(
        &self,
        requester: Requester,
        password: Password,
        hash: Option<&SecretString>,
        begun: &Arc<AtomicBool>,
    ) -> Result<Verdict, Busy> {
        let (answer, result) = oneshot::channel();
        let hash = hash.map(ExposeSecret::expose_secret);
        let subject = hash.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        self.enqueue(requester, Job::Verify(password, subject, Arc::clone(begun), answer))?;
        let matches = result.await.map_err(|_| self.turn_away())? && hash.is_some();
        Ok(Verdict {
            matches,
            outdated: hash.is_some_and(|hash| argon2::is_outdated(hash, &self.params)),
        })
    }

    /// Fails if there is no room now: to be called before anything is written for the job.
    pub fn check_room(&self, requester: Requester) -> Result<(), Busy> {
        if self.queue.0.has_room(requester) { Ok(()) } else { Err(self.turn_away()) }
    }

    /// Fails if there is no room now for the client `key`, whether it is known or not: to be called
    /// before the database is asked which of the two it is. A known client is never refused for
    /// lack of a stranger's place, nor a stranger for lack of a known client's.
    pub fn check_room_for_either(&self, key: u128) -> Result<(), Busy> {
        if self.queue.0.has_room_for_either(key) { Ok(()) } else { Err(self.turn_away()) }
    }

    fn enqueue(&self, requester: Requester, job: Job) -> Result<(), Busy> {
        self.queue
            .0
            .push(requester, Waiting { since: Instant::now(), job })
            .map_err(|Full| self.turn_away())
    }

    fn turn_away(&self) -> Busy {
        self.load.turned_away.add(1);
        Busy
    }

    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The number of hashing threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many jobs wait for a thread: known clients' and strangers'.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.0.waiting()
    }
}

fn work(jobs: &FairQueue<Waiting>, load: &Load, params: &Params) {
    // Best effort: where it is not allowed, hashing competes with the rest as equals.
    let _ = rustix::process::setpriority_process(None, 10);
    let mut engine = Engine::new(params);
    while let Some(Waiting { since, job }) = next_job(jobs, &mut engine) {
        let waited = since.elapsed();
        load.wait.observe(waited);
        if waited <= MAX_WAIT {
            let _running = load.running.enter();
            job.run(&mut engine, params);
        }
        if jobs.waiting() != (0, 0) {
            std::thread::sleep(PAUSE);
        }
    }
}

/// The next job, `None` as in [`FairQueue::pop`]. If it is long in coming, the engine's memory is
/// given back meanwhile.
fn next_job<T>(jobs: &FairQueue<T>, engine: &mut Engine) -> Option<T> {
    jobs.pop_within(IDLE_TIMEOUT).unwrap_or_else(|Idle| {
        engine.clear();
        jobs.pop()
    })
}

impl Job {
    /// Hashes and delivers the result. A requester that hung up while it waited costs nothing more;
    /// without memory the channel is dropped, which the requester sees as [`Busy`].
    fn run(self, engine: &mut Engine, params: &Params) {
        match self {
            Self::Hash(password, answer) => {
                if answer.is_closed() {
                    return;
                }
                let salt = random_bytes::<16>();
                if let Some(output) = engine.compute(params, &password, &salt) {
                    let _ = answer.send(argon2::phc_string(params, &salt, &output).into());
                }
            }
            Self::Verify(password, hash, begun, answer) => {
                if answer.is_closed() {
                    return;
                }
                begun.store(true, Ordering::SeqCst);
                // A requester that hung up between the two may have been refunded.
                if answer.is_closed() {
                    return;
                }
                if let Some(matches) = engine.matches(&password, &hash) {
                    let _ = answer.send(matches);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
