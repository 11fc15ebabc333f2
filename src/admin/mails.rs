//! `/admin/mails`: what has become of letters, and another try.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::RowId;
use super::words::{one_of, schema_of};
use crate::account::client::ClientInfo;
use crate::clock;
use crate::fields::parse_uuid;
use crate::http::answer::Message;
use crate::http::body::QueryString;
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::{AdminUser, StaffUser};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::keyset::Position;
use crate::store::letter_list::{self, Filter, LetterState, ListedLetter};
use crate::store::outbox::{self, LetterKind};

/// Letters a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 100;
/// Letters a page at most.
const MAX_LIMIT: i64 = 500;
/// The list's only order.
const ORDER: &str = "-created_at";

struct StateName;

impl PartialSchema for StateName {
    fn schema() -> RefOr<Schema> {
        schema_of(LetterState::ALL.map(LetterState::as_str))
    }
}

impl ToSchema for StateName {}

struct KindName;

impl PartialSchema for KindName {
    fn schema() -> RefOr<Schema> {
        schema_of(LetterKind::ALL.map(LetterKind::as_str))
    }
}

impl ToSchema for KindName {}

#[derive(Serialize, ToSchema)]
pub struct MailsResponse {
    success: bool,
    mails: Vec<Mail>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
}

/// A letter, without its words and its link.
#[derive(Serialize, ToSchema)]
pub struct Mail {
    id: Uuid,
    kind: String,
    recipient: String,
    #[schema(inline, value_type = StateName)]
    state: &'static str,
    /// How often it was tried to send it.
    attempts: i32,
    /// Why it was not sent, the last time that it was tried.
    #[schema(required = true)]
    last_error: Option<String>,
    /// When it was queued.
    #[serde(serialize_with = "clock::rfc3339")]
    at: DateTime<Utc>,
}

impl From<ListedLetter> for Mail {
    fn from(letter: ListedLetter) -> Self {
        Self {
            id: letter.id,
            state: letter.state().as_str(),
            kind: letter.kind,
            recipient: letter.recipient,
            attempts: letter.attempts,
            last_error: letter.last_error,
            at: letter.created_at,
        }
    }
}

/// Lists letters, newest first: those that wait or were given up, and those of the last 30 days.
///
/// A parameter that is not known is refused; an empty one counts as left out.
#[utoipa::path(
    get, path = "/api/v1/admin/mails", operation_id = "list_mails", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("state" = inline(Option<StateName>), Query, description = "What has become of them."),
        ("kind" = inline(Option<KindName>), Query, description = "Of this kind."),
        ("user_id" = Option<String>, Query, pattern = "^[0-9A-Fa-f-]*$",
            description = "About this user: a `public_id`."),
        ("limit" = Option<i64>, Query, description = "Letters a page.",
            minimum = 1, maximum = 500, example = 100),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$",
            description = "The `next` of the page before."),
    ),
    responses((status = 200, description = "A page of letters.", body = MailsResponse,
        headers(("link" = String, description = "The next page, `rel=\"next\"`.")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::Forbidden, Code::ValidationFailed,
    ]))),
)]
pub async fn list(
    _: StaffUser,
    State(state): State<AppState>,
    QueryString(form): QueryString,
) -> Result<Response, ApiError> {
    let request = MailsRequest::parse(form)?;
    let reading = state.db.read_many(|db| {
        let MailsRequest { filter, after, limit, .. } = request.clone();
        Box::pin(async move { letter_list::list(db, &filter, after.as_ref(), limit + 1).await })
    });
    let mut found = reading.await?;
    let next =
        cursor::cut(&mut found, request.limit).map(|last| cursor::encode(ORDER, &last.position()));
    let url = format!("{}/api/v1/admin/mails", state.config.public_url);
    let link = next.as_ref().and_then(|next| cursor::link(&url, &request.given, next));
    let mails = found.into_iter().map(Mail::from).collect();
    let mut response = Json(MailsResponse { success: true, mails, next }).into_response();
    response.headers_mut().extend(link.map(|link| (header::LINK, link)));
    Ok(response)
}

/// Tries once more, at once, to send a letter that waits or was given up.
///
/// It is sent as it would be written now: one whose link has run out meanwhile is not. One that may
/// be on its way at this moment, or is due within two minutes, is left as it is.
#[utoipa::path(
    post, path = "/api/v1/admin/mails/{public_id}/retry", operation_id = "retry_mail", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path, description = "The `id` of the letter.")),
    responses((status = 202, description = "It is due.", body = Message)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::NotFound]))),
)]
pub async fn retry(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    RowId(id): RowId,
    client: ClientInfo,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let nothing = || ApiError {
        message: Some("No letter with this id waits or was given up.".to_owned()),
        ..Code::NotFound.into()
    };
    let (id, now) = (id.ok_or_else(nothing)?, state.clock.now());
    let mut tx = state.db.begin().await?;
    let retried = outbox::set_due(&mut tx, id, now).await?.ok_or_else(nothing)?;
    let event = Event::by(caller.actor(&client), EventKind::LetterRetried);
    let event = event.with(json!({ "letter": id, "kind": retried.kind }));
    let event = retried.user_id.into_iter().fold(event, Event::on);
    state.record(&mut tx, event, now).await?;
    tx.commit().await?;
    state.mail_queued.notify_one();
    Ok((StatusCode::ACCEPTED, Json(Message::new("The letter is sent as soon as it can be."))))
}

#[derive(Clone, Debug)]
struct MailsRequest {
    filter: Filter,
    limit: i64,
    after: Option<Position>,
    /// The filters as they came, for the link to the next page.
    given: Vec<(&'static str, String)>,
}

impl MailsRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        form.drop_empty();
        form.refuse_unknown(&PARAMETERS);
        let given = form.given(&PARAMETERS);
        let limit = form.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
        let filter = Filter {
            state: form
                .optional("state", |raw| one_of(&LetterState::ALL, LetterState::as_str, raw)),
            kind: form.optional("kind", |raw| one_of(&LetterKind::ALL, LetterKind::as_str, raw)),
            user_id: form.optional("user_id", parse_uuid),
        };
        let after = form.optional("after", |raw| cursor::decode(raw, ORDER, letter_list::ORDER));
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        form.finish(|| Some(Self { filter, limit, after, given }))
    }
}

const PARAMETERS: [&str; 5] = ["state", "kind", "user_id", "limit", "after"];
