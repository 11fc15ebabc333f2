//! `POST /users/me/verify_email`: the confirmation mail once more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::account::client::ClientInfo;
use crate::account::letters;
use crate::http::answer::Message;
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::users::{self, User};

/// Queues the confirmation mail again, for the pending address where there is one.
#[utoipa::path(
    post, path = "/api/v1/users/me/verify_email", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 202, description = "The mail is on its way.", body = Message)),
    extensions(("x-codes" = json!([Code::EmailAlreadyVerified]))),
)]
pub async fn verify_email(
    State(state): State<AppState>,
    CurrentUser { user, .. }: CurrentUser,
    client: ClientInfo,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let now = state.clock.now();
    let needs_none = |user: &User| user.is_email_verified() && user.pending_email.is_none();
    if needs_none(&user) {
        return Err(Code::EmailAlreadyVerified.into());
    }
    if let Some(letter) = letters::count(&state, user.address_to_confirm(), &client, now).await? {
        let mut tx = state.db.begin_for(user.id).await?;
        // Locked, so that concurrent calls each see the letter of the one before, and none outlives
        // its user.
        let locked = users::find_for_update(&mut tx, user.id).await?.ok_or(Code::SessionEnded)?;
        if needs_none(&locked) {
            return Err(Code::EmailAlreadyVerified.into());
        }
        // A letter to an address that was set meanwhile is counted by the call that set it.
        if locked.address_to_confirm() == user.address_to_confirm() {
            letters::queue_confirmation(&mut tx, &locked, now).await?;
            letter.charge_in(&mut tx);
            tx.commit().await?;
            state.mail_queued.notify_one();
        }
    }
    let message = "The confirmation mail is on its way.";
    Ok((StatusCode::ACCEPTED, Json(Message::new(message))))
}
