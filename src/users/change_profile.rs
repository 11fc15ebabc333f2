//! `PUT` and `PATCH /users/me`: users change their own data.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::account::attempts::{RefundOnDrop, refund};
use crate::account::client::ClientInfo;
use crate::account::{self, letters};
use crate::fields::{FieldError, Password};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::limit::{
    check_password, refund_on_error, refund_on_server_error, reserve, reserve_for_known,
};
use crate::http::session::CurrentUser;
use crate::http::user::PublicUser;
use crate::limits::{Attempt, PASSWORD, PROFILE, Reservation};
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::users::{self, User};
use crate::users::profile_changes::ProfileChanges;
use crate::users::record_if_taken;

/// Only the fields that are given change; anything else is ignored.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body in the OpenAPI document; the form is read field by field"
)]
pub struct UpdateRequest {
    #[schema(max_length = 100, example = "Ada")]
    first_name: Option<String>,
    #[schema(max_length = 100, example = "Lovelace")]
    last_name: Option<String>,
    #[schema(
        min_length = 3,
        max_length = 64,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "ada"
    )]
    username: Option<String>,
    /// Replaces an unverified address at once; waits in `pending_email` beside a verified one.
    #[schema(format = "email", max_length = 254, example = "ada@example.com")]
    email: Option<String>,
    /// The present password: needed to change a verified address.
    #[schema(format = "password")]
    password: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct UpdateResponse {
    success: bool,
    user: PublicUser,
    /// The fields that have another value now.
    updated: Vec<&'static str>,
}

/// ProfileChanges the fields that are given, all or nothing.
#[utoipa::path(
    put, path = "/api/v1/users/me", operation_id = "update_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!(["wrong_password", "username_taken", "email_taken", "rate_limited"]))),
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
    if needs_proof && password.is_none() {
        form.refuse("password", password_required());
    }
    form.check()?;
    let call = Call { state: &state, caller: &caller, client: &client, now: state.clock.now() };
    let Counted { change, proof } = count(&call, password.filter(|_| needs_proof)).await?;
    let written = write(&call, &changes, &change, proof).await;
    let written = refund_on_server_error(&state, change, written);
    record_if_taken(&state, &written, call.event(), call.now).await?;
    if written.is_ok() {
        state.mail_queued.notify_one();
    }
    let (user, updated) = written?;
    Ok(Json(UpdateResponse { success: true, user: user.into(), updated }))
}

/// The same as PUT.
#[utoipa::path(
    patch, path = "/api/v1/users/me", operation_id = "patch_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!(["wrong_password", "username_taken", "email_taken", "rate_limited"]))),
)]
pub async fn patch(
    state: State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    body: JsonBody,
) -> Result<Json<UpdateResponse>, ApiError> {
    update(state, caller, client, body).await
}

/// Who asks for a change, from where and when.
struct Call<'a> {
    state: &'a AppState,
    caller: &'a CurrentUser,
    client: &'a ClientInfo,
    now: DateTime<Utc>,
}

impl Call<'_> {
    /// An event by the caller, without a name yet.
    fn event(&self) -> Event {
        Event {
            actor_id: Some(self.caller.user.id),
            session_id: Some(self.caller.session.id),
            ip: self.client.ip,
            ..Event::default()
        }
    }
}

/// What a change was counted as.
struct Counted {
    change: Reservation,
    /// The password and the notice to the old address, where a verified address is to be replaced.
    proof: Option<Proof>,
}

/// What the right password and the notice that follows were counted as.
struct Proof {
    password: RefundOnDrop,
    notice: RefundOnDrop,
}

/// Counts a change and, where a verified address is to be replaced, checks the password and counts the notice to the old
/// address: that is told of each change, up to a limit, so that nobody can flood it.
async fn count(call: &Call<'_>, password: Option<Password>) -> Result<Counted, ApiError> {
    let attempts = [Attempt::on(&PROFILE, &call.caller.user.id.to_string())];
    let change = reserve(call.state, &attempts, call.now).await?;
    let Some(password) = password else { return Ok(Counted { change, proof: None }) };
    let password = prove(call, password).await;
    let password = refund_on_server_error(call.state, change.clone(), password)?;
    let password = RefundOnDrop::new(call.state, password);
    let attempts = letters::notice_attempts(&call.caller.user.email);
    match reserve(call.state, &attempts, call.now).await {
        Ok(notice) => {
            let notice = RefundOnDrop::new(call.state, notice);
            Ok(Counted { change, proof: Some(Proof { password, notice }) })
        }
        Err(refused) => {
            // Before the refusal is told: the password was right.
            let refunded = refund(call.state, password.keep()).await.map_err(ApiError::from);
            refund_on_error(call.state, change, refunded.and(Err(refused)))
        }
    }
}

