//! `/users/{public_id}/sessions`: where a user is logged in, seen by staff and ended by admins.

use axum::Json;
use axum::extract::State;

use super::users::PublicId;
use crate::account::client::ClientInfo;
use crate::account::session_ends::{self, Which};
use crate::http::answer::Message;
use crate::http::body::QueryString;
use crate::http::error::{ApiError, Code};
use crate::http::session::{AdminUser, StaffUser};
use crate::http::session_list::{self, SessionId, SessionsEnded, SessionsResponse, Shown};
use crate::state::AppState;
use crate::store::users;

/// Lists a user's active sessions, the newest login first; staff see no addresses.
#[utoipa::path(
    get, path = "/api/v1/users/{public_id}/sessions", operation_id = "list_sessions", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("public_id" = Uuid, Path),
        ("limit" = Option<i64>, Query, description = "Sessions a page.",
            minimum = 1, maximum = 100, example = 50),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9-]*$",
            description = "The `next` of the page before."),
    ),
    responses((status = 200, description = "A page of sessions.", body = SessionsResponse)),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::Forbidden, Code::UserNotFound, Code::ValidationFailed,
    ]))),
)]
pub async fn list(
    StaffUser(caller): StaffUser,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    QueryString(query): QueryString,
) -> Result<Json<SessionsResponse>, ApiError> {
    let found = state.db.read(|db| Box::pin(users::find(db, id))).await?;
    found.ok_or(Code::UserNotFound)?;
    let with_addresses = caller.user.role.is_admin();
    let shown = Shown { user_id: id, current: caller.session.id, with_addresses };
    session_list::page(&state, shown, query).await
}

/// Ends all of a user's sessions, but the one that asks.
#[utoipa::path(
    delete, path = "/api/v1/users/{public_id}/sessions", operation_id = "end_sessions",
    tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    responses((status = 200, description = "Ended.", body = SessionsEnded)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::UserNotFound]))),
)]
pub async fn end_all(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    client: ClientInfo,
    PublicId(id): PublicId,
) -> Result<Json<SessionsEnded>, ApiError> {
    let (actor, now) = (caller.actor(&client), state.clock.now());
    let ended = session_ends::end(&state, actor, id, Which::All, now).await?;
    Ok(Json(SessionsEnded::new(ended.ok_or(Code::UserNotFound)?)))
}

/// Ends one session of a user.
#[utoipa::path(
    delete, path = "/api/v1/users/{public_id}/sessions/{session_id}", operation_id = "end_session",
    tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("public_id" = Uuid, Path),
        ("session_id" = Uuid, Path, description = "The `public_id` of the session."),
    ),
    responses((status = 200, description = "Ended.", body = Message)),
    extensions(("x-codes" = json!([
        Code::Forbidden, Code::UserNotFound, Code::SessionNotFound,
    ]))),
)]
pub async fn end(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    client: ClientInfo,
    PublicId(user_id): PublicId,
    SessionId(id): SessionId,
) -> Result<Json<Message>, ApiError> {
    let (actor, now) = (caller.actor(&client), state.clock.now());
    let ended = session_ends::end(&state, actor, user_id, Which::One(id), now).await?;
    match ended.ok_or(Code::UserNotFound)? {
        0 => Err(Code::SessionNotFound.into()),
        _ => Ok(Json(Message::new("The session has ended."))),
    }
}
