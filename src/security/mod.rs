//! All cryptography; no SQL, no HTTP.

pub mod password;
pub mod token;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `N` bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A new secret of 48 random bytes as text: good for `SECRET_KEY`.
pub fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<48>())
}
