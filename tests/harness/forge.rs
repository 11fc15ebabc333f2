//! Tokens made from the contract alone, by other code than the service's: whoever holds the secret
//! could make them.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::app::PUBLIC_URL;

/// One of the keys that come from a secret.
pub struct Key {
    pub kid: String,
    signer: Signer,
    header: Value,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Hmac(Vec<u8>),
}

impl Key {
    /// The one that signs unless `TOKEN_ALGORITHM` says otherwise.
    pub fn access(secret: &str) -> Self {
        let scalar = derive(secret, "doorward/access-es256/1");
        let private = PrivateKey::from_private_key(&ECDH_P256, &scalar).unwrap();
        let public = private.compute_public_key().unwrap();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &scalar,
            public.as_ref(),
        );
        Self::new(kid(public.as_ref()), "ES256", "at+jwt", Signer::P256(pair.unwrap()))
    }

    pub fn access_eddsa(secret: &str) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&derive(secret, "doorward/access/1"));
        let pair = pair.unwrap();
        let kid = kid(pair.public_key().as_ref());
        Self::new(kid, "EdDSA", "at+jwt", Signer::Ed25519(pair))
    }

    pub fn refresh(secret: &str) -> Self {
        Self::hmac(derive(secret, "doorward/refresh/1").into(), "rt+jwt")
    }

    pub fn link(secret: &str) -> Self {
        Self::hmac(derive(secret, "doorward/link/1").into(), "link+jwt")
    }

    /// An HMAC key of the attacker's choice.
    pub fn hmac_of(key: Vec<u8>, typ: &str) -> Self {
        Self::hmac(key, typ)
    }

    fn hmac(key: Vec<u8>, typ: &str) -> Self {
        Self::new(kid(&key), "HS256", typ, Signer::Hmac(key))
    }

    fn new(kid: String, alg: &str, typ: &str, signer: Signer) -> Self {
        let header = json!({ "alg": alg, "typ": typ, "kid": kid });
        Self { kid, signer, header }
    }

    /// The header as the contract has it.
    pub fn header(&self) -> Value {
        self.header.clone()
    }

    /// A token with the header as the contract has it.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header.to_string(), &claims.to_string())
    }

    /// Any header and any payload, well signed.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = match &self.signer {
            Signer::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Signer::P256(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Signer::Hmac(key) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key);
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// 32 bytes of Ed25519; of P-256 the uncompressed point, 65.
    pub fn public_key(&self) -> Vec<u8> {
        match &self.signer {
            Signer::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Signer::P256(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Hmac(_) => panic!("an HMAC key has no public half"),
        }
    }
}

/// The header and the claims of a token, unchecked.
pub fn read(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let part = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (part(parts[0]), part(parts[1]))
}

/// The claims of a link that confirms `email`, good for an hour from `iat`.
pub fn link_claims(user_id: &str, email: &str, iat: i64) -> Value {
    json!({
        "iss": PUBLIC_URL, "aud": PUBLIC_URL, "sub": user_id, "email": email,
        "purpose": "confirm_email", "iat": iat, "exp": iat + 3600,
    })
}

fn derive(secret: &str, info: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret.as_bytes());
    extracted.expand(&[info.as_bytes()], HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    key
}

fn kid(key: &[u8]) -> String {
    let hash = digest(&SHA256, key);
    format!("{:016x}", u64::from_be_bytes(*hash.as_ref().first_chunk().unwrap()))
}
