//! `GET /admin/audit`: what happened, page by page or as a stream.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::stream;
use super::words::{one_of, schema_of};
use crate::account::client::ClientInfo;
use crate::clock;
use crate::fields::{FieldError, Instant, parse_uuid};
use crate::http::body::QueryString;
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::StaffUser;
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::audit_list::{self, Entry, Filter};

/// Events a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 100;
/// Events a page at most, and that the stream reads at a time.
const MAX_LIMIT: i64 = 500;
/// The longest id of a request that is kept.
const MAX_REQUEST_ID_CHARS: usize = 128;

/// The name of an event.
struct EventName;

impl PartialSchema for EventName {
    fn schema() -> RefOr<Schema> {
        schema_of(EventKind::ALL.iter().map(|kind| kind.as_str()))
    }
}

impl ToSchema for EventName {}

#[derive(Serialize, ToSchema)]
pub struct AuditResponse {
    success: bool,
    events: Vec<AuditEvent>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
pub struct AuditEvent {
    id: i64,
    #[serde(serialize_with = "clock::rfc3339")]
    at: DateTime<Utc>,
    #[schema(value_type = EventName)]
    event: String,
    /// Whom it happened to.
    #[schema(required = true)]
    user_id: Option<Uuid>,
    /// Who did it.
    #[schema(required = true)]
    actor_id: Option<Uuid>,
    #[schema(required = true)]
    session_id: Option<Uuid>,
    /// For admins; null to staff.
    #[schema(required = true, value_type = Option<String>)]
    ip: Option<IpAddr>,
    /// For admins; null to staff.
    #[schema(required = true)]
    user_agent: Option<String>,
    /// The client's own where it sent one, so no two need be different.
    #[schema(required = true)]
    request_id: Option<String>,
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    details: Value,
    /// How many there were, of those that are counted.
    count: i32,
}

impl AuditEvent {
    /// What a reader may see of it: addresses are for admins.
    fn shown(entry: Entry, to_admin: bool) -> Self {
        let mut details = entry.details;
        if let Some(details) = details.as_object_mut().filter(|_| !to_admin) {
            details.remove("refreshed_from");
        }
        Self {
            id: entry.id,
            at: entry.at,
            event: entry.event,
            user_id: entry.user_id,
            actor_id: entry.actor_id,
            session_id: entry.session_id,
            ip: entry.ip.map(|ip| ip.ip()).filter(|_| to_admin),
            user_agent: entry.user_agent.filter(|_| to_admin),
            request_id: entry.request_id,
            details,
            count: entry.count,
        }
    }
}

/// Lists what happened, newest first unless sorted otherwise.
///
/// Paged by keyset: a page far down costs what the first one does. `accept: application/x-ndjson`
/// streams all of it, one JSON object a line. A parameter that is not known is refused; an empty
/// one counts as left out. Staff see no addresses and no user agents, and search for none. That the
/// log was read is written down as well: `audit_read`, once an hour for each reader and address.
#[utoipa::path(
    get, path = "/api/v1/admin/audit", operation_id = "list_audit", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("event" = inline(Option<EventName>), Query, description = "Of this kind."),
        ("user_id" = Option<String>, Query, pattern = "^[0-9A-Fa-f-]*$",
            description = "Whom it happened to: a `public_id`."),
        ("actor_id" = Option<String>, Query, pattern = "^[0-9A-Fa-f-]*$",
            description = "Who did it: a `public_id`."),
        ("ip" = Option<String>, Query, example = "203.0.113.7",
            description = "From this address. For admins."),
        ("since" = Option<DateTime<Utc>>, Query, description = "From this instant on."),
        ("until" = Option<DateTime<Utc>>, Query, description = "Before this instant."),
        ("request_id" = Option<String>, Query, max_length = 128,
            description = "Of this request."),
        ("limit" = Option<i64>, Query, description = "Events a page.",
            minimum = 1, maximum = 500, example = 100),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$",
            description = "The `next` of the page before."),
        ("sort" = Option<String>, Query, pattern = "^(-?id)?$",
            description = "`-id`, newest first (the default), or `id`."),
    ),
    responses((status = 200, description = "A page of events, or all of them as a stream.",
        headers(("link" = String, description = "The next page, `rel=\"next\"`.")),
        content((AuditResponse = "application/json"), (AuditEvent = "application/x-ndjson")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::Forbidden, Code::ValidationFailed,
    ]))),
)]
pub async fn list(
    caller: StaffUser,
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    QueryString(form): QueryString,
) -> Result<Response, ApiError> {
    let request = AuditRequest::parse(form)?;
    let to_admin = caller.0.user.role.is_admin();
    if request.filter.ip.is_some() && !to_admin {
        let message = "Addresses are for admins: leave out ip.".to_owned();
        return Err(ApiError { message: Some(message), ..Code::Forbidden.into() });
    }
    record_read(&state, &caller, &client).await?;
    let shown = move |entry| AuditEvent::shown(entry, to_admin);
    if stream::is_wanted(&headers) {
        return Ok(stream::lines(state, caller, request, move |state, request| {
            let mut request: AuditRequest = request;
            async move {
                let found = read(&state, &request, MAX_LIMIT).await?;
                let is_last = i64::try_from(found.len()).is_ok_and(|found| found < MAX_LIMIT);
                request.after = found.last().map(|last| last.id);
                Ok((found.into_iter().map(shown).collect(), (!is_last).then_some(request)))
            }
        }));
    }
    let mut found = read(&state, &request, request.limit + 1).await?;
    let next = cursor::cut(&mut found, request.limit).map(|last| request.cursor(last.id));
    let url = format!("{}/api/v1/admin/audit", state.config.public_url);
    let link = next.as_ref().and_then(|next| cursor::link(&url, &request.given, next));
    let events = found.into_iter().map(shown).collect();
    let mut response = Json(AuditResponse { success: true, events, next }).into_response();
    response.headers_mut().extend(link.map(|link| (header::LINK, link)));
    Ok(response)
}

