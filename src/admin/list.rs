//! `GET /users/`: all users, page by page or as a stream.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::fields::{FieldError, Role, RoleName};
use crate::http::body::QueryString;
use crate::http::error::ApiError;
use crate::http::input::Input;
use crate::http::session::AdminUser;
use crate::http::user::PublicUser;
use crate::state::AppState;
use crate::store::db::Conn;
use crate::store::users::{self, Filter, Position, SortBy, User};

/// Users a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 100;
/// Users a page at most.
const MAX_LIMIT: i64 = 500;
/// Users that the stream reads at a time.
const STREAM_BATCH: i64 = 500;

#[derive(Serialize, ToSchema)]
pub struct ListResponse {
    success: bool,
    users: Vec<PublicUser>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
    /// How many users the filters leave in all; with `count=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<i64>,
}

/// Lists users, oldest first unless sorted otherwise.
///
/// Paged by keyset: a page far down costs what the first one does, and users who come and go meanwhile shift
/// nothing. `accept: application/x-ndjson` streams all of them, one JSON object a line.
#[utoipa::path(
    get, path = "/api/v1/users", operation_id = "list_users", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, description = "Users a page.", minimum = 1, maximum = 500, example = 100),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]+$", description = "The `next` of the page before."),
        ("q" = Option<String>, Query, max_length = 254,
            description = "Part of a username, an e-mail address or a name, in any case."),
        ("role" = inline(Option<RoleName>), Query, description = "User, Staff or Admin, in any case."),
        ("email_verified" = Option<bool>, Query),
        ("sort" = Option<String>, Query, pattern = "^-?(created_at|modified_at|username|email)$",
            description = "created_at (the default), modified_at, username or email; with `-` before it, descending."),
        ("count" = Option<bool>, Query, description = "Count all users that the filters leave."),
    ),
    responses((status = 200, description = "A page of users, or all of them as a stream.",
        headers(("link" = String, description = "The next page, `rel=\"next\"`.")),
        content((ListResponse = "application/json"), (PublicUser = "application/x-ndjson")))),
    extensions(("x-codes" = json!(["malformed_request", "forbidden", "validation_failed"]))),
)]
pub async fn list(
    caller: AdminUser,
    State(state): State<AppState>,
    headers: HeaderMap,
    QueryString(form): QueryString,
) -> Result<Response, ApiError> {
    let request = ListRequest::parse(form)?;
    let wants_stream = headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains("application/x-ndjson"))
    });
    if wants_stream {
        return Ok(all(state, caller, request));
    }

    let (filter, after) = (&request.filter, request.after.as_ref());
    let (sort, limit, counts) = (request.sort, request.limit, request.count);
    let page = |mut db: Conn| async move {
        // One more than asked for tells whether there is a next page.
        let found = users::list(&mut db, filter, sort, after, limit + 1).await?;
        let count = if counts { Some(users::count(&mut db, filter).await?) } else { None };
        db.done(Ok((found, count)))
    };
    let (mut found, count) = state.db.read_many(page).await?;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let next = if found.len() > limit {
        found.truncate(limit);
        found.last().map(|last| request.cursor(last))
    } else {
        None
    };
    let link = next.as_ref().map(|next| request.link(&state.config.public_url, next));
    let users = found.into_iter().map(PublicUser::from).collect();
    let mut response = Json(ListResponse { success: true, users, next, count }).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

