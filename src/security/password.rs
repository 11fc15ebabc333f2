//! Argon2id on a fixed set of threads.
//!
//! Hashing is the one expensive thing that a stranger can ask for, so its cost is bounded three times: each thread
//! owns one block of memory and reuses it, a queue of fixed length stands before the threads, and whoever finds no
//! room in it is told so at once. The threads run at a lower priority: a flood of logins leaves the processor to the
//! calls that only read.

use std::sync::Arc;

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::oneshot;

use crate::fields::Password;
use crate::security::queue::{Client, Full, Queue};
use crate::security::random_bytes;

/// How many may wait for each thread: at 25 ms a hash the last of them waits for 1.6 s, and a stranger behind a crowd
/// of known clients four times that.
const QUEUE_PER_THREAD: usize = 64;
/// Bytes of a hash.
const OUTPUT_BYTES: usize = 32;

/// The queue is full: try again later.
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
    params: Params,
    dummy: Arc<str>,
}

/// The way in to the queue; when the last one is gone, the threads end.
struct Jobs(Arc<Queue<Job>>);

impl Drop for Jobs {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Job {
    Hash(Password, oneshot::Sender<String>),
    Verify(Password, Arc<str>, oneshot::Sender<bool>),
}

impl Hasher {
    /// Starts `threads` threads that live as long as the hasher or one of its clones.
    pub fn new(params: Params, threads: usize) -> Self {
        let queue = Arc::new(Queue::new(threads * QUEUE_PER_THREAD));
        for number in 0..threads {
            let (jobs, params) = (Arc::clone(&queue), params.clone());
            std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&jobs, &params))
                .expect("the operating system gives a thread at start");
        }
        let dummy = phc_string(&params, &[0; 16], &[0; OUTPUT_BYTES]);
        Self { queue: Arc::new(Jobs(queue)), params, dummy: dummy.into() }
    }

    /// Hashes with a new salt; the result is a PHC string.
    pub async fn hash(&self, client: Client, password: Password) -> Result<String, Busy> {
        let (answer, result) = oneshot::channel();
        self.enqueue(client, Job::Hash(password, answer))?;
        result.await.map_err(|_| Busy)
    }

    /// Checks a password against a PHC string, in the same time whether it matches or not.
    ///
    /// Without a hash (nobody of that name) the same work is done on a dummy, and the answer is no.
    pub async fn verify(
        &self,
        client: Client,
        password: Password,
        hash: Option<&str>,
    ) -> Result<Verdict, Busy> {
        let (answer, result) = oneshot::channel();
        let subject = hash.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        self.enqueue(client, Job::Verify(password, subject, answer))?;
        let matches = result.await.map_err(|_| Busy)? && hash.is_some();
        Ok(Verdict { matches, outdated: hash.is_some_and(|hash| self.is_outdated(hash)) })
    }

    fn enqueue(&self, client: Client, job: Job) -> Result<(), Busy> {
        self.queue.0.push(client, job).map_err(|Full| Busy)
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

fn work(jobs: &Queue<Job>, params: &Params) {
    // Best effort: where it is not allowed, hashing competes with the rest as equals.
    let _ = rustix::process::setpriority_process(None, 10);
    let mut memory = Vec::new();
    while let Some(job) = jobs.pop() {
        match job {
            // Whoever hung up while waiting in the queue costs nothing more.
            Job::Hash(_, answer) if answer.is_closed() => {}
            Job::Verify(_, _, answer) if answer.is_closed() => {}
            Job::Hash(password, answer) => {
                let salt = random_bytes::<16>();
                let output = compute(params, &password, &salt, &mut memory);
                let _ = answer.send(phc_string(params, &salt, &output));
            }
            Job::Verify(password, hash, answer) => {
                let _ = answer.send(matches(&password, &hash, &mut memory));
            }
        }
    }
}

/// Whether `password` gives `hash`, with the parameters that the hash names. A string that is no Argon2id hash
/// matches nothing.
fn matches(password: &Password, hash: &str, memory: &mut Vec<Block>) -> bool {
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else { return false };
    let Ok(params) = Params::try_from(&parsed) else { return false };
    if parsed.algorithm != Algorithm::Argon2id.ident() || expected.len() != OUTPUT_BYTES {
        return false;
    }
    let output = compute(&params, password, &salt, memory);
    aws_lc_rs::constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok()
}

fn compute(
    params: &Params,
    password: &Password,
    salt: &[u8],
    memory: &mut Vec<Block>,
) -> [u8; OUTPUT_BYTES] {
    let mut output = [0; OUTPUT_BYTES];
    if memory.len() < params.block_count() {
        in_huge_pages(|| memory.resize(params.block_count(), Block::default()));
    }
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(
            password.expose(),
            salt,
            &mut output,
            &mut memory[..params.block_count()],
        )
        .expect("the salt, the output and the memory have the sizes that Argon2 asks for");
    output
}

/// Fills memory that is read here and there all the time: in pages of 2 MB that takes less time.
fn in_huge_pages(fill: impl FnOnce()) {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(false);
    fill();
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
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
            hasher.verify(SOMEBODY, Password::claimed(password), hash).await.expect("not busy")
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
            .verify(SOMEBODY, Password::claimed("correct horse"), Some(&old))
            .await
            .expect("not busy");
        assert_eq!(verdict, Verdict { matches: true, outdated: true });
    }

    #[test]
    fn argon2_agrees_with_the_reference_implementation() {
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1` of the reference implementation's test suite.
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(matches(&Password::claimed("password"), hash, &mut Vec::new()));
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let hasher = Hasher::new(Params::new(8192, 4, 1, Some(OUTPUT_BYTES)).expect("valid"), 1);
        let calls: Vec<_> = (0..QUEUE_PER_THREAD + 20)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(
                    async move { hasher.verify(SOMEBODY, Password::claimed("x"), None).await },
                )
            })
            .collect();
        let mut busy = 0;
        for call in calls {
            busy += usize::from(call.await.expect("no panic") == Err(Busy));
        }
        assert!((1..=20).contains(&busy), "{busy}");
    }
}