/// Before anything is shown.
async fn record_read(
    state: &AppState,
    caller: &StaffUser,
    client: &ClientInfo,
) -> sqlx::Result<()> {
    let actor = caller.0.actor(client);
    let event = Event::by(actor, EventKind::AuditRead).on(actor.user_id);
    let mut tx = state.db.begin().await?;
    state.record(&mut tx, event, state.clock.now()).await?;
    tx.commit().await
}

async fn read(state: &AppState, request: &AuditRequest, limit: i64) -> sqlx::Result<Vec<Entry>> {
    let reading = state.db.read_many(|db| {
        let AuditRequest { filter, descending, after, .. } = request.clone();
        Box::pin(async move { audit_list::list(db, &filter, descending, after, limit).await })
    });
    reading.await
}

#[derive(Clone, Debug)]
struct AuditRequest {
    filter: Filter,
    limit: i64,
    after: Option<i64>,
    descending: bool,
    /// The filters as they came, for the link to the next page.
    given: Vec<(&'static str, String)>,
}

impl AuditRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        form.drop_empty();
        form.refuse_unknown(&PARAMETERS);
        let given = form.given(&PARAMETERS);
        let limit = form.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
        let descending = form.optional("sort", parse_sort).unwrap_or(true);
        let filter = Filter {
            event: form.optional("event", parse_event),
            user_id: form.optional("user_id", parse_uuid),
            actor_id: form.optional("actor_id", parse_uuid),
            ip: form.optional("ip", parse_ip),
            request_id: form.optional("request_id", parse_request_id),
            since: form.optional("since", Instant::parse).map(Instant::get),
            until: form.optional("until", Instant::parse).map(Instant::get),
        };
        let after = form.optional("after", |raw| cursor::decode_number(raw, sort_name(descending)));
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        form.finish(|| Some(Self { filter, limit, after, descending, given }))
    }

    fn cursor(&self, last: i64) -> String {
        cursor::encode_number(sort_name(self.descending), last)
    }
}

const PARAMETERS: [&str; 10] = [
    "event",
    "user_id",
    "actor_id",
    "ip",
    "since",
    "until",
    "request_id",
    "limit",
    "after",
    "sort",
];

fn sort_name(descending: bool) -> &'static str {
    if descending { "-id" } else { "id" }
}

/// Whether the newest comes first.
fn parse_sort(raw: &str) -> Result<bool, FieldError> {
    match raw {
        "-id" => Ok(true),
        "id" => Ok(false),
        _ => Err(FieldError::new("invalid_choice", "Use -id, newest first, or id.")),
    }
}

fn parse_event(raw: &str) -> Result<EventKind, FieldError> {
    one_of(EventKind::ALL, EventKind::as_str, raw)
}

fn parse_ip(raw: &str) -> Result<IpAddr, FieldError> {
    let text = "Use one address, such as 203.0.113.7 or 2001:db8::1.";
    let read = raw.trim().parse::<IpAddr>();
    read.map(|ip| ip.to_canonical()).map_err(|_| FieldError::new("invalid_format", text))
}

fn parse_request_id(raw: &str) -> Result<String, FieldError> {
    let is_kept = raw.chars().count() <= MAX_REQUEST_ID_CHARS;
    is_kept.then(|| raw.to_owned()).ok_or_else(|| FieldError::too_long(MAX_REQUEST_ID_CHARS))
}
