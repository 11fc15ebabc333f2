//! The one outward error: a stable code, and everything that a client is told about it.

mod body;

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::account;
use crate::account::attempts::Fault;
use crate::account::standing::Barred;
use crate::fields::FieldError;
use crate::limits::Refusal;
use crate::security::password::Busy;
use crate::security::token::TokenError;
use crate::store::db::{self, BeginError};
pub use body::{ErrorBody, InvalidField, WayOn};

/// One table: the OpenAPI document, the README's list and the answers come from it.
macro_rules! codes {
    ($($variant:ident = $status:ident $code:literal: $message:literal;)*) => {
        /// The stable codes of errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($variant,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What a person is told where a handler has nothing better to say.
            pub fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

codes! {
    MalformedRequest = BAD_REQUEST "malformed_request": "The request could not be understood.";
    LinkInvalid = BAD_REQUEST "link_invalid": "This link is not valid. Was it copied in full?";
    CodeInvalid = BAD_REQUEST "code_invalid":
        "The code is wrong, used or out of time: look at it once more, or ask for a new one.";
    CredentialsMissing = UNAUTHORIZED "credentials_missing":
        "Log in with HTTP Basic or JSON: username or e-mail address, and password.";
    InvalidCredentials = UNAUTHORIZED "invalid_credentials":
        "The username or the password is wrong.";
    TokenMissing = UNAUTHORIZED "token_missing":
        "An access token is needed, in x-access-token or as authorization: Bearer.";
    TokenInvalid = UNAUTHORIZED "token_invalid": "The access token is not valid.";
    TokenExpired = UNAUTHORIZED "token_expired": "The access token has expired: refresh it.";
    SessionEnded = UNAUTHORIZED "session_ended": "The session has ended: log in again.";
    RefreshTokenMissing = UNAUTHORIZED "refresh_token_missing":
        "A refresh token is needed in x-refresh-token.";
    RefreshTokenInvalid = UNAUTHORIZED "refresh_token_invalid": "The refresh token is not valid.";
    RefreshTokenExpired = UNAUTHORIZED "refresh_token_expired":
        "The refresh token has expired: log in again.";
    RefreshTokenReused = UNAUTHORIZED "refresh_token_reused":
        "The refresh token had been replaced before. The session has ended for safety: log in \
         again.";
    TokenMismatch = UNAUTHORIZED "token_mismatch": "The two tokens belong to different sessions.";
    StepUpRequired = UNAUTHORIZED "step_up_required":
        "Prove once more who you are: POST /api/v1/step_up, then try again.";
    Forbidden = FORBIDDEN "forbidden": "This is for admins.";
    AccountDeleted = FORBIDDEN "account_deleted":
        "The account is deleted. Until it is removed, that can be taken back.";
    Banned = FORBIDDEN "banned": "The account is banned.";
    ResetRequired = FORBIDDEN "reset_required":
        "The password may be known to somebody else: set a new one by a letter.";
    WrongPassword = FORBIDDEN "wrong_password": "The password is wrong.";
    NotFound = NOT_FOUND "not_found": "There is nothing here.";
    UserNotFound = NOT_FOUND "user_not_found": "There is no such user.";
    SessionNotFound = NOT_FOUND "session_not_found": "There is no such session.";
    InvitationNotFound = NOT_FOUND "invitation_not_found":
        "There is no such invitation, or it is accepted or taken back.";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed": "This method is not allowed here.";
    UsernameTaken = CONFLICT "username_taken": "This username is taken.";
    EmailTaken = CONFLICT "email_taken": "This e-mail address is taken.";
    EmailAlreadyVerified = CONFLICT "email_already_verified":
        "The e-mail address is verified already.";
    EmailNotVerified = CONFLICT "email_not_verified":
        "The user's e-mail address has to be verified first.";
    NotYourself = CONFLICT "not_yourself": "Nobody does this to themselves: ask another admin.";
    UserBanned = CONFLICT "user_banned": "The user is banned: lift the ban first.";
    LastAdmin = CONFLICT "last_admin": "This is the last admin.";
    LinkExpired = GONE "link_expired": "This link is no longer valid: ask for a new one.";
    ChallengeExpired = GONE "challenge_expired":
        "This was used, or has run out: begin again from the start.";
    PayloadTooLarge = PAYLOAD_TOO_LARGE "payload_too_large": "A body has at most 16 KiB.";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type":
        "Send the body as application/json, in UTF-8, and not compressed.";
    ValidationFailed = UNPROCESSABLE_ENTITY "validation_failed": "Some fields need attention.";
    RateLimited = TOO_MANY_REQUESTS "rate_limited": "Too many attempts: try again later.";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "headers_too_large":
        "The headers have more than 16 KiB or 100 fields: are there cookies of others among them?";
    Busy = SERVICE_UNAVAILABLE "busy": "Too much to do at the moment: try again shortly.";
    DatabaseUnavailable = SERVICE_UNAVAILABLE "database_unavailable":
        "The database cannot be reached at the moment: try again shortly.";
    Internal = INTERNAL_SERVER_ERROR "internal": "Something went wrong here.";
}

/// Why a request is not answered as asked.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: Code,
    pub message: Option<String>,
    pub errors: Vec<InvalidField>,
    /// For the log alone, with the request id; never sent.
    pub cause: Option<String>,
    /// With `rate_limited`.
    pub limit: Option<&'static str>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
    pub way_on: Box<WayOn>,
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Self {
            code,
            message: None,
            errors: Vec::new(),
            cause: None,
            limit: None,
            retry_after: (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(2),
            way_on: Box::default(),
        }
    }
}

impl ApiError {
    pub fn malformed(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..Code::MalformedRequest.into() }
    }

    pub fn invalid(errors: Vec<InvalidField>) -> Self {
        Self { errors, ..Code::ValidationFailed.into() }
    }

    pub fn invalid_field(field: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(vec![InvalidField::new(field, FieldError::new(code, message))])
    }

    pub fn rate_limited(refusal: Refusal, now: DateTime<Utc>) -> Self {
        let seconds = (refusal.until - now).num_milliseconds().max(1).unsigned_abs().div_ceil(1000);
        let retry_after = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        let message = Some(format!("Too many attempts: try again in {}.", in_words(seconds)));
        Self { limit: Some(refusal.limit), retry_after, message, ..Code::RateLimited.into() }
    }

    /// What stands in the way of a call, of which each concerns a field; the first one gives the
    /// code.
    pub fn conflict(all: &[(&str, Code)]) -> Self {
        let error = |&(field, code): &(&str, Code)| {
            InvalidField::new(field, FieldError::new(code.as_str(), code.message()))
        };
        let first = all.first().map_or(Code::Internal, |(_, code)| *code);
        Self { errors: all.iter().map(error).collect(), ..first.into() }
    }

    pub fn internal(cause: impl fmt::Display) -> Self {
        Self { cause: Some(cause.to_string()), ..Code::Internal.into() }
    }

    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_else(|| self.code.message())
    }

    fn challenge(&self) -> Option<HeaderValue> {
        if self.code.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        // RFC 6750, 3: no error is named where no token was given.
        let bearer = match self.code {
            Code::TokenMissing | Code::RefreshTokenMissing => r#"Bearer realm="doorward""#,
            _ => r#"Bearer realm="doorward", error="invalid_token""#,
        };
        if let Some(max_age) = self.way_on.max_age {
            let error = "insufficient_user_authentication";
            let challenge =
                format!(r#"Bearer realm="doorward", error="{error}", max_age={max_age}"#);
            return HeaderValue::try_from(challenge).ok();
        }
        Some(HeaderValue::from_static(self.way_on.challenge.unwrap_or(bearer)))
    }
}