#[derive(Clone, Debug)]
pub struct ListRequest {
    pub limit: i64,
    pub after: Option<Position>,
    pub filter: Filter,
    pub sort: (SortBy, bool),
    count: bool,
    /// The filters as they came, for the link to the next page.
    given: Vec<(&'static str, String)>,
}

impl ListRequest {
    pub fn parse(mut form: Input) -> Result<Self, ApiError> {
        let mut given = Vec::new();
        for name in ["limit", "q", "role", "email_verified", "sort", "count"] {
            if let Some(value) = form.optional(name, |raw| Ok(raw.to_owned())) {
                given.push((name, value));
            }
        }
        let limit = form.optional("limit", |raw| {
            raw.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
                FieldError::new(
                    "out_of_range",
                    format!("Use a whole number from 1 to {MAX_LIMIT}."),
                )
            })
        });
        let sort = form.optional("sort", parse_sort).unwrap_or((SortBy::CreatedAt, false));
        let filter = Filter {
            search: form.optional("q", |raw| match raw.chars().count() {
                0..=254 => Ok(raw.to_owned()),
                _ => Err(FieldError::new("too_long", "Use at most 254 characters.")),
            }),
            role: form.optional("role", Role::parse),
            email_verified: form.flag("email_verified"),
        };
        let request = Self {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            after: form.optional("after", |raw| parse_cursor(raw, sort)),
            filter,
            sort,
            count: form.flag("count").unwrap_or(false),
            given,
        };
        form.finish(|| Some(request))
    }

    /// The cursor of the page that follows `last`.
    pub fn cursor(&self, last: &User) -> String {
        let (sort_by, descending) = self.sort;
        let parts = (sort_name(sort_by, descending), sort_by.value(last), last.id);
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).expect("strings and a UUID are JSON"))
    }

    /// RFC 8288.
    fn link(&self, public_url: &str, next: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let given = self.given.iter().map(|(name, value)| (*name, value.as_str()));
        query.extend_pairs(given).append_pair("after", next);
        format!("<{public_url}/api/v1/users/?{}>; rel=\"next\"", query.finish())
    }
}

const SORTS: [(&str, SortBy); 4] = [
    ("created_at", SortBy::CreatedAt),
    ("modified_at", SortBy::ModifiedAt),
    ("username", SortBy::Username),
    ("email", SortBy::Email),
];

fn parse_sort(raw: &str) -> Result<(SortBy, bool), FieldError> {
    let (name, descending) = raw.strip_prefix('-').map_or((raw, false), |name| (name, true));
    let sort =
        SORTS.iter().find(|(known, _)| *known == name).map(|(_, sort_by)| (*sort_by, descending));
    sort.ok_or_else(|| {
        FieldError::new(
            "invalid_choice",
            "Use created_at, modified_at, username or email, with - for descending.",
        )
    })
}

fn sort_name(sort_by: SortBy, descending: bool) -> String {
    let name = SORTS.iter().find(|(_, known)| *known == sort_by).map_or("", |(name, _)| name);
    format!("{}{name}", if descending { "-" } else { "" })
}

/// A cursor is valid only for its own sort order.
fn parse_cursor(raw: &str, sort: (SortBy, bool)) -> Result<Position, FieldError> {
    let invalid = || {
        FieldError::new("invalid_cursor", "Use the next of the page before, with the same sort.")
    };
    let json = URL_SAFE_NO_PAD.decode(raw).map_err(|_| invalid())?;
    let (name, value, id): (String, String, Uuid) =
        serde_json::from_slice(&json).map_err(|_| invalid())?;
    let position = Position { value, id };
    if name != sort_name(sort.0, sort.1) || !position.fits(sort.0) {
        return Err(invalid());
    }
    Ok(position)
}

/// Every user that matches, one JSON object a line. Each batch is a query of its own, so that a slow reader holds
/// neither memory nor a connection; before each it is checked that the caller still is an admin.
fn all(state: AppState, caller: AdminUser, request: ListRequest) -> Response {
    let start = Some((state, caller, request));
    let batches = stream::try_unfold(start, async |position| {
        let Some((state, caller, mut request)) = position else { return Ok(None) };
        if !caller.is_still_admin(&state).await? {
            return Err(BoxError::from("the reader is an admin no more"));
        }
        let (filter, after) = (&request.filter, request.after.as_ref());
        let sort = request.sort;
        let batch = |mut db: Conn| async move {
            let found = users::list(&mut db, filter, sort, after, STREAM_BATCH).await;
            db.done(found)
        };
        let found = state.db.read_many(batch).await?;
        let is_last = i64::try_from(found.len()).is_ok_and(|found| found < STREAM_BATCH);
        request.after =
            found.last().map(|last| Position { value: request.sort.0.value(last), id: last.id });
        let mut lines = Vec::new();
        for user in found {
            serde_json::to_writer(&mut lines, &PublicUser::from(user))?;
            lines.push(b'\n');
        }
        let next = if is_last { None } else { Some((state, caller, request)) };
        Ok(Some((Bytes::from(lines), next)))
    });
    let media_type = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, media_type)], Body::from_stream(batches)).into_response()
}
