//! `POST /logout`: ends this session, or all of them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::account::client::ClientInfo;
use crate::http::body::QueryString;
use crate::http::error::{ApiError, Code};
use crate::http::session::PresentedTokens;
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::{sessions, users};

#[derive(Serialize, ToSchema)]
pub struct LogoutResponse {
    success: bool,
    message: &'static str,
}

/// Logs out with either token; an access token must not have expired.
///
/// `?everywhere=true` ends every session of the user.
#[utoipa::path(
    post, path = "/api/v1/logout", tag = "auth", security(("access_token" = []), ("bearer" = []), ("refresh_token" = [])),
    params(("everywhere" = Option<bool>, Query, description = "End every session of the user.")),
    responses((status = 200, description = "Logged out.", body = LogoutResponse)),
    extensions(("x-codes" = json!([
        "malformed_request", "token_missing", "token_invalid", "token_expired", "refresh_token_invalid",
        "refresh_token_expired", "refresh_token_reused", "session_ended", "token_mismatch", "validation_failed",
    ]))),
)]
pub async fn logout(
    State(state): State<AppState>,
    client: ClientInfo,
    tokens: PresentedTokens,
    QueryString(mut query): QueryString,
) -> Result<Json<LogoutResponse>, ApiError> {
    let (session_id, user_id) = match (&tokens.refresh, tokens.access) {
        (Some(refresh), _) => (refresh.sid, refresh.sub),
        (None, Some(access)) => access.unexpired().map(|claims| (claims.sid, claims.sub))?,
        (None, None) => {
            let message =
                "Send an access token (x-access-token) or a refresh token (x-refresh-token).";
            return Err(ApiError { message: Some(message.into()), ..Code::TokenMissing.into() });
        }
    };
    let everywhere = query.flag("everywhere").unwrap_or(false);
    query.check()?;

    let now = state.clock.now();
    let mut is_reused = false;
    if everywhere {
        // Before anything is locked: with the tokens of an ended session nobody can make others wait.
        let active = account::sessions::active_session(&state, session_id, user_id, now).await?;
        active.ok_or(Code::SessionEnded)?;
        // It ends its own session, as at /refresh, and no other.
        if let Some(refresh) = &tokens.refresh {
            is_reused = account::sessions::is_reused(&state, refresh, now).await?;
        }
    }
    let everywhere = everywhere && !is_reused;
    let mut tx =
        if everywhere { state.db.begin_for(user_id).await? } else { state.db.begin().await? };
    if everywhere {
        // One at a time: else two sessions, each having ended itself and then ending the other, would deadlock.
        users::find_for_update(&mut tx, user_id).await?.ok_or(Code::SessionEnded)?;
    }
    let reason = if is_reused { "refresh_token_reused" } else { "logout" };
    if !sessions::revoke(&mut tx, session_id, user_id, reason, now).await? {
        return Err(Code::SessionEnded.into());
    }
    if everywhere {
        sessions::revoke_all(&mut tx, user_id, None, "logout_everywhere", now).await?;
    }
    let event = Event {
        name: if everywhere { "logout_everywhere" } else { reason },
        user_id: Some(user_id),
        actor_id: Some(user_id),
        session_id: Some(session_id),
        ip: client.ip,
        ..Event::default()
    };
    audit::record(&mut tx, &event, now).await?;
    state.commit(tx, user_id).await?;
    if is_reused {
        return Err(Code::RefreshTokenReused.into());
    }
    let message = if everywhere { "Logged out everywhere." } else { "Logged out." };
    Ok(Json(LogoutResponse { success: true, message }))
}
