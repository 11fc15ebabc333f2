//! `PUT` and `PATCH /users/me`: users change their own data.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::account::password::{self, attempts_to_prove};
use crate::account::{letters, profile, sessions};
use crate::fields::{Email, FieldError, Name, Password, Username};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::profile_changes::ProfileChanges;
use crate::http::session::CurrentUser;
use crate::http::taken::explain_if_taken;
use crate::http::user::PublicUser;
use crate::limits::{Attempt, PROFILE};
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::users::User;

/// Only the fields that are given change; any other field is ignored, unless there is no other.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read field by field")]
pub struct UpdateRequest {
    first_name: Option<Name>,
    last_name: Option<Name>,
    username: Option<Username>,
    /// Replaces an unverified address at once; waits in `pending_email` beside a verified one.
    email: Option<Email>,
    /// The present password: needed to change a verified address.
    password: Option<Password>,
}

#[derive(Serialize, ToSchema)]
pub struct UpdateResponse {
    success: bool,
    user: PublicUser,
    /// The fields that have another value now.
    updated: Vec<&'static str>,
    /// Where another address is to be confirmed: to be sent to `/confirm` along with the code in
    /// the letter, which is good for 60 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    challenge: Option<String>,
}

/// Changes the fields that are given, all or nothing.
#[utoipa::path(
    put, path = "/api/v1/users/me", operation_id = "update_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!([
        Code::WrongPassword, Code::UsernameTaken, Code::EmailTaken, Code::RateLimited,
    ]))),
)]
pub async fn update(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<Json<UpdateResponse>, ApiError> {
    let changes = ProfileChanges::read(&mut form, &caller.user);
    let password = form.optional("password", |raw| Ok(Password::claimed(raw)));
    let needs_proof = changes.replace_verified_address(&caller.user);
    let password = password.filter(|_| needs_proof);
    if needs_proof && password.is_none() {
        form.refuse("password", password_required());
    }
    form.check()?;
    let actor = caller.actor(&client);
    let call =
        Call { state: &state, caller: &caller, client: &client, actor, now: state.clock.now() };
    let (counted, proof) = prove(&call, password).await?;
    let mut counted = Some(counted);
    let mut written = write(&call, &changes, &mut counted, proof).await;
    if let Some(counted) = counted {
        written = counted.settle(written);
    }
    let Written { user, updated, challenge } = match written {
        Ok(written) => written,
        Err(error) => return Err(explain(&call, &changes, error).await?),
    };
    state.mail_queued.notify_one();
    Ok(Json(UpdateResponse { success: true, user: user.into(), updated, challenge }))
}

/// The same as PUT.
#[utoipa::path(
    patch, path = "/api/v1/users/me", operation_id = "patch_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!([
        Code::WrongPassword, Code::UsernameTaken, Code::EmailTaken, Code::RateLimited,
    ]))),
)]
pub async fn patch(
    state: State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    body: JsonBody,
) -> Result<Json<UpdateResponse>, ApiError> {
    update(state, caller, client, body).await
}

/// A change that is asked for, by whom and when.
struct Call<'a> {
    state: &'a AppState,
    caller: &'a CurrentUser,
    client: &'a ClientInfo,
    actor: Actor,
    now: DateTime<Utc>,
}

/// A right password, and the notice to the old address that follows.
struct ProvenChange {
    password: Counted,
    notice: Counted,
}

/// Counts the change. Where a verified address is to be replaced, checks the password too, and
/// counts the notice to the old address: one is sent for each change, up to a limit, so that a
/// thief of the session cannot flood the owner.
async fn prove(
    call: &Call<'_>,
    password: Option<Password>,
) -> Result<(Counted, Option<ProvenChange>), ApiError> {
    let Call { state, caller: CurrentUser { user, .. }, client, actor, now } = *call;
    let change = Attempts::charged_if_dropped([Attempt::on(&PROFILE, &user.id.to_string())]);
    let Some(password) = password else {
        let [counted] = attempts::count(state, [change], now).await?;
        return Ok((counted, None));
    };
    let groups = [change, attempts_to_prove(actor), letters::notice_attempts(&user.email)];
    let [counted, guess, notice] = attempts::count(state, groups, now).await?;
    let hash = &user.password_hash;
    match password::prove(state, actor, &password, hash, client, guess).await {
        Ok(password) => Ok((counted, Some(ProvenChange { password, notice }))),
        Err(error) => counted.settle(Err(error)).map_err(ApiError::from),
    }
}

/// What was written.
struct Written {
    /// As they are now.
    user: User,
    /// The fields that have another value.
    updated: Vec<&'static str>,
    /// The handle for the code in the letter to a new address.
    challenge: Option<String>,
}

/// Writes the changes and queues the letters that they cause; in the same transaction what was
/// counted for changes or notices that there are none of is refunded, and the right password.
async fn write(
    call: &Call<'_>,
    changes: &ProfileChanges,
    counted: &mut Option<Counted>,
    proof: Option<ProvenChange>,
) -> Result<Written, ApiError> {
    let Call { state, caller, client, actor, now } = *call;
    let letter = match changes.new_address(&caller.user) {
        Some(email) => letters::count_silently(state, email, client, now).await?,
        None => None,
    };
    let mut tx = state.db.begin_for(caller.user.id).await?;
    let before = sessions::lock_caller(&mut tx, actor.user_id, actor.session_id, now).await?;
    let before = before.ok_or(Code::SessionEnded)?;
    let [stored, proven] = [&before, &caller.user].map(|user| user.password_hash.expose_secret());
    let is_proven = proof.is_some() && stored == proven;
    if changes.replace_verified_address(&before) && !is_proven {
        // The address was verified, or the password changed, while this call was on its way.
        let error = password_required();
        return Err(ApiError::invalid_field("password", error.code, error.message));
    }
    let mut user = before.clone();
    let updated = changes.apply(&mut user);
    let (mut challenge, mut refunds) = (None, Vec::new());
    if updated.is_empty() {
        refunds.extend(counted.take());
    } else {
        user.modified_at = now;
        if !profile::update(&mut tx, &before, &user).await? {
            return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
        }
        challenge =
            profile::queue_letters(state, &mut tx, &before, &user, letter, false, now).await?;
        let event = Event::by(actor, EventKind::ProfileUpdated).on(user.id);
        state.record(&mut tx, event.with(json!({ "fields": updated })), now).await?;
    }
    if let Some(proof) = proof {
        refunds.push(proof.password);
        if user.pending_email == before.pending_email {
            refunds.push(proof.notice);
        } else {
            proof.notice.charge_in(&mut tx);
        }
    }
    // Limits after the user's row, as everywhere.
    attempts::refund_in(&mut tx, refunds).await?;
    state.commit(tx, user.id).await?;
    Ok(Written { user, updated, challenge })
}

/// The error of a change; where its name or its address is taken, with both if both are.
async fn explain(
    call: &Call<'_>,
    changes: &ProfileChanges,
    error: ApiError,
) -> Result<ApiError, ApiError> {
    let wanted = changes.wanted(&call.caller.user);
    let event = Event::by(call.actor, EventKind::AlreadyTaken);
    explain_if_taken(call.state, error, wanted, event, None, call.now).await
}

fn password_required() -> FieldError {
    FieldError::new("required", "Your present password is needed to change a verified address.")
}
