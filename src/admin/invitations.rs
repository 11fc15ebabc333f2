//! `/admin/invitations`: who is invited to make an account.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::RowId;
use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::invitations::{LIFETIME, is_taken};
use crate::account::letters;
use crate::clock;
use crate::fields::{Email, Name, Role, RoleName};
use crate::http::answer::Message;
use crate::http::body::{JsonBody, QueryString};
use crate::http::cursor;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::{AdminUser, StaffUser};
use crate::limits::{Attempt, INVITE};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::invitations::{self, Invitation, NewInvitation};
use crate::store::keyset::Position;
use crate::store::outbox;

/// Invitations a page, unless asked for otherwise.
const DEFAULT_LIMIT: i64 = 100;
/// Invitations a page at most.
const MAX_LIMIT: i64 = 500;
/// The list's only order.
const ORDER: &str = "-created_at";
/// How long one that is over is listed.
const LISTED_FOR: TimeDelta = TimeDelta::days(30);

/// An invitation as staff and admins see one.
#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
pub struct ShownInvitation {
    public_id: Uuid,
    email: String,
    role: Role,
    first_name: String,
    last_name: String,
    /// The `public_id` of the admin, who may be gone by now.
    invited_by: Uuid,
    #[serde(serialize_with = "clock::rfc3339")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339")]
    expires_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    accepted_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    revoked_at: Option<DateTime<Utc>>,
}

impl From<Invitation> for ShownInvitation {
    fn from(invitation: Invitation) -> Self {
        Self {
            public_id: invitation.id,
            email: invitation.email,
            role: invitation.role,
            first_name: invitation.first_name,
            last_name: invitation.last_name,
            invited_by: invitation.invited_by,
            created_at: invitation.created_at,
            expires_at: invitation.expires_at,
            accepted_at: invitation.accepted_at,
            revoked_at: invitation.revoked_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct InvitationResponse {
    success: bool,
    invitation: ShownInvitation,
}

#[derive(Serialize, ToSchema)]
pub struct InvitationsResponse {
    success: bool,
    invitations: Vec<ShownInvitation>,
    /// The cursor for `after`, where there is a next page.
    #[schema(required = true)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub struct InviteRequest {
    email: Email,
    /// User unless given.
    role: Option<RoleName>,
    first_name: Option<Name>,
    last_name: Option<Name>,
}

impl InviteRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let email = form.required("email", Email::parse);
        let role = form.optional("role", RoleName::parse);
        let first_name = form.optional("first_name", Name::parse);
        let last_name = form.optional("last_name", Name::parse);
        form.finish(|| Some(Self { email: email?, role, first_name, last_name }))
    }
}

/// Invites somebody to make an account: sends a letter whose link is good for 72 hours.
///
/// The account will have this address, verified, and this role, if the admin still is one by then.
/// An address that is invited already is invited anew: the link before it is void.
#[utoipa::path(
    post, path = "/api/v1/admin/invitations", operation_id = "invite", tag = "admin",
    security(("access_token" = []), ("bearer" = [])), request_body = InviteRequest,
    responses((status = 201, description = "Invited.", body = InvitationResponse)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::EmailTaken, Code::RateLimited]))),
)]
pub async fn invite(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<InvitationResponse>), ApiError> {
    let InviteRequest { email, role, first_name, last_name } = InviteRequest::parse(form)?;
    let now = state.clock.now();
    let by_admin = Attempt::on(&INVITE, &caller.user.id.to_string());
    let by_admin = Attempts::refunded_if_dropped([by_admin]);
    let counted =
        attempts::count(&state, [by_admin, letters::invitation_attempts(email.as_str())], now);
    let counted = counted.await?;
    let mut tx = state.db.begin().await?;
    if is_taken(&mut tx, &email).await? {
        return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
    }
    let new = NewInvitation {
        email: &email,
        role: role.map_or(Role::User, |RoleName(role)| role),
        first_name: &first_name.unwrap_or_default(),
        last_name: &last_name.unwrap_or_default(),
        invited_by: caller.user.id,
        expires_at: now + LIFETIME,
        challenge_id: Uuid::now_v7(),
    };
    let invitation = invitations::insert(&mut tx, &new, now).await?;
    outbox::insert(&mut tx, &[letters::invitation(&invitation)], now).await?;
    let event = Event::by(caller.actor(&client), EventKind::Invited);
    let details = json!({ "invitation": invitation.id, "role": invitation.role });
    state.record(&mut tx, event.with(details), now).await?;
    for counted in counted {
        counted.charge_in(&mut tx);
    }
    tx.commit().await?;
    state.mail_queued.notify_one();
    let invitation = invitation.into();
    Ok((StatusCode::CREATED, Json(InvitationResponse { success: true, invitation })))
}