/// Checks the password; returns its reservation. It shares the budget for changing the password, which could be guessed
/// here as well.
async fn prove(call: &Call<'_>, password: Password) -> Result<Reservation, ApiError> {
    let Call { state, caller: CurrentUser { user, session }, client, now } = call;
    let attempts = vec![Attempt::on(&PASSWORD, &user.id.to_string())];
    let reserved = reserve_for_known(state, attempts, *now).await?;
    let (requester, hash) = (client.requester(true), Some(user.password_hash.as_str()));
    let (verdict, reserved) = check_password(state, reserved, requester, password, hash).await?;
    if verdict.matches {
        return Ok(reserved);
    }
    let (user_id, session_id) = (Some(user.id), Some(session.id));
    Event { name: "wrong_password", user_id, session_id, ..Event::default() }.log(&state.db.events);
    Err(Code::WrongPassword.into())
}

/// Writes the changes and queues the letters that they cause; in the same transaction the right password is refunded, and
/// what was counted for changes or notices that there are none of. Returns the user as they are now, and the fields that
/// have another value.
async fn write(
    call: &Call<'_>,
    changes: &ProfileChanges,
    change: &Reservation,
    proof: Option<Proof>,
) -> Result<(User, Vec<&'static str>), ApiError> {
    let Call { state, caller, client, now } = *call;
    let letter = match changes.new_address(&caller.user) {
        Some(email) => letters::reserve_letter(state, email, client, now).await?,
        None => None,
    };
    let mut tx = state.db.begin_for(caller.user.id).await?;
    let before =
        account::sessions::lock_caller(&mut tx, caller.user.id, caller.session.id, now).await?;
    let before = before.ok_or(Code::SessionEnded)?;
    let is_proven = proof.is_some() && before.password_hash == caller.user.password_hash;
    if changes.replace_verified_address(&before) && !is_proven {
        // The address was verified, or the password changed, while this call was on its way.
        let error = password_required();
        return Err(ApiError::invalid_field("password", error.code, error.message));
    }
    let mut user = before.clone();
    let updated = changes.apply(&mut user);
    let mut is_queued = false;
    // Limits after the user's row, as everywhere.
    if updated.is_empty() {
        change.refund(&mut tx).await?;
    } else {
        user.modified_at = now;
        users::update_profile(&mut tx, &user).await?;
        is_queued = queue_letters(&mut tx, &before, &user, letter.is_some(), now).await?;
        let event = Event {
            name: "profile_updated",
            user_id: Some(user.id),
            details: json!({ "fields": updated }),
            ..call.event()
        };
        audit::record(&mut tx, &event, now).await?;
    }
    if let Some(Proof { password, notice }) = &proof {
        password.reservation().refund(&mut tx).await?;
        if user.pending_email == before.pending_email {
            notice.reservation().refund(&mut tx).await?;
        }
    }
    // Before the commit is certain: nobody gets an uncounted letter by hanging up.
    if let (true, Some(letter)) = (is_queued, letter) {
        letter.keep();
    }
    let kept = proof.map(|Proof { password, notice }| [password.keep(), notice.keep()]);
    let committed = state.commit(tx, user.id).await.map_err(ApiError::from);
    let [password, notice] = kept.unwrap_or_default();
    // What was remembered as refused beside a right password may be tried again.
    state.limits.forget(&password, None);
    refund_on_error(state, notice, refund_on_error(state, password, committed))?;
    Ok((user, updated))
}

fn password_required() -> FieldError {
    FieldError::new("required", "Your present password is needed to change a verified address.")
}

/// Queues the confirmation of a new address (returns whether), and a notice to a verified one it replaces.
async fn queue_letters(
    db: &mut PgConnection,
    before: &User,
    after: &User,
    may_send: bool,
    now: DateTime<Utc>,
) -> Result<bool, ApiError> {
    if let Some(pending) =
        after.pending_email.as_ref().filter(|_| after.pending_email != before.pending_email)
    {
        // Nobody else may have it now; whether nobody has it when it is confirmed, the database decides then.
        if users::is_email_taken(db, pending).await? {
            return Err(Code::EmailTaken.into());
        }
        if may_send {
            letters::queue_confirmation(db, after, now).await?;
        }
        letters::queue_email_change_notice(db, after, &before.email, now).await?;
        return Ok(may_send);
    }
    let is_due = may_send && !after.email.eq_ignore_ascii_case(&before.email);
    if is_due {
        letters::queue_confirmation(db, after, now).await?;
    }
    Ok(is_due)
}
