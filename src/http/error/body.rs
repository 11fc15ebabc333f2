//! An error in the words of an answer.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::fields::FieldError;

/// What is wrong with one field of the request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvalidField {
    pub field: String,
    /// Stable: `required`, `invalid_type`, `too_short`, `too_long`, `too_common` ...
    pub code: &'static str,
    pub message: String,
}

impl InvalidField {
    pub fn new(field: &str, error: FieldError) -> Self {
        Self { field: field.to_owned(), code: error.code, message: error.message }
    }
}

/// An error as a client sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    /// Always `false`.
    #[schema(example = false)]
    pub success: bool,
    /// Stable.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
    /// With `token_expired` only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub expired: bool,
    /// With `rate_limited` only: the limit's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub limit: Option<&'a str>,
    /// With `validation_failed`, `username_taken`, `email_taken` and `wrong_password` only.
    #[serde(skip_serializing_if = "<[InvalidField]>::is_empty")]
    #[schema(required = false)]
    pub errors: &'a [InvalidField],
    /// With `step_up_required` only: what proves who calls.
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    #[schema(required = false)]
    pub methods: &'a [&'static str],
    /// With `banned` only: when the ban ends; absent: it does not.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = false)]
    pub until: Option<DateTime<Utc>>,
    /// With `account_deleted` only: takes the deletion back, at `/restore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub restore_token: Option<&'a str>,
    /// With `account_deleted` only: when the account is removed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = false)]
    pub restore_until: Option<DateTime<Utc>>,
    pub request_id: &'a str,
}

/// What a refused client needs to go on: see [`ErrorBody`].
#[derive(Clone, Debug, Default)]
pub struct WayOn {
    pub methods: &'static [&'static str],
    /// `www-authenticate`, where it is not the one for tokens.
    pub challenge: Option<&'static str>,
    /// How old that proof may be, in seconds (RFC 9470, 3).
    pub max_age: Option<i64>,
    pub until: Option<DateTime<Utc>>,
    pub restore_token: Option<SecretString>,
    pub restore_until: Option<DateTime<Utc>>,
}
