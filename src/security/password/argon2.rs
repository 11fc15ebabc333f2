//! Argon2id: one computation, its parameters, and its hashes as PHC strings.
//!
//! The crate `argon2` parses and formats the hashes, `argon2-rust` computes them, with the best instructions that the
//! processor has, chosen at run time. The two are compared before the first use.

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

/// Argon2id in memory that is used again and again, wiped after each hash.
pub(super) struct Engine(argon2_rust::Hasher);

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

    /// Whether `password` gives `hash`, with the parameters that the hash names. A string that is no Argon2id hash
    /// matches nothing. `None` as in [`Engine::compute`].
    pub fn matches(&mut self, password: &Password, hash: &str) -> Option<bool> {
        let Some((params, salt, expected)) = parse(hash) else { return Some(false) };
        let output = self.compute(&params, password, &salt)?;
        Some(are_equal(&output, expected.as_bytes()))
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
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1` of the reference implementation's test suite.
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(Engine::new(&cheap()).matches(&Password::claimed("password"), hash), Some(true));
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
}
