//! The keys: one set for each kind of token, derived from the secret.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use secrecy::SecretString;

use crate::security::derive_key;

/// What tells one kind of token from the others.
pub(super) struct Kind {
    pub(super) algorithm: Algorithm,
    pub(super) typ: &'static str,
    pub(super) info: &'static str,
    pub(super) key: fn(&SecretString, &str) -> Key,
}

impl Kind {
    /// The first part of a token that the key `kid` signs.
    pub(super) fn encoded_header(&self, kid: &str) -> String {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(self.typ.to_owned());
        header.kid = Some(kid.to_owned());
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).expect("plain values become JSON"))
    }
}

pub(super) static ACCESS: Kind = Kind {
    algorithm: Algorithm::EdDSA,
    typ: "at+jwt",
    info: "doorward/access/1",
    key: Key::ed25519,
};
pub(super) static REFRESH: Kind =
    Kind { algorithm: Algorithm::HS256, typ: "rt+jwt", info: "doorward/refresh/1", key: Key::hmac };
pub(super) static LINK: Kind =
    Kind { algorithm: Algorithm::HS256, typ: "link+jwt", info: "doorward/link/1", key: Key::hmac };

pub(super) struct Key {
    pub(super) kid: String,
    pub(super) signing: SigningKey,
    pub(super) decoding: DecodingKey,
    /// The public key as `x` of a JWK; empty for an HMAC key.
    pub(super) public_x: String,
}

/// Ready for use: the library's own would be parsed anew for each token, for as long as signing it
/// takes.
pub(super) enum SigningKey {
    Ed25519(Ed25519KeyPair),
    HmacSha256(Box<hmac::Key>),
}

impl SigningKey {
    /// The last part of a token that begins with `message` (RFC 7515, 5.1).
    pub(super) fn encoded_signature(&self, message: &str) -> String {
        let message = message.as_bytes();
        match self {
            Self::Ed25519(pair) => URL_SAFE_NO_PAD.encode(pair.sign(message)),
            Self::HmacSha256(key) => URL_SAFE_NO_PAD.encode(hmac::sign(key, message)),
        }
    }
}

impl Key {
    fn ed25519(secret: &SecretString, info: &str) -> Self {
        let seed = derive_key(secret, info);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
            .expect("every 32 bytes are an Ed25519 seed");
        let public = pair.public_key().as_ref();
        Self {
            kid: kid(public),
            decoding: DecodingKey::from_ed_der(public),
            public_x: URL_SAFE_NO_PAD.encode(public),
            signing: SigningKey::Ed25519(pair),
        }
    }

    fn hmac(secret: &SecretString, info: &str) -> Self {
        let key = derive_key(secret, info);
        Self {
            kid: kid(key.as_slice()),
            signing: SigningKey::HmacSha256(
                hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()).into(),
            ),
            decoding: DecodingKey::from_secret(key.as_slice()),
            public_x: String::new(),
        }
    }
}

/// The first 8 bytes of the key's SHA-256 in hex.
fn kid(key: &[u8]) -> String {
    let hash = digest(&SHA256, key);
    let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*first))
}
