//! `POST /users/me/verify_email`: the confirmation mail once more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::{self, Origin};
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::users::{self, User};
use crate::users::reserve_letter;

#[derive(Serialize, ToSchema)]
pub struct VerifyEmailResponse {
    success: bool,
    message: &'static str,
}

/// Queues the confirmation mail again, for the pending address where there is one.
#[utoipa::path(
    post, path = "/api/v1/users/me/verify_email", tag = "users", security(("access_token" = []), ("bearer" = [])),
    responses((status = 202, description = "The mail is on its way.", body = VerifyEmailResponse)),
    extensions(("x-codes" = json!(["email_already_verified"]))),
)]
pub async fn verify_email(
    State(state): State<AppState>,
    CurrentUser { user, .. }: CurrentUser,
    origin: Origin,
) -> Result<(StatusCode, Json<VerifyEmailResponse>), ApiError> {
    let now = state.clock.now();
    let needs_none = |user: &User| user.is_email_verified() && user.pending_email.is_none();
    if needs_none(&user) {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let recipient = user.pending_email.as_ref().unwrap_or(&user.email);
    if let Some(letter) = reserve_letter(&state, recipient, &origin, now).await? {
        let mut tx = state.db.begin().await?;
        // Locked, so that of calls at once each sees the letter of the one before it, and none outlives its user.
        let user = users::find_for_update(&mut tx, user.id).await?.ok_or(Code::SessionEnded)?;
        if needs_none(&user) {
            return Err(Code::EmailAlreadyVerified.into());
        }
        account::queue_confirmation(&mut tx, &user, now).await?;
        letter.keep();
        tx.commit().await?;
        state.mail_queued.notify_one();
    }
    let message = "The confirmation mail is on its way.";
    Ok((StatusCode::ACCEPTED, Json(VerifyEmailResponse { success: true, message })))
}
