//! `PUT /users/me/change_password`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::account::attempts::RefundOnDrop;
use crate::account::client::ClientInfo;
use crate::fields::{Password, PasswordContext, parse_new_password};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::limit::{check_password, reserve_for_known};
use crate::http::session::CurrentUser;
use crate::limits::{Attempt, PASSWORD};
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::{sessions, users};

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body in the OpenAPI document; the form is read field by field"
)]
pub struct ChangePasswordRequest {
    #[schema(format = "password", example = "a long and good one")]
    old_password: String,
    /// Not a common password, and nothing that the account itself says. The length is counted after NFC.
    #[schema(
        format = "password",
        min_length = 8,
        max_length = 256,
        example = "an even better one"
    )]
    new_password: String,
}

#[derive(Serialize, ToSchema)]
pub struct ChangePasswordResponse {
    success: bool,
    message: &'static str,
}

/// Changes the password and ends every other session of the user.
///
/// A new address that waits in `pending_email` is dropped: whoever knew the old password may have set it.
#[utoipa::path(
    put, path = "/api/v1/users/me/change_password", tag = "users", security(("access_token" = []), ("bearer" = [])),
    request_body = ChangePasswordRequest,
    responses((status = 200, description = "Changed.", body = ChangePasswordResponse)),
    extensions(("x-codes" = json!(["wrong_password", "rate_limited"]))),
)]
pub async fn change_password(
    State(state): State<AppState>,
    CurrentUser { user, session }: CurrentUser,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<Json<ChangePasswordResponse>, ApiError> {
    let context = PasswordContext {
        username: &user.username,
        email: &user.email,
        first_name: &user.first_name,
        last_name: &user.last_name,
    };
    let min_length = state.config.min_password_length;
    let old = form.required("old_password", |raw| Ok(Password::claimed(raw)));
    let new = form.required("new_password", |raw| parse_new_password(raw, min_length, &context));
    let (old, new) = form.finish(|| Some((old?, new?)))?;

    let now = state.clock.now();
    let attempts = vec![Attempt::on(&PASSWORD, &user.id.to_string())];
    let mut reservation = reserve_for_known(&state, attempts, now).await?;
    let mut present = user.password_hash;
    // A second round only if the hash was replaced between the check and the change: by another change, after which
    // the password is wrong, or by a login that renewed the hash, after which it is still right.
    for _ in 0..2 {
        let requester = client.requester(true);
        let (verdict, reserved) =
            check_password(&state, reservation, requester, old.clone(), Some(&present)).await?;
        if !verdict.matches {
            break;
        }
        // From here on it was right, whatever becomes of the change.
        let counted = RefundOnDrop::new(&state, reserved);
        let new_hash = state.hasher.hash(requester, new.clone()).await?;
        let changing = async {
            let mut tx = state.db.begin_for(user.id).await?;
            // Locked, so that a login, or a logout everywhere, comes before this or after it.
            let locked = account::sessions::lock_caller(&mut tx, user.id, session.id, now).await?;
            let locked = locked.ok_or(Code::SessionEnded)?;
            if locked.password_hash != present {
                return Ok(Some(locked.password_hash));
            }
            users::set_password_hash(&mut tx, user.id, &new_hash, now).await?;
            counted.reservation().refund(&mut tx).await?;
            let (kept, reason) = (Some(session.id), "password_changed");
            sessions::revoke_all(&mut tx, user.id, kept, reason, now).await?;
            let event = Event {
                name: "password_changed",
                user_id: Some(user.id),
                actor_id: Some(user.id),
                session_id: Some(session.id),
                ip: client.ip,
                ..Event::default()
            };
            audit::record(&mut tx, &event, now).await?;
            state.commit(tx, user.id).await?;
            Ok::<_, ApiError>(None)
        };
        let replaced = changing.await?;
        reservation = counted.keep();
        if let Some(replaced) = replaced {
            present = replaced;
            continue;
        }
        state.limits.forget(&reservation, None);
        let message = "The password is changed. Every other session has ended.";
        return Ok(Json(ChangePasswordResponse { success: true, message }));
    }
    let (user_id, session_id) = (Some(user.id), Some(session.id));
    Event { name: "wrong_password", user_id, session_id, ..Event::default() }.log(&state.db.events);
    Err(Code::WrongPassword.into())
}
