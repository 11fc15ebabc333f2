//! All cryptography; no SQL, no HTTP.

pub mod mailed_code;
pub mod password;
pub mod token;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// `N` bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// The source of a content security policy that allows exactly this text: `'sha256-...'`.
pub fn csp_hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(sha256(text.as_bytes())))
}

/// SHA-256, for what is public.
pub fn sha256(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes)
}

/// HMAC-SHA256 under a key of its own: the same subject gives the same bytes, and without the
/// secret no reader can tell which subject it was.
pub struct KeyedHash(aws_lc_rs::hmac::Key);

impl KeyedHash {
    /// `info` tells this use of the secret from every other.
    pub fn new(secret: &SecretString, info: &str) -> Self {
        let key = derive_key(secret, info);
        Self(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_slice()))
    }

    pub fn of(&self, subject: &str) -> Vec<u8> {
        aws_lc_rs::hmac::sign(&self.0, subject.as_bytes()).as_ref().to_vec()
    }
}

/// Whether the two hold the same bytes. How long that takes depends on their lengths alone.
pub fn are_equal(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Whether `given` is the secret. How long that takes says neither how much of it is right nor how
/// long it has to be.
pub fn is_secret(given: &str, secret: &SecretString) -> bool {
    let digest =
        |text: &str| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let (given, secret) = (digest(given), digest(secret.expose_secret()));
    are_equal(given.as_ref(), secret.as_ref())
}

/// A new secret of 48 random bytes as text: good for `SECRET_KEY`.
pub fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<48>())
}

/// 32 bytes by HKDF-SHA256 from the secret's own bytes, without a salt.
fn derive_key(secret: &SecretString, info: &str) -> zeroize::Zeroizing<[u8; 32]> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(secret.expose_secret().as_bytes())
        .expand(&[info.as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are within HKDF's limit");
    key
}
