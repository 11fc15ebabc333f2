//! The tokens: keys, issue, verify. Nothing else in the crate decodes a JWT.
//!
//! Three kinds, each with its own key, `alg` and `typ`, so that none passes for another. All keys come from one
//! secret by HKDF-SHA256 (RFC 5869, no salt). The library checks the signature; everything else is checked here,
//! because its defaults are not ours: it allows a minute of leeway and never looks at `typ` or `crit`.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fields::Role;

/// Longest token that is looked at; ours have about 900 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Ours and genuine, but `exp` has come.
    Expired,
    /// Anything else; what exactly is not told.
    Invalid,
}

/// What an access token says beside who issued it and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub sub: Uuid,
    pub public_id: Uuid,
    pub sid: Uuid,
    pub jti: String,
    /// The counter of the refresh token that was issued beside this token.
    #[serde(rename = "gen", default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    pub username: String,
    pub email: String,
    pub email_verified: bool,
    pub first_name: String,
    pub last_name: String,
    #[serde(deserialize_with = "role")]
    pub role: Role,
    pub is_staff: bool,
    pub is_admin: bool,
}

/// A refresh token is one state of one session and nothing else, so that the same state is the same token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshClaims {
    pub sub: Uuid,
    pub sid: Uuid,
    #[serde(deserialize_with = "counter")]
    pub counter: i64,
}

/// The right to confirm that `email` is read by the user `sub`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkClaims {
    pub sub: Uuid,
    pub email: String,
    pub purpose: LinkPurpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPurpose {
    ConfirmEmail,
}

fn role<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
    Role::try_from(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// From 0 to `i64::MAX` - 1.
fn counter<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let counter = i64::deserialize(deserializer)?;
    let is_one = (0..i64::MAX).contains(&counter);
    if is_one { Ok(counter) } else { Err(serde::de::Error::custom("no counter")) }
}

/// A token that is genuine; `expired` tells whether its time is over.
#[derive(Clone, Debug)]
pub struct Opened<C> {
    pub claims: C,
    /// The earliest instant if `exp` is out of range.
    pub expires_at: DateTime<Utc>,
    pub expired: bool,
}

impl<C> Opened<C> {
    /// The claims of a token whose time is not over.
    pub fn unexpired(self) -> Result<C, TokenError> {
        if self.expired { Err(TokenError::Expired) } else { Ok(self.claims) }
    }
}

/// The keys of the service, and its name in tokens.
pub struct TokenKeys {
    access: KeySet,
    refresh: KeySet,
    link: KeySet,
    jwks: Value,
}

impl TokenKeys {
    /// `issuer` becomes `iss` and `aud`; tokens signed with `previous` are still accepted.
    pub fn new(secret: &SecretString, previous: Option<&SecretString>, issuer: &str) -> Self {
        let set = |kind: &'static Kind| {
            let keys: Vec<Key> = [Some(secret), previous]
                .into_iter()
                .flatten()
                .map(|secret| (kind.key)(secret, kind.info))
                .collect();
            KeySet {
                kind,
                header: kind.encoded_header(&keys[0].kid),
                issuer: issuer.to_owned(),
                keys,
            }
        };
        let access = set(&ACCESS);
        let jwks = json!({ "keys": access.keys.iter().map(|key| json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": key.public_x,
        })).collect::<Vec<_>>() });
        Self { access, refresh: set(&REFRESH), link: set(&LINK), jwks }
    }

    pub fn issue_access(
        &self,
        claims: &AccessClaims,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        self.access.issue(claims, at, until)
    }

    pub fn issue_refresh(
        &self,
        claims: &RefreshClaims,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        self.refresh.issue(claims, at, until)
    }

    pub fn issue_link(
        &self,
        claims: &LinkClaims,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        self.link.issue(claims, at, until)
    }

    /// Opens an access token whose time may be over.
    pub fn open_access(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<AccessClaims>, TokenError> {
        let opened: Opened<AccessClaims> = self.access.open(token, now)?;
        if opened.claims.sub == opened.claims.public_id {
            Ok(opened)
        } else {
            Err(TokenError::Invalid)
        }
    }

    pub fn open_refresh(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<RefreshClaims, TokenError> {
        self.refresh.open(token, now)?.unexpired()
    }

    pub fn open_link(&self, token: &str, now: DateTime<Utc>) -> Result<LinkClaims, TokenError> {
        self.link.open(token, now)?.unexpired()
    }

    /// The public keys as a JWK set (RFC 7517, RFC 8037), the signing one first.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }
}

/// What tells one kind of token from the others.
struct Kind {
    algorithm: Algorithm,
    typ: &'static str,
    info: &'static str,
    key: fn(&SecretString, &str) -> Key,
}

impl Kind {
    /// The first part of a token that the key `kid` signs.
    fn encoded_header(&self, kid: &str) -> String {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(self.typ.to_owned());
        header.kid = Some(kid.to_owned());
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).expect("plain values become JSON"))
    }
}

