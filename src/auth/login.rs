//! `POST /login`: HTTP Basic (RFC 7617) in, a session out.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::password::{self, Checked};
use crate::account::sessions::{self, Started, TokenPair};
use crate::http::credentials::{basic, basic_challenge};
use crate::http::error::{ApiError, Code};
use crate::http::user::PublicUser;
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::users::User;

#[derive(Serialize, ToSchema)]
pub struct LoginResponse {
    success: bool,
    /// The access token, for `x-access-token`.
    token: String,
    /// For `x-refresh-token` at `/refresh`.
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    user: PublicUser,
}

impl LoginResponse {
    fn new(user: User, pair: TokenPair) -> Self {
        Self {
            success: true,
            token: pair.access,
            refresh_token: pair.refresh,
            expires_in: pair.expires_in,
            user: user.into(),
        }
    }
}

/// Logs in with a username or an e-mail address and a password.
///
/// An unknown user and a wrong password are answered with the same bytes after the same time.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "auth", security(("basic" = [])),
    responses((status = 200, description = "Logged in.", body = LoginResponse)),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::CredentialsMissing, Code::InvalidCredentials,
        Code::RateLimited,
    ]))),
)]
pub async fn login(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
) -> Result<Json<LoginResponse>, ApiError> {
    let refused =
        |code: Code| ApiError { challenge: Some(basic_challenge(&headers)), ..code.into() };
    let (login, password) = basic(&headers)?.ok_or_else(|| refused(Code::CredentialsMissing))?;
    let (mut counted, mut user_id) = (None, None);
    // A second round only if the hash was replaced between the check and the session; counted as
    // one login.
    for _ in 0..2 {
        let checked = password::check(&state, &login, &password, &client, counted.take()).await?;
        let Some(Checked { user, proof }) = checked else { break };
        let now = state.clock.now();
        match sessions::start(&state, &user, proof, &client, now).await? {
            Started::Opened(user, pair) => return Ok(Json(LoginResponse::new(user, pair))),
            Started::Stale(attempt) => (counted, user_id) = (attempt, Some(user.id)),
        }
    }
    // Twice out of date: what `check` found wrong it has logged itself.
    if let (Some(_), Some(id)) = (counted, user_id) {
        state.log(&Event::new(EventKind::LoginRefused).on(id).from(client.ip));
    }
    Err(refused(Code::InvalidCredentials))
}
