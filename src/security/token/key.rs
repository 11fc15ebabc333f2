//! The keys: one set for each kind of token, derived from the secret.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use secrecy::SecretString;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::security::derive_key;

/// What tells one kind of token from the others.
pub(super) struct Kind {
    pub(super) typ: &'static str,
    /// The algorithms of its keys; every one is accepted.
    pub(super) keys: &'static [KeyKind],
}

/// How the keys of one algorithm are derived.
#[derive(Clone, Copy)]
pub(super) struct KeyKind {
    pub(super) info: &'static str,
    derive: fn(&SecretString, &str) -> Key,
}

pub(super) static ACCESS: Kind = Kind {
    typ: "at+jwt",
    keys: &[
        KeyKind { info: "doorward/access-es256/1", derive: Key::p256 },
        KeyKind { info: "doorward/access/1", derive: Key::ed25519 },
    ],
};
pub(super) static REFRESH: Kind = Kind { typ: "rt+jwt", keys: &[hmac_key("doorward/refresh/1")] };
pub(super) static LINK: Kind = Kind { typ: "link+jwt", keys: &[hmac_key("doorward/link/1")] };

pub(super) const fn hmac_key(info: &'static str) -> KeyKind {
    KeyKind { info, derive: Key::hmac }
}

impl KeyKind {
    pub(super) fn derive(self, secret: &SecretString) -> Key {
        (self.derive)(secret, self.info)
    }
}

pub(super) struct Key {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) signing: SigningKey,
    pub(super) decoding: DecodingKey,
    /// The public key as a JWK (RFC 7517, 7518 and 8037); none of an HMAC key.
    pub(super) jwk: Option<Value>,
}

/// Ready for use: the library's own would be parsed anew for each token, for as long as signing it
/// takes.
pub(super) enum SigningKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    HmacSha256(Box<hmac::Key>),
}

impl SigningKey {
    /// The last part of a token that begins with `message` (RFC 7515, 5.1).
    pub(super) fn encoded_signature(&self, message: &str) -> String {
        let message = message.as_bytes();
        match self {
            Self::Ed25519(pair) => URL_SAFE_NO_PAD.encode(pair.sign(message)),
            Self::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                URL_SAFE_NO_PAD.encode(signature.expect("the operating system gives random bytes"))
            }
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
        let kid = kid(public);
        let jwk = json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid,
            "x": URL_SAFE_NO_PAD.encode(public),
        });
        Self {
            kid,
            algorithm: Algorithm::EdDSA,
            decoding: DecodingKey::from_ed_der(public),
            jwk: Some(jwk),
            signing: SigningKey::Ed25519(pair),
        }
    }

    fn p256(secret: &SecretString, info: &str) -> Self {
        let pair = p256_pair(secret, info);
        // The uncompressed point: 4, and two coordinates of 32 bytes.
        let public = pair.public_key().as_ref();
        let (x, y) = public[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let kid = kid(public);
        Self {
            algorithm: Algorithm::ES256,
            decoding: DecodingKey::from_ec_components(&x, &y)
                .expect("what was encoded can be decoded"),
            jwk: Some(json!({
                "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
                "x": x, "y": y,
            })),
            kid,
            signing: SigningKey::P256(pair),
        }
    }

    fn hmac(secret: &SecretString, info: &str) -> Self {
        let key = derive_key(secret, info);
        Self {
            kid: kid(key.as_slice()),
            algorithm: Algorithm::HS256,
            signing: SigningKey::HmacSha256(
                hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()).into(),
            ),
            decoding: DecodingKey::from_secret(key.as_slice()),
            jwk: None,
        }
    }

    /// The first part of a token that this key signs.
    pub(super) fn encoded_header(&self, typ: &str) -> String {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).expect("plain values become JSON"))
    }

    /// The algorithm's name in a header (RFC 7518, 3.1 and RFC 8037, 3.1).
    pub(super) fn alg(&self) -> &'static str {
        match self.algorithm {
            Algorithm::ES256 => "ES256",
            Algorithm::EdDSA => "EdDSA",
            _ => "HS256",
        }
    }
}

/// 32 bytes are a scalar of P-256 but for one case in 2^32: then those of the next info are.
fn p256_pair(secret: &SecretString, info: &str) -> EcdsaKeyPair {
    let infos = (1..=8).map(|n| if n == 1 { info.to_owned() } else { format!("{info}/{n}") });
    let mut pairs = infos.filter_map(|info| {
        let scalar = derive_key(secret, &info);
        // RFC 5915: a private key without its public one, which the library computes.
        let mut der = Zeroizing::new(Vec::from(SEC1_P256_BEFORE));
        der.extend_from_slice(scalar.as_slice());
        der.extend_from_slice(&SEC1_P256_AFTER);
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).ok()
    });
    pairs.next().expect("of eight times 32 bytes one is a scalar")
}

/// Version 1, and 32 bytes that follow.
const SEC1_P256_BEFORE: [u8; 7] = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
/// The curve's name: 1.2.840.10045.3.1.7.
const SEC1_P256_AFTER: [u8; 12] =
    [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The first 8 bytes of the key's SHA-256 in hex.
fn kid(key: &[u8]) -> String {
    let hash = digest(&SHA256, key);
    let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*first))
}