static ACCESS: Kind = Kind {
    algorithm: Algorithm::EdDSA,
    typ: "at+jwt",
    info: "doorward/access/1",
    key: Key::ed25519,
};
static REFRESH: Kind =
    Kind { algorithm: Algorithm::HS256, typ: "rt+jwt", info: "doorward/refresh/1", key: Key::hmac };
static LINK: Kind =
    Kind { algorithm: Algorithm::HS256, typ: "link+jwt", info: "doorward/link/1", key: Key::hmac };

struct Key {
    kid: String,
    signing: SigningKey,
    decoding: DecodingKey,
    /// The public key as `x` of a JWK; empty for an HMAC key.
    public_x: String,
}

/// Ready for use: the library's own would be parsed anew for each token, for as long as signing it takes.
enum SigningKey {
    Ed25519(Ed25519KeyPair),
    HmacSha256(Box<hmac::Key>),
}

impl SigningKey {
    /// The last part of a token that begins with `message` (RFC 7515, 5.1).
    fn encoded_signature(&self, message: &str) -> String {
        let message = message.as_bytes();
        match self {
            Self::Ed25519(pair) => URL_SAFE_NO_PAD.encode(pair.sign(message)),
            Self::HmacSha256(key) => URL_SAFE_NO_PAD.encode(hmac::sign(key, message)),
        }
    }
}

impl Key {
    fn ed25519(secret: &SecretString, info: &str) -> Self {
        let seed = derive(secret, info);
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
        let key = derive(secret, info);
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

/// 32 bytes by HKDF-SHA256 from the secret's own bytes, without a salt.
pub(super) fn derive(secret: &SecretString, info: &str) -> zeroize::Zeroizing<[u8; 32]> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(secret.expose_secret().as_bytes())
        .expand(&[info.as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are within HKDF's limit");
    key
}

/// The first 8 bytes of the key's SHA-256 in hex.
fn kid(key: &[u8]) -> String {
    let hash = digest(&SHA256, key);
    let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*first))
}

struct KeySet {
    kind: &'static Kind,
    /// That of the tokens issued, encoded.
    header: String,
    issuer: String,
    /// The first signs; all verify.
    keys: Vec<Key>,
}

/// The registered claims (RFC 7519) around each kind's own.
#[derive(Serialize, Deserialize)]
struct Envelope<C> {
    iss: String,
    aud: String,
    iat: i64,
    exp: i64,
    #[serde(default, skip_serializing)]
    nbf: Option<i64>,
    #[serde(flatten)]
    claims: C,
}

/// The whole header: a token with anything more in it (`crit`, `jku`, `b64` ...) is not one of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExactHeader {
    alg: String,
    typ: String,
    kid: String,
}

