//! `POST /users/me/verify_email`: the confirmation mail once more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;

#[derive(Serialize, ToSchema)]
pub struct VerifyEmailResponse {
    success: bool,
    message: &'static str,
}

/// Queues the confirmation mail again, for the pending address where there is one.
#[utoipa::path(
    post, path = "/users/me/verify_email", tag = "users", security(("access_token" = []), ("bearer" = [])),
    responses((status = 202, description = "The mail is on its way.", body = VerifyEmailResponse)),
    extensions(("x-codes" = json!(["email_already_verified"]))),
)]
pub async fn verify_email(
    State(state): State<AppState>,
    CurrentUser { user, .. }: CurrentUser,
) -> Result<(StatusCode, Json<VerifyEmailResponse>), ApiError> {
    if user.is_email_verified() && user.pending_email.is_none() {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let mut tx = state.db.begin().await?;
    account::queue_confirmation(&mut tx, &user, state.clock.now()).await?;
    tx.commit().await?;
    state.mail_queued.notify_one();
    let message = "The confirmation mail is on its way.";
    Ok((StatusCode::ACCEPTED, Json(VerifyEmailResponse { success: true, message })))
}
