//! `POST /refresh`: the next pair of tokens.

use axum::Json;
use axum::extract::State;

use crate::account::client::ClientInfo;
use crate::account::refreshes::{self, Refreshed};
use crate::http::answer::SessionResponse;
use crate::http::error::{ApiError, Code};
use crate::http::session::PresentedTokens;
use crate::state::AppState;

/// Exchanges a refresh token for a new pair.
///
/// A token that was replaced within the last 20 seconds gives the current pair again, so that a
/// page with many calls or several tabs stay logged in. So does the one before the current one, for
/// up to 10 minutes, while the current pair is unused: its answer was lost. Anything older ends the
/// session. `x-access-token` is optional and may be expired; one of another session is refused.
#[utoipa::path(
    post, path = "/api/v1/refresh", tag = "auth",
    security(
        ("refresh_token" = []), ("refresh_token" = [], "access_token" = []),
        ("refresh_token" = [], "bearer" = [])
    ),
    responses((status = 200, description = "The next pair.", body = SessionResponse)),
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
) -> Result<Json<SessionResponse>, ApiError> {
    let claims = tokens.refresh.ok_or(Code::RefreshTokenMissing)?;
    let now = state.clock.now();
    match refreshes::exchange(&state, &claims, &client, now).await? {
        Refreshed::Pair(renewed) => {
            let (user, pair) = *renewed;
            Ok(Json(SessionResponse::new(user, pair)))
        }
        Refreshed::Reused => Err(Code::RefreshTokenReused.into()),
        Refreshed::Ended => Err(Code::SessionEnded.into()),
    }
}