/// Lists invitations, newest first: those that are good, and those that were accepted, taken back
/// or ran out in the last 30 days.
#[utoipa::path(
    get, path = "/api/v1/admin/invitations", operation_id = "list_invitations", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("limit" = Option<i64>, Query, description = "Invitations a page.",
            minimum = 1, maximum = 500, example = 100),
        ("after" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$",
            description = "The `next` of the page before."),
    ),
    responses((status = 200, description = "A page of invitations.", body = InvitationsResponse,
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
    let ListRequest { limit, after, given } = ListRequest::parse(form)?;
    let since = state.clock.now() - LISTED_FOR;
    let reading = state.db.read_many(|db| {
        let after = after.clone();
        Box::pin(async move { invitations::list(db, since, after.as_ref(), limit + 1).await })
    });
    let mut found = reading.await?;
    let next = cursor::cut(&mut found, limit).map(|last| cursor::encode(ORDER, &last.position()));
    let url = format!("{}/api/v1/admin/invitations", state.config.public_url);
    let link = next.as_ref().and_then(|next| cursor::link(&url, &given, next));
    let invitations = found.into_iter().map(ShownInvitation::from).collect();
    let answer = InvitationsResponse { success: true, invitations, next };
    let mut response = Json(answer).into_response();
    response.headers_mut().extend(link.map(|link| (header::LINK, link)));
    Ok(response)
}

/// Takes an invitation back: its link is void.
#[utoipa::path(
    delete, path = "/api/v1/admin/invitations/{public_id}", operation_id = "revoke_invitation",
    tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    responses((status = 200, description = "Taken back.", body = Message)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::InvitationNotFound]))),
)]
pub async fn revoke(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    RowId(id): RowId,
    client: ClientInfo,
) -> Result<Json<Message>, ApiError> {
    let (id, now) = (id.ok_or(Code::InvitationNotFound)?, state.clock.now());
    let mut tx = state.db.begin().await?;
    let revoked = invitations::revoke(&mut tx, id, now).await?.ok_or(Code::InvitationNotFound)?;
    let event = Event::by(caller.actor(&client), EventKind::InvitationRevoked);
    let details = json!({ "invitation": revoked.id, "role": revoked.role });
    state.record(&mut tx, event.with(details), now).await?;
    tx.commit().await?;
    Ok(Json(Message::new("The invitation is taken back.")))
}

struct ListRequest {
    limit: i64,
    after: Option<Position>,
    /// The parameters as they came, for the link to the next page.
    given: Vec<(&'static str, String)>,
}

impl ListRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        form.drop_empty();
        form.refuse_unknown(&["limit", "after"]);
        let given = form.given(&["limit", "after"]);
        let limit = form.optional("limit", |raw| cursor::parse_limit(raw, MAX_LIMIT));
        let after = form.optional("after", |raw| cursor::decode(raw, ORDER, invitations::ORDER));
        form.finish(|| Some(Self { limit: limit.unwrap_or(DEFAULT_LIMIT), after, given }))
    }
}
