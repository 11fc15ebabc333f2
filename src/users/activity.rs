//! `GET /users/me/activity`: what was done with the caller's account.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock;
use crate::fields::FieldError;
use crate::fields::device::device;
use crate::http::body::QueryString;
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::activity::{self, Activity};

/// Events a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 50;
/// Events a page at most.
const MAX_LIMIT: i64 = 200;

/// Something that happened to an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ActivityEvent)]
pub struct ActivityEvent {
    id: i64,
    #[serde(serialize_with = "clock::rfc3339")]
    at: DateTime<Utc>,
    event: String,
    /// Null where staff or the service acted, as of what follows.
    #[schema(required = true)]
    session_id: Option<Uuid>,
    #[schema(required = true, value_type = Option<String>)]
    ip: Option<IpAddr>,
    /// `Firefox on Windows`.
    #[schema(required = true)]
    device: Option<String>,
    /// `you`, `staff` or `system`.
    by: String,
    /// What there is to say beside, such as `from` and `to` of a role; `count` of several that are
    /// told as one.
    #[schema(value_type = Object)]
    details: Value,
}

impl From<Activity> for ActivityEvent {
    fn from(activity: Activity) -> Self {
        let Activity { id, at, event, session_id, ip, user_agent, by, details } = activity;
        let device = user_agent.as_deref().map(|agent| device(Some(agent)));
        Self { id, at, event, session_id, ip, device, by, details }
    }
}

impl ActivityEvent {
    /// Why somebody was banned staff have written for each other: it is in the export alone.
    fn without_reason(mut self) -> Self {
        if let Some(details) = self.details.as_object_mut() {
            details.remove("reason");
        }
        self
    }
}

#[derive(Serialize, ToSchema)]
pub struct ActivityResponse {
    success: bool,
    events: Vec<ActivityEvent>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
}

struct ActivityRequest {
    limit: i64,
    after: Option<i64>,
}

impl ActivityRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        form.drop_empty();
        form.refuse_unknown(&["limit", "after"]);
        let limit = form.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
        let after = form.optional("after", |raw| {
            let known = raw.parse().ok().filter(|id: &i64| *id > 0);
            known.ok_or_else(|| {
                FieldError::new("invalid_cursor", "Use the next of the page before.")
            })
        });
        form.finish(|| Some(Self { limit: limit.unwrap_or(DEFAULT_LIMIT), after }))
    }
}

/// Lists what was done with the caller's account, newest first.
///
/// By the caller, by staff, who are not named, or by the service. Events older than the service keeps
/// them are not there.
#[utoipa::path(
    get, path = "/api/v1/users/me/activity", operation_id = "list_activity", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, description = "Events a page.",
            minimum = 1, maximum = 200, example = 50),
        ("after" = Option<String>, Query, pattern = "^[0-9]*$",
            description = "The `next` of the page before."),
    ),
    responses((status = 200, description = "A page of events.", body = ActivityResponse)),
    extensions(("x-codes" = json!([Code::ValidationFailed]))),
)]
pub async fn list(
    State(state): State<AppState>,
    caller: CurrentUser,
    QueryString(form): QueryString,
) -> Result<Json<ActivityResponse>, ApiError> {
    let ActivityRequest { limit, after } = ActivityRequest::parse(form)?;
    let id = caller.user.id;
    let reading = state.db.read(|db| Box::pin(activity::list(db, id, after, limit + 1)));
    let mut found = reading.await?;
    let next = cursor::cut(&mut found, limit).map(|last| last.id.to_string());
    let events = found.into_iter().map(|row| ActivityEvent::from(row).without_reason()).collect();
    Ok(Json(ActivityResponse { success: true, events, next }))
}
