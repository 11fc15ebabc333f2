//! `GET /users/`: all users, page by page or as a stream.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::admin::stream;
use crate::fields::{Role, Search, login_key};
use crate::http::body::QueryString;
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::StaffUser;
use crate::http::user::ManagedUser;
use crate::state::AppState;
use crate::store::keyset::Position;
use crate::store::user_list::{self, Filter, SortBy};
use crate::store::users::User;

/// Users a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 100;
/// Users a page at most.
const MAX_LIMIT: i64 = 500;
/// Users that the stream reads at a time.
const STREAM_BATCH: i64 = 500;

#[derive(Serialize, ToSchema)]
pub struct ListResponse {
    success: bool,
    users: Vec<ManagedUser>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
    /// How many users the filters leave in all; with `count=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<i64>,
}

/// Lists users, oldest first unless sorted otherwise.
///
/// Paged by keyset: a page far down costs what the first one does, and users who come and go
/// meanwhile shift nothing. `accept: application/x-ndjson` streams all of them, one JSON object a
/// line. A parameter that is not known is refused, since a filter that is passed over would answer
/// with everybody; an empty one counts as left out.
#[utoipa::path(
    get, path = "/api/v1/users", operation_id = "list_users", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, description = "Users a page.",
            minimum = 1, maximum = 500, example = 100),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$",
            description = "The `next` of the page before."),
        ("q" = Option<String>, Query, max_length = 254,
            description = "Words, each of which is a part of a username, an e-mail address, one that waits to be confirmed, or a name, in any case; or a `public_id`."),
        ("email" = Option<String>, Query, description = "This e-mail address, in any case."),
        ("username" = Option<String>, Query, description = "This username, in any case."),
        ("role" = Option<String>, Query,
            pattern = "^([Uu][Ss][Ee][Rr]|[Ss][Tt][Aa][Ff][Ff]|[Aa][Dd][Mm][Ii][Nn])?$",
            description = "User, Staff or Admin, in any case."),
        ("email_verified" = Option<bool>, Query),
        ("banned" = Option<bool>, Query, description = "Banned at the moment, or not."),
        ("sort" = Option<String>, Query, pattern = "^(-?(created_at|modified_at|username|email))?$",
            description = "created_at (the default), modified_at, username or email; with `-` before it, descending."),
        ("count" = Option<bool>, Query, description = "Count all users that the filters leave."),
    ),
    responses((status = 200, description = "A page of users, or all of them as a stream.",
        headers(("link" = String, description = "The next page, `rel=\"next\"`.")),
        content((ListResponse = "application/json"), (ManagedUser = "application/x-ndjson")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::Forbidden, Code::ValidationFailed,
    ]))),
)]
pub async fn list(
    caller: StaffUser,
    State(state): State<AppState>,
    headers: HeaderMap,
    QueryString(form): QueryString,
) -> Result<Response, ApiError> {
    let request = ListRequest::parse(form)?;
    if stream::is_wanted(&headers) {
        return Ok(all(state, caller, request));
    }

    let (mut found, count) =
        state.db.read_many(|db| Box::pin(read_page(db, request.clone()))).await?;
    let next = cursor::cut(&mut found, request.limit).map(|last| request.cursor(last));
    let url = format!("{}/api/v1/users/", state.config.public_url);
    let link = next.as_ref().and_then(|next| cursor::link(&url, &request.given, next));
    let users = found.into_iter().map(ManagedUser::from).collect();
    let mut response = Json(ListResponse { success: true, users, next, count }).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// A page and one row more, which tells whether there is a next page; and the count.
async fn read_page(
    db: &mut PgConnection,
    request: ListRequest,
) -> sqlx::Result<(Vec<User>, Option<i64>)> {
    let ListRequest { filter, sort, after, limit, count, .. } = request;
    let found = user_list::list(db, &filter, sort, after.as_ref(), limit + 1).await?;
    let count = if count { Some(user_list::count(db, &filter).await?) } else { None };
    Ok((found, count))
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
        form.drop_empty();
        form.refuse_unknown(&PARAMETERS);
        let given = form.given(&PARAMETERS);
        let limit = form.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
        let sort = form.optional("sort", |raw| cursor::parse_sort(raw, &SORTS));
        let sort = sort.unwrap_or((SortBy::CreatedAt, false));
        let filter = Filter {
            search: form.optional("q", Search::parse).flatten(),
            email: form.optional("email", |raw| Ok(login_key(raw))),
            username: form.optional("username", |raw| Ok(login_key(raw))),
            role: form.optional("role", Role::parse),
            email_verified: form.flag("email_verified"),
            banned: form.flag("banned"),
        };
        let request = Self {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            after: form.optional("after", |raw| {
                cursor::decode(raw, &cursor::sort_name(sort, &SORTS), sort.0.column())
            }),
            filter,
            sort,
            count: form.flag("count").unwrap_or(false),
            given,
        };
        form.finish(|| Some(request))
    }

    /// The cursor of the page that follows `last`.
    pub fn cursor(&self, last: &User) -> String {
        cursor::encode(&cursor::sort_name(self.sort, &SORTS), &self.sort.0.position(last))
    }
}

const PARAMETERS: [&str; 10] = [
    "limit",
    "after",
    "q",
    "role",
    "email_verified",
    "banned",
    "email",
    "username",
    "sort",
    "count",
];

const SORTS: [(&str, SortBy); 4] = [
    ("created_at", SortBy::CreatedAt),
    ("modified_at", SortBy::ModifiedAt),
    ("username", SortBy::Username),
    ("email", SortBy::Email),
];

/// Every user that matches, one JSON object a line.
fn all(state: AppState, caller: StaffUser, request: ListRequest) -> Response {
    stream::lines(state, caller, request, |state, mut request: ListRequest| async move {
        let found = state.db.read_many(|db| Box::pin(read_batch(db, request.clone()))).await?;
        let is_last = i64::try_from(found.len()).is_ok_and(|found| found < STREAM_BATCH);
        request.after = found.last().map(|last| request.sort.0.position(last));
        let users: Vec<_> = found.into_iter().map(ManagedUser::from).collect();
        Ok((users, (!is_last).then_some(request)))
    })
}

async fn read_batch(db: &mut PgConnection, request: ListRequest) -> sqlx::Result<Vec<User>> {
    let ListRequest { filter, sort, after, .. } = request;
    user_list::list(db, &filter, sort, after.as_ref(), STREAM_BATCH).await
}
