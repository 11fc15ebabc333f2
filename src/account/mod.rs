//! Rules about accounts that have more than one caller. Knows no HTTP.

pub mod attempts;
pub mod client;
pub mod confirmation;
pub mod deletion;
pub mod invitations;
pub mod letters;
pub mod mailed_codes;
mod new_device;
pub mod not_me;
pub mod password;
pub mod profile;
pub mod recovery;
pub mod refreshes;
pub mod session_ends;
pub mod sessions;
pub mod standing;
pub mod step_up;

use chrono::{DateTime, Utc};

use crate::account::standing::Barred;
use crate::limits::Refusal;
use crate::security::password::Busy;
use crate::store::db::{AcquireTimedOut, BeginError};

/// Why a rule of accounts says no.
#[derive(Debug)]
pub enum Error {
    /// Too much to do at the moment.
    Busy,
    RateLimited {
        refusal: Refusal,
        now: DateTime<Utc>,
    },
    WrongPassword,
    /// The credential was right, and lets nobody in.
    Barred(Barred),
    /// The last admin who can get in stays.
    LastAdmin,
    /// The caller's session has ended meanwhile.
    SessionEnded,
    Database(sqlx::Error),
}

impl From<Busy> for Error {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl From<AcquireTimedOut> for Error {
    fn from(AcquireTimedOut: AcquireTimedOut) -> Self {
        Self::Busy
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<BeginError> for Error {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Busy(timed_out) => timed_out.into(),
            BeginError::Database(error) => error.into(),
        }
    }
}