impl KeySet {
    fn issue<C: Serialize>(&self, claims: C, at: DateTime<Utc>, until: DateTime<Utc>) -> String {
        let (iss, aud) = (self.issuer.clone(), self.issuer.clone());
        let envelope =
            Envelope { iss, aud, iat: at.timestamp(), exp: until.timestamp(), nbf: None, claims };
        let claims = serde_json::to_vec(&envelope).expect("plain values become JSON");
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

    fn open<C: DeserializeOwned>(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<C>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let key = self.key_for(token).ok_or(TokenError::Invalid)?;
        let mut signature_only = Validation::new(self.kind.algorithm);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let envelope = jsonwebtoken::decode::<Envelope<C>>(token, &key.decoding, &signature_only)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        let now = now.timestamp();
        let ours = envelope.iss == self.issuer && envelope.aud == self.issuer;
        if !ours || envelope.nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Invalid);
        }
        let expires_at =
            DateTime::from_timestamp(envelope.exp, 0).unwrap_or(DateTime::<Utc>::MIN_UTC);
        // RFC 7519, 4.1.4: not on or after `exp`.
        Ok(Opened { claims: envelope.claims, expires_at, expired: now >= envelope.exp })
    }

    /// The key that the token's header names, if the header is exactly one of this kind.
    fn key_for(&self, token: &str) -> Option<&Key> {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        let header: ExactHeader = serde_json::from_slice(&header).ok()?;
        let alg = match self.kind.algorithm {
            Algorithm::EdDSA => "EdDSA",
            _ => "HS256",
        };
        if header.alg != alg || header.typ != self.kind.typ {
            return None;
        }
        self.keys.iter().find(|key| key.kid == header.kid)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;

    use super::*;

    const ISSUER: &str = "https://auth.example.com";

    fn secret(fill: &str) -> SecretString {
        fill.repeat(40).into()
    }

    fn keys() -> TokenKeys {
        TokenKeys::new(&secret("k"), None, ISSUER)
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("valid")
    }

    fn refresh_claims() -> RefreshClaims {
        RefreshClaims { sub: Uuid::from_u128(1), sid: Uuid::from_u128(2), counter: 3 }
    }

    #[test]
    fn a_token_lives_until_its_last_second_and_not_in_it() {
        let keys = keys();
        let token = keys.issue_refresh(&refresh_claims(), at(0), at(60));
        assert_eq!(keys.open_refresh(&token, at(59)), Ok(refresh_claims()));
        assert_eq!(keys.open_refresh(&token, at(60)), Err(TokenError::Expired));
    }

    #[test]
    fn the_same_state_is_the_same_refresh_token() {
        let issue = || keys().issue_refresh(&refresh_claims(), at(0), at(60));
        assert_eq!(issue(), issue());
    }

    #[test]
    fn no_kind_passes_for_another_and_no_stranger_passes_at_all() {
        let keys = keys();
        let link = LinkClaims {
            sub: Uuid::from_u128(1),
            email: "a@b.example".into(),
            purpose: LinkPurpose::ConfirmEmail,
        };
        let link = keys.issue_link(&link, at(0), at(60));
        let refresh = keys.issue_refresh(&refresh_claims(), at(0), at(60));
        assert_eq!(keys.open_refresh(&link, at(1)), Err(TokenError::Invalid));
        assert_eq!(keys.open_link(&refresh, at(1)), Err(TokenError::Invalid));
        assert!(keys.open_access(&refresh, at(1)).is_err());
        let stranger = TokenKeys::new(&secret("s"), None, ISSUER);
        assert_eq!(stranger.open_refresh(&refresh, at(1)), Err(TokenError::Invalid));
        let elsewhere = TokenKeys::new(&secret("k"), None, "https://other.example.com");
        assert_eq!(elsewhere.open_refresh(&refresh, at(1)), Err(TokenError::Invalid));
    }

    #[test]
    fn a_rotated_secret_logs_nobody_out() {
        let token = keys().issue_refresh(&refresh_claims(), at(0), at(60));
        let rotated = TokenKeys::new(&secret("n"), Some(&secret("k")), ISSUER);
        assert_eq!(rotated.open_refresh(&token, at(1)), Ok(refresh_claims()));
        assert_eq!(rotated.jwks()["keys"].as_array().map(Vec::len), Some(2));
    }

    /// Signs any header and payload with the service's own refresh key.
    fn forge(header: &str, payload: &str) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = keys().refresh.keys[0].signing.encoded_signature(&message);
        format!("{message}.{signature}")
    }

    #[test]
    fn a_well_signed_token_is_still_checked_to_the_letter() {
        let keys = keys();
        let kid = &keys.refresh.keys[0].kid;
        let header = format!(r#"{{"alg":"HS256","typ":"rt+jwt","kid":"{kid}"}}"#);
        let ids = r#""sub":"00000000-0000-0000-0000-000000000001","sid":"00000000-0000-0000-0000-000000000002""#;
        let (iat, exp) = (at(0).timestamp(), at(60).timestamp());
        let named = format!(r#""iss":"{ISSUER}","aud":"{ISSUER}",{ids}"#);
        let good = format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp}}}"#);
        let open = |header: &str, payload: &str| keys.open_refresh(&forge(header, payload), at(1));
        assert_eq!(open(&header, &good), Ok(refresh_claims()));

        for bad_header in [
            r#"{"alg":"HS256","typ":"rt+jwt"}"#.to_owned(),
            r#"{"alg":"HS256","typ":"rt+jwt","kid":"0000000000000000"}"#.to_owned(),
            header.replace("HS256", "none"),
            header.replace("HS256", "HS512"),
            header.replace("rt+jwt", "JWT"),
            header.replace("rt+jwt", "at+jwt"),
            header.replace('}', r#","crit":["exp"]}"#),
            header.replace('}', r#","jku":"https://evil.example"}"#),
            header.replace('}', r#","alg":"HS256"}"#),
        ] {
            assert_eq!(open(&bad_header, &good), Err(TokenError::Invalid), "{bad_header}");
        }
        for bad_payload in [
            format!(r#"{{{named},"counter":3,"iat":{iat}}}"#),
            format!(r#"{{{named},"counter":3,"exp":{exp}}}"#),
            format!(r#"{{{named},"iat":{iat},"exp":{exp}}}"#),
            format!(r#"{{{named},"counter":"3","iat":{iat},"exp":{exp}}}"#),
            format!(r#"{{{named},"counter":3,"iat":{iat},"exp":"{exp}"}}"#),
            format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp}.5}}"#),
            format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"exp":{exp}}}"#),
            format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"nbf":{exp}}}"#),
            format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"nbf":"x"}}"#),
            format!(r#"{{{named},"counter":-1,"iat":{iat},"exp":{exp}}}"#),
            format!(r#"{{{named},"counter":{},"iat":{iat},"exp":{exp}}}"#, i64::MAX),
            format!(r#"{{"iss":"{ISSUER}",{ids},"counter":3,"iat":{iat},"exp":{exp}}}"#),
            good.replace("\"aud\":\"https", "\"aud\":\"http"),
            "[]".to_owned(),
        ] {
            assert_eq!(open(&header, &bad_payload), Err(TokenError::Invalid), "{bad_payload}");
        }
        let with_nbf = good.replace("\"counter\"", &format!("\"nbf\":{iat},\"counter\""));
        assert_eq!(open(&header, &with_nbf), Ok(refresh_claims()));
        let token = forge(&header, &good);
        for mangled in [
            format!("{token}A"),
            format!("{token}."),
            format!(".{token}"),
            token.replace('.', ". "),
            String::new(),
        ] {
            assert_eq!(keys.open_refresh(&mangled, at(1)), Err(TokenError::Invalid), "{mangled}");
        }
    }

    /// Byte for byte: neither algorithm leaves the signature a choice.
    #[test]
    fn a_token_is_the_one_that_the_library_issues() {
        fn assert_same<C: Clone + Serialize>(set: &KeySet, claims: &C, key: &EncodingKey) {
            let mut header = Header::new(set.kind.algorithm);
            header.typ = Some(set.kind.typ.to_owned());
            header.kid = Some(set.keys[0].kid.clone());
            let envelope = Envelope {
                iss: ISSUER.to_owned(),
                aud: ISSUER.to_owned(),
                iat: at(0).timestamp(),
                exp: at(60).timestamp(),
                nbf: None,
                claims: claims.clone(),
            };
            let token = jsonwebtoken::encode(&header, &envelope, key).expect("signs");
            assert_eq!(set.issue(claims, at(0), at(60)), token);
        }
        let keys = keys();
        let seed = derive(&secret("k"), ACCESS.info);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed");
        let pkcs8 = pair.to_pkcs8v1().expect("a pair of keys");
        let access = AccessClaims {
            sub: Uuid::from_u128(1),
            public_id: Uuid::from_u128(1),
            sid: Uuid::from_u128(2),
            jti: "j".to_owned(),
            generation: Some(3),
            username: "\u{e4}\"\\\u{1f600}".to_owned(),
            email: "a@b.example".to_owned(),
            email_verified: true,
            first_name: String::new(),
            last_name: "x".repeat(1_000),
            role: Role::Admin,
            is_staff: true,
            is_admin: true,
        };
        assert_same(&keys.access, &access, &EncodingKey::from_ed_der(pkcs8.as_ref()));
        let key = EncodingKey::from_secret(derive(&secret("k"), REFRESH.info).as_slice());
        assert_same(&keys.refresh, &refresh_claims(), &key);
    }

    #[test]
    fn keys_are_derived_as_documented() {
        // Computed with Python: HKDF(SHA256, 32, salt=None, info), Ed25519, SHA-256, HMAC.
        let keys = TokenKeys::new(
            &"doorward-test-vector-0123456789abcdef".to_owned().into(),
            None,
            ISSUER,
        );
        assert_eq!(keys.jwks()["keys"][0]["x"], "LhisWpwnwHGF_a6kWkdzU47ZMIVStxQ1gux_EAGJ4gE");
        assert_eq!(keys.access.keys[0].kid, "1c20203279a0d119");
        assert_eq!(keys.refresh.keys[0].kid, "fc61a4ca033499cb");
        assert_eq!(keys.link.keys[0].kid, "93254602947f178d");
        // Instances of two releases issue the same one for the same state of a session.
        assert_eq!(
            keys.issue_refresh(&refresh_claims(), at(0), at(60)),
            "eyJ0eXAiOiJydCtqd3QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImZjNjFhNGNhMDMzNDk5Y2IifQ.eyJpc3MiOiJodHRwczov\
             L2F1dGguZXhhbXBsZS5jb20iLCJhdWQiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20iLCJpYXQiOjE4MDAwMDAwMDAsImV\
             4cCI6MTgwMDAwMDA2MCwic3ViIjoiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAxIiwic2lkIjoiMDAwMD\
             AwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAyIiwiY291bnRlciI6M30.dui8hgfar4gw7dAc5O0U4rHCkaKOX6GKW\
             Yon3jaMtOw"
        );
    }
}
