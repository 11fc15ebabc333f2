//! The tokens: keys, issue, verify. Nothing else in the crate decodes a JWT.
//!
//! Three kinds, and the handles, each with its own keys, `alg` and `typ`, so that none passes for another. All keys
//! come from one secret by HKDF-SHA256 (RFC 5869, no salt). The library checks the signature;
//! everything else is checked here, because its defaults are not ours: it allows a minute of leeway
//! and never looks at `typ` or `crit`.

mod codec;
mod handle;
mod key;
mod text;
mod verified;

use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::TokenAlgorithm;
use crate::fields::Role;
use codec::{Genuine, KeySet};
pub use handle::HandleKind;
use handle::Handles;
use key::{ACCESS, Key, Kind, LINK, REFRESH};
pub use text::TokenText;
use verified::Verified;

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
    /// How the user has proven who they are (RFC 8176); a token of an older release does not say.
    #[serde(default)]
    pub amr: Vec<String>,
    /// When they last did, in seconds since 1970 (`OpenID` Connect Core, 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
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

/// A refresh token is one state of one session and nothing else, so that the same state is the same
/// token.
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

/// From 0 to 2^31 - 1.
fn counter<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let counter = i64::deserialize(deserializer)?;
    let is_one = (0..=i64::from(i32::MAX)).contains(&counter);
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
    handles: Handles,
    verified: Verified,
    jwks: Value,
}

impl TokenKeys {
    /// `issuer` becomes `iss` and `aud`; tokens signed with `previous` are still accepted, and
    /// access tokens of the other algorithm.
    pub fn new(
        secret: &SecretString,
        previous: Option<&SecretString>,
        algorithm: TokenAlgorithm,
        issuer: &str,
    ) -> Self {
        let algorithm = match algorithm {
            TokenAlgorithm::Es256 => Algorithm::ES256,
            TokenAlgorithm::EdDsa => Algorithm::EdDSA,
        };
        let set = |kind: &'static Kind| {
            let secrets = [Some(secret), previous].into_iter().flatten();
            let derive = |secret| kind.keys.iter().map(move |key| key.derive(secret));
            let mut keys: Vec<Key> = secrets.flat_map(derive).collect();
            // The first of the chosen algorithm signs; of one algorithm alone it is the first.
            let signing = keys.iter().position(|key| key.algorithm == algorithm).unwrap_or(0);
            keys[..=signing].rotate_right(1);
            let header = keys[0].encoded_header(kind.typ);
            KeySet { kind, header, issuer: issuer.to_owned(), keys }
        };
        let access = set(&ACCESS);
        let jwks: Vec<&Value> = access.keys.iter().filter_map(|key| key.jwk.as_ref()).collect();
        let jwks = json!({ "keys": jwks });
        let (refresh, link, handles) = (set(&REFRESH), set(&LINK), Handles::new(set));
        Self { access, refresh, link, handles, verified: Verified::new(), jwks }
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
        if let Some(known) = self.verified.find(token) {
            return Genuine::clone(&known).open(now);
        }
        let genuine: Genuine<AccessClaims> = self.access.verify(token)?;
        if genuine.claims.sub != genuine.claims.public_id {
            return Err(TokenError::Invalid);
        }
        let opened = genuine.clone().open(now)?;
        if !opened.expired {
            self.verified.keep(token, genuine);
        }
        Ok(opened)
    }

    pub fn open_refresh(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<RefreshClaims, TokenError> {
        self.refresh.open(token, now)?.unexpired()
    }

    /// The claims of a refresh token of ours, whether or not its time is over.
    pub fn genuine_refresh(&self, token: &str, now: DateTime<Utc>) -> Option<RefreshClaims> {
        self.refresh.open(token, now).ok().map(|opened| opened.claims)
    }

    /// Opens a link's token whose time may be over.
    pub fn open_link(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<LinkClaims>, TokenError> {
        self.link.open(token, now)
    }

    /// A handle on a row of `challenges`.
    pub fn issue_handle(
        &self,
        kind: HandleKind,
        row: Uuid,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        self.handles.issue(kind, row, at, until)
    }

    /// The row that a handle names, whose time may be over.
    pub fn open_handle(
        &self,
        kind: HandleKind,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<Uuid>, TokenError> {
        self.handles.open(kind, token, now)
    }

    /// Whether an access token was issued here, whether or not its time is over.
    pub fn is_genuine_access(&self, token: &str) -> bool {
        self.verified.find(token).is_some() || self.access.verify::<AccessClaims>(token).is_ok()
    }

    /// The public keys as a JWK set (RFC 7517, RFC 8037), the signing one first.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }
}

#[cfg(test)]
mod tests;
