//! `POST /logout`: ends this session, or all of them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::{self, Origin};
use crate::http::error::{ApiError, Code};
use crate::http::form::QueryString;
use crate::http::session::PresentedTokens;
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::{sessions, users};

#[derive(Serialize, ToSchema)]
pub struct LogoutResponse {
    success: bool,
    message: &'static str,
}

/// Logs out with either token.
///
/// `?everywhere=true` ends every session of the user.
#[utoipa::path(
    post, path = "/api/v1/logout", tag = "auth", security(("access_token" = []), ("refresh_token" = [])),
    params(("everywhere" = Option<bool>, Query, description = "End every session of the user.")),
    responses((status = 200, description = "Logged out.", body = LogoutResponse)),
    extensions(("x-codes" = json!([
        "malformed_request", "token_missing", "token_invalid", "token_expired", "refresh_token_invalid",
        "refresh_token_expired", "session_ended", "token_mismatch", "validation_failed",
    ]))),
)]
pub async fn logout(
    State(state): State<AppState>,
    origin: Origin,
    tokens: PresentedTokens,
    QueryString(mut query): QueryString,
) -> Result<Json<LogoutResponse>, ApiError> {
    let (session_id, user_id) = match (tokens.refresh, tokens.access) {
        (Some(refresh), _) => (refresh.sid, refresh.sub),
        (None, Some(access)) => access.unexpired().map(|claims| (claims.sid, claims.sub))?,
        (None, None) => return Err(Code::TokenMissing.into()),
    };
    let everywhere = query.flag("everywhere").unwrap_or(false);
    query.check()?;

    let now = state.clock.now();
    if everywhere {
        // Before anything is locked: with the tokens of a session that is over nobody makes others wait.
        let living = account::living_session(&state, session_id, user_id, now).await?;
        living.ok_or(Code::SessionEnded)?;
    }
    let mut tx =
        if everywhere { state.db.begin_for(user_id).await? } else { state.db.begin().await? };
    if everywhere {
        // One at a time: two sessions that each end the other would wait for each other, each having ended itself.
        users::find_for_update(&mut tx, user_id).await?.ok_or(Code::SessionEnded)?;
    }
    if !sessions::revoke(&mut tx, session_id, user_id, "logout", now).await? {
        return Err(Code::SessionEnded.into());
    }
    if everywhere {
        sessions::revoke_all(&mut tx, user_id, None, "logout_everywhere", now).await?;
    }
    let event = Event {
        name: if everywhere { "logout_everywhere" } else { "logout" },
        user_id: Some(user_id),
        actor_id: Some(user_id),
        session_id: Some(session_id),
        ip: origin.ip,
        ..Event::default()
    };
    audit::record(&mut tx, &event, now).await?;
    state.commit(tx, user_id).await?;
    let message = if everywhere { "Logged out everywhere." } else { "Logged out." };
    Ok(Json(LogoutResponse { success: true, message }))
}
