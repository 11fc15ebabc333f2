//! Tokens as text: header, claims and signature, issued and opened.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::Validation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::{Key, Kind};
use super::{Opened, TokenError};

/// Longest token that is looked at; ours have about 900 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

pub(super) struct KeySet {
    pub(super) kind: &'static Kind,
    /// That of the tokens issued, encoded.
    pub(super) header: String,
    pub(super) issuer: String,
    /// The first signs; all verify.
    pub(super) keys: Vec<Key>,
}

/// The registered claims (RFC 7519) around each kind's own.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope<C> {
    pub(super) iss: String,
    pub(super) aud: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
    #[serde(default, skip_serializing)]
    pub(super) nbf: Option<i64>,
    #[serde(flatten)]
    pub(super) claims: C,
}

/// What a token says that was issued here, and from when to when, which is not checked yet.
#[derive(Clone)]
pub(super) struct Genuine<C> {
    pub(super) claims: C,
    pub(super) exp: i64,
    pub(super) nbf: Option<i64>,
}

impl<C> Genuine<C> {
    /// Checks the times.
    pub(super) fn open(self, now: DateTime<Utc>) -> Result<Opened<C>, TokenError> {
        let now = now.timestamp();
        if self.nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Invalid);
        }
        let expires_at = DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::<Utc>::MIN_UTC);
        // RFC 7519, 4.1.4: not on or after `exp`.
        Ok(Opened { claims: self.claims, expires_at, expired: now >= self.exp })
    }
}

/// The whole header: a token with anything more in it (`crit`, `jku`, `b64` ...) is not one of
/// ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExactHeader {
    alg: String,
    typ: String,
    kid: String,
}

impl KeySet {
    pub(super) fn issue<C: Serialize>(
        &self,
        claims: C,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        let (iss, aud) = (self.issuer.clone(), self.issuer.clone());
        self.sign(&Envelope {
            iss,
            aud,
            iat: at.timestamp(),
            exp: until.timestamp(),
            nbf: None,
            claims,
        })
    }

    /// A token with these claims and no others.
    pub(super) fn sign(&self, claims: &impl Serialize) -> String {
        let claims = serde_json::to_vec(claims).expect("plain values become JSON");
        // Base64 and the signature included.
        let mut token = String::with_capacity(self.header.len() + 2 * claims.len() + 100);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.keys[0].signing.encoded_signature(&token);
        token.push('.');
        token.push_str(&signature);
        token
    }

    pub(super) fn open<C: DeserializeOwned>(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<C>, TokenError> {
        self.verify(token)?.open(now)
    }

    /// Checks everything about a token but its times.
    pub(super) fn verify<C: DeserializeOwned>(
        &self,
        token: &str,
    ) -> Result<Genuine<C>, TokenError> {
        let Envelope { iss, aud, exp, nbf, claims, .. } = self.signed(token)?;
        if iss == self.issuer && aud == self.issuer {
            Ok(Genuine { claims, exp, nbf })
        } else {
            Err(TokenError::Invalid)
        }
    }

    /// The claims of a token that one of these keys signed, of which nothing else is checked.
    pub(super) fn signed<C: DeserializeOwned>(&self, token: &str) -> Result<C, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let key = self.key_for(token).ok_or(TokenError::Invalid)?;
        let mut signature_only = Validation::new(key.algorithm);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let decoded = jsonwebtoken::decode(token, &key.decoding, &signature_only);
        Ok(decoded.map_err(|_| TokenError::Invalid)?.claims)
    }

    /// The key that the token's header names, if the header is exactly one of this kind.
    fn key_for(&self, token: &str) -> Option<&Key> {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        let header: ExactHeader = serde_json::from_slice(&header).ok()?;
        let is_named = |key: &&Key| key.kid == header.kid && key.alg() == header.alg;
        self.keys.iter().find(is_named).filter(|_| header.typ == self.kind.typ)
    }
}
