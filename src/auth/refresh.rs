//! `POST /refresh`: the next pair of tokens.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::sessions::{self, Rotation, TokenPair};
use crate::http::error::{ApiError, Code};
use crate::http::session::PresentedTokens;
use crate::limits::{Attempt, REFRESH};
use crate::security::token::RefreshClaims;
use crate::state::AppState;

#[derive(Serialize, ToSchema)]
pub struct RefreshResponse {
    success: bool,
    /// The access token, for `x-access-token`.
    token: String,
    /// Replaces the refresh token that was sent.
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
}

/// Exchanges a refresh token for a new pair.
///
/// The token just replaced gives the same successor again for 20 seconds, and for as long as nobody
/// has used that successor: two tabs or a lost answer log nobody out. Anything older ends the
/// session. `x-access-token` is optional and may be expired; one of another session is refused.
#[utoipa::path(
    post, path = "/api/v1/refresh", tag = "auth",
    security(
        ("refresh_token" = []), ("refresh_token" = [], "access_token" = []),
        ("refresh_token" = [], "bearer" = [])
    ),
    responses((status = 200, description = "The next pair.", body = RefreshResponse)),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::RefreshTokenMissing, Code::RefreshTokenInvalid,
        Code::RefreshTokenExpired, Code::RefreshTokenReused, Code::SessionEnded, Code::TokenInvalid,
        Code::TokenMismatch, Code::RateLimited,
    ]))),
)]
pub async fn refresh(
    State(state): State<AppState>,
    client: ClientInfo,
    tokens: PresentedTokens,
) -> Result<Json<RefreshResponse>, ApiError> {
    let claims = tokens.refresh.ok_or(Code::RefreshTokenMissing)?;
    let now = state.clock.now();
    let attempt = Attempt::on(&REFRESH, &claims.sid.to_string());
    let [_counted] =
        attempts::count(&state, [Attempts::charged_if_dropped([attempt])], now).await?;
    let pair = match sessions::renew(&state, &claims, now).await? {
        Some(pair) => pair,
        None => rotate(&state, &claims, &client, now).await?,
    };
    Ok(Json(RefreshResponse {
        success: true,
        token: pair.access,
        refresh_token: pair.refresh,
        expires_in: pair.expires_in,
    }))
}

/// Handles a token that is not the current one.
async fn rotate(
    state: &AppState,
    claims: &RefreshClaims,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<TokenPair, ApiError> {
    let mut tx = state.db.begin().await?;
    let rotation = sessions::rotate(state, &mut tx, claims, client, now).await?;
    state.commit(tx, claims.sub).await?;
    match rotation {
        Rotation::Renewed(pair) => Ok(pair),
        Rotation::Reused => Err(Code::RefreshTokenReused.into()),
        Rotation::Ended => Err(Code::SessionEnded.into()),
    }
}
