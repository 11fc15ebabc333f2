//! `POST /logout`: ends this session, or all of them.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};

use crate::account::client::ClientInfo;
use crate::account::{refreshes, sessions};
use crate::http::answer::Message;
use crate::http::body::QueryString;
use crate::http::error::{ApiError, Code};
use crate::http::session::PresentedTokens;
use crate::state::AppState;
use crate::store;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::db::Tx;
use crate::store::users;

/// Logs out with either token; an access token must not have expired.
///
/// `?everywhere=true` ends every session of the user.
#[utoipa::path(
    post, path = "/api/v1/logout", tag = "auth",
    security(("access_token" = []), ("bearer" = []), ("refresh_token" = [])),
    params(("everywhere" = Option<bool>, Query, description = "End every session of the user.")),
    responses((status = 200, description = "Logged out.", body = Message)),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::TokenMissing, Code::TokenInvalid, Code::TokenExpired,
        Code::RefreshTokenInvalid, Code::RefreshTokenExpired, Code::RefreshTokenReused,
        Code::SessionEnded, Code::TokenMismatch, Code::ValidationFailed,
    ]))),
)]
pub async fn logout(
    State(state): State<AppState>,
    client: ClientInfo,
    tokens: PresentedTokens,
    QueryString(mut query): QueryString,
) -> Result<Json<Message>, ApiError> {
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

    let (actor, now) = (Actor { user_id, session_id, ip: client.ip }, state.clock.now());
    if !everywhere {
        end(&state, actor, EventKind::Logout, now).await?;
        return Ok(Json(Message::new("Logged out.")));
    }
    // Before anything is locked: the tokens of an ended session make no other call wait.
    let active = sessions::find_active(&state, session_id, user_id, now).await?;
    active.ok_or(Code::SessionEnded)?;
    // A reused token ends its own session, as at /refresh, and no other.
    if let Some(refresh) = &tokens.refresh
        && refreshes::is_reused(&state, refresh, now).await?
    {
        end(&state, actor, EventKind::RefreshTokenReused, now).await?;
        return Err(Code::RefreshTokenReused.into());
    }
    end_all(&state, actor, now).await?;
    Ok(Json(Message::new("Logged out everywhere.")))
}

/// Ends the actor's own session.
async fn end(
    state: &AppState,
    actor: Actor,
    kind: EventKind,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let tx = state.db.begin().await?;
    finish(state, tx, actor, kind, now).await
}

/// Ends the actor's own session and every other one of theirs.
async fn end_all(state: &AppState, actor: Actor, now: DateTime<Utc>) -> Result<(), ApiError> {
    let mut tx = state.db.begin_for(actor.user_id).await?;
    // One at a time: else two sessions, each having ended itself and then ending the other, would
    // deadlock.
    users::find_for_update(&mut tx, actor.user_id).await?.ok_or(Code::SessionEnded)?;
    finish(state, tx, actor, EventKind::LogoutEverywhere, now).await
}

async fn finish(
    state: &AppState,
    mut tx: Tx,
    actor: Actor,
    kind: EventKind,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let Actor { user_id, session_id, .. } = actor;
    let everywhere = kind == EventKind::LogoutEverywhere;
    // The sessions' reasons have the events' names.
    let reason = if everywhere { EventKind::Logout } else { kind }.as_str();
    if !store::sessions::revoke(&mut tx, session_id, user_id, reason, now).await? {
        return Err(Code::SessionEnded.into());
    }
    if everywhere {
        store::sessions::revoke_all(&mut tx, user_id, None, kind.as_str(), now).await?;
    }
    state.record(&mut tx, Event::by(actor, kind).on(user_id), now).await?;
    state.commit(tx, user_id).await?;
    Ok(())
}
