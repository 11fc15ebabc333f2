//! Argon2id on a fixed set of threads.
//!
//! Hashing is the one expensive thing that a stranger can ask for, so its cost is bounded four times: each thread
//! owns one block of memory and reuses it, a queue of fixed length stands before the threads, whoever finds no room in
//! it is told so at once, and whoever waited too long is told so instead of being served. The threads run at a lower
//! priority: a flood of logins leaves the processor to the calls that only read.
//!
//! The crate `argon2` parses and formats the hashes, `argon2-rust` computes them, with the best instructions that the
//! processor has, chosen at run time. The two are compared before the first use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use argon2_rust::params::{Memory, TagLen};
use tokio::sync::oneshot;

use crate::fields::Password;
use crate::metrics::{Counter, Gauge, Histogram};
use crate::security::queue::{Client, Full, Queue};
use crate::security::results::{Results, Told};
use crate::security::{are_equal, random_bytes};

/// How many may wait for each thread: at 15 ms a hash the last of them waits for 1 s, and a stranger behind a crowd of
/// known clients four times that.
const QUEUE_PER_THREAD: usize = 64;
/// Whoever waited for this long is told to come back: on a slow processor the queue's length alone would be no bound.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A pause after each job while more wait; with Linux's usual timer slack it takes some 55 us. A thread that never sleeps
/// keeps what is scheduled in other groups (autogroup) waiting, PostgreSQL on the same machine too: on Linux 6.18 for
/// 50 ms and more, whatever this thread's priority.
const PAUSE: Duration = Duration::from_micros(1);
/// Bytes of a hash.
const OUTPUT_BYTES: usize = 32;

/// The queue is full, or was not done in time: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The service's own parameters: `m=19456,t=2,p=1`, OWASP's recommendation.
pub fn production_params() -> Params {
    Params::new(19_456, 2, 1, Some(OUTPUT_BYTES)).expect("constant parameters are valid")
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub matches: bool,
    /// The hash was made with other parameters than today's: make it anew while the password is at hand.
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
struct Jobs(Arc<Queue<Waiting>>);

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
    Hash(Password, oneshot::Sender<String>),
    Verify(Password, Arc<str>, Arc<AtomicBool>, oneshot::Sender<bool>),
}

impl Hasher {
    /// Starts `threads` threads that live as long as the hasher or one of its clones. Made on a runtime, it serves callers
    /// there for as long as that runs.
    ///
    /// # Panics
    ///
    /// If this processor does not compute Argon2 correctly: the users whose hashes it stored would be locked out on
    /// every other machine.
    pub fn new(params: Params, threads: usize) -> Self {
        check_this_processor();
        let queue = Arc::new(Queue::new(threads * QUEUE_PER_THREAD));
        let load = Arc::<Load>::default();
        let results = Arc::new(Results::new(threads));
        for number in 0..threads {
            let (jobs, load, results) =
                (Arc::clone(&queue), Arc::clone(&load), Arc::clone(&results));
            let params = params.clone();
            std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&jobs, &load, &results, &params))
                .expect("the operating system gives a thread at start");
        }
        let dummy = phc_string(&params, &[0; 16], &[0; OUTPUT_BYTES]);
        Self { queue: Arc::new(Jobs(queue)), load, threads, params, dummy: dummy.into() }
    }

    /// Hashes with a new salt; the result is a PHC string.
    pub async fn hash(&self, client: Client, password: Password) -> Result<String, Busy> {
        let (answer, result) = oneshot::channel();
        self.enqueue(client, Job::Hash(password, answer))?;
        result.await.map_err(|_| self.turn_away())
    }

    /// Checks a password against a PHC string, in the same time whether it matches or not.
    ///
    /// Without a hash (nobody of that name) the same work is done on a dummy, and the answer is no. `begun` is set once a
    /// thread looks at the password: from then on it was a guess, whether somebody waits for the answer or not.
    pub async fn verify(
        &self,
        client: Client,
        password: Password,
        hash: Option<&str>,
        begun: &Arc<AtomicBool>,
    ) -> Result<Verdict, Busy> {
        let (answer, result) = oneshot::channel();
        let subject = hash.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        self.enqueue(client, Job::Verify(password, subject, Arc::clone(begun), answer))?;
        let matches = result.await.map_err(|_| self.turn_away())? && hash.is_some();
        Ok(Verdict { matches, outdated: hash.is_some_and(|hash| self.is_outdated(hash)) })
    }

    /// Fails if there is no room now: to be called before anything is written for the job.
    pub fn check_room(&self, client: Client) -> Result<(), Busy> {
        if self.queue.0.has_room(client) { Ok(()) } else { Err(self.turn_away()) }
    }

    fn enqueue(&self, client: Client, job: Job) -> Result<(), Busy> {
        self.queue
            .0
            .push(client, Waiting { since: Instant::now(), job })
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

    /// How many wait for a thread: those who are known, and strangers.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.0.waiting()
    }

    fn is_outdated(&self, hash: &str) -> bool {
        PasswordHash::new(hash)
            .ok()
            .and_then(|parsed| Params::try_from(&parsed).ok())
            .is_none_or(|params| cost(&params) != cost(&self.params))
    }
}

