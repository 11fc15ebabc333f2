//! Argon2id: one computation, its parameters, and its hashes as PHC strings.
//!
//! The crate `argon2` parses and formats the hashes, `argon2-rust` computes them, with the best
//! instructions that the processor has, chosen at run time. The two are compared before the first
//! use.
//!
//! What of a password is in memory, and when. A hash fills 19 MiB from a digest of the password.
//! With either of the two a guess is checked by a BLAKE2 hash, without the cost of Argon2.
//! - A dump of a process that hashes may hold, for each thread, the memory of its last hash, and of
//!   a hash that is being computed also the digest and a part of the password, on the stack.
//! - The stack is overwritten after each hash.
//! - A thread without a job for 100 ms gives its memory back to the system ([`Engine::clear`]). A
//!   dump of an idle process holds nothing of the three. The system clears the pages before another
//!   process gets them; a dump of the whole machine may hold them until then.
//!
//! The crate can wipe the memory after each hash instead (its feature `zeroize-memory`, which stays
//! on where the system is not Linux). That is 5 to 9 percent of a hash: the medians of four runs by
//! turns were 15.2 and 13.8 ms of processor time, 15.4 and 14.3, 15.3 and 14.6, 15.0 and 13.7. The
//! first hash after the memory was given back takes 2 to 3 ms longer. In pages of 4 KB a hash takes
//! 16 ms, the first one 30. Look again when the crate offers a wipe by itself.

use std::sync::{Mutex, PoisonError};

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use argon2_rust::params::{Memory, TagLen};

use crate::fields::Password;
use crate::security::are_equal;

/// The service's own parameters: `m=19456,t=2,p=1`, OWASP's recommendation.
pub fn production_params() -> Params {
    Params::new(19_456, 2, 1, Some(OUTPUT_BYTES)).expect("constant parameters are valid")
}

/// Bytes of a hash.
pub(super) const OUTPUT_BYTES: usize = 32;

/// Whether the hash was made with other parameters than `params`.
pub(super) fn is_outdated(hash: &str, params: &Params) -> bool {
    let made_with = PasswordHash::new(hash).ok().and_then(|parsed| Params::try_from(&parsed).ok());
    made_with.is_none_or(|made_with| cost(&made_with) != cost(params))
}

fn cost(params: &Params) -> (u32, u32, u32) {
    (params.m_cost(), params.t_cost(), params.p_cost())
}

fn parse(hash: &str) -> Option<(Params, Salt, Output)> {
    let parsed = PasswordHash::new(hash).ok()?;
    let is_ours = parsed.algorithm == Algorithm::Argon2id.ident();
    let output = parsed.hash.filter(|output| is_ours && output.len() == OUTPUT_BYTES)?;
    Some((Params::try_from(&parsed).ok()?, parsed.salt?, output))
}

/// Argon2id in memory that is used again and again.
pub(super) struct Engine(argon2_rust::Hasher);

/// Memory of this size and more is a mapping of its own (on Linux), which the system takes back as
/// a whole; less would come from the allocator, and go back to it unwiped.
const MIN_MEMORY_KIB: u32 = 2048;

impl Engine {
    pub fn new(params: &Params) -> Self {
        Self(algorithm(params).hasher())
    }

    /// `None` if there is no memory.
    pub fn compute(
        &mut self,
        params: &Params,
        password: &Password,
        salt: &[u8],
    ) -> Option<[u8; OUTPUT_BYTES]> {
        let mut output = [0; OUTPUT_BYTES];
        let is_reserved = self.0.reserved_blocks() >= params.block_count();
        let done = if is_reserved {
            self.0.set_argon2(algorithm(params));
            fill(&mut self.0, password, salt, &mut output)
        } else {
            // The system allocates memory on first write.
            in_huge_pages(|| {
                self.reserve(params)?;
                self.0.set_argon2(algorithm(params));
                fill(&mut self.0, password, salt, &mut output)
            })
        };
        overwrite_stack();
        match done {
            Ok(()) => Some(output),
            Err(argon2_rust::Error::MemoryAllocationError) => {
                tracing::error!("hashing: no memory for a password");
                None
            }
            Err(error) => unreachable!("salt and output have the sizes for Argon2: {error}"),
        }
    }

    fn reserve(&mut self, params: &Params) -> Result<(), argon2_rust::Error> {
        let (kib, passes, lanes) = cost(params);
        let params = Params::new(kib.max(MIN_MEMORY_KIB), passes, lanes, Some(OUTPUT_BYTES));
        self.0.set_argon2(algorithm(&params.expect("more memory than for valid parameters")));
        self.0.reserve()
    }

    /// Gives the memory back to the system, and with it what was derived from the last password.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub fn has_memory(&self) -> bool {
        self.0.reserved_blocks() > 0
    }

    /// Whether `password` gives `hash`, with the parameters that the hash names. A string that is
    /// no Argon2id hash matches nothing. `None` as in [`Engine::compute`].
    pub fn matches(&mut self, password: &Password, hash: &str) -> Option<bool> {
        let Some((params, salt, expected)) = parse(hash) else { return Some(false) };
        let output = self.compute(&params, password, &salt)?;
        Some(are_equal(&output, expected.as_bytes()))
    }
}

