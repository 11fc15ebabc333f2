//! Handles: signed names of rows in `challenges`.
//!
//! A handle has the row's id and its own times, and nothing else: what it is good for stands in the
//! row. Each kind has its own key and `typ`, so that none passes for another.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::KeySet;
use super::key::{Kind, hmac_key};
use super::{Opened, TokenError};

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// The link of a password's reset.
    Reset,
    /// Sent along with a code from a letter.
    Code,
    /// Takes back the deletion of an account.
    Restore,
    /// The link of "this was not me".
    NotMe,
    /// The link of an invitation.
    Invite,
}

static RESET: Kind = Kind { typ: "reset+jwt", keys: &[hmac_key("doorward/reset/1")] };
static CODE: Kind = Kind { typ: "code+jwt", keys: &[hmac_key("doorward/code+jwt/1")] };

static RESTORE: Kind = Kind { typ: "restore+jwt", keys: &[hmac_key("doorward/restore/1")] };
static NOT_ME: Kind = Kind { typ: "notme+jwt", keys: &[hmac_key("doorward/notme/1")] };
static INVITE: Kind = Kind { typ: "invite+jwt", keys: &[hmac_key("doorward/invite/1")] };

impl HandleKind {
    pub const ALL: [Self; 5] = [Self::Reset, Self::Code, Self::Restore, Self::NotMe, Self::Invite];

    fn kind(self) -> &'static Kind {
        match self {
            Self::Reset => &RESET,
            Self::Code => &CODE,
            Self::Restore => &RESTORE,
            Self::NotMe => &NOT_ME,
            Self::Invite => &INVITE,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

/// The keys of all kinds.
pub(super) struct Handles(Vec<KeySet>);

impl Handles {
    /// In the order of [`HandleKind::ALL`].
    pub fn new(set: impl Fn(&'static Kind) -> KeySet) -> Self {
        Self(HandleKind::ALL.map(|kind| set(kind.kind())).into())
    }

    fn of(&self, kind: HandleKind) -> &KeySet {
        &self.0[kind as usize]
    }

    pub fn issue(
        &self,
        kind: HandleKind,
        row: Uuid,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        let keys = self.of(kind);
        let (iat, exp) = (at.timestamp(), until.timestamp());
        keys.sign(&Claims { iss: keys.issuer.clone(), iat, exp, jti: row })
    }

    pub fn open(
        &self,
        kind: HandleKind,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Opened<Uuid>, TokenError> {
        let keys = self.of(kind);
        let Claims { iss, exp, jti, .. } = keys.signed(token)?;
        if iss != keys.issuer {
            return Err(TokenError::Invalid);
        }
        let expires_at = DateTime::from_timestamp(exp, 0).unwrap_or(DateTime::<Utc>::MIN_UTC);
        Ok(Opened { claims: jti, expires_at, expired: now.timestamp() >= exp })
    }
}