fn cost(params: &Params) -> (u32, u32, u32) {
    (params.m_cost(), params.t_cost(), params.p_cost())
}

fn work(jobs: &Queue<Waiting>, load: &Load, results: &Results, params: &Params) {
    // Best effort: where it is not allowed, hashing competes with the rest as equals.
    let _ = rustix::process::setpriority_process(None, 10);
    let mut engine = Engine::new(params);
    while let Some(Waiting { since, job }) = jobs.pop() {
        let waited = since.elapsed();
        load.wait.observe(waited);
        if waited <= MAX_WAIT {
            let _present = load.running.enter();
            let begun = Instant::now();
            results.add(begun, compute(job, &mut engine, params));
        }
        let (known, strangers) = jobs.waiting();
        let waiting = known + strangers;
        results.tell(waiting);
        if waiting > 0 {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Does the job; returns how to deliver its result. `None` if the caller hung up while waiting, which costs nothing
/// more, or if there is no memory.
fn compute(job: Job, engine: &mut Engine, params: &Params) -> Option<Told> {
    match job {
        Job::Hash(_, answer) if answer.is_closed() => None,
        Job::Verify(.., answer) if answer.is_closed() => None,
        Job::Hash(password, answer) => {
            let salt = random_bytes::<16>();
            let output = engine.compute(params, &password, &salt)?;
            let hash = phc_string(params, &salt, &output);
            Some(Box::new(move || {
                let _ = answer.send(hash);
            }))
        }
        Job::Verify(password, hash, begun, answer) => {
            begun.store(true, Ordering::SeqCst);
            // Whoever hung up between the two may have been refunded.
            if answer.is_closed() {
                return None;
            }
            let is_right = matches(&password, &hash, engine)?;
            Some(Box::new(move || {
                let _ = answer.send(is_right);
            }))
        }
    }
}

/// Whether `password` gives `hash`, with the parameters that the hash names. A string that is no Argon2id hash
/// matches nothing. `None` as in [`Engine::compute`].
fn matches(password: &Password, hash: &str, engine: &mut Engine) -> Option<bool> {
    let Some((params, salt, expected)) = parse(hash) else { return Some(false) };
    let output = engine.compute(&params, password, &salt)?;
    Some(are_equal(&output, expected.as_bytes()))
}

fn parse(hash: &str) -> Option<(Params, Salt, Output)> {
    let parsed = PasswordHash::new(hash).ok()?;
    let is_ours = parsed.algorithm == Algorithm::Argon2id.ident();
    let output = parsed.hash.filter(|output| is_ours && output.len() == OUTPUT_BYTES)?;
    Some((Params::try_from(&parsed).ok()?, parsed.salt?, output))
}

/// Argon2id in memory that is used again and again, wiped after each hash.
struct Engine(argon2_rust::Hasher);

impl Engine {
    fn new(params: &Params) -> Self {
        Self(algorithm(params).hasher())
    }

    fn compute(
        &mut self,
        params: &Params,
        password: &Password,
        salt: &[u8],
    ) -> Option<[u8; OUTPUT_BYTES]> {
        let mut output = [0; OUTPUT_BYTES];
        let has_memory = self.0.reserved_blocks() >= params.block_count();
        self.0.set_argon2(algorithm(params));
        let mut hash = || self.0.hash_into(password.expose(), salt, &mut output);
        // The system allocates memory on first write.
        let done = if has_memory { hash() } else { in_huge_pages(hash) };
        match done {
            Ok(()) => Some(output),
            Err(argon2_rust::Error::MemoryAllocationError) => {
                tracing::error!("no memory for a password hash");
                None
            }
            Err(error) => unreachable!("salt and output have the sizes for Argon2: {error}"),
        }
    }
}

fn algorithm(params: &Params) -> argon2_rust::Argon2 {
    let params = argon2_rust::Params::builder()
        .memory(Memory::kib(params.m_cost().into()))
        .passes(params.t_cost())
        .lanes(params.p_cost())
        .tag_len(TagLen::bytes(OUTPUT_BYTES as u64))
        .build()
        .expect("what the crate argon2 takes for parameters is in range");
    argon2_rust::Argon2::new(argon2_rust::Algorithm::Argon2id, argon2_rust::Version::V0x13, params)
}

/// Compares the instructions chosen for this processor with portable ones: one small hash, some 100 microseconds.
fn check_this_processor() {
    let params = Params::new(64, 2, 1, Some(OUTPUT_BYTES)).expect("valid");
    let (password, salt) = (Password::claimed("correct horse"), [7; 16]);
    let mut plain = [0; OUTPUT_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into(password.expose(), &salt, &mut plain)
        .expect("the salt and the output have the sizes that Argon2 asks for");
    let chosen = Engine::new(&params).compute(&params, &password, &salt);
    assert_eq!(chosen, Some(plain), "Argon2 comes out wrong on this processor");
}

/// Fills memory that is accessed at random: in pages of 2 MB that is faster. Those are switched on for the process, so
/// they stay on while any thread fills.
fn in_huge_pages<T>(fill: impl FnOnce() -> T) -> T {
    static FILLING: Mutex<i32> = Mutex::new(0);
    let count = |change: i32| {
        let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
        *filling += change;
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::disable_transparent_huge_pages(*filling == 0);
    };
    count(1);
    let filled = fill();
    count(-1);
    filled
}

fn phc_string(params: &Params, salt: &[u8], output: &[u8]) -> String {
    PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: params.try_into().expect("parameters in range have a text form"),
        salt: Some(Salt::new(salt).expect("a salt of 16 bytes is within the limits")),
        hash: Some(Output::new(output).expect("an output of 32 bytes is within the limits")),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODY: Client = Client { key: 1, is_known: false };

    fn long_ago(limit: Duration) -> Instant {
        Instant::now().checked_sub(limit * 2).expect("the machine runs longer")
    }

    fn cheap() -> Params {
        Params::new(8, 1, 1, Some(OUTPUT_BYTES)).expect("valid")
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_alone_and_names_its_parameters() {
        let hasher = Hasher::new(cheap(), 1);
        let hash =
            hasher.hash(SOMEBODY, Password::claimed("correct horse")).await.expect("not busy");
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        let verify = async |password: &str, hash: Option<&str>| {
            hasher
                .verify(SOMEBODY, Password::claimed(password), hash, &Arc::default())
                .await
                .expect("not busy")
        };
        assert_eq!(
            verify("correct horse", Some(&hash)).await,
            Verdict { matches: true, outdated: false }
        );
        assert!(!verify("correct horsf", Some(&hash)).await.matches);
        assert!(!verify("correct horse", None).await.matches);
        for broken in
            ["", "!", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ", "$2b$12$abcdefghijklmnopqrstuv"]
        {
            assert!(!verify("correct horse", Some(broken)).await.matches, "{broken}");
        }
    }

    #[tokio::test]
    async fn a_hash_made_with_other_parameters_still_matches_and_is_called_outdated() {
        let old = Hasher::new(cheap(), 1)
            .hash(SOMEBODY, Password::claimed("correct horse"))
            .await
            .expect("not busy");
        let hasher = Hasher::new(Params::new(16, 1, 1, Some(OUTPUT_BYTES)).expect("valid"), 1);
        let verdict = hasher
            .verify(SOMEBODY, Password::claimed("correct horse"), Some(&old), &Arc::default())
            .await
            .expect("not busy");
        assert_eq!(verdict, Verdict { matches: true, outdated: true });
    }

    #[test]
    fn argon2_agrees_with_the_reference_implementation() {
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1` of the reference implementation's test suite.
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(
            matches(&Password::claimed("password"), hash, &mut Engine::new(&cheap())),
            Some(true)
        );
    }

    #[test]
    fn both_implementations_agree_whatever_was_hashed_before_in_the_same_memory() {
        let mut engine = Engine::new(&cheap());
        for (m, t, p) in
            [(8, 1, 1), (19_456, 2, 1), (64, 3, 1), (4096, 1, 4), (8, 1, 1), (37, 2, 2)]
        {
            let params = Params::new(m, t, p, Some(OUTPUT_BYTES)).expect("valid");
            for length in [0, 1, 63, 64, 65, 128, 1024] {
                let password = "ä".repeat(length / 2) + &"a".repeat(length % 2);
                let salt = random_bytes::<16>();
                let mut expected = [0; OUTPUT_BYTES];
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
                    .hash_password_into(password.as_bytes(), &salt, &mut expected)
                    .expect("valid");
                let output = engine.compute(&params, &Password::claimed(&password), &salt);
                assert_eq!(output, Some(expected), "m={m} t={t} p={p}, {length} bytes");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whoever_has_filled_takes_no_huge_pages_from_whoever_fills_still() {
        in_huge_pages(|| {
            in_huge_pages(|| ());
            assert!(!rustix::thread::transparent_huge_pages_are_disabled().expect("Linux tells"));
        });
    }

    #[tokio::test]
    async fn who_waited_too_long_is_told_so_instead_of_being_served() {
        let queue = Queue::new(1);
        let (answer, result) = oneshot::channel();
        let job = Job::Hash(Password::claimed("correct horse"), answer);
        let since = long_ago(MAX_WAIT);
        queue.push(SOMEBODY, Waiting { since, job }).expect("room");
        queue.close();
        work(&queue, &Load::default(), &Results::new(1), &cheap());
        assert!(result.await.is_err());
    }

    #[tokio::test]
    async fn nothing_stays_untold_where_those_who_wait_are_gone() {
        let queue = Queue::new(4);
        let mut results = Vec::new();
        for since in [Instant::now()].into_iter().chain([long_ago(MAX_WAIT); 3]) {
            let (answer, result) = oneshot::channel();
            let job = Job::Hash(Password::claimed("correct horse"), answer);
            queue.push(SOMEBODY, Waiting { since, job }).expect("room");
            results.push(result);
        }
        queue.close();
        work(&queue, &Load::default(), &Results::new(1), &cheap());
        assert!(results.remove(0).await.is_ok());
        assert!(results.remove(0).await.is_err());
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let hasher = Hasher::new(Params::new(1024, 2, 1, Some(OUTPUT_BYTES)).expect("valid"), 1);
        let calls: Vec<_> = (0..QUEUE_PER_THREAD + 20)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move {
                    hasher.verify(SOMEBODY, Password::claimed("x"), None, &Arc::default()).await
                })
            })
            .collect();
        let mut busy = 0;
        for call in calls {
            busy += usize::from(call.await.expect("no panic") == Err(Busy));
        }
        assert!((1..=20).contains(&busy), "{busy}");
    }
}