/// A function of its own, so that all that it puts on the stack lies where [`overwrite_stack`]
/// writes.
#[inline(never)]
fn fill(
    hasher: &mut argon2_rust::Hasher,
    password: &Password,
    salt: &[u8],
    output: &mut [u8],
) -> Result<(), argon2_rust::Error> {
    hasher.hash_into(password.expose(), salt, output)
}

/// Overwrites what the functions that the caller called have left on the stack: of [`fill`] the
/// last block of the password and the digest that all memory is derived from.
#[inline(never)]
fn overwrite_stack() {
    #[expect(clippy::large_stack_arrays, reason = "the stack is what is meant")]
    let mut space = [0_u8; 64 << 10];
    std::hint::black_box(&mut space);
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

/// Compares the instructions chosen for this processor with portable ones: one small hash, some 100
/// microseconds.
pub(super) fn check_this_processor() {
    let params = Params::new(64, 2, 1, Some(OUTPUT_BYTES)).expect("valid");
    let (password, salt) = (Password::claimed("correct horse"), [7; 16]);
    let mut plain = [0; OUTPUT_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into(password.expose(), &salt, &mut plain)
        .expect("the salt and the output have the sizes that Argon2 asks for");
    let chosen = Engine::new(&params).compute(&params, &password, &salt);
    assert_eq!(chosen, Some(plain), "Argon2 comes out wrong on this processor");
}

/// Fills memory that is accessed at random: in pages of 2 MB that is faster. Those are switched on
/// for the process, so they stay on while any thread fills.
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

pub(super) fn phc_string(params: &Params, salt: &[u8], output: &[u8]) -> String {
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
    use crate::security::random_bytes;

    fn cheap() -> Params {
        Params::new(8, 1, 1, Some(OUTPUT_BYTES)).expect("valid")
    }

    #[test]
    fn argon2_agrees_with_the_reference_implementation() {
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1` of the reference
        // implementation's test suite.
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(Engine::new(&cheap()).matches(&Password::claimed("password"), hash), Some(true));
    }

    fn assert_same(engine: &mut Engine, params: &Params, password: &Password, salt: &[u8]) {
        let mut expected = [0; OUTPUT_BYTES];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
            .hash_password_into(password.expose(), salt, &mut expected)
            .expect("valid");
        let output = engine.compute(params, password, salt);
        assert_eq!(output, Some(expected), "{params:?}, {password:?}, salt {salt:?}");
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
                let password = Password::claimed(&password);
                assert_same(&mut engine, &params, &password, &random_bytes::<16>());
            }
        }
    }

    #[test]
    fn both_implementations_agree_on_a_hundred_random_hashes() {
        let seed = u64::from_le_bytes(random_bytes());
        println!("seed {seed}");
        let mut state = seed;
        // SplitMix64.
        let mut roll = |sides: u32| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u32::try_from((z ^ (z >> 31)) % u64::from(sides)).expect("less than sides")
        };
        let mut engine = Engine::new(&cheap());
        for _ in 0..100 {
            let (passes, lanes, size) = (1 + roll(4), 1 + roll(4), 3 + roll(10));
            let kib = 8 * lanes + roll(1 << size);
            let params = Params::new(kib, passes, lanes, Some(OUTPUT_BYTES));
            let size = roll(11);
            let length = roll(1 << size);
            let mut byte = || u8::try_from(roll(256)).expect("a byte");
            let password: String = (0..length).map(|_| char::from(byte())).collect();
            let salt: Vec<u8> = (0..8 + byte() % 41).map(|_| byte()).collect();
            let (params, password) = (params.expect("valid"), Password::claimed(&password));
            assert_same(&mut engine, &params, &password, &salt);
            if roll(4) == 0 {
                engine.clear();
            }
        }
    }

    /// The bytes of this thread's stack below the caller's.
    #[cfg(target_os = "linux")]
    fn stack_below() -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; 256 << 10];
        let here = (&raw const bytes).addr() as u64;
        let memory = std::fs::File::open("/proc/self/mem").expect("Linux has it");
        memory.read_exact_at(&mut bytes, here - (256 << 10)).expect("the stack is longer");
        bytes
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_digest_that_the_memory_is_derived_from_does_not_stay_on_the_stack() {
        // Of RFC 9106's H0 for this password and salt; computed with Python's hashlib.blake2b.
        let digest: u128 = 0x94e1_84a0_8be6_2f92_a309_c660_116a_2751;
        let mut engine = Engine::new(&cheap());
        for _ in 0..2 {
            engine
                .compute(&cheap(), &Password::claimed("correct horse"), &[7; 16])
                .expect("memory");
            let stack = stack_below();
            assert!(!stack.windows(16).any(|bytes| bytes == digest.to_be_bytes()));
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
}
