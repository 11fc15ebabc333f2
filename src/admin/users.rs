//! `/users/{public_id}`: one user, seen by staff, promoted, demoted or deleted by an admin.

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::http::request::Parts;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::act::{Act, Begun};
use crate::account::client::ClientInfo;
use crate::account::deletion;
use crate::fields::{Role, RoleName};
use crate::http::answer::{ManagedUserAnswer, Message, UserMessage};
use crate::http::body::{OptionalJsonBody, QueryString};
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::{AdminUser, StaffUser};
use crate::state::AppState;
use crate::store::audit::EventKind;
use crate::store::users::{self, User};
use crate::store::{purges, standing};

/// The role may come in the body as well as in the query.
#[derive(ToSchema)]
pub struct RoleRequest {
    role: Option<RoleName>,
}

impl RoleRequest {
    /// The role that the query, the body or both of them name.
    fn parse(mut query: Input, mut body: Input) -> Result<Role, ApiError> {
        let in_query = query.optional("role", Role::parse);
        query.check()?;
        let role = if in_query.is_some() {
            body.optional("role", RoleName::parse)
        } else {
            body.required("role", RoleName::parse)
        };
        let Self { role } = body.finish(|| Some(Self { role }))?;
        match (in_query, role.map(|RoleName(role)| role)) {
            (Some(one), Some(other)) if one != other => {
                let message = "The query and the body name different roles.";
                Err(ApiError::invalid_field("role", "ambiguous", message))
            }
            (one, other) => {
                one.or(other).ok_or_else(|| ApiError::internal("a required role is missing"))
            }
        }
    }
}

/// The id in the path; anything but a UUID is no user.
pub struct PublicId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for PublicId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|_| Code::UserNotFound)?;
        let id = path.iter().find(|(name, _)| *name == "public_id");
        let id = id.and_then(|(_, id)| Uuid::try_parse(id).ok());
        id.map(Self).ok_or_else(|| Code::UserNotFound.into())
    }
}

/// Shows a user, also one who has asked for the account to be deleted.
#[utoipa::path(
    get, path = "/api/v1/users/{public_id}", operation_id = "show_user", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    responses((status = 200, description = "The user.", body = ManagedUserAnswer)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::UserNotFound]))),
)]
pub async fn show(
    _: StaffUser,
    State(state): State<AppState>,
    PublicId(id): PublicId,
) -> Result<Json<ManagedUserAnswer>, ApiError> {
    let found = state.db.read(|db| Box::pin(users::find(db, id))).await?;
    let user = found.ok_or(Code::UserNotFound)?;
    Ok(Json(ManagedUserAnswer::new(user)))
}

/// Gives a user a role. A promotion needs a verified address; the last admin stays one.
#[utoipa::path(
    put, path = "/api/v1/users/{public_id}", operation_id = "set_role", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(
        ("public_id" = Uuid, Path),
        ("role" = inline(Option<RoleName>), Query,
            description = "Staff, Admin or User, in any case.", example = "Staff"),
    ),
    request_body = Option<RoleRequest>,
    responses((status = 200, description = "The user has the role.", body = UserMessage)),
    extensions(("x-codes" = json!([
        Code::Forbidden, Code::UserNotFound, Code::EmailNotVerified, Code::LastAdmin,
    ]))),
)]
pub async fn set_role(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    QueryString(query): QueryString,
    client: ClientInfo,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Json<UserMessage>, ApiError> {
    let role = RoleRequest::parse(query, body)?;
    let user = give_role(&Act::new(&state, &caller, &client), id, role).await?;
    let message = format!("{} is {role} now.", user.username);
    Ok(Json(UserMessage::new(message, user)))
}

pub(super) async fn give_role(act: &Act<'_>, id: Uuid, role: Role) -> Result<User, ApiError> {
    let (state, now) = (act.state, act.now);
    let Begun { mut tx, admins, mut user } = act.begin(id).await?;
    if role > user.role && !user.is_email_verified() {
        return Err(Code::EmailNotVerified.into());
    }
    if user.role.is_admin() && !role.is_admin() && admins == [id] {
        return Err(Code::LastAdmin.into());
    }
    if user.role != role {
        users::set_role(&mut tx, id, role, now).await?;
        let details = json!({ "from": user.role, "to": role });
        let event = act.event(EventKind::RoleChanged, id).with(details);
        state.record(&mut tx, event, now).await?;
        (user.role, user.modified_at) = (role, now);
    }
    state.commit(tx, id).await?;
    Ok(user)
}

/// Deletes a user, and every session of theirs: for good, also one whose owner has deleted it and
/// could still take that back. The last admin stays.
#[utoipa::path(
    delete, path = "/api/v1/users/{public_id}", operation_id = "delete_user", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    responses((status = 200, description = "Deleted.", body = Message)),
    extensions(("x-codes" = json!([Code::Forbidden, Code::UserNotFound, Code::LastAdmin]))),
)]
pub async fn delete(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    client: ClientInfo,
) -> Result<Json<Message>, ApiError> {
    remove(&Act::new(&state, &caller, &client), id).await?;
    Ok(Json(Message::new("The user is deleted.")))
}

pub(super) async fn remove(act: &Act<'_>, id: Uuid) -> Result<(), ApiError> {
    let Begun { mut tx, admins, user } = act.begin(id).await?;
    if admins == [id] {
        return Err(Code::LastAdmin.into());
    }
    if user.is_deleted() {
        // By its owner already: what would be removed later is removed now.
        standing::set_purge(&mut tx, id, act.now).await?;
    } else {
        purges::delete_to_addresses(&mut tx, id).await?;
        users::delete(&mut tx, id).await?;
    }
    let event = act.event(EventKind::UserDeleted, id).with(json!({ "role": user.role }));
    act.state.record(&mut tx, event, act.now).await?;
    act.state.commit(tx, id).await?;
    if user.is_deleted() {
        deletion::purge(act.state, id).await;
    }
    Ok(())
}