/// A wait as people say it, rounded up.
fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..=90 => (seconds, "second"),
        91..=5_400 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3_600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

impl Fault for ApiError {
    fn is_ours(&self) -> bool {
        self.code.status().is_server_error()
    }
}

impl From<account::Error> for ApiError {
    fn from(error: account::Error) -> Self {
        match error {
            account::Error::Busy => Code::Busy.into(),
            account::Error::RateLimited { refusal, now } => Self::rate_limited(refusal, now),
            account::Error::WrongPassword => Self::conflict(&[("password", Code::WrongPassword)]),
            account::Error::Barred(barred) => barred.into(),
            account::Error::LastAdmin => Code::LastAdmin.into(),
            account::Error::SessionEnded => Code::SessionEnded.into(),
            account::Error::Database(error) => error.into(),
        }
    }
}

impl From<Barred> for ApiError {
    fn from(barred: Barred) -> Self {
        let (code, way_on) = match barred {
            Barred::Deleted { restore_token, restore_until } => {
                let (token, until) = (Some(restore_token), Some(restore_until));
                let way_on =
                    WayOn { restore_token: token, restore_until: until, ..WayOn::default() };
                (Code::AccountDeleted, way_on)
            }
            Barred::Banned { until } => (Code::Banned, WayOn { until, ..WayOn::default() }),
            Barred::ResetRequired => (Code::ResetRequired, WayOn::default()),
        };
        Self { way_on: Box::new(way_on), ..code.into() }
    }
}

impl From<Busy> for ApiError {
    fn from(Busy: Busy) -> Self {
        Code::Busy.into()
    }
}

impl From<TokenError> for ApiError {
    /// For access tokens.
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Code::TokenExpired.into(),
            TokenError::Invalid => Code::TokenInvalid.into(),
        }
    }
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        account::Error::from(error).into()
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match db::unique_violation(&error) {
            Some("users_username_key") => {
                return Self::conflict(&[("username", Code::UsernameTaken)]);
            }
            Some("users_email_key") => return Self::conflict(&[("email", Code::EmailTaken)]),
            _ => {}
        }
        if db::cannot_hold(&error) {
            let message = "The database of this service cannot hold a character in what was sent.";
            return Self { message: Some(message.to_owned()), ..Code::ValidationFailed.into() };
        }
        if db::is_unavailable(&error) {
            let cause = Some(db::describe(&error));
            return Self { cause, ..Code::DatabaseUnavailable.into() };
        }
        Self::internal(db::describe(&error))
    }
}

impl IntoResponse for ApiError {
    /// The body follows at the door, where the request id is known; until then the error travels in
    /// the extensions.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}
