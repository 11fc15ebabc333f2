//! `PATCH /users/{public_id}`: an admin changes a user's profile.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::act::Act;
use super::users::PublicId;
use crate::account::attempts::{self, Counted};
use crate::account::client::ClientInfo;
use crate::account::{letters, profile};
use crate::fields::{Email, Name, Username};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::profile_changes::ProfileChanges;
use crate::http::session::{AdminUser, Fresh};
use crate::http::taken::explain_if_taken;
use crate::http::user::ManagedUser;
use crate::state::AppState;
use crate::store::audit::EventKind;
use crate::store::users::{self, User};

/// Only the fields that are given change; any other field is ignored, unless there is no other.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read field by field")]
pub struct EditRequest {
    first_name: Option<Name>,
    last_name: Option<Name>,
    username: Option<Username>,
    /// Replaces an unverified address at once; waits in `pending_email` beside a verified one.
    email: Option<Email>,
}

#[derive(Serialize, ToSchema)]
pub struct EditResponse {
    success: bool,
    user: ManagedUser,
    /// The fields that have another value now.
    updated: Vec<&'static str>,
}

/// Changes the fields that are given, all or nothing.
///
/// A new address is verified by nobody but its reader, to whom a letter goes; one that it is to
/// replace, if that is verified, is told.
#[utoipa::path(
    patch, path = "/api/v1/users/{public_id}", operation_id = "edit_user", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    request_body = EditRequest,
    responses((status = 200, description = "Changed.", body = EditResponse)),
    extensions(("x-codes" = json!([
        Code::StepUpRequired, Code::Forbidden, Code::UserNotFound, Code::UsernameTaken,
        Code::EmailTaken, Code::NotYourself, Code::RateLimited,
    ]))),
)]
pub async fn edit(
    Fresh(AdminUser(caller)): Fresh<AdminUser>,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<Json<EditResponse>, ApiError> {
    let found = state.db.read(|db| Box::pin(users::find(db, id))).await?;
    let seen = found.filter(|user| !user.is_deleted()).ok_or(Code::UserNotFound)?;
    let changes = ProfileChanges::read(&mut form, &seen);
    form.check()?;
    if id == caller.user.id && changes.replace_verified_address(&seen) {
        // Which asks for the password: a stolen session must not be enough.
        let message = "Change your own address at /api/v1/users/me.".to_owned();
        return Err(ApiError { message: Some(message), ..Code::NotYourself.into() });
    }
    let act = Act::new(&state, &caller, &client);
    match write(&act, &seen, &changes).await {
        Ok((user, updated)) => {
            state.mail_queued.notify_one();
            Ok(Json(EditResponse { success: true, user: user.into(), updated }))
        }
        Err(error) => {
            let event = act.event(EventKind::AlreadyTaken, caller.user.id);
            let wanted = changes.wanted(&seen);
            Err(explain_if_taken(&state, error, wanted, event, None, act.now).await?)
        }
    }
}

/// Letters that a change causes, as what they count: the confirmation of a new address, silently;
/// the notice to the verified one that it replaces, of which too many are refused, since the owner
/// has to hear of each.
async fn count(
    act: &Act<'_>,
    seen: &User,
    changes: &ProfileChanges,
) -> Result<(Option<Counted>, Option<Counted>), ApiError> {
    let Some(email) = changes.new_address(seen) else { return Ok((None, None)) };
    let (state, now) = (act.state, act.now);
    let mut notice = None;
    if changes.replace_verified_address(seen) {
        let [counted] =
            attempts::count(state, [letters::notice_attempts(&seen.email)], now).await?;
        notice = Some(counted);
    }
    Ok((letters::count_confirmation_by_admin(state, email, now).await?, notice))
}

async fn write(
    act: &Act<'_>,
    seen: &User,
    changes: &ProfileChanges,
) -> Result<(User, Vec<&'static str>), ApiError> {
    let (state, now) = (act.state, act.now);
    let (letter, notice) = count(act, seen, changes).await?;
    let (mut tx, before) = act.begin_on_present(seen.id).await?;
    let mut user = before.clone();
    let updated = changes.apply(&mut user);
    if updated.is_empty() {
        return Ok((user, updated));
    }
    user.modified_at = now;
    if !profile::update(&mut tx, &before, &user).await? {
        return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
    }
    profile::queue_letters(state, &mut tx, &before, &user, letter, true, now).await?;
    if let Some(notice) = notice.filter(|_| user.pending_email != before.pending_email) {
        notice.charge_in(&mut tx);
    }
    let event = act.event(EventKind::ProfileEdited, user.id);
    state.record(&mut tx, event.with(json!({ "fields": updated })), now).await?;
    state.commit(tx, user.id).await?;
    Ok((user, updated))
}
