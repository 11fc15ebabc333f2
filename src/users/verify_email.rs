//! `POST /users/me/verify_email`: the confirmation mail once more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};

use crate::account;
use crate::account::attempts::Counted;
use crate::account::client::ClientInfo;
use crate::account::letters;
use crate::http::answer::Message;
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::users::{self, User};

/// Queues the confirmation mail again, for the pending address where there is one.
///
/// A letter that waits to be sent is not queued twice. Where none will go out since too many went
/// before, that is a 429.
#[utoipa::path(
    post, path = "/api/v1/users/me/verify_email", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 202, description = "The mail is on its way.", body = Message)),
    extensions(("x-codes" = json!([
        Code::EmailAlreadyVerified, Code::EmailTaken, Code::RateLimited,
    ]))),
)]
pub async fn verify_email(
    State(state): State<AppState>,
    CurrentUser { user, .. }: CurrentUser,
    client: ClientInfo,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let now = state.clock.now();
    if needs_none(&user) {
        return Err(Code::EmailAlreadyVerified.into());
    }
    match letters::count(&state, user.address_to_confirm(), &client, now).await {
        Ok(counted) => queue(&state, &user, counted, now).await?,
        Err(refused @ account::Error::RateLimited { .. }) => {
            let is_waiting = state.db.read(|db| {
                let user = user.clone();
                Box::pin(async move { letters::is_confirmation_waiting(db, &user).await })
            });
            if !is_waiting.await? {
                return Err(refused.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    let message = "The confirmation mail is on its way.";
    Ok((StatusCode::ACCEPTED, Json(Message::new(message))))
}

fn needs_none(user: &User) -> bool {
    user.is_email_verified() && user.pending_email.is_none()
}

/// Queues the letter, unless it waits already.
async fn queue(
    state: &AppState,
    user: &User,
    counted: Counted,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let mut tx = state.db.begin_for(user.id).await?;
    // Locked, so that concurrent calls each see the letter of the one before, and none outlives
    // its user.
    let locked = users::find_for_update(&mut tx, user.id).await?.ok_or(Code::SessionEnded)?;
    if needs_none(&locked) {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let address = locked.address_to_confirm();
    let (_, is_taken) = users::find_taken(&mut tx, "", address, Some(user.id)).await?;
    if is_taken {
        return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
    }
    // A letter to an address that was set meanwhile is counted by the call that set it.
    let is_same = address == user.address_to_confirm();
    if is_same && !letters::is_confirmation_waiting(&mut tx, &locked).await? {
        letters::queue_confirmation(&mut tx, &locked, now).await?;
        counted.charge_in(&mut tx);
        tx.commit().await?;
        state.mail_queued.notify_one();
    }
    Ok(())
}
