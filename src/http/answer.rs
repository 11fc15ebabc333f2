//! The answers that several calls give.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::sessions::TokenPair;
use crate::http::user::{ManagedUser, PublicUser};
use crate::session_cache::CachedSession;
use crate::store::users::User;

/// It is done, and there is nothing to show.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    success: bool,
    #[schema(value_type = String)]
    message: Cow<'static, str>,
}

impl Message {
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { success: true, message: message.into() }
    }
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserAnswer {
    success: bool,
    user: PublicUser,
}

impl UserAnswer {
    pub fn new(user: impl Into<PublicUser>) -> Self {
        Self { success: true, user: user.into() }
    }

    /// The answer of a cached session's user, which is serialised once.
    pub fn cached(seen: &CachedSession) -> Response {
        let write = || {
            let answer = Self::new(seen.user.clone());
            serde_json::to_vec(&answer).expect("a struct of strings is JSON").into()
        };
        let body = Body::from(seen.rendered.get_or_init(write).clone());
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], body).into_response()
    }
}

/// A user as staff and admins see one.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManagedUserAnswer {
    success: bool,
    user: ManagedUser,
}

impl ManagedUserAnswer {
    pub fn new(user: User) -> Self {
        Self { success: true, user: user.into() }
    }
}

/// What was done to a user, and the user as staff and admins see them now.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserMessage {
    success: bool,
    message: String,
    user: ManagedUser,
}

impl UserMessage {
    pub fn new(message: String, user: User) -> Self {
        Self { success: true, message, user: user.into() }
    }
}

/// A session's user, and its newest tokens.
#[derive(Serialize, ToSchema)]
pub struct SessionResponse {
    success: bool,
    /// The access token, for `x-access-token`.
    token: String,
    /// For `x-refresh-token` at `/refresh`; it replaces the one before.
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    user: PublicUser,
}

impl SessionResponse {
    pub fn new(user: User, pair: TokenPair) -> Self {
        Self {
            success: true,
            token: pair.access,
            refresh_token: pair.refresh,
            expires_in: pair.expires_in,
            user: user.into(),
        }
    }
}
