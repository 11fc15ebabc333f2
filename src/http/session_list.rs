//! A user's sessions as their owner, staff and admins see them, and what ending them answers.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock;
use crate::fields::FieldError;
use crate::fields::device::device;
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::state::AppState;
use crate::store::session_list::{self, ListedSession};

/// Sessions a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 50;
/// Sessions a page at most.
const MAX_LIMIT: i64 = 100;

/// A session that is active.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct PublicSession {
    /// The `sid` of its tokens.
    public_id: Uuid,
    /// Whether it is the one that asks.
    current: bool,
    /// The program and the system, as far as the user agent of the login tells.
    #[schema(example = "Firefox on Windows")]
    device: String,
    /// Where its login came from. Staff do not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    ip: Option<IpAddr>,
    #[serde(serialize_with = "clock::rfc3339")]
    created_at: DateTime<Utc>,
    /// The last refresh, or else the login.
    #[serde(serialize_with = "clock::rfc3339")]
    last_used_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339")]
    expires_at: DateTime<Utc>,
    /// How its user has proven who they are (RFC 8176).
    amr: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub struct SessionsResponse {
    success: bool,
    /// The newest login first.
    sessions: Vec<PublicSession>,
    /// For `after`, where there may be another page; one may have fewer sessions than `limit`.
    #[schema(required = true)]
    next: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
pub struct SessionsEnded {
    success: bool,
    /// How many.
    ended: u64,
}

impl SessionsEnded {
    pub fn new(ended: u64) -> Self {
        Self { success: true, ended }
    }
}

/// The session in the path; anything but a UUID is none.
pub struct SessionId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for SessionId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|_| Code::SessionNotFound)?;
        let id = path.iter().find(|(name, _)| *name == "session_id");
        let id = id.and_then(|(_, id)| Uuid::try_parse(id).ok());
        id.map(Self).ok_or_else(|| Code::SessionNotFound.into())
    }
}

/// Whose sessions are shown, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub user_id: Uuid,
    /// The session that asks.
    pub current: Uuid,
    pub with_addresses: bool,
}

/// Answers a page of sessions, as the query asks for it.
pub async fn page(
    state: &AppState,
    shown: Shown,
    mut query: Input,
) -> Result<Json<SessionsResponse>, ApiError> {
    query.drop_empty();
    query.refuse_unknown(&["limit", "after"]);
    let limit = query.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
    let limit = usize::try_from(limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or_default();
    let after = query.optional("after", |raw| {
        let wrong = |_| FieldError::new("invalid_cursor", "Use the next of the page before.");
        Uuid::try_parse(raw).map_err(wrong)
    });
    query.check()?;
    let (id, now) = (shown.user_id, state.clock.now());
    let reading = state.db.read(|db| Box::pin(session_list::list(db, id, after, limit, now)));
    let (sessions, next) = reading.await?;
    let sessions = sessions.into_iter().map(|session| public(session, shown)).collect();
    Ok(Json(SessionsResponse { success: true, sessions, next }))
}

fn public(session: ListedSession, shown: Shown) -> PublicSession {
    PublicSession {
        public_id: session.id,
        current: session.id == shown.current,
        device: device(session.user_agent.as_deref()),
        ip: session.ip.filter(|_| shown.with_addresses),
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
        amr: session.amr,
    }
}
