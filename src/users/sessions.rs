//! `/users/me/sessions`: where one is logged in, and the end of that.

use axum::Json;
use axum::extract::State;

use crate::account::client::ClientInfo;
use crate::account::session_ends::{self, Which};
use crate::http::answer::Message;
use crate::http::body::QueryString;
use crate::http::error::{ApiError, Code};
use crate::http::session::{CurrentUser, Fresh};
use crate::http::session_list::{self, SessionId, SessionsEnded, SessionsResponse, Shown};
use crate::state::AppState;

/// Lists the caller's active sessions, the newest login first.
#[utoipa::path(
    get, path = "/api/v1/users/me/sessions", operation_id = "list_my_sessions", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, description = "Sessions a page.",
            minimum = 1, maximum = 100, example = 50),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9-]*$",
            description = "The `next` of the page before."),
    ),
    responses((status = 200, description = "A page of sessions.", body = SessionsResponse)),
    extensions(("x-codes" = json!([Code::MalformedRequest, Code::ValidationFailed]))),
)]
pub async fn list(
    caller: CurrentUser,
    State(state): State<AppState>,
    QueryString(query): QueryString,
) -> Result<Json<SessionsResponse>, ApiError> {
    let shown = Shown { user_id: caller.user.id, current: caller.session.id, with_addresses: true };
    session_list::page(&state, shown, query).await
}

/// Ends one of the caller's sessions; their own is a logout.
#[utoipa::path(
    delete, path = "/api/v1/users/me/sessions/{session_id}", operation_id = "end_my_session",
    tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    params(("session_id" = Uuid, Path, description = "The `public_id` of the session.")),
    responses((status = 200, description = "Ended.", body = Message)),
    extensions(("x-codes" = json!([Code::StepUpRequired, Code::SessionNotFound]))),
)]
pub async fn end(
    Fresh(caller): Fresh<CurrentUser>,
    State(state): State<AppState>,
    client: ClientInfo,
    SessionId(id): SessionId,
) -> Result<Json<Message>, ApiError> {
    let (actor, now) = (caller.actor(&client), state.clock.now());
    let ended = session_ends::end(&state, actor, caller.user.id, Which::One(id), now).await?;
    match ended {
        Some(1..) => Ok(Json(Message::new("The session has ended."))),
        _ => Err(Code::SessionNotFound.into()),
    }
}

/// Ends all of the caller's sessions but this one.
#[utoipa::path(
    delete, path = "/api/v1/users/me/sessions", operation_id = "end_my_other_sessions",
    tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "Ended.", body = SessionsEnded)),
    extensions(("x-codes" = json!([Code::StepUpRequired]))),
)]
pub async fn end_others(
    Fresh(caller): Fresh<CurrentUser>,
    State(state): State<AppState>,
    client: ClientInfo,
) -> Result<Json<SessionsEnded>, ApiError> {
    let (actor, now) = (caller.actor(&client), state.clock.now());
    let ended = session_ends::end(&state, actor, caller.user.id, Which::All, now).await?;
    Ok(Json(SessionsEnded::new(ended.ok_or(Code::SessionEnded)?)))
}
