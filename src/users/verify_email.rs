//! `POST /users/me/verify_email`: the confirmation mail once more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::account::attempts::Counted;
use crate::account::client::ClientInfo;
use crate::account::{confirmation, letters};
use crate::http::error::{ApiError, Code};
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::users::{self, User};

#[derive(Serialize, ToSchema)]
pub struct VerifyEmailResponse {
    success: bool,
    message: &'static str,
    /// To be sent to `/confirm` along with the code in the letter.
    challenge: String,
}

/// Queues the confirmation mail again, for the pending address where there is one.
///
/// A letter that waits to be sent is not queued twice. Where none will go out since too many went
/// before, that is a 429. The code in the letter is good for 60 minutes, with the `challenge` of
/// this answer.
#[utoipa::path(
    post, path = "/api/v1/users/me/verify_email", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 202, description = "The mail is on its way.", body = VerifyEmailResponse)),
    extensions(("x-codes" = json!([
        Code::EmailAlreadyVerified, Code::EmailTaken, Code::RateLimited,
    ]))),
)]
pub async fn verify_email(
    State(state): State<AppState>,
    CurrentUser { user, .. }: CurrentUser,
    client: ClientInfo,
) -> Result<(StatusCode, Json<VerifyEmailResponse>), ApiError> {
    let now = state.clock.now();
    if !user.has_address_to_confirm() {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let counted = letters::count(&state, user.address_to_confirm(), &client, now).await;
    let challenge = ask(&state, &user, counted, now).await?;
    let message = "The confirmation mail is on its way.";
    let answer = VerifyEmailResponse { success: true, message, challenge };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Queues the letter, unless it waits already: then none is counted, and no limit refuses. The
/// handle for its code.
async fn ask(
    state: &AppState,
    user: &User,
    counted: Result<Counted, account::Error>,
    now: DateTime<Utc>,
) -> Result<String, ApiError> {
    let mut tx = state.db.begin_for(user.id).await?;
    // Locked, so that concurrent calls each see the letter of the one before, and none outlives
    // its user.
    let locked = users::find_for_update(&mut tx, user.id).await?.ok_or(Code::SessionEnded)?;
    if !locked.has_address_to_confirm() {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let address = locked.address_to_confirm();
    let (_, is_taken) = users::find_taken(&mut tx, "", address, Some(user.id)).await?;
    if is_taken {
        return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
    }
    // A letter to an address that was set meanwhile is counted by the call that set it.
    let is_same = address == user.address_to_confirm();
    let is_waiting = letters::is_confirmation_waiting(&mut tx, &locked).await?;
    let has_letter = is_same && !is_waiting;
    let counted = if has_letter { Some(counted?) } else { None };
    let challenge = confirmation::ask(state, &mut tx, &locked, has_letter, now).await?;
    if let Some(counted) = counted {
        counted.charge_in(&mut tx);
    }
    tx.commit().await?;
    if has_letter {
        state.mail_queued.notify_one();
    }
    Ok(challenge)
}
